"""A folder of objects that are written once: create-only, atomic, durable.

An object appears whole under its name or not at all, whatever kills the writer; it is never changed
and never replaced.
"""

import errno
import os
import stat
from collections.abc import Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.new_file import create_file, sync_directory, try_out
from kdcache.cache.storage.protocol import MOST_BYTES, Entry, lasting_names
from kdcache.errors import CacheError, LargeObjectError, brief
from kdcache.runtime.files import lasting_path, nearest_existing, system_way_out

_MOST_DEPTH = 32
"""Folders in folders; a cache has five."""
_OF_A_DISK = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Folder:
    """Objects under a directory of a POSIX file system, by relative key."""

    def __init__(self, path: str | Path) -> None:
        self._text = str(path)
        self.path = lasting_path(Path(path))
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
            is_created = not target.exists() and create_file(target, data)
            # of the loser too: what it does next may rely on the object, as a commit does
            sync_directory(target.parent)
        except FileExistsError:
            raise CacheError(
                f"cannot write {target}: a file stands where a folder is needed"
            ) from None
        except OSError as error:
            if self._was_there and error.errno in _GONE and not target.parent.is_dir():
                raise self._gone() from error
            raise _explained(error, target, len(data)) from error
        return is_created

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
            # may do something, a link could lead anywhere
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
            raise _unable("read", target, error) from error

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
        root = os.path.realpath(self.path).rstrip("/")
        place = os.path.realpath(target)
        if not f"{place}/".startswith(f"{root}/"):
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
            raise _unable("read", self.path / key, error) from error
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
            raise _unable("list", self.path / prefix, error) from error
        yield from lasting_names(names)

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every file under `prefix`, temporary ones too; a link is told like a file, and not
        followed.

        Only the folders on the way to the present one are kept in memory.

        Raises:
            CacheError: a folder that cannot be listed, or folders nested deeper than in any cache.
        """
        self._require_inside(self.path / prefix)
        folders = [(prefix, self._scanned(prefix))]
        try:
            while folders:
                parent, entries = folders[-1]
                entry = next(entries, None)
                if entry is None:
                    folders.pop()
                    continue
                key = f"{parent}/{entry.name}" if parent else entry.name
                if not entry.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # a temporary that has its name by now
                        status = entry.stat(follow_symlinks=False)
                        yield Entry(key, status.st_size, status.st_mtime)
                    continue
                if len(folders) > _MOST_DEPTH:
                    raise CacheError(
                        f"{self.path}: folder {brief(key)} lies too deep for a cache: remove it"
                    )
                folders.append((key, self._scanned(key)))
        finally:
            for _, entries in folders:
                entries.close()

    def _scanned(self, key: str) -> "Generator[os.DirEntry[str], None, None]":
        """Yield the entries of a folder; nothing of one that is not there."""
        try:
            with os.scandir(self.path / key) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:  # a folder that cannot be listed is not an empty one
            raise _unable("list", self.path / brief(key), error) from error

    def remove(self, key: str) -> None:
        """Remove `key`, if it is there.

        Raises:
            CacheError: it cannot be removed.
        """
        try:
            (self.path / key).unlink(missing_ok=True)
        except OSError as error:
            raise _unable("remove", self.path / key, error) from error

    def probe(self, *, writes: bool = True) -> None:
        """Check that files can be written and named here, each once; nothing is left behind.

        Where the folder is not there yet, this is tried in the nearest one above it.

        Args:
            writes: whether to try it; else only look at the rights.

        Raises:
            CacheError: they cannot.
            UsageError: the folder is a link to nothing.
        """
        if self._is_probed:
            return
        try:
            place = nearest_existing(self.path)
            if not place.is_dir():
                reason = f"a file stands where a folder is needed ({place})"
                raise CacheError(f"cannot write {self.path}: {reason}")
            if writes:
                try_out(place)
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
                sync_directory(folder.parent)
            elif is_new or folder == self.path:
                with suppress(PermissionError):  # of a folder above, which others made
                    sync_directory(folder.parent)
        self._synced.add(path)
        self._was_there = True

    def __str__(self) -> str:
        """Return the folder's path."""
        return self._text


def _forget(descriptor: int) -> None:
    """Have the next reading come from the disk or the file server, if that can be asked for."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _unable(verb: str, target: Path, error: OSError) -> CacheError:
    reason = error.strerror or error
    way_out = system_way_out(error)
    if isinstance(error, PermissionError):
        way_out = "; have its owner allow it"
    elif error.errno in _OF_A_DISK:
        way_out = "; see that its disk or mount is well, and run again"
    return CacheError(f"cannot {verb} {target}: {reason}{way_out}")


def _explained(error: OSError, target: Path, size: int) -> CacheError:
    what = str(target)
    if size:
        what += f" ({size} bytes)"
    reason = f"cannot write {what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CacheError(
            f"{reason}; all units committed so far are kept: free some space and run the same"
            " command again"
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return CacheError(reason + system_way_out(error))
    return CacheError(f"{reason}; choose a folder that can be written")
