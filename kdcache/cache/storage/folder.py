"""A folder of objects that are written once: create-only, atomic, durable.

An object appears whole under its name or not at all, whatever kills the writer; it is never changed
and never replaced.

It gets its name by a hard link, which fails if the name is taken. File systems without links (FAT,
some of FUSE) may be able to rename a file without replacing another.
"""

import errno
import os
import stat
from collections.abc import Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache.cache.storage import rename
from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.protocol import MOST_BYTES, Entry, is_temporary
from kdcache.errors import CacheError, LargeObjectError, brief
from kdcache.runtime.files import temporary_beside

_MOST_DEPTH = 32
"""Folders in folders; a cache has five."""

_UNKNOWN = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system says to a call that it does not know."""
_NOT_SUPPORTED = {*_UNKNOWN, errno.EPERM, errno.EXDEV, errno.EMLINK}
"""The same to a hard link, or to a renaming that must not replace."""
_NOT_SYNCED = {*_UNKNOWN, errno.EBADF, errno.EACCES}
"""The same to syncing a folder; an I/O error is none of these."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Folder:
    """Objects under a directory of a POSIX file system, by relative key."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._synced: set[Path] = set()
        self._was_there = False
        self._is_probed = False

    def publish(self, key: str, data: bytes) -> bool:
        """Store `data` as `key`, synced to disk; return False, having changed nothing, if the key
        exists.

        Raises:
            CacheError: the folder cannot be written or the disk is full; nothing is left under
                `key`.
        """
        target = self.path / key
        try:
            self._make_folder(target.parent)
            wins = not target.exists() and _named(target, data)
            # of the loser too: what it does next may rely on the object, as a commit does
            _sync_directory(target.parent)
        except FileExistsError:
            raise CacheError(
                f"cannot write {target}: a file stands where a folder is needed"
            ) from None
        except OSError as error:
            if self._was_there and error.errno in _GONE and not target.parent.is_dir():
                raise self._gone() from error
            raise _explained(error, target, len(data)) from error
        return wins

    def get(self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False) -> bytes:
        """Return the bytes of `key`.

        Args:
            key: of the object.
            most: bytes that it may have.
            is_fresh: whether to pass over what this machine keeps of it in memory.

        Raises:
            FileNotFoundError: there is no such object.
            CacheError: it is there and cannot be read, has more than `most` bytes, is no file, or a
                link out of the folder.
        """
        with self.blocks(key, most=most, is_fresh=is_fresh) as blocks:
            return blocks.read(0, blocks.size)

    def open(self, key: str) -> int:
        """Return a descriptor of the file of `key`, for reading.

        Raises:
            FileNotFoundError: there is no such object.
            CacheError: it cannot be opened, is no file, or a link out of the folder.
        """
        target = self.path / key
        try:
            # a cache may come from elsewhere: a pipe in it would wait for ever, to open a device
            # may do something, a link could
            # lead anywhere
            if not stat.S_ISREG(target.stat().st_mode):
                raise CacheError(
                    f"cannot read {target}: it is not a plain file; a cache holds nothing else:"
                    " remove it"
                )
            self._require_inside(target)
            return os.open(target, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except NotADirectoryError as error:  # a file stands where a folder belongs
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target) from error
        except OSError as error:
            raise CacheError(f"cannot read {target}: {error.strerror or error}") from error

    @contextmanager
    def blocks(
        self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False
    ) -> Iterator[Blocks]:
        """Give the file of `key`, to read parts of it to the end of the block; see `get`."""
        target = self.path / key
        descriptor = self.open(key)
        self._was_there = True
        try:
            if is_fresh:
                _forget(descriptor)
            blocks = Blocks(str(target), descriptor)
            if blocks.size > most:
                raise LargeObjectError(
                    f"{target} has {blocks.size} bytes, more than the {most} that it may have"
                )
            yield blocks
        finally:
            os.close(descriptor)

    def _require_inside(self, target: Path) -> None:
        """Raise a CacheError if a path leads out of the folder, through a link."""
        root = os.path.realpath(self.path)
        if not f"{os.path.realpath(target)}/".startswith(f"{root.rstrip('/')}/"):
            raise CacheError(f"{target} is a link out of {self.path}; put the file itself there")

    def exists(self, key: str) -> bool:
        """Return whether `key` has been published."""
        return self.stamp(key) is not None

    def stamp(self, key: str) -> Hashable | None:
        """Return what tells this object from others that had this key; None if it is not there."""
        try:
            status = (self.path / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CacheError(f"cannot read {self.path / key}: {error.strerror or error}") from error
        if not stat.S_ISREG(status.st_mode):
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under `prefix`, sorted, temporary files left out."""
        self._require_inside(self.path / prefix)
        try:
            names = os.listdir(self.path / prefix)  # noqa: PTH208 # the names alone
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise CacheError(
                f"cannot list {self.path / prefix}: {error.strerror or error}"
            ) from error
        yield from sorted(name for name in names if not is_temporary(name))

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every file under `prefix`, temporary ones too; a link is told like a file, and not
        followed.

        Only the folders on the way to the present one are kept in memory.

        Raises:
            CacheError: a folder that cannot be listed, or folders nested deeper than in any cache.
        """
        self._require_inside(self.path / prefix)
        way = [(prefix, self._scanned(prefix))]
        try:
            while way:
                below, entries = way[-1]
                entry = next(entries, None)
                if entry is None:
                    way.pop()
                    continue
                key = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if len(way) > _MOST_DEPTH:
                        raise CacheError(
                            f"{self.path}: folder {brief(key)} lies too deep for a cache: remove it"
                        )
                    way.append((key, self._scanned(key)))
                    continue
                with suppress(FileNotFoundError):  # a temporary that has its name by now
                    status = entry.stat(follow_symlinks=False)
                    yield Entry(key, status.st_size, status.st_mtime)
        finally:
            for _, entries in way:
                entries.close()

    def _scanned(self, key: str) -> "Generator[os.DirEntry[str], None, None]":
        """Yield the entries of a folder; nothing of one that is not there."""
        try:
            with os.scandir(self.path / key) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:  # a folder that cannot be listed is not an empty one
            raise CacheError(
                f"cannot list {self.path / brief(key)}: {error.strerror or error}"
            ) from error

    def remove(self, key: str) -> None:
        """Remove `key`, if it is there.

        Raises:
            CacheError: it cannot be removed.
        """
        try:
            (self.path / key).unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(
                f"cannot remove {self.path / key}: {error.strerror or error}"
            ) from error

    def probe(self, *, writes: bool = True) -> None:
        """Check that files can be written and named here, each once; nothing is left behind.

        Where the folder is not there yet, this is tried in the nearest one above it.

        Args:
            writes: whether to try it; else only look at the rights.

        Raises:
            CacheError: they cannot.
        """
        if self._is_probed:
            return
        try:
            place = _nearest(self.path)
            if not place.is_dir():
                reason = f"a file stands where a folder is needed ({place})"
                raise CacheError(f"cannot write {self.path}: {reason}")
            if writes:
                _try_out(place)
                self._is_probed = True
            elif not os.access(place, os.W_OK | os.X_OK):
                reason = f"{place} cannot be written; choose a folder that can be written"
                raise CacheError(f"cannot write {self.path}: {reason}")
        except OSError as error:
            raise _explained(error, self.path, 0) from error

    def _gone(self) -> CacheError:
        return CacheError(
            f"cannot write into {self.path}: it was moved or removed while this job wrote into it; "
            "put it back, and run the same command again"
        )

    def _make_folder(self, path: Path) -> None:
        """Make the folder, all of whose name a power cut leaves: else it could take synced files
        with it.

        The folder of all objects is made once only: where it is gone, it was moved or removed.
        """
        if path in self._synced and path.is_dir():
            return
        for folder in reversed([path, *path.parents]):
            is_new = not folder.is_dir()
            if is_new:
                if self._was_there and self.path.is_relative_to(folder):
                    raise self._gone()
                folder.mkdir(exist_ok=True)
            if folder.is_relative_to(self.path) and folder != self.path:
                # also of one that is there: who made it may have been killed before this
                _sync_directory(folder.parent)
            elif is_new or folder == self.path:
                with suppress(PermissionError):  # of a folder above, which others made
                    _sync_directory(folder.parent)
        self._synced.add(path)
        self._was_there = True

    def __str__(self) -> str:
        """Return the folder's path."""
        return str(self.path)


def _nearest(path: Path) -> Path:
    """Return the path, or what is there nearest above it."""
    return next(place for place in [path.absolute(), *path.absolute().parents] if place.exists())


def _try_out(folder: Path) -> None:
    """Write a file, give it a name once and not twice, and take it away.

    Raises:
        OSError, CacheError: that cannot be done here.
    """
    target = temporary_beside(folder / "probe")
    try:
        is_named_once = _named(target, b"1") and not _named(target, b"22")
        _sync_directory(folder)
    finally:
        with suppress(OSError):
            target.unlink()
    if not is_named_once:
        raise CacheError(
            f"cannot use {folder}: its file system gives a name twice, or says of a new one that it"
            " is taken; choose a folder on another file system"
        )


def _named(target: Path, data: bytes) -> bool:
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


def _forget(descriptor: int) -> None:
    """Have the next reading come from the disk or the file server, if that can be asked for."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]  # which may write less than it was given
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    """Sync the names in a folder, where its file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def _explained(error: OSError, target: Path, size: int) -> CacheError:
    bytes_told = f" ({size} bytes)" if size else ""
    reason = f"cannot write {target}{bytes_told}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CacheError(
            f"{reason}; all units committed so far are kept: free some space and run the same"
            " command again"
        )
    return CacheError(f"{reason}; choose a folder that can be written")
