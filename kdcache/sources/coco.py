"""Source `coco`: images below a folder, and the boxes that a file of COCO's has of them.

    coco:/data/train2017,annotations=/data/annotations/instances_train2017.json

Categories become classes 0, 1, ... by rising id. Images without an annotation have no objects. What
a long file says is kept, since reading it takes many seconds.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from kdcache.config.fields import build
from kdcache.config.spec import Spec
from kdcache.errors import KdcacheError, SourceError
from kdcache.sources.boxes import BoxSource, ObjectRows, SizedImages, SizesUse, require_files
from kdcache.sources.coco_file import CocoFile, read_coco
from kdcache.sources.index_cache import Arrays, Names, is_settled, load_arrays, save_arrays
from kdcache.sources.protocol import AnnotationIds, Source

NUM_KEPT = 10_000
"""What a file with fewer annotations says is not kept."""
_KIND = "annotations"


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """The options of a spec."""

    annotations: str
    """The JSON file."""
    sizes: SizesUse = "check"
    """Whether images must have the sizes that the file says."""


class CocoImages(SizedImages):
    """The images that a file lists, in the order of their names."""

    kind = "CocoImages"


def open_coco(spec: Spec, *, needs_targets: bool = True) -> Source:
    """Return the images below a folder with the boxes of a file.

    Args:
        spec: of the source.
        needs_targets: whether annotations are looked at; else no image has a box.

    Raises:
        SourceError: the folder or an image is absent, or the file is none of COCO's, see
            `read_coco`.
        UsageError: no file is given, or it cannot be read.
    """
    options, folder = checked_coco(spec)
    if needs_targets:
        file = _read_once(options.annotations)
    else:
        file = _images_of(options.annotations, folder)
    dataset = CocoImages(
        folder, file.names, file.objects, file.sizes, options.annotations, uses=options.sizes
    )
    require_files(
        dataset,
        file.names,
        f"coco {folder!r}",
        f"give the folder that it is below, add it, or remove it from {options.annotations}",
    )
    form = "left, upper, width and height, in pixels of its image"
    dataset.tell_boxes_beyond(f"coco {folder}", form)
    return BoxSource(
        dataset,
        spec,
        classes=len(file.categories),
        class_names=file.categories,
        annotation_ids=AnnotationIds(file.image_ids.tolist(), file.category_ids.tolist()),
    )


def _images_of(path: str, folder: str) -> CocoFile:
    """Return what a file says of images and categories.

    Raises:
        SourceError: it does not say it.
    """
    try:
        return read_coco(path, needs_targets=False)
    except KdcacheError as error:
        way_out = f"or give the folder of images by itself, {folder}, which needs no such file"
        raise SourceError(f"{error}, {way_out}") from error


def checked_coco(spec: Spec) -> tuple[CocoOptions, str]:
    """Return the options and the folder of a spec.

    Raises:
        SourceError: the folder is absent.
        UsageError: no file is given.
    """
    example = f"{spec.name}:{spec.arg or 'IMAGES'},annotations=instances.json"
    options = build(
        CocoOptions,
        spec.options,
        f"source {spec.name}",
        called=lambda name: f"{name}, a JSON file; write {example}",
    )
    if spec.arg is None or not Path(spec.arg).is_dir():
        raise SourceError(f"coco {spec.arg!r} is not a folder; give the one that holds the images")
    return options, spec.arg


def _read_once(path: str) -> CocoFile:
    """Return what a file says, as `read_coco` does.

    That of a long one is kept. It is used again while the file has the same size and modification
    time.
    """
    identity, modified = _stamp(path)
    arrays = load_arrays(_KIND, identity)
    if arrays is not None:
        return _from_arrays(arrays)
    file = read_coco(path)
    if len(file.objects.rows) >= NUM_KEPT and is_settled([modified]):
        save_arrays(_KIND, identity, _to_arrays(file))
    return file


def _stamp(path: str) -> tuple[str, int]:
    """Return what tells a file from others and from what it was before, and its modification time
    in ns; 0 of one that is not there."""
    absolute_path = os.path.abspath(path)  # noqa: PTH100 # links keep their names
    try:
        status = Path(path).stat()
    except OSError:
        return f"coco {absolute_path}", 0
    return f"coco {absolute_path} {status.st_size} {status.st_mtime_ns}", status.st_mtime_ns


def _from_arrays(arrays: Arrays) -> CocoFile:
    """Return what `_to_arrays` has made arrays of."""
    objects = ObjectRows(arrays["counts"], arrays["rows"])
    names = list(Names(arrays["names"]))
    categories = tuple(Names(arrays["categories"]))
    return CocoFile(
        names,
        arrays["image_ids"],
        arrays["sizes"],
        categories,
        arrays["category_ids"],
        objects,
    )


def _to_arrays(file: CocoFile) -> Arrays:
    """Return arrays that hold what a file says."""
    return {
        "names": Names.of(file.names).text,
        "image_ids": file.image_ids,
        "sizes": file.sizes,
        "categories": Names.of(file.categories).text,
        "category_ids": file.category_ids,
        "counts": file.objects.counts,
        "rows": file.objects.rows,
    }
