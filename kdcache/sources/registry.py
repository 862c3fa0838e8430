"""The sources by name, opened from a spec."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.runtime.console import say
from kdcache.sources.bare_paths import spec_of_path
from kdcache.sources.coco import checked_coco, open_coco
from kdcache.sources.dataset import MapStyle
from kdcache.sources.digits import checked_digits, class_names_of_digits, open_digits
from kdcache.sources.fold import fold_of, take_fold
from kdcache.sources.hub import HubSource, open_hub
from kdcache.sources.imagefolder import checked_imagefolder, class_folders, open_imagefolder
from kdcache.sources.own import as_source, check_own, open_own
from kdcache.sources.protocol import Source
from kdcache.sources.segfolder import checked_segfolder, open_segfolder
from kdcache.sources.table import checked_table, class_names_of_table, open_table
from kdcache.sources.tars import checked_tars, open_tars
from kdcache.sources.torchvision import check_torchvision, open_torchvision
from kdcache.sources.voc import checked_voc, open_voc
from kdcache.sources.yolo import checked_yolo, open_yolo

OPENERS: dict[str, Callable[[Spec], Source]] = {
    "coco": open_coco,
    "csv": open_table,
    "digits": open_digits,
    "hf": open_hub,
    "imagefolder": open_imagefolder,
    "parquet": open_table,
    "segfolder": open_segfolder,
    "tars": open_tars,
    "torchvision": open_torchvision,
    "voc": open_voc,
    "yolo": open_yolo,
}

IMAGE_OPENERS: dict[str, Callable[[Spec], Source]] = {
    "coco": partial(open_coco, needs_targets=False),
    "segfolder": partial(open_segfolder, needs_targets=False),
    "torchvision": partial(open_torchvision, needs_targets=False),
    "voc": partial(open_voc, needs_targets=False),
    "yolo": partial(open_yolo, needs_targets=False),
}
"""What opens sources for their images alone, where other files say the targets."""

CHECKS: dict[str, Callable[[Spec], object]] = {
    "coco": checked_coco,
    "csv": checked_table,
    "digits": checked_digits,
    "imagefolder": checked_imagefolder,
    "parquet": checked_table,
    "segfolder": checked_segfolder,
    "tars": checked_tars,
    "torchvision": check_torchvision,
    "voc": checked_voc,
    "yolo": checked_yolo,
}
"""What each opener begins with: names, options and paths, before anything is listed or read."""


CLASS_NAMES: dict[str, Callable[[Spec], Sequence[str] | None]] = {
    "csv": class_names_of_table,
    "digits": class_names_of_digits,
    "imagefolder": class_folders,
    "parquet": class_names_of_table,
}
"""What sources call their classes, where that is known before they are opened."""


def check_source(text: str) -> None:
    """Check what a source's spec names, without opening it: a name, options and paths.

    Raises:
        SourceError: a folder or file that is not there, or a folder without what must be in it.
        UsageError: an unknown source or option; the nearest is suggested.
    """
    spec = spec_of_path(text, OPENERS) or parse_spec(text)
    if spec.name not in OPENERS:
        check_own(spec, OPENERS)
        return
    whole, _ = take_fold(spec)
    if whole.name in CHECKS:
        CHECKS[whole.name](whole)


def class_names_of_spec(text: str) -> tuple[str, ...] | None:
    """Return what the source that a spec names calls its classes, all of them in their order,
    without opening it; None where only that would tell.

    Raises:
        KdcacheError: see `check_source`.
    """
    spec = spec_of_path(text, OPENERS) or parse_spec(text)
    if spec.name not in CLASS_NAMES:
        return None
    whole, _ = take_fold(spec)
    names = CLASS_NAMES[whole.name](whole)
    if names is None:
        return None
    return tuple(names)


def source_from(data: Any) -> Source:
    """Return the source that a spec names, or that of a data set which a program has made.

    Raises:
        SourceError: as `open_source` and `as_source`.
        UsageError: likewise.
    """
    if isinstance(data, str):
        return open_source(data)
    return as_source(data)


def open_source(text: str, *, needs_targets: bool = True) -> Source:
    """Return the source that a spec names; what a path is taken for is told.

    Args:
        text: the spec.
        needs_targets: whether samples are to be looked at with their targets; else targets may be
            absent or wrong (`image_of`), and the fingerprint may be another.

    Raises:
        SourceError: the data is absent, empty or has no class targets.
        UsageError: an unknown source or option; the nearest is suggested.
    """
    spec = spec_of_path(text, OPENERS)
    if spec is None:
        spec = parse_spec(text)
    else:
        say(f"note: data {text} is taken for {spec}")
    if spec.name not in OPENERS:
        return open_own(spec, OPENERS)
    whole, fold = take_fold(spec)
    opener = OPENERS[whole.name]
    if not needs_targets:
        opener = IMAGE_OPENERS.get(whole.name, opener)
    source = opener(whole)
    if isinstance(source, MapStyle):
        source.may_draw = False  # with plain options no data set of these has code of a user's
    if needs_targets and isinstance(source, HubSource):
        source.check_targets()
    if fold is None:
        return source
    return fold_of(source, fold, spec)
