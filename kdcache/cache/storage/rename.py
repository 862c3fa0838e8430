"""Renaming a file without replacing another, in one step of the system."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def rename_new(source: Path, target: Path) -> None:
    """Rename `source` to `target`.

    Raises:
        FileExistsError: there is a `target`, which stays as it is.
        OSError: it cannot be done; ENOSYS, EINVAL or the like where the system does not know how.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # of Linux
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(target))
    names = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target))
    if call(*names, _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))
