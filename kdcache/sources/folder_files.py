"""The files below a folder, and what is said of those that a source passes over.

A link may lead back to a folder above, or to one that is listed already: what is in it would come
again. Such folders are refused, since no later check could tell.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from kdcache.errors import SourceError
from kdcache.runtime.console import say

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that torchvision's ImageFolder takes for images."""
_MOST_KINDS = 5
_NOT_TAKEN = """
apng avif avifs bpg cr2 cr3 dcm dib dng eps exr fits flif gif heic heif ico j2c j2k jfi jfif jif jp2
jpe jpf jpx jxl mpo nef orf pam pbm pcx pfm pnm psd qoi ras rw2 sgi svg tga webp xbm xpm
"""
IMAGE_EXTENSIONS = frozenset(
    [*_NOT_TAKEN.split(), "bmp", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff"]
)
"""Whoever gives a file such a name means an image, whether a source takes it or not."""


class FolderWalk:
    """Lists folders, each of them once."""

    def __init__(self) -> None:
        self._entered: dict[tuple[int, int], str] = {}
        """Path of each folder so far, by device and inode."""

    def enter(self, folder: str) -> None:
        """Count a folder as listed.

        Raises:
            SourceError: it was listed before, under another path.
            OSError: it is not there.
        """
        status = os.stat(folder)  # noqa: PTH116 # Path is slow on a million
        identity = (status.st_dev, status.st_ino)
        before = self._entered.setdefault(identity, folder)
        if before == folder:
            return
        # some file systems give many folders one number
        if os.path.realpath(before) != os.path.realpath(folder):
            return
        if folder.startswith(os.path.join(before, "")):  # noqa: PTH118
            raise SourceError(
                f"{folder} is a link that leads back to {before}, whose files would come again and"
                " again; remove the link"
            )
        raise SourceError(
            f"{before} and {folder} are one folder, by a link: its files would come twice; remove"
            " one of them"
        )

    def folders(self, top: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder at and below `top`, and the names of its files; links to folders are
        followed.

        Raises:
            SourceError: a folder that was listed before.
            OSError: a folder that cannot be listed.
        """
        for folder, _, files in os.walk(top, followlinks=True, onerror=_raise):
            self.enter(folder)
            yield folder, files


def files_below(root: str, folder: str) -> list[str]:
    """Return the files at and below a folder, as paths below the root with `/`; none where there is
    no such folder.

    Args:
        root: of the paths.
        folder: below the root.

    Raises:
        SourceError: a folder that would be listed twice.
        OSError: a folder that cannot be listed.
    """
    base = os.path.join(root, folder)  # noqa: PTH118 # Path is slow on a million
    if not os.path.isdir(base):  # noqa: PTH112
        return []
    paths = []
    for place, files in FolderWalk().folders(base):
        relative_place = os.path.relpath(place, root).replace(os.sep, "/")
        prefix = f"{relative_place}/"
        if relative_place == ".":
            prefix = ""
        paths += [prefix + file for file in files]
    return paths


def is_hidden(path: str) -> bool:
    """Return whether a part of a relative path with `/` begins with a dot, as systems and editors
    name their own files."""
    if not path.startswith(".") and "/." not in path:
        return False
    for part in path.split("/"):
        is_step = part in (".", "..")
        if part.startswith(".") and not is_step:
            return True
    return False


def extension_of(path: str) -> str:
    """Return the extension of a path in lower case, without its dot; nothing if there is none."""
    return PurePosixPath(path).suffix[1:].lower()


def looks_like_image(path: str) -> bool:
    """Return whether a file is named as an image, of whichever kind."""
    return extension_of(path) in IMAGE_EXTENSIONS


def image_names(names: Iterable[str]) -> list[str]:
    """Return the names that look like images, sorted."""
    return [name for name in sorted(names) if looks_like_image(name)]


def kind_of_file(path: str) -> str:
    """Return the extension of a file as it is counted; of one without, its name if that is
    hidden."""
    name = path.rpartition("/")[2]
    extension = extension_of(name)
    is_hidden_file = name.startswith(".")
    if is_hidden_file:
        return f"hidden .{extension}" if extension else name
    return f".{extension}" if extension else "no extension"


def count_kinds(paths: Iterable[str]) -> "Counter[str]":
    """Return how many files there are of each kind."""
    return Counter(map(kind_of_file, paths))


def tell_passed_over(source: str, kinds: "Counter[str]", what: str) -> None:
    """Say how many files a source has passed over, if it has.

    Args:
        source: its kind and place.
        kinds: number of files by extension.
        what: they are, such as `no images`.
    """
    if not kinds:
        return
    by_name = sorted(kinds.items())
    by_count = sorted(by_name, key=lambda item: -item[1])
    counts = [f"{kind} {count}" for kind, count in by_count[:_MOST_KINDS]]
    num_others = len(kinds) - len(counts)
    if num_others:
        counts.append(f"{num_others} other kinds")
    total = kinds.total()
    files = f"{total} files passed over that are {what}"
    if total == 1:
        files = "1 file passed over that is " + re.sub(r"s( |$)", r"\1", what)
    say(f"{source}: {files} ({', '.join(counts)})")


def and_more(count: int) -> str:
    """Return what follows the name of the first of `count` files."""
    if count == 1:
        return ""
    return f" (and {count - 1} more)"


def _raise(error: OSError) -> None:
    raise error  # os.walk would leave the folder out


def not_listed(where: str, error: OSError) -> SourceError:
    """Return the error of data whose folders the operating system does not list.

    Args:
        where: which data.
        error: what it says.
    """
    place = ""
    if error.filename:
        place = f" ({error.filename})"
    if isinstance(error, PermissionError):
        way_out = "have its owner allow it"
    elif isinstance(error, FileNotFoundError):
        way_out = "give a folder that is there"
    else:
        way_out = "see that its disk or mount is well, and run again"
    reason = error.strerror or error
    return SourceError(f"{where} cannot be listed: {reason}{place}; {way_out}")
