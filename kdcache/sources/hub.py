"""Source `hf`: image data sets of the Hugging Face hub, or that `datasets` saved to disk.

hf:cifar10,split=train,image=img,label=label      hf:/data/saved,label=fine_label
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcache.config.names import choose
from kdcache.config.spec import Spec, Value
from kdcache.errors import KdcacheError, SourceError, UsageError
from kdcache.runtime.downloads import asking_hub, network_reason
from kdcache.runtime.images import UndecodableError, decode_image, file_bytes
from kdcache.runtime.text_files import path_bytes
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.files import NO_FILE, Numbers, stat_sizes
from kdcache.sources.protocol import Contents, Source, sample_name

_REFUSED = {
    "streaming": "samples are read at random",
    "trust_remote_code": "no code of a data set is run; convert it to Parquet",
}


class HubImages:
    """A split of a Hugging Face data set as (image, class index) pairs; images are decoded as those
    of any other source."""

    def __init__(self, table: Any, image: str, label: str, classes: int | None) -> None:
        names = getattr(table.features[label], "names", None)
        labels = table.select_columns([label]).with_format("numpy")
        self.targets = np.asarray(labels[:][label])
        if self.targets.dtype.kind not in "iu" and len(table):
            raise SourceError(
                f"source hf: some rows have no {label}; take them out, or give label=COLUMN"
            )
        self.classes: int | list[str] = classes or names or self._classes_of_targets()
        self.label = label
        self._table = table.select_columns([image])
        self._image = image

    def _classes_of_targets(self) -> int:
        """Return one more than the largest class index."""
        if len(self.targets) == 0:
            return 0
        largest = max(int(self.targets.max()), 0)
        return largest + 1

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return the image, in its own mode, and its class index."""
        return decode_image(self.encoded(index)), int(self.targets[index])

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, int]:
        """Return the image that a file holds, in its own mode, and its class index."""
        return decode_image(contents[0]), int(self.targets[index])

    def file_sizes(self) -> Numbers:
        """Return the bytes of each image, uint32 `[images, 1]`; by a stat if not in the table."""
        import pyarrow.compute as pc  # noqa: PLC0415

        parts: list[Numbers] = []
        for column in self._columns():
            lengths = np.asarray(_lengths(column), np.int64)
            sizes = lengths.astype(np.uint32)[:, None]  # -1 is NO_FILE
            is_apart = sizes[:, 0] == NO_FILE
            paths = pc.struct_field(column, "path").to_pylist()
            paths_apart = [paths[place] or "" for place in np.flatnonzero(is_apart)]
            if paths_apart:
                sizes[is_apart] = stat_sizes([paths_apart])
            parts.append(sizes)
        return np.concatenate(parts)

    def files(self) -> list[str]:
        """Return the paths of the tables, and of images that are files of their own."""
        import pyarrow.compute as pc  # noqa: PLC0415

        paths = [str(part["filename"]) for part in self._table.cache_files]
        if not paths:
            return []  # a table in memory
        for column in self._columns():
            is_apart = pc.is_null(pc.struct_field(column, "bytes"))
            paths_apart = pc.struct_field(column, "path").filter(is_apart).to_pylist()
            paths += [path for path in paths_apart if path]
        return paths

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        stored = self._table[index][self._image] or {"bytes": b"", "path": None}
        data = stored["bytes"]
        if data is None and stored["path"]:
            data = file_bytes(stored["path"])
        if not data:
            raise UndecodableError("there is no image")
        return bytes(data)

    def contents(self) -> Iterator[bytes]:
        """Yield the size of each image, or where it is stored as a file, that file's name."""
        import pyarrow.compute as pc  # noqa: PLC0415

        for column in self._columns():
            lengths = _lengths(column)
            yield np.asarray(lengths, np.int64).tobytes()
            is_apart = pc.less(lengths, 0)
            paths_apart = pc.struct_field(column, "path").filter(is_apart).to_pylist()
            ended_names = [f"{os.path.basename(path or '')}\0" for path in paths_apart]  # noqa: PTH119
            yield path_bytes("".join(ended_names))

    def _columns(self) -> Iterator[Any]:
        """Yield the column of images, some rows at a time."""
        for batch in self._table.with_format("arrow").iter(10_000):
            yield batch[self._image].combine_chunks()


def _lengths(column: Any) -> Any:
    """Return the bytes of each image of a column, -1 of those that are files of their own."""
    import pyarrow.compute as pc  # noqa: PLC0415

    return pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), -1)


class HubSource(DatasetSource):
    """A Hugging Face data set as a source; the fingerprint covers labels and the sizes of the
    images."""

    _dataset: HubImages
    splits: tuple[str, ...] = ()
    """Of the data set, by name, where all are at hand."""

    def file_sizes(self) -> Numbers:
        """Return the bytes of each image, uint32 `[images, 1]`."""
        return self._dataset.file_sizes()

    def files(self) -> list[str]:
        """Return the paths of the files that samples are read from; none of a table in memory."""
        return self._dataset.files()

    def check_targets(self) -> None:
        """Check that labels are classes, which the -1 of a split without labels is not.

        Raises:
            SourceError: one is none.
        """
        targets = self._dataset.targets
        wrong = np.flatnonzero((targets < 0) | (targets >= self.classes))
        if len(wrong):
            first = int(wrong[0])
            name = sample_name(self.spec, first, self.key(first))
            raise SourceError(
                f"{name} has target {targets[first]} ({len(wrong)} such rows);"
                f" {self._dataset.label} must be a class index from 0 to {self.classes - 1}: take"
                " another split or column, or give classes=N"
            )

    def _listed(self) -> Iterator[bytes | memoryview]:
        yield from super()._listed()
        yield from self._dataset.contents()


def open_hub(spec: Spec) -> Source:
    """Return a split of a data set of the hub, or of a folder that `datasets` saved.

    Options are `split` (train), `image` and `label` (the columns), `classes`, and what
    `datasets.load_dataset` takes.

    Raises:
        SourceError: `datasets` is not installed, the data is absent, or a column is not of images
            or class indices.
        UsageError: an unknown column or split, or an option that has no place here.
    """
    options = dict(spec.options)
    image = str(options.pop("image", "image"))
    label = str(options.pop("label", "label"))
    classes = options.pop("classes", None)
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise UsageError(
            f"option classes of source hf is {classes!r}; it must be a number of classes"
        )
    for key in options.keys() & _REFUSED.keys():
        raise UsageError(f"source hf takes no {key}: {_REFUSED[key]}")
    table, splits = _load(spec, options)
    _check_columns(spec, table, image, label)
    source = _source_of(table, spec, image, label, classes)
    source.splits = splits
    return source


def open_table_in_memory(table: Any, spec: Spec) -> Source:
    """Return a data set of Hugging Face's that a program has opened.

    Args:
        table: with one column of images, and one of class indices, or one of these called `label`.
        spec: that names it.

    Raises:
        SourceError: other columns, or a transform, which would be passed over.
    """
    if table.format["type"] == "custom":
        raise SourceError(
            f"source {spec} has a transform; give data.with_format(None), and the transform as the"
            " recipe"
        )
    images = _columns_of(table, lambda feature: type(feature).__name__ == "Image")
    labels = _columns_of(table, lambda feature: type(feature).__name__ == "ClassLabel")
    if not labels:
        labels = _columns_of(table, _is_index)
    if "label" in labels:
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1:
        raise SourceError(
            f"source {spec} has columns {', '.join(table.features)}; take those of one image and"
            " one class index: data.select_columns([IMAGE, LABEL])"
        )
    source = _source_of(table, spec, images[0], labels[0], None)
    source.check_targets()
    return source


def _columns_of(table: Any, is_meant: Callable[[Any], bool]) -> list[str]:
    """Return the names of a table's columns whose feature is meant."""
    return [name for name, feature in table.features.items() if is_meant(feature)]


def _is_index(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


def _source_of(table: Any, spec: Spec, image: str, label: str, classes: int | None) -> HubSource:
    """Return a table with a column of images and one of class indices as a source."""
    image_feature = type(table.features[image])
    undecoded = table.with_format(None).cast_column(image, image_feature(decode=False))
    images = HubImages(undecoded, image, label, classes)
    source = HubSource(images, spec, lists_targets=True)
    source.may_draw = False
    return source


def _load(spec: Spec, options: dict[str, Value]) -> tuple[Any, tuple[str, ...]]:
    """Return the split that is asked for, and the names of all that there are."""
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise SourceError(
            "source hf needs Hugging Face datasets; pip install 'kdcache[hub]'"
        ) from error
    if not spec.arg:
        raise UsageError(
            "source hf names no data set; write hf:NAME,split=train,image=image,label=label"
        )
    folder = Path(spec.arg)
    is_saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    try:
        if not is_saved:
            split = options.pop("split", "train")
            with asking_hub():
                table = datasets.load_dataset(spec.arg, split=split, **options)
            return table, tuple(table.info.splits or ())
        loaded = datasets.load_from_disk(spec.arg)
        splits = tuple(loaded) if isinstance(loaded, dict) else ()
        return _split(spec, loaded, options), splits
    except (KdcacheError, MemoryError):
        raise
    except Exception as error:  # of datasets, of the hub, of pyarrow, of whatever reads the files
        reason = network_reason(error)
        if reason is not None:
            raise SourceError(
                f"source {spec}: it cannot be downloaded: {reason}; check the network, or bring a"
                " folder that save_to_disk wrote and give hf:FOLDER"
            ) from error
        message = " ".join(str(error).split())
        raise SourceError(f"source {spec}: {type(error).__name__}: {message[:300]}") from error


def _split(spec: Spec, loaded: Any, options: dict[str, Value]) -> Any:
    """Return the split asked for of what a folder holds."""
    for key in options.keys() - {"split"}:
        raise UsageError(f"source {spec}: a folder that datasets saved takes no option {key}")
    if isinstance(loaded, dict):
        return loaded[choose(str(options.get("split", "train")), loaded, f"split of {spec.arg}")]
    if "split" in options:
        raise UsageError(f"source {spec}: the folder holds one split; leave out split=")
    return loaded


def _check_columns(spec: Spec, table: Any, image: str, label: str) -> None:
    features = table.features
    for option, name in (("image", image), ("label", label)):
        choose(name, features, f"column of {spec.arg} (give {option}=COLUMN)")
    if type(features[image]).__name__ != "Image":
        raise SourceError(
            f"source {spec}: column {image} holds {features[image]}, not images; give image=COLUMN"
        )
    if not _is_index(features[label]):
        raise SourceError(
            f"source {spec}: column {label} holds {features[label]}, not class indices; give"
            " label=COLUMN"
        )
