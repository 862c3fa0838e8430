"""Files that appear whole under their name or not at all.

What is written goes to a temporary file beside, which gets the name when it is complete. A killed
process may leave it: its name tells that it is kdcache's own, and which file it was to be.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kdcache.errors import KdcacheError, UsageError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")


_WAYS_OUT = {
    errno.ENAMETOOLONG: "; give a shorter path",
    errno.ELOOP: "; links lead round in a circle there: remove one, or give another path",
    errno.ENOSPC: "; make room there, and run again",
    errno.EDQUOT: "; make room there, and run again",
    errno.EFBIG: "; the limit on the size of files is reached: raise it, and run again",
    errno.EROFS: "; choose a place that can be written",
    errno.EACCES: "; have its owner allow it, or choose another place",
    errno.EPERM: "; have its owner allow it, or choose another place",
}
_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}


def plain_bytes(path: str | Path) -> bytes:
    """Return what a plain file holds.

    Raises:
        OSError: it cannot be read, or is no plain file. A pipe would be waited for, and a device
            may have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "a device")
            raise NotPlainError(errno.EINVAL, f"it is {kind}, not a plain file", str(path))
        with open(descriptor, "rb", closefd=False) as file:  # of a descriptor
            return file.read()
    finally:
        os.close(descriptor)


class NotPlainError(OSError):
    """A path leads to something else than a plain file."""


def system_way_out(error: OSError) -> str:
    """Return what a user can do about what the operating system refused, after a semicolon;
    nothing where its own words say it, or nobody knows."""
    return _WAYS_OUT.get(error.errno or 0, "")


def lasting_path(path: Path) -> Path:
    """Return a path that names the same file when the program goes to another working directory."""
    try:
        return path.absolute()
    except OSError:  # this one is gone
        return path


def nearest_existing(path: Path) -> Path:
    """Return a path, absolute, or what is there nearest above it.

    Raises:
        UsageError: it is a link to nothing, or leads through one: no folder can be made there.
        OSError: it is too long, or cannot be looked at.
    """
    place = path.absolute()
    while not place.exists() and place != place.parent:
        if place.is_symlink():
            raise UsageError(
                f"{path}: {place} is a link to {os.readlink(place)}, which is not there; make that"  # noqa: PTH115
                " folder, remove the link, or choose another place"
            )
        place = place.parent
    return place


def temporary_beside(path: Path) -> Path:
    """Return a name for what is to become `path`; no two are the same."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def name_of_temporary(name: str) -> str | None:
    """Return the name that a temporary file was to get; None if it is none of kdcache's."""
    match = _TEMPORARY.fullmatch(name)
    if match is None:
        return None
    return match[1]


@contextmanager
def whole_file(
    path: Path, *, is_synced: bool = True, kept_as: Path | None = None
) -> Iterator[BinaryIO]:
    """Yield a new file, which takes the place of `path` at the end of the block; after an error it
    is removed.

    Args:
        path: the file.
        is_synced: whether a power cut may not leave the name with zeros behind it.
        kept_as: what the old file is called from now on; by default it is gone.

    Raises:
        OSError: the folder cannot be written or is full; the old file stays.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            if is_synced:
                sync(file.fileno())
        if kept_as is not None and path.exists():
            _keep(path, kept_as)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(descriptor: int) -> None:
    """Have the disk keep what was written to a file, or the names in a folder.

    On macOS fsync leaves that in the disk's own memory, which a power cut empties; it has another
    call, which not every file system knows.

    Raises:
        OSError: it cannot be kept.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(descriptor, full_sync)
            return
        except OSError as error:
            if error.errno == errno.EIO:
                raise
    os.fsync(descriptor)


def write_file(path: Path, content: bytes, *, is_synced: bool = True) -> None:
    """Write a file that the user names, whole or not at all.

    Args:
        path: the file.
        content: what it holds.
        is_synced: see `whole_file`.

    Raises:
        KdcacheError: it cannot be written.
    """
    try:
        with whole_file(path, is_synced=is_synced) as file:
            file.write(content)
    except OSError as error:
        raise KdcacheError(
            f"cannot write {path}: {error.strerror or error}; write elsewhere, or make room"
        ) from error


def require_writable(path: Path) -> None:
    """Check that a file that the user names can be written, before the work that it holds.

    Raises:
        UsageError: it is a folder, or its own folder does not exist or cannot be written.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"cannot write {path}: folder {folder} does not exist; make it first")
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; name a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: folder {folder} is read-only; write elsewhere")


def require_writable_folder(folder: Path, what: str) -> None:
    """Check that a folder that the user names can be written, or made; nothing is.

    Args:
        folder: that they name.
        what: it is, for messages.

    Raises:
        UsageError: it cannot, or a file lies there.
    """
    nearest = nearest_existing(folder)
    where = f"{what} {folder}: {nearest}"
    if not nearest.is_dir():
        raise UsageError(f"{where} is no folder; choose another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{where} cannot be written; choose another place")


def require_new_folder(path: Path) -> None:
    """Check that a folder that the user names can be made, or is empty, before the work that it is
    to hold.

    Raises:
        UsageError: a file lies there, or a folder with something in it; or the folder that it is to
            lie in does not exist or cannot be written.
    """
    if path.is_dir():
        if any(path.iterdir()):
            raise UsageError(f"folder {path} is not empty; name a new one")
        return
    if path.exists():
        raise UsageError(f"{path} is a file; name a folder")
    nearest_existing(path)
    require_writable(path)


def _keep(path: Path, kept_as: Path) -> None:
    """Give the file `path` a second name, which another file may have had; at no moment is there
    none of either name."""
    second = temporary_beside(kept_as)
    try:
        os.link(path, second)
    except OSError:  # no hard links here
        shutil.copyfile(path, second)
    second.replace(kept_as)
