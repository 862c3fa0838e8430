"""A file that appears whole under its name, durably, and never in the place of another.

It gets its name by a hard link, which fails if the name is taken. File systems without links (FAT,
some of FUSE) may be able to rename a file without replacing another.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from kdcache.cache.storage import rename
from kdcache.errors import CacheError
from kdcache.runtime.files import sync, temporary_beside

_UNKNOWN = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system says to a call that it does not know."""
_NOT_SUPPORTED = {*_UNKNOWN, errno.EPERM, errno.EXDEV, errno.EMLINK}
"""The same to a hard link, or to a renaming that must not replace."""
_NOT_SYNCED = {*_UNKNOWN, errno.EBADF, errno.EACCES}
"""The same to syncing a folder; an I/O error is none of these."""


def create_file(target: Path, data: bytes) -> bool:
    """Write a file that appears whole under its name; return False if the name is taken."""
    temporary = temporary_beside(target)
    try:
        _write_synced(temporary, data)
        return _give_name(temporary, target)
    finally:
        with suppress(OSError):  # one that stays means nothing
            temporary.unlink()


def _give_name(temporary: Path, target: Path) -> bool:
    """Give a file its name; return False if that is taken.

    Raises:
        CacheError: the file system can do this in no way.
    """
    try:
        os.link(temporary, target)  # fails where rename would replace
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        no_link = error
    try:
        rename.rename_new(temporary, target)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        raise CacheError(
            f"cannot write {target}: its file system makes no hard links ({no_link.strerror}) and "
            f"cannot rename a file without replacing another ({error.strerror}); a cache needs one "
            "of the two: choose a folder on another file system, or a bucket"
        ) from error


def try_out(folder: Path) -> None:
    """Write a file, give it a name once and not twice, and take it away.

    Raises:
        OSError, CacheError: that cannot be done here.
    """
    target = temporary_beside(folder / "probe")
    try:
        is_named_once = create_file(target, b"1") and not create_file(target, b"22")
        sync_directory(folder)
    finally:
        with suppress(OSError):
            target.unlink()
    if not is_named_once:
        raise CacheError(
            f"cannot use {folder}: its file system gives a name twice, or says of a new one that it"
            " is taken; choose a folder on another file system"
        )


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            num_bytes = os.write(descriptor, rest)  # which may write less than it was given
            rest = rest[num_bytes:]
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Sync the names in a folder, where its file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
