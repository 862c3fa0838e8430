"""What a terminal shows while libraries are imported that take seconds."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import IO

from kdcache.errors import UsageError
from kdcache.runtime.launch import own_place

_SLOW = ("torch", "torchvision", "timm", "sklearn", "datasets", "ray")
_TO_LINE_START = "\r"
_ERASE_LINE = "\r\x1b[K"


def tell_loading() -> None:
    """Show on a terminal which slow library is being imported, from when that begins until it ends;
    of several processes in rank 0."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and _is_first():
        sys.meta_path.insert(0, _Finder(sys.stderr))


def _is_first() -> bool:
    try:
        return own_place().rank == 0
    except UsageError:  # which the command tells
        return False


class _Finder(MetaPathFinder):
    """Finds slow libraries where Python does, and has their imports told."""

    def __init__(self, terminal: IO[str]) -> None:
        self._terminal = terminal

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a slow library is imported; None of all others, which Python then finds."""
        if name not in _SLOW:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def told(module: ModuleType) -> None:
            with self._line(f"loading {name} ..."):
                run(module)

        spec.loader.exec_module = told  # type: ignore[method-assign]
        return spec

    @contextmanager
    def _line(self, text: str) -> Iterator[None]:
        """Show a line during the block; what else is printed meanwhile takes its place."""
        self._terminal.write(text + _TO_LINE_START)
        self._terminal.flush()
        try:
            yield
        finally:
            self._terminal.write(_ERASE_LINE)
            self._terminal.flush()
