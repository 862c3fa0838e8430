"""A file of COCO's: JSON with `images`, `categories`, and `annotations` that have a `bbox` each."""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kdcache.errors import SourceError, brief, quoted
from kdcache.runtime.image_items import described
from kdcache.sources.annotation_files import checked_path, is_text, read_annotation
from kdcache.sources.boxes import ROW, ObjectRows
from kdcache.sources.listings import Array
from kdcache.targets.label import is_integer

MOST_BYTES = 4 << 30
_PARTS = ("image_id", "category_id", "bbox")
"""Of an annotation."""
_PACKED = struct.Struct("<qqddddd?")
_PACKED_DTYPE = np.dtype(
    [
        ("image", "<i8"),
        ("category", "<i8"),
        ("bbox", "<f8", 4),
        ("area", "<f8"),
        ("is_crowd", "?"),
    ]
)
_UNFIT = (KeyError, TypeError, ValueError, OverflowError, struct.error)
_MOST = 2**63
T = TypeVar("T", int, str)


class CocoFile(NamedTuple):
    """What a file says."""

    names: list[str]
    """Paths of the images, sorted."""
    image_ids: Array
    """Of each image, int64 `[images]`."""
    sizes: Array
    """Width and height of each image, int64 `[images, 2]`; 0 where the file does not say it."""
    categories: tuple[str, ...]
    """Names of the classes, by rising id."""
    category_ids: Array
    """Of each class, int64 `[classes]`."""
    objects: ObjectRows
    """Of the images, in their order."""


def read_coco(path: str, *, needs_targets: bool = True) -> CocoFile:
    """Return what a file of COCO's says.

    Args:
        path: of the file.
        needs_targets: whether annotations are looked at; else there may be none, and no image has
            an object.

    Raises:
        UsageError: the file cannot be read, or is no text.
        SourceError: it is of another kind, has no images or categories, has one twice, or an
            annotation of an image or category that it does not list.
    """
    where = f"coco: annotations = {path}"
    lists = ["images", "categories"]
    if needs_targets:
        lists.append("annotations")
    content = _content(path, where, lists)
    categories = _categories(content["categories"], where)
    images = _images(content["images"], where)
    names = sorted(images.places)
    order = [images.places[name] for name in names]
    objects = ObjectRows.none(len(names))
    if needs_targets:
        annotations = _annotations(content["annotations"], where)
        objects = _objects(
            annotations, np.array(images.ids, np.int64)[order], categories.ids, where
        )
    return CocoFile(
        names,
        np.array(images.ids, np.int64)[order],
        images.sizes[order],
        categories.names,
        np.array(categories.ids, np.int64),
        objects,
    )


class _Images(NamedTuple):
    """The images in the order of the file."""

    ids: list[int]
    places: dict[str, int]
    """By path."""
    sizes: Array


class _Categories(NamedTuple):
    """The categories in the order of their ids."""

    ids: list[int]
    names: tuple[str, ...]


def _objects(
    annotations: Array, image_ids: Array, category_ids: Sequence[int], where: str
) -> ObjectRows:
    """Return the objects of images.

    Args:
        annotations: of dtype _PACKED_DTYPE.
        image_ids: of the images, in their order.
        category_ids: by rising id.
        where: the file, for messages.

    Raises:
        SourceError: one is of no image or category that is listed, or is not finite.
    """
    image_places = _places_of(annotations["image"], image_ids, "image", where)
    classes = _places_of(annotations["category"], category_ids, "category", where)
    rows = _rows(annotations, classes, where)
    by_image = np.argsort(image_places, kind="stable")
    counts = np.bincount(image_places, minlength=len(image_ids))
    return ObjectRows(counts, rows[by_image])


def _content(path: str, where: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the lists of these names in a file.

    Raises:
        SourceError: it does not have them.
    """
    text = read_annotation(path, "coco: annotations =", MOST_BYTES)
    try:
        content = json.loads(text, object_hook=_compact)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is no JSON: {error}; give an instances file") from error
    if isinstance(content, list):
        raise SourceError(
            f"{where} is a list, as a detector's results are; give the instances file with images,"
            " annotations and categories"
        )
    for name in names:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise SourceError(
                f"{where} is {described(content)}, without a list of {name}; an instances file has"
                " images, annotations and categories"
            )
    lists: dict[str, Any] = content
    return lists


def _compact(part: dict[str, Any]) -> Any:
    """Return an annotation as a few bytes, without its outline, which takes the most of a file; all
    else as it is."""
    if "bbox" not in part:
        return part
    try:
        left, upper, width, height = part["bbox"]
        area = part.get("area")
        if area is None:
            area = width * height
        is_crowd = bool(part.get("iscrowd"))
        ids = (part["image_id"], part["category_id"])
        return _PACKED.pack(*ids, left, upper, width, height, area, is_crowd)
    except _UNFIT:
        return part  # it is told when its place is known


def _annotations(parts: Sequence[Any], where: str) -> Array:
    """Return the annotations of a file, of dtype _PACKED_DTYPE.

    Raises:
        SourceError: one is of another form.
    """
    for place, part in enumerate(parts):
        if not isinstance(part, bytes):
            _refuse_annotation(part, f"{where}: annotations[{place}]")
    return np.frombuffer(b"".join(parts), _PACKED_DTYPE)


def _refuse_annotation(part: Any, name: str) -> None:
    """Raise a SourceError that says what an annotation lacks."""
    if not isinstance(part, Mapping):
        raise SourceError(f"{name} is {described(part)}; it must have {', '.join(_PARTS)}")
    for key in _PARTS:
        if key not in part:
            raise SourceError(f"{name} has no {key}; give an instances file, which has boxes")
    values = ", ".join(f"{key} {quoted(part[key])}" for key in _PARTS)
    raise SourceError(
        f"{name} has {values}, area {quoted(part.get('area'))}; ids must be whole numbers, and a"
        " bbox left, upper, width and height"
    )


def _images(parts: Sequence[Any], where: str) -> _Images:
    """Return the images of a file.

    Raises:
        SourceError: there is none, one is of another form or leads out of the folder, or two have
            one id or path.
    """
    if not parts:
        raise SourceError(f"{where} lists no images; give an instances file with some")
    ids = []
    paths = []
    sizes = []
    for place, part in enumerate(parts):
        name = f"{where}: images[{place}]"
        ids.append(_id(part, name))
        path = _text(part, "file_name", name)
        paths.append(checked_path(path, f"{name}: file_name"))
        sizes.append((_side(part, "width"), _side(part, "height")))
    _places(ids, f"{where}: images", "id")
    places = _places(paths, f"{where}: images", "file_name")
    return _Images(ids, places, np.array(sizes, np.int64))


def _categories(parts: Sequence[Any], where: str) -> _Categories:
    """Return the categories of a file.

    Raises:
        SourceError: there is none, one is of another form, or two have one id.
    """
    if not parts:
        raise SourceError(f"{where} lists no categories; give an instances file with some")
    ids = []
    names = []
    for place, part in enumerate(parts):
        name = f"{where}: categories[{place}]"
        ids.append(_id(part, name))
        names.append(_text(part, "name", name))
    places = _places(ids, f"{where}: categories", "id")
    sorted_ids = sorted(places)
    sorted_names = tuple(names[places[number]] for number in sorted_ids)
    return _Categories(sorted_ids, sorted_names)


def _places(values: Iterable[T], where: str, key: str) -> dict[T, int]:
    """Return the place of each value.

    Raises:
        SourceError: one comes twice.
    """
    places: dict[T, int] = {}
    for place, value in enumerate(values):
        first = places.setdefault(value, place)
        if first != place:
            raise SourceError(
                f"{where} {first} and {place} have one {key}, {quoted(value)}; keep one, or give"
                " each its own"
            )
    return places


def _places_of(values: Array, ids: Array | Sequence[int], kind: str, where: str) -> Array:
    """Return the place of each value among ids.

    Raises:
        SourceError: one is not among them.
    """
    order = np.argsort(ids)
    sorted_ids = np.array(ids, np.int64)[order]
    nearest = np.searchsorted(sorted_ids, values).clip(max=len(ids) - 1)
    unknown = np.flatnonzero(sorted_ids[nearest] != values)
    if len(unknown):
        place = unknown[0]
        raise SourceError(
            f"{where}: annotations[{place}] has {kind}_id {values[place]}, which is none of the"
            f" {len(ids)} that it lists; remove it, or list that {kind} too"
        )
    places: Array = order[nearest]
    return places


def _rows(annotations: Array, classes: Array, where: str) -> Array:
    """Return annotations as objects, of dtype ROW.

    Raises:
        SourceError: a box is not finite.
    """
    rows = np.empty(len(annotations), ROW)
    bbox = annotations["bbox"]
    with np.errstate(over="ignore"):
        rows["box"][:, :2] = bbox[:, :2]
        rows["box"][:, 2:] = bbox[:, :2] + bbox[:, 2:]
        rows["area"] = annotations["area"]
    rows["class"] = classes
    rows["is_crowd"] = annotations["is_crowd"]
    is_finite = np.isfinite(rows["box"]).all(axis=1) & np.isfinite(rows["area"])
    if not is_finite.all():
        place = int(is_finite.argmin())
        raise SourceError(
            f"{where}: annotations[{place}] has bbox {brief(bbox[place].tolist())} and area"
            f" {annotations['area'][place]}; they must be finite numbers"
        )
    return rows


def _id(part: Any, name: str) -> int:
    """Return the id of an image or a category.

    Raises:
        SourceError: it has none.
    """
    if not isinstance(part, Mapping):
        raise SourceError(f"{name} is {described(part)}; it must have an id")
    number = _whole(part.get("id"))
    if number is None:
        raise SourceError(
            f"{name} has id {quoted(part.get('id'))}; it must be a whole number below 2^63"
        )
    return number


def _text(part: Mapping[str, Any], key: str, name: str) -> str:
    """Return a text of an image or a category.

    Raises:
        SourceError: it has none.
    """
    text = part.get(key)
    if not is_text(text):
        raise SourceError(f"{name} has {key} {quoted(text)}; it must be a text")
    return str(text)


def _side(part: Mapping[str, Any], key: str) -> int:
    """Return a side of an image in pixels; 0 where the file does not say it."""
    side = _whole(part.get(key))
    if side is None or side < 0:
        return 0
    return side


def _whole(value: Any) -> int | None:
    """Return a whole number of 64 bits; None of what is none."""
    if is_integer(value) and -_MOST <= value < _MOST:
        return int(value)
    return None
