"""How well detectors find objects: COCO's average precision."""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import KdcacheWarning, UsageError
from kdcache.runtime.distributed import gather, on_main
from kdcache.shapes import Detections, Labels, ObjectClasses, Objects
from kdcache.tasks.boxes_in_images import boxes_in_images

_ROW = np.dtype(
    [
        ("view", np.int64),
        ("class", np.int64),
        ("box", np.float64, 4),
        ("area", np.float64),
        ("is_crowd", np.bool_),
        ("score", np.float64),
    ]
)
"""A detection, or an object: left and upper side, width, height and area in pixels of the original
image; a detection is no crowd, and an object has score 0."""
_Table = np.ndarray
"""Rows, a structured array `[rows]` of `_ROW`."""
_CATEGORY = 1
_SIZES = ("small", "medium", "large")
_IOU_50 = 0
_IOU_75 = 5
"""Places among COCO's ten thresholds, 0.50 to 0.95."""


class BoxScore:
    """COCO's average precision in percent (Lin et al., "Microsoft COCO: Common Objects in Context",
    ECCV 2014), over any number of batches and all processes.

    It is the mean over classes of the area under precision by recall, and over the overlaps (IoU)
    0.50 to 0.95 from which a detection counts. Of each class the 100 detections of a view with the
    highest scores count. Crowds ask for no detection, and those within them are not counted.

    A view may be its image at another size. That changes no overlap, but whether an object is
    small, medium or large: at most 32 or 96 pixels squared, of the original image.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        """Begin with no view.

        Args:
            class_names: one for each class.

        Raises:
            UsageError: faster-coco-eval is not installed.
        """
        _require_coco()
        self._names = _distinct(class_names)
        self._num_views = 0
        self._detections = [np.empty(0, _ROW)]
        self._objects = [np.empty(0, _ROW)]

    def add(self, detections: Sequence[Detections], labels: Labels) -> None:
        """Count a batch.

        Of detections those count that `boxes_in_images` leaves, of classes that have a name.

        Args:
            detections: of each view, as a detector gives them.
            labels: the classes of the objects in the views, `[views, most]`, and where they are.
        """
        assert labels.objects is not None
        scales = torch.nan_to_num(labels.objects.scales, nan=1.0)
        num_views = len(scales)
        views = self._num_views + np.arange(num_views)
        in_images = boxes_in_images(detections, labels.objects)
        self._detections.append(_detection_rows(in_images, views, _numbers(scales)))
        self._objects.append(_object_rows(labels.first, labels.objects, views, _numbers(scales)))
        self._num_views += num_views

    def result(self) -> dict[str, float]:
        """Return `ap`, `ap50` and `ap75` (of overlaps from 0.50 and 0.75 only), `ap_small`,
        `ap_medium` and `ap_large`, and `ap/CLASS` of each class, in percent.

        Of sizes and classes without an object there is none. Without any object, `ap`, `ap50` and
        `ap75` are 0. Every process of the run must ask; all get the same.

        Raises:
            StoppedError: a process of the run was told to stop.
            KdcacheWarning: (a warning) there is no object.
        """
        own_rows = (np.concatenate(self._detections), np.concatenate(self._objects))
        rows = gather(own_rows, "the detections of all processes")
        return on_main(lambda: self._scores(rows), "average precision", is_long=True)

    def _scores(self, rows: Sequence[tuple[_Table, _Table]]) -> dict[str, float]:
        """Return the scores from the detections and objects of each process."""
        all_detections = _by_class([detections for detections, _ in rows])
        all_objects = _by_class([objects for _, objects in rows])
        per_class = _precisions(all_detections, all_objects, len(self._names))
        if not per_class:
            text = "no view that was scored has an object; its average precision is 0"
            warnings.warn(text, KdcacheWarning, stacklevel=2)
            return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
        scores = _means(np.stack([*per_class.values()]))
        for index, precision in per_class.items():
            scores[f"ap/{self._names[index]}"] = _percent(precision[:, 0])
        return scores


def _require_coco() -> Any:
    """Return the module `faster_coco_eval`.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import faster_coco_eval  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "average precision needs faster-coco-eval; pip install 'kdcache[detection]'"
        ) from error
    return faster_coco_eval


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names of classes; to one that several have, the index of each is added."""
    counts = Counter(names)
    distinct = []
    for index, name in enumerate(names):
        if counts[name] > 1:
            distinct.append(f"{name} ({index})")
        else:
            distinct.append(name)
    return distinct


def _detection_rows(
    detections: Sequence[Detections], views: np.ndarray, scales: np.ndarray
) -> _Table:
    """Return the detections of a batch.

    Args:
        detections: of each view.
        views: number of each view.
        scales: pixels of the original image to one of each view, by area.
    """
    counts = [len(of_view.scores) for of_view in detections]
    view_places = np.repeat(np.arange(len(views)), counts)
    boxes = torch.cat([of_view.boxes for of_view in detections])
    rows = np.zeros(len(boxes), _ROW)
    rows["view"] = views[view_places]
    rows["class"] = _numbers(torch.cat([of_view.classes for of_view in detections]))
    rows["score"] = _numbers(torch.cat([of_view.scores for of_view in detections]))
    rows["box"] = _original(_numbers(boxes), scales[view_places])
    rows["area"] = rows["box"][:, 2] * rows["box"][:, 3]
    return rows


def _object_rows(
    classes: ObjectClasses, objects: Objects, views: np.ndarray, scales: np.ndarray
) -> _Table:
    """Return the objects of a batch; for the others see `_detection_rows`."""
    class_numbers = _numbers(classes)
    view_places, places = np.nonzero(class_numbers >= 0)
    rows = np.zeros(len(places), _ROW)
    rows["view"] = views[view_places]
    rows["class"] = class_numbers[view_places, places]
    boxes = _numbers(objects.boxes)[view_places, places]
    rows["box"] = _original(boxes, scales[view_places])
    rows["area"] = _numbers(objects.areas)[view_places, places]
    rows["is_crowd"] = _numbers(objects.is_crowd)[view_places, places]
    return rows


def _numbers(tensor: Tensor) -> np.ndarray:
    """Return a tensor as float64, which holds every number of its type."""
    return tensor.detach().cpu().double().numpy()


def _original(boxes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return left and upper side, width and height of boxes in pixels of the original image.

    They are moved by where the image is in its view, which changes no overlap.
    """
    scaled = boxes * np.sqrt(scales)[:, None]
    corners = scaled[:, :2]
    sides = scaled[:, 2:] - corners
    return np.concatenate([corners, sides.clip(min=0)], axis=1)


def _by_class(parts: Sequence[_Table]) -> _Table:
    """Return the rows of all processes, by class and view; those of a view as they were.

    Of N processes, view i of number r is view i * N + r, as evaluation divides them. So of equal
    scores the same comes first however many processes there are.
    """
    moved_parts = []
    for number, part in enumerate(parts):
        moved = part.copy()
        moved["view"] = part["view"] * len(parts) + number
        moved_parts.append(moved)
    rows = np.concatenate(moved_parts)
    order = np.lexsort([rows["view"], rows["class"]])
    sorted_rows: _Table = rows[order]
    return sorted_rows


def _precisions(detections: _Table, objects: _Table, num_classes: int) -> dict[int, np.ndarray]:
    """Return `_precision` of each class that has an object, from rows that are sorted by class."""
    per_class = {}
    for index in range(num_classes):
        class_objects = _of_class(objects, index)
        if not class_objects["is_crowd"].all():
            class_detections = _of_class(detections, index)
            per_class[index] = _precision(class_detections, class_objects)
    return per_class


def _means(precision: np.ndarray) -> dict[str, float]:
    """Return the means over classes by name, from `_precision` of each, `[classes, thresholds,
    1 + sizes]`."""
    means = {
        "ap": _percent(precision[:, :, 0]),
        "ap50": _percent(precision[:, _IOU_50, 0]),
        "ap75": _percent(precision[:, _IOU_75, 0]),
    }
    for place, size in enumerate(_SIZES, start=1):
        has_size = precision[:, 0, place] >= 0
        if has_size.any():
            means[f"ap_{size}"] = _percent(precision[has_size, :, place])
    return means


def _percent(precision: np.ndarray) -> float:
    return 100 * float(precision.mean())


def _of_class(rows: _Table, index: int) -> _Table:
    """Return the rows of a class, from rows that are sorted by class."""
    start, end = np.searchsorted(rows["class"], [index, index + 1])
    return rows[start:end]


def _precision(detections: _Table, objects: _Table) -> np.ndarray:
    """Return the mean precision over recalls of one class by COCO's own evaluation, `[thresholds,
    1 + sizes]`, the first of all sizes; -1 for a size without an object.

    One class at a time: the evaluation wants a dictionary for each row.
    """
    coco = _require_coco()
    views = np.union1d(detections["view"], objects["view"]).tolist()
    evaluation = coco.COCOeval_faster(
        _data_set(coco, objects, views),
        _data_set(coco, detections, views),
        "bbox",
        print_function=_keep_quiet,
    )
    evaluation.evaluate()
    evaluation.accumulate()
    # [thresholds, recalls, classes, sizes, counts of detections]; the last count is 100
    precision = evaluation.eval["precision"][:, :, 0, :, -1]
    means: np.ndarray = precision.mean(axis=1)
    return means


def _data_set(coco: Any, rows: _Table, views: Sequence[int]) -> Any:
    """Return rows of one class as the evaluation takes them."""
    annotations: list[dict[str, Any]] = []
    # whole columns: a row at a time would take most of the evaluation
    columns = [rows[name].tolist() for name in ("view", "box", "area", "is_crowd", "score")]
    for number, (view, box, area, is_crowd, score) in enumerate(zip(*columns, strict=True), 1):
        annotations.append(
            {
                "id": number,
                "image_id": view,
                "category_id": _CATEGORY,
                "bbox": box,
                "area": area,
                "iscrowd": int(is_crowd),
                "score": score,
            }
        )
    content = {
        "images": [{"id": view} for view in views],
        "categories": [{"id": _CATEGORY}],
        "annotations": annotations,
    }
    return coco.COCO(content, print_function=_keep_quiet)


def _keep_quiet(*_: object) -> None:
    """Print nothing."""
