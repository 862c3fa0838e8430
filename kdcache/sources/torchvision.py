"""Source `torchvision`: any classification set of torchvision, and Cityscapes, VOCSegmentation and
VOCDetection, with their own options."""

import os
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from kdcache.config.library_sources import LibrarySources
from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.config.user_functions import check_options
from kdcache.deferred import datasets
from kdcache.errors import SourceError, UsageError
from kdcache.runtime.downloads import network_reason
from kdcache.runtime.images import file_bytes, open_image
from kdcache.runtime.user_code import exception_text
from kdcache.shapes import IGNORED
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.folder_files import is_hidden
from kdcache.sources.masks import MaskSource
from kdcache.sources.protocol import Source
from kdcache.sources.voc import VOC_CLASSES, VocReader, voc_source

_LEFT_OUT = ("ImageFolder", "DatasetFolder", "FakeData")
_DATA_SETS = LibrarySources(
    "torchvision",
    files=("datasets/__init__.py",),
    registered=re.compile(r'^ +"(\w+)",', re.MULTILINE),
    left_out=re.compile("|".join(_LEFT_OUT)),
)
_VOC = ("background", *VOC_CLASSES)


def check_torchvision(spec: Spec) -> None:
    """Check that torchvision's sources have a data set of that name, without importing torchvision.

    Raises:
        UsageError: they do not; the nearest is suggested.
    """
    _DATA_SETS.require(spec.arg or "", "torchvision data set")


def open_torchvision(spec: Spec, *, needs_targets: bool = True) -> Source:
    """Return the data set that the spec names.

    Args:
        spec: of the source.
        needs_targets: whether annotations of VOC are read; else no image has a box.

    Raises:
        SourceError: its files are not there, or it has no class targets.
    """
    names = [name for name in datasets.__all__ if name not in _LEFT_OUT]
    cls = getattr(datasets, choose(spec.arg or "", names, "torchvision data set"))
    if cls is datasets.CocoDetection:
        images = spec.options.get("root", "IMAGES")
        file = spec.options.get("annFile", "FILE.json")
        raise UsageError(
            f"source {spec}: kdcache reads COCO itself; write coco:{images},annotations={file}"
        )
    options = _options(cls, spec)
    classes = None
    # a number is for us: the data set does not say; LSUN has a parameter of that name, which is a
    # list or text
    if isinstance(options.get("classes"), int):
        classes = options.pop("classes")
    dataset = _opened(cls, spec, options)
    if cls is datasets.Cityscapes:
        return _cityscapes(dataset, spec)
    if cls is datasets.VOCSegmentation:
        return _voc(dataset, spec)
    if cls is datasets.VOCDetection:
        return _voc_boxes(dataset, spec, needs_targets=needs_targets)
    source = DatasetSource(dataset, spec, classes, lists_targets=True)
    _require_none_hidden(source, spec)
    return source


def draws_nothing(dataset: Any) -> bool:
    """Return whether a data set is torchvision's own, and runs no code that a user gave it, so that
    reading a sample leaves the global generators as they are."""
    kind = type(dataset)
    if not kind.__module__.startswith("torchvision.datasets.") or kind is datasets.FakeData:
        return False
    for given in ("transform", "target_transform", "transforms"):
        if getattr(dataset, given, None) is not None:
            return False
    for attribute in ("loader", "_loader"):
        loader = getattr(dataset, attribute, None)
        if loader not in (None, datasets.folder.default_loader):
            return False
    return True


def _options(cls: Any, spec: Spec) -> dict[str, Any]:
    """Return the options of the spec, as the data set takes them."""
    options: dict[str, Any] = dict(spec.options)
    if cls in (datasets.VOCSegmentation, datasets.VOCDetection) and "year" in options:
        options["year"] = str(options["year"])
    if cls is datasets.Cityscapes and options.setdefault("target_type", "semantic") != "semantic":
        raise UsageError(
            f"source {spec}: target_type is {options['target_type']!r}; masks of classes are"
            " target_type=semantic"
        )
    return options


def _opened(cls: Any, spec: Spec, options: dict[str, Any]) -> Any:
    """Return the data set of torchvision itself."""
    check_options(cls, Spec(spec.name, spec.arg, options), "source")
    try:
        return cls(**options)
    except MemoryError:
        raise
    except Exception as error:  # of whatever library the data set reads its files with
        network = network_reason(error)
        if network is not None:
            raise SourceError(
                f"source {spec}: it cannot be downloaded: {network}; check the network, or put its"
                f" files into root={options.get('root')!r}"
            ) from error
        reason = exception_text(error)
        raise SourceError(
            f"source {spec}: {reason}; check root={options.get('root')!r}, or add download=true if"
            " the set can be downloaded"
        ) from error


def _require_none_hidden(source: DatasetSource, spec: Spec) -> None:
    """Raise a SourceError if a hidden file is listed: some data sets list all that is in a
    folder."""
    for path in source.listed_paths:
        if is_hidden(path):
            raise SourceError(
                f"source {spec} lists {path}, which is hidden, as editors and systems leave files;"
                " remove it"
            )


def _voc(dataset: Any, spec: Spec) -> MaskSource:
    return MaskSource(
        dataset,
        spec,
        classes=len(_VOC),
        class_names=_VOC,
        encoded=partial(_colour_file, dataset.images),
    )


def _voc_boxes(dataset: Any, spec: Spec, *, needs_targets: bool) -> Source:
    """Return VOC with its 20 classes; objects that are marked as difficult count as crowds."""
    root = str(dataset.root)
    images = []
    annotations = []
    for image, annotation in sorted(zip(dataset.images, dataset.annotations, strict=True)):
        images.append(os.path.relpath(image, root))
        annotations.append(os.path.relpath(annotation, root))
    reader = VocReader(VOC_CLASSES, ignores_difficult=True)
    return voc_source(spec, root, images, annotations if needs_targets else None, reader)


def _cityscapes(dataset: Any, spec: Spec) -> MaskSource:
    """Return Cityscapes with its 19 evaluated classes; all other ids are ignored, as its benchmark
    does."""
    names_by_class = {}
    ids = {}
    for label in dataset.classes:
        is_evaluated = 0 <= label.train_id < IGNORED
        if is_evaluated:
            names_by_class[label.train_id] = label.name
        if label.id >= 0:
            ids[label.id] = label.train_id if is_evaluated else IGNORED
    names = tuple(names_by_class[index] for index in range(len(names_by_class)))
    return MaskSource(
        dataset,
        spec,
        classes=len(names),
        class_names=names,
        ids=ids,
        encoded=partial(_colour_file, dataset.images),
    )


def _colour_file(images: Sequence[str], index: int) -> bytes | None:
    """Return the file of an image, unless the data set, which makes it RGB, gives another than it
    holds."""
    data = file_bytes(images[index])
    if open_image(data).mode != "RGB":
        return None
    return data
