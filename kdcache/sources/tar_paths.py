"""The tars that a folder, or a pattern with `*` or with `{000..099}`, names."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdcache.errors import SourceError, UsageError
from kdcache.runtime.console import say
from kdcache.sources.folder_files import and_more, count_kinds, not_listed, tell_passed_over

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LARGEST_RANGE = 1_000_000
_LIKE_TARS = (
    ".tar",
    ".tgz",
    ".tbz2",
    ".txz",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tar.lz4",
)


def find_tars(pattern: str) -> list[str]:
    """Return the tars in a folder, or that a pattern names, sorted as the pattern is written.

    Raises:
        SourceError: one that is named is missing, or none fits.
        UsageError: an address that is no local file.
    """
    if pattern.startswith("pipe:") or "://" in pattern:
        raise UsageError(
            f"source tars reads local files only, not {pattern!r}; copy the tars to a disk or mount"
        )
    try:
        matches: list[str] = []
        for piece in _expand(pattern):
            matches += _matches(piece)
        paths = list(dict.fromkeys(matches))
    except OSError as error:
        raise not_listed(f"tars {pattern!r}", error) from error
    if not paths:
        hint = ""
        if below := _folder_of_tars(pattern):
            hint = f"; {below} holds tars"
        elif pattern and Path(pattern).is_dir():
            hint = f"; a folder of images is imagefolder:{pattern}"
        raise SourceError(
            f"tars {pattern!r} names no tar; give a folder of *.tar, a tar, or a pattern with * or"
            f" {{000..099}}{hint}"
        )
    _check_unique(paths)
    return paths


def _expand(pattern: str) -> Iterator[str]:
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first = int(match[1])
    last = int(match[2])
    if not 0 <= last - first < _LARGEST_RANGE:
        raise UsageError(
            f"range {match[0]} of source tars must go up, by less than {_LARGEST_RANGE}"
        )
    before = pattern[: match.start()]
    after = pattern[match.end() :]
    num_digits = len(match[1])
    for number in range(first, last + 1):
        yield from _expand(f"{before}{number:0{num_digits}}{after}")


def _matches(piece: str) -> list[str]:
    if not piece:
        return []
    if Path(piece).is_dir():
        return _tars_in(piece)
    if Path(piece).exists() or not glob.has_magic(piece):
        if not Path(piece).is_file():
            raise SourceError(f"tars: {piece!r} does not exist or is no file")
        return [piece]
    return sorted(glob.glob(piece))  # noqa: PTH207 # of absolute patterns too


def _tars_in(folder: str) -> list[str]:
    """Return the tars in a folder; refuse files that look like tars and would be left out."""
    tars = []
    others = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".tar") and not entry.name.startswith("."):
                tars.append(entry.name)
            else:
                others.append(entry.name)
    tars.sort()
    unlisted = sorted(name for name in others if name.lower().endswith(_LIKE_TARS))
    if unlisted:
        first = os.path.join(folder, unlisted[0])  # noqa: PTH118
        raise SourceError(
            f"tars: {first} would be left out{and_more(len(unlisted))}: a folder's tars are "
            "*.tar, not compressed and not hidden; unpack, rename or move it"
        )
    files = []
    for name in others:
        path = os.path.join(folder, name)  # noqa: PTH118
        if not os.path.isdir(path):  # noqa: PTH112
            files.append(name)
    tell_passed_over(f"tars {folder}", count_kinds(files), "no tars")
    if tars and (below := _folder_of_tars(folder)):
        say(
            f"note: tars {folder}: {below} holds tars too, which are passed over;"
            f" tars:{folder}/*/*.tar takes those"
        )
    return [os.path.join(folder, name) for name in tars]  # noqa: PTH118


def _folder_of_tars(folder: str) -> Path | None:
    """Return a folder in a folder that holds tars, if there is one."""
    path = Path(folder)
    if not folder or not path.is_dir():
        return None
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and any(entry.glob("*.tar")):
            return entry
    return None


def _check_unique(paths: Sequence[str]) -> None:
    """Refuse one tar under two names, by a link: its samples would come twice."""
    first: dict[tuple[int, int], str] = {}
    for path in paths:
        status = os.stat(path)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        before = first.setdefault(identity, path)
        if before == path:
            continue
        # some file systems give many files one number
        if os.path.realpath(before) == os.path.realpath(path):
            raise SourceError(
                f"tars {before} and {path} are one file, by a link: its samples would come twice;"
                " remove one"
            )


def relative_names(paths: Sequence[str]) -> list[str]:
    """Return the paths below the folder that all have in common, without .tar."""
    absolute_paths = []
    folders = set()
    for path in paths:
        absolute = os.path.abspath(path)  # noqa: PTH100 # links keep their names
        absolute_paths.append(absolute)
        folders.add(os.path.dirname(absolute))  # noqa: PTH120
    common = os.path.commonpath(folders)
    return [os.path.relpath(path, common).removesuffix(".tar") for path in absolute_paths]
