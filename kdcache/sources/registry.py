"""The sources by name, opened from a spec."""

from collections.abc import Callable

from kdcache.config.spec import Spec
from kdcache.sources.coco import open_coco
from kdcache.sources.digits import open_digits
from kdcache.sources.hub import open_hub
from kdcache.sources.imagefolder import open_imagefolder
from kdcache.sources.own import open_own, parse_source
from kdcache.sources.protocol import Source
from kdcache.sources.segfolder import open_segfolder
from kdcache.sources.tars import open_tars
from kdcache.sources.torchvision import open_torchvision
from kdcache.sources.voc import open_voc
from kdcache.sources.yolo import open_yolo

OPENERS: dict[str, Callable[[Spec], Source]] = {
    "coco": open_coco,
    "digits": open_digits,
    "hf": open_hub,
    "imagefolder": open_imagefolder,
    "segfolder": open_segfolder,
    "tars": open_tars,
    "torchvision": open_torchvision,
    "voc": open_voc,
    "yolo": open_yolo,
}


def open_source(text: str) -> Source:
    """Return the source that a spec names.

    Raises:
        SourceError: the data is absent, empty or has no class targets.
        UsageError: an unknown source or option; the nearest is suggested.
    """
    spec = parse_source(text, OPENERS)
    opener = OPENERS.get(spec.name)
    if opener is None:
        return open_own(spec, OPENERS)
    return opener(spec)
