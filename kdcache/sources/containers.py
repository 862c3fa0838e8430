"""What programs hold data in: torch's `Subset`, `ConcatDataset` and `TensorDataset`, tables of
Hugging Face's `datasets`, and timm's `ImageDataset`.

None of them says its classes, and most hide the files behind them. What they hold is opened in
their place: samples keep their names, and the fingerprint covers what it covers there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.runtime.images import decode_image, file_bytes
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.hub import open_table_in_memory
from kdcache.sources.parts import PartsSource, Places
from kdcache.sources.protocol import Source

OpenOther = Callable[[Any, Spec], Source]
"""Opens a data set of any kind."""


def open_container(dataset: Any, spec: Spec, open_other: OpenOther) -> Source | None:
    """Return the source of a data set that holds others, or whose kind is known; None of any other.

    A class that is made from one of these is another kind: its code may do anything.

    Args:
        dataset: of a program.
        spec: that names it.
        open_other: opens what it holds.

    Raises:
        SourceError: what it holds cannot be opened, or not together.
    """
    kind = type(dataset)
    opener = _OPENERS.get(f"{kind.__module__}.{kind.__qualname__}")
    if opener is None:
        return None
    return opener(dataset, spec, open_other)


def _subset(dataset: Any, spec: Spec, open_other: OpenOther) -> Source:
    whole = open_other(dataset.dataset, spec)
    places: Places = np.asarray(dataset.indices, np.int64).reshape(-1)
    if len(places) and not 0 <= places.min() <= places.max() < len(whole):
        raise SourceError(
            f"source {spec} has indices from {places.min()} to {places.max()}, and what it is taken"
            f" from has samples 0 to {len(whole) - 1}"
        )
    return PartsSource([(whole, places)], spec=str(spec))


def _concatenated(dataset: Any, spec: Spec, open_other: OpenOther) -> Source:
    sources = [open_other(part, spec) for part in dataset.datasets]
    return PartsSource([(source, np.arange(len(source))) for source in sources], spec=str(spec))


def _tensors(dataset: Any, spec: Spec, open_other: OpenOther) -> Source:
    if len(dataset.tensors) != 2:
        raise SourceError(
            f"source {spec} holds {len(dataset.tensors)} tensors; give one of images and one of"
            " class indices"
        )
    return DatasetSource(_Tensors(*dataset.tensors), spec, lists_targets=True)


def _table(dataset: Any, spec: Spec, open_other: OpenOther) -> Source:
    source: Source = open_table_in_memory(dataset, spec)
    return source


def _timms(dataset: Any, spec: Spec, open_other: OpenOther) -> Source:
    if not hasattr(dataset.reader, "class_to_idx"):
        raise SourceError(
            f"source {spec} reads with {type(dataset.reader).__name__}, which lists no files; give"
            " timm's folders of images, or another source"
        )
    source = DatasetSource(_ImagesOfTimm(dataset), spec)
    source.may_draw = (dataset.transform, dataset.target_transform) != (None, None)
    return source


_OPENERS: dict[str, Callable[[Any, Spec, OpenOther], Source]] = {
    "torch.utils.data.dataset.Subset": _subset,
    "torch.utils.data.dataset.ConcatDataset": _concatenated,
    "torch.utils.data.dataset.TensorDataset": _tensors,
    "datasets.arrow_dataset.Dataset": _table,
    "timm.data.dataset.ImageDataset": _timms,
}


class _Tensors:
    """A tensor of images, and one of class indices."""

    def __init__(self, images: Any, targets: Any) -> None:
        self.data = images
        self.targets = targets

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.data[index], self.targets[index]


class _ImagesOfTimm:
    """timm's images in folders; one that cannot be read is an error, where timm takes the next."""

    def __init__(self, dataset: Any) -> None:
        reader = dataset.reader
        self.root = reader.root
        self.samples = reader.samples
        self.classes = sorted(reader.class_to_idx, key=reader.class_to_idx.get)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        dataset = self._dataset
        image: Any = decode_image(file_bytes(str(path)))
        if dataset.input_img_mode and isinstance(image, Image.Image):
            image = image.convert(dataset.input_img_mode)
        if dataset.transform is not None:
            image = dataset.transform(image)
        if dataset.target_transform is not None:
            target = dataset.target_transform(target)
        return image, target
