"""Boxes with a class each: what an object detector is trained on.

A box is its left, upper, right and lower side in pixels of its image, as torchvision's `XYXY`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from PIL import Image

from kdcache.deferred import Tensor, functional, ops, torch, tv_tensors
from kdcache.errors import RecipeError, SourceError
from kdcache.runtime.image_items import described
from kdcache.runtime.wording import human_bytes
from kdcache.shapes import Labels, Objects
from kdcache.targets.objects import NO_FRAME, Frame, ObjectBoxes
from kdcache.targets.protocol import MixedTarget, StoredTarget, ViewTarget

MOST_BOXES = 10_000
"""Of an image."""
LEAST_SIDE = 1.0
"""Pixels; a box that a view leaves less of is no target, as torchvision's SanitizeBoundingBoxes
has it."""
_LARGEST_AREA = 1e10
"""Pixels, to which COCO's average precision counts objects."""
_STORED_KEYS = ("boxes", "classes", "areas", "crowd")
_MOST_STORED_BYTES = 4 << 20
"""Of a stored target; MOST_BOXES take a third of it."""


class ClassBoxes:
    """The target of detection."""

    task: ClassVar[str] = "detection"
    suffix: ClassVar[str] = "boxes.json"
    plural: ClassVar[str] = "boxes"
    follows_views: ClassVar[bool] = True
    layouts: ClassVar[frozenset[str]] = frozenset({"pyramid", "proposals"})
    eval_recipe: ClassVar[str] = "detection-eval"
    is_small: ClassVar[bool] = False

    def checked(self, target: Any, image: Image.Image, classes: int, name: str) -> ObjectBoxes:
        """Return the objects that a user's code gave: a dictionary as torchvision's detectors take
        it, with `boxes` and `labels`, and, where they are known, `area` and `iscrowd`.

        Raises:
            SourceError: no such dictionary, boxes of another shape, not finite or too many, or a
                class that there is not.
        """
        if isinstance(target, ObjectBoxes):
            objects = target
        else:
            objects = _from_dictionary(target, name)
        return _checked(objects, image.size, classes, name)

    def encode(self, target: StoredTarget) -> bytes:
        """Return the objects as JSON; equal targets are equal bytes."""
        assert isinstance(target, ObjectBoxes)
        content = {
            "boxes": target.boxes.tolist(),
            "classes": target.classes.tolist(),
            "areas": target.areas.tolist(),
            "crowd": target.is_crowd.tolist(),
        }
        return json.dumps(content, separators=(",", ":")).encode()

    def identity(self, target: StoredTarget) -> bytes:
        """Return the objects as JSON."""
        return self.encode(target)

    def check_stored(self, data: bytes) -> None:
        """Check nothing: the objects are looked at when they are decoded."""

    def decode(self, data: bytes, image: Image.Image, classes: int, name: str) -> ObjectBoxes:
        """Return the objects in a file.

        Raises:
            SourceError: it is no file that `encode` has made, or its objects do not belong to the
                image.
        """
        try:
            objects = _from_json(data)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise SourceError(
                f"{name} has boxes that cannot be read: {type(error).__name__}: {error}"
            ) from error
        return _checked(objects, image.size, classes, name)

    def follower(self, target: StoredTarget, image: Image.Image) -> dict[str, Any]:
        """Return the boxes as torchvision's transforms move them, and two corners of the image."""
        assert isinstance(target, ObjectBoxes)
        width, height = image.size
        canvas_size = (height, width)
        corners = torch.tensor([[0.0, 0.0], [width, height]])
        return {
            "boxes": tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=canvas_size),
            "corners": tv_tensors.KeyPoints(corners, canvas_size=canvas_size),
        }

    def size_of(self, moved: Any) -> list[int]:
        """Return the height and width of the view that boxes have moved with.

        Raises:
            RecipeError: a transform has made something else of them.
        """
        boxes = moved["boxes"]
        if not isinstance(boxes, tv_tensors.BoundingBoxes):
            raise RecipeError(
                "a transform gives boxes of another kind than torchvision's; leave out what makes"
                " plain tensors"
            )
        return [*boxes.canvas_size]

    def followed(self, target: StoredTarget, moved: Any, image: Image.Image) -> ObjectBoxes:
        """Return the objects of a view, within it, without those of which it leaves less than a
        pixel along a side."""
        assert isinstance(target, ObjectBoxes)
        moved_boxes = _as_corners(moved["boxes"])
        boxes = functional.clamp_bounding_boxes(moved_boxes).as_subclass(torch.Tensor)
        objects = replace(target, boxes=boxes, frame=_frame(moved["corners"], image.size))
        return objects.at(ops.remove_small_boxes(boxes, LEAST_SIDE))

    def batch(self, targets: Sequence[MixedTarget], size: Sequence[int], *, mixes: bool) -> Labels:
        """Return the classes of the objects in views, int64 `[views, most]`, and where they are:
        for each view as many places as the view with most objects has."""
        views = [_or_none(target) for target, _, _ in targets]
        most = max(map(len, views), default=0)
        classes = torch.full((len(views), most), -1)
        objects = Objects(
            torch.zeros(len(views), most, 4),
            torch.zeros(len(views), most),
            torch.zeros(len(views), most, dtype=torch.bool),
            torch.tensor([view.frame.sides for view in views]).reshape(-1, 4),
            torch.tensor([view.frame.image_size for view in views]).reshape(-1, 2).float(),
        )
        for place, view in enumerate(views):
            count = len(view)
            classes[place, :count] = view.classes
            objects.boxes[place, :count] = view.boxes
            objects.areas[place, :count] = view.areas
            objects.is_crowd[place, :count] = view.is_crowd
        return Labels(classes, objects=objects)


def torchvision_targets(labels: Labels, *, has_background: bool = False) -> list[dict[str, Tensor]]:
    """Return the objects of each view as torchvision's detectors take them: `boxes` and `labels`.

    Boxes of crowds are left out, as torchvision's reference training leaves them.

    Args:
        labels: of a batch of views.
        has_background: whether the detector counts its classes from 1: 0 is the background.
    """
    objects = labels.objects
    assert objects is not None, "labels of detection have objects"
    is_target = (labels.first >= 0) & ~objects.is_crowd
    counts = is_target.sum(1).tolist()  # the only wait for the device
    all_boxes = torch.split(objects.boxes[is_target], counts)
    classes_of_all = labels.first[is_target].long() + int(has_background)
    all_classes = torch.split(classes_of_all, counts)
    targets = []
    for boxes, classes in zip(all_boxes, all_classes, strict=True):
        targets.append({"boxes": boxes, "labels": classes})
    return targets


def no_objects() -> ObjectBoxes:
    """Return those of an image that shows none, or could not be read."""
    return ObjectBoxes(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
        torch.zeros(0, dtype=torch.bool),
        NO_FRAME,
    )


def _or_none(target: ViewTarget) -> ObjectBoxes:
    """Return the objects of a view; none of one whose image could not be read."""
    if isinstance(target, ObjectBoxes):
        return target
    return no_objects()


def _from_dictionary(target: Any, name: str) -> ObjectBoxes:
    """Return the objects of a dictionary as torchvision's detectors take it.

    Raises:
        SourceError: it is no dictionary, or lacks boxes or labels.
    """
    if not isinstance(target, Mapping) or "boxes" not in target or "labels" not in target:
        raise SourceError(
            f"{name} has target {described(target)}; it must be a dictionary with boxes, [objects,"
            " 4] as left, upper, right and lower side in pixels, and labels, a class index each"
        )
    try:
        boxes = _sides_of(target["boxes"])
        classes = torch.as_tensor(target["labels"]).reshape(-1)
        areas = ops.box_area(boxes)
        if "area" in target:
            areas = torch.as_tensor(target["area"], dtype=torch.float32).reshape(-1)
        is_crowd = torch.zeros(len(boxes), dtype=torch.bool)
        if "iscrowd" in target:
            is_crowd = torch.as_tensor(target["iscrowd"]).reshape(-1).bool()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SourceError(f"{name} has boxes that are no numbers [objects, 4]: {error}") from error
    is_number = classes.is_floating_point() or classes.is_complex()
    if is_number and classes.numel():  # of no labels torch makes floats
        raise SourceError(f"{name} has labels of {classes.dtype}; they must be class indices")
    return ObjectBoxes(boxes, classes.long(), areas, is_crowd)


def _sides_of(boxes: Any) -> Tensor:
    """Return left, upper, right and lower side of boxes that a user's code gave, `[objects, 4]`;
    those of torchvision's class may say them otherwise."""
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = _as_corners(boxes)
        boxes = boxes.as_subclass(torch.Tensor)
    return torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def _from_json(data: bytes) -> ObjectBoxes:
    """Return the objects that `ClassBoxes.encode` has written.

    Raises:
        ValueError: (or another of reading numbers) it has written something else.
    """
    if len(data) > _MOST_STORED_BYTES:  # before it is parsed, which takes many times the memory
        raise ValueError(f"they are {human_bytes(len(data))} of text")
    content = json.loads(data)
    if sorted(content) != sorted(_STORED_KEYS):
        raise ValueError(f"keys are not {', '.join(_STORED_KEYS)}")
    boxes = torch.tensor(content["boxes"], dtype=torch.float32)
    if boxes.numel() == 0:
        boxes = boxes.reshape(0, 4)
    classes = torch.tensor(content["classes"])
    if classes.numel() and classes.dtype != torch.int64:
        raise ValueError("classes are no integers")
    areas = torch.tensor(content["areas"], dtype=torch.float32)
    is_crowd = torch.tensor(content["crowd"], dtype=torch.bool)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError("boxes are not [objects, 4]")
    for name, values in (("classes", classes), ("areas", areas), ("crowd", is_crowd)):
        if values.ndim != 1:
            raise ValueError(f"{name} are not [objects]")
    return ObjectBoxes(boxes, classes.long(), areas, is_crowd)


def _checked(
    objects: ObjectBoxes, image_size: tuple[int, int], classes: int, name: str
) -> ObjectBoxes:
    """Return the objects of an image, each box within it; those without a pixel in it are left out,
    as COCO's own tools do.

    Raises:
        SourceError: not as many of each, too many, not finite, or of a class that there is not.
    """
    count = len(objects.boxes)
    if not len(objects.classes) == len(objects.areas) == len(objects.is_crowd) == count:
        raise SourceError(
            f"{name} has {count} boxes and {len(objects.classes)} classes; it must have one of each"
            " for every object"
        )
    if count > MOST_BOXES:
        raise SourceError(f"{name} has {count} boxes; an image may have {MOST_BOXES}")
    is_finite = torch.isfinite(objects.boxes).all()
    if not bool(is_finite):
        raise SourceError(f"{name} has a box that is not finite; mend its annotation")
    is_turned = (objects.boxes[:, 2:] < objects.boxes[:, :2]).any(1)
    if bool(is_turned.any()):
        left, upper, right, lower = objects.boxes[is_turned][0].tolist()
        raise SourceError(
            f"{name} has a box of negative width or height: left {left:g}, upper {upper:g}, right"
            f" {right:g}, lower {lower:g}; mend its annotation"
        )
    is_area = (objects.areas >= 0) & (objects.areas <= _LARGEST_AREA)
    if not bool(is_area.all()):
        area = float(objects.areas[~is_area][0])
        raise SourceError(f"{name} has an object of area {area:g}; it must be 0 or more pixels")
    is_known = (objects.classes >= 0) & (objects.classes < classes)
    if not bool(is_known.all()):
        wrong = int(objects.classes[~is_known][0])
        raise SourceError(
            f"{name} has a box of class {wrong}; known are 0 to {classes - 1}, without a class for"
            " the background"
        )
    width, height = image_size
    clipped = replace(objects, boxes=ops.clip_boxes_to_image(objects.boxes, (height, width)))
    sides = clipped.boxes[:, 2:] - clipped.boxes[:, :2]
    return clipped.at((sides > 0).all(dim=1))


def _frame(corners: Tensor, image_size: tuple[int, int]) -> Frame:
    """Return where an image is in its view, from where two opposite corners of it are."""
    width, height = image_size
    return Frame(tuple(corners.flatten().tolist()), (height, width))


def _as_corners(boxes: "tv_tensors.BoundingBoxes") -> Tensor:
    """Return boxes as left, upper, right and lower side."""
    corners: Tensor = functional.convert_bounding_box_format(
        boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY
    )
    return corners
