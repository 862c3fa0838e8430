"""An operating system that fails: calls that raise, write too little or never return, and power
cuts before a sync."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from kdcache.cache.storage import rename
from kdcache.cache.storage.protocol import is_temporary

_CHANGING = ("mkdir", "open", "write", "fsync", "link", "rename_new", "unlink")
CALLS = ("stat", *_CHANGING)
MEETS = {
    "kill": _CHANGING,
    "ENOSPC": ("mkdir", "open", "write", "fsync", "link", "rename_new"),
    "EIO": CALLS,
    "EEXIST": ("mkdir", "open", "link", "rename_new"),
    "short": ("write",),
}
"""The calls that a kind of fault befalls."""
_STAT = os.stat


class Fault(NamedTuple):
    """What befalls one call."""

    number: int
    """Of the call among those that the kind befalls, from 0."""
    kind: str
    """`short` (a write of half), `kill` (neither this call nor another returns), or the name of an
    error."""
    is_done: bool = False
    """Whether the call takes effect before it fails, as where a file server's answer is lost."""


class KilledError(BaseException):
    """The process is no more."""


class FaultyOS:
    """The calls on files below `root`; syncing is not done but kept in mind."""

    def __init__(
        self, root: Path, *, has_links: bool = True, befalls: Sequence[str] = CALLS
    ) -> None:
        self.root, self.has_links, self.befalls = root, has_links, befalls
        self.linked: dict[Path, bytes] = {}
        """Every object that was given its name, as it was then."""
        self._paths: dict[int, Path] = {}
        self._new_names: set[Path] = set()
        self._unsynced: set[int] = set()
        self.num_calls = self.num_faults = 0

    @contextmanager
    def running(self, fault: Fault | None = None) -> Iterator[None]:
        """Let the calls of the block go through this, with a fault; a process that is killed ends
        the block."""
        self.num_calls, self._fault, self._is_dead = 0, fault, False
        homes = {name: rename if name == "rename_new" else os for name in CALLS}
        with ExitStack() as stack:
            for name, home in homes.items():
                stack.enter_context(
                    patch.object(home, name, self._faulty(name, getattr(home, name)))
                )
            with suppress(KilledError):
                yield
        self._paths.clear()

    def is_durable(self, path: Path) -> bool:
        """Return whether a power cut would leave `path`."""
        names = {path, *path.parents}
        return (
            path.exists()
            and not names & self._new_names
            and path.stat().st_ino not in self._unsynced
        )

    def cut_power(self, is_lost: Callable[[], bool]) -> None:
        """Lose what is not synced: each new name or none, as `is_lost` says, and the bytes of
        files."""
        for path in [
            path
            for path in self.root.rglob("*")
            if path.is_file() and path.stat().st_ino in self._unsynced
        ]:
            path.write_bytes(bytes(path.stat().st_size))
        for path in sorted(self._new_names):
            if path.exists() and is_lost():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.linked = {path: data for path, data in self.linked.items() if path.exists()}
        self._new_names, self._unsynced = set(), set()

    def _faulty(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *others: Any, **named: Any) -> Any:
            path = self._paths.get(first) if isinstance(first, int) else Path(first)
            if path is None or not path.is_relative_to(self.root):
                result = real(first, *others, **named)
                if name == "open":
                    self._paths.pop(result, None)
                return result
            return self._call(
                name,
                lambda *short: self._done(name, real, path, (first, *(short or others)), named),
                others,
            )

        return call

    def _call(self, name: str, action: Callable[..., Any], others: tuple[Any, ...]) -> Any:
        if self._is_dead:
            raise KilledError
        fault = self._fault
        if fault is None or name not in MEETS[fault.kind] or name not in self.befalls:
            return action()
        number, self.num_calls = self.num_calls, self.num_calls + 1
        if number != fault.number:
            return action()
        self.num_faults += 1
        if fault.kind == "short":
            return action(others[0][: len(others[0]) // 2])
        if fault.is_done:
            action()
        if fault.kind == "kill":
            self._is_dead = True
            raise KilledError
        code = getattr(errno, fault.kind)
        raise OSError(code, os.strerror(code))

    def _done(
        self,
        name: str,
        real: Callable[..., Any],
        path: Path,
        arguments: tuple[Any, ...],
        named: Any,
    ) -> Any:
        if name == "fsync":
            self._sync(path)
            return None
        if name == "link" and not self.has_links:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        result = real(*arguments, **named)
        if name == "open":
            self._paths[result] = path
        elif name == "write":
            self._unsynced.add(os.fstat(arguments[0]).st_ino)
        elif name == "mkdir":
            self._new_names.add(path)
        elif name in ("link", "rename_new"):
            target = Path(arguments[1])
            self._new_names.add(target)
            if not is_temporary(target.name):  # as those that are tried out are
                self.linked[target] = target.read_bytes()
        return result

    def _sync(self, path: Path) -> None:
        status = _STAT(path)
        if stat.S_ISDIR(status.st_mode):
            self._new_names = {name for name in self._new_names if name.parent != path}
        else:
            self._unsynced.discard(status.st_ino)
