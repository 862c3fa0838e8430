"""Names in the sources of libraries, which are read and not imported: an import takes seconds.

What a library registers is only known for certain to the library. Its sources can still tell a
mistake: a name that stands nowhere in them is none of its.
"""

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from kdcache.config.names import choose


@dataclass(frozen=True)
class LibrarySources:
    """The modules of a library that register names."""

    library: str
    """The name that it is imported by."""
    files: Sequence[str]
    """Patterns of paths in the library's folder."""
    registered: re.Pattern[str]
    """What its one group matches is a name."""
    left_out: re.Pattern[str] | None = None
    """Names that are registered, but not for us."""

    def require(self, name: str, what: str) -> None:
        """Check that a name stands in the sources, as a function or in quotes.

        Nothing is checked once the library is imported, since it can then be asked itself, and
        may know more names; nor where its sources cannot be read.

        Args:
            name: of a model, for example.
            what: has that name, as messages call it.

        Raises:
            UsageError: it does not; the nearest that is registered is suggested.
        """
        if sys.modules.get(self.library) is not None:
            return
        texts = _texts(self.library, tuple(self.files))
        if name and _mention(texts, name):
            return
        names = self._registered_names(texts)
        if names:  # else these are no sources as we know them
            choose(name, names, what)

    def _registered_names(self, texts: Sequence[str]) -> set[str]:
        names: set[str] = set()
        for text in texts:
            names.update(self.registered.findall(text))
        if self.left_out is None:
            return names
        return {name for name in names if not self.left_out.fullmatch(name)}


def library_text(library: str, path: str) -> str:
    """Return the text of a file in a library's folder, UTF-8; nothing if it is not there."""
    for folder in _folders(library):
        file = folder / path
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return ""


def _folders(library: str) -> Sequence[Path]:
    """Return the folders of a library's modules; none if it is not installed in one."""
    # not importlib.util.find_spec: it asks what is imported, which may be a stand-in
    spec = PathFinder.find_spec(library)
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(folder) for folder in spec.submodule_search_locations]


@lru_cache(maxsize=4)
def _texts(library: str, patterns: tuple[str, ...]) -> Sequence[str]:
    """Return the sources of some modules; none if they are in no folder, or one of them cannot be
    read."""
    paths: list[Path] = []
    for folder in _folders(library):
        for pattern in patterns:
            paths += folder.glob(pattern)
    try:
        return [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    except OSError:
        return []


def _mention(texts: Collection[str], name: str) -> bool:
    """Return whether a text defines a function of that name, or has it in quotes, alone or with
    what a dot parts from it."""
    places = [f"def {name}("]
    for quote in "'\"":
        places += [f"{quote}{name}{quote}", f"{quote}{name}."]
    mentioning = [text for text in texts if name in text]
    return any(place in text for text in mentioning for place in places)
