"""Folders that sources list: what a command writes into one is among the data of the next."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import KdcacheError, UsageError
from kdcache.sources.bare_paths import spec_of_path
from kdcache.sources.fold import take_fold
from kdcache.sources.folder_files import is_hidden
from kdcache.sources.imagefolder import checked_imagefolder
from kdcache.sources.mask_pairs import Pattern
from kdcache.sources.registry import OPENERS
from kdcache.sources.segfolder import checked_segfolder
from kdcache.sources.yolo import checked_yolo


def require_outside(out: str | Path, what: str, data: str | None) -> None:
    """Check that a new folder does not come to lie in one that a source lists. What is wrong with
    the source itself is told when it is opened.

    Args:
        out: the folder, or an address.
        what: it is to hold, for messages.
        data: spec of the source, or a path that stands for one; None for none.

    Raises:
        UsageError: it does.
    """
    if data is None or "://" in str(out):
        return
    try:
        folders = _listed_folders(data)
    except KdcacheError:
        return
    require_beside(out, what, folders)


def _listed_folders(data: str) -> Sequence[str]:
    """Return the folders that a source lists whole.

    Raises:
        KdcacheError: it cannot be opened.
    """
    spec = spec_of_path(data, OPENERS) or parse_spec(data)
    if spec.name not in _LISTED:
        return []
    whole, _ = take_fold(spec)
    return _LISTED[whole.name](whole)


def require_beside(out: str | Path, what: str, folders: Sequence[str]) -> None:
    """Check that a new folder does not come to lie in one of some that are listed whole; hidden
    folders are passed over there.

    Raises:
        UsageError: it does.
    """
    for folder in folders:
        # not resolve, which raises where links go round in a circle
        inner = os.path.relpath(os.path.realpath(out), os.path.realpath(folder))
        is_inside = inner != os.pardir and not inner.startswith(f"{os.pardir}{os.sep}")
        if is_inside and not is_hidden(inner.replace(os.sep, "/")):
            raise UsageError(
                f"{what} {out} would lie in {folder}, whose files are data: it would be taken for"
                " some of them; choose a folder elsewhere"
            )


def _of_imagefolder(spec: Spec) -> Sequence[str]:
    return [checked_imagefolder(spec)]


def _of_segfolder(spec: Spec) -> Sequence[str]:
    options, root = checked_segfolder(spec)
    patterns = (Pattern(options.images), Pattern(options.masks))
    return [os.path.join(root, pattern.folder) for pattern in patterns]  # noqa: PTH118


def _of_yolo(spec: Spec) -> Sequence[str]:
    options, _, root = checked_yolo(spec)
    return [str(Path(root) / kind / options.split) for kind in ("images", "labels")]


_LISTED: dict[str, Callable[[Spec], Sequence[str]]] = {
    "imagefolder": _of_imagefolder,
    "segfolder": _of_segfolder,
    "yolo": _of_yolo,
}
"""Which folders a source lists with all that is below them; others name their files."""
