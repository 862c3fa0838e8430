"""Boxes as the JSON that COCO's tools load as results (https://cocodataset.org/#format-results)."""

import json
from collections.abc import Sequence

import numpy as np

from kdcache.sources import AnnotationIds

_SIDE_DIGITS = 6
_SCORE_DIGITS = 9
"""Behind the point: so no two scores of a detector become equal."""


def coco_results(images: Sequence[int], table: np.ndarray, ids: AnnotationIds | None) -> bytes:
    """Return the JSON, with a line for each box.

    Args:
        images: of each box the sample that it is in.
        table: `[boxes, 6]`: class, score, and the sides in pixels of the image.
        ids: of images and classes; None where they are not annotated, and numbered from 0.
    """
    classes = table[:, 0].astype(np.int64).tolist()
    scores = table[:, 1].round(_SCORE_DIGITS).tolist()
    corners = table[:, 2:4]
    spans = table[:, 4:] - corners
    bboxes = np.concatenate([corners, spans], axis=1).round(_SIDE_DIGITS).tolist()
    if ids is not None:
        images = [ids.images[image] for image in images]
        classes = [ids.categories[number] for number in classes]
    lines = []
    for image, category, bbox, score in zip(images, classes, bboxes, scores, strict=True):
        entry = {"image_id": image, "category_id": category, "bbox": bbox, "score": score}
        lines.append(json.dumps(entry))
    content = ",\n".join(lines)
    return f"[{content}]\n".encode()
