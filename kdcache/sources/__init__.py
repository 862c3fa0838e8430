"""Sources: indexed data sets with stable keys and a fingerprint.

A source is opened from a spec: `imagefolder:/data/train`, `tars:/data/train-{0000..0099}.tar`,
`hf:cifar10,image=img`, `torchvision:FashionMNIST,root=data,train=true`, `digits:train`, or your own
`module:function`, which returns a map-style data set of (image, class index) pairs. For
segmentation: `segfolder:/data,classes=11`, `torchvision:Cityscapes,root=data`,
`torchvision:VOCSegmentation,root=data`, or an own data set of (image, mask) pairs with an attribute
`task = "segmentation"`.
"""

from collections.abc import Callable

from kdcache.config.spec import Spec
from kdcache.sources.as_files import mean_image_bytes, stored_image, stored_target
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.digits import DIGITS_TRAIN, Digits, open_digits
from kdcache.sources.hub import open_hub
from kdcache.sources.imagefolder import open_imagefolder
from kdcache.sources.masks import MaskSource
from kdcache.sources.own import as_source, open_own, parse_source
from kdcache.sources.protocol import Sample, Source
from kdcache.sources.segfolder import open_segfolder
from kdcache.sources.tars import TarSource, open_tars
from kdcache.sources.torchvision import open_torchvision

__all__ = [
    "DIGITS_TRAIN",
    "DatasetSource",
    "Digits",
    "MaskSource",
    "Sample",
    "Source",
    "TarSource",
    "as_source",
    "mean_image_bytes",
    "open_source",
    "stored_image",
    "stored_target",
]

_OPENERS: dict[str, Callable[[Spec], Source]] = {
    "digits": open_digits,
    "hf": open_hub,
    "imagefolder": open_imagefolder,
    "segfolder": open_segfolder,
    "tars": open_tars,
    "torchvision": open_torchvision,
}


def open_source(text: str) -> Source:
    """Return the source that a spec names.

    Raises:
        SourceError: the data is absent, empty or has no class targets.
        UsageError: an unknown source or option; the nearest is suggested.
    """
    spec = parse_source(text, _OPENERS)
    opener = _OPENERS.get(spec.name)
    return open_own(spec, _OPENERS) if opener is None else opener(spec)
