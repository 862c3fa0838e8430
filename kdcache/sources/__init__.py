"""Sources: indexed data sets with stable keys and a fingerprint.

A source is opened from a spec: `imagefolder:/data/train`, `tars:/data/train-{0000..0099}.tar`,
`csv:train.csv,root=/data`,
`hf:cifar10,image=img`, `torchvision:FashionMNIST,root=data,train=true`, `digits:train`, or your own
`module:function`, which returns a map-style data set of (image, class index) pairs. For
segmentation: `segfolder:/data,classes=11`, `torchvision:Cityscapes,root=data`,
`torchvision:VOCSegmentation,root=data`, or an own data set of (image, mask) pairs with an attribute
`task = "segmentation"`. For detection: `coco:/data/images,annotations=instances.json`,
`voc:/data/VOCdevkit/VOC2012`, `yolo:/data,classes=80`, or an own data set of (image, dictionary of
boxes and labels) pairs with an attribute `task = "detection"`.
"""

from kdcache.sources.as_files import mean_image_bytes, stored_image, stored_target
from kdcache.sources.boxes import BoxSource
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.digits import DIGITS_TRAIN, Digits
from kdcache.sources.listed_folders import require_beside, require_outside
from kdcache.sources.masks import MaskSource
from kdcache.sources.own import as_source
from kdcache.sources.plain_images import WithoutTargets, open_plain_images, path_of_images
from kdcache.sources.protocol import (
    AnnotationIds,
    Classed,
    Sample,
    Source,
    annotation_ids_of,
    class_names_of,
    splits_of,
)
from kdcache.sources.registry import check_source, class_names_of_spec, open_source, source_from
from kdcache.sources.tars import TarSource

__all__ = [
    "DIGITS_TRAIN",
    "AnnotationIds",
    "BoxSource",
    "Classed",
    "DatasetSource",
    "Digits",
    "MaskSource",
    "Sample",
    "Source",
    "TarSource",
    "WithoutTargets",
    "annotation_ids_of",
    "as_source",
    "check_source",
    "class_names_of",
    "class_names_of_spec",
    "mean_image_bytes",
    "open_plain_images",
    "open_source",
    "path_of_images",
    "require_beside",
    "require_outside",
    "source_from",
    "splits_of",
    "stored_image",
    "stored_target",
]
