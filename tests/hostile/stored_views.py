"""Attacks by stored views, which lie in a cache as zarr arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from hostile.forge import HUGE, Attack, change_manifest, many, zarr

from kdcache.cache.arrays import arrays_digest, publish_arrays
from kdcache.cache.documents.manifest import VIEWS
from kdcache.views.stored_arrays import bytes_per_view

ROWS = 20
BOXES = np.full((2, ROWS, 4), 0.25, "<f4")
FLIPS = np.zeros((2, ROWS), "u1")


def _stored(path: Path, arrays: dict[str, Any], **changes: Any) -> None:
    """Give an honest cache stored views."""
    cache = zarr(path)
    publish_arrays(cache.storage, VIEWS, arrays)
    view_bytes = bytes_per_view(arrays, num_axes=2)
    table = {"seeds": 2, "view_bytes": view_bytes, "sha256": arrays_digest(arrays), **changes}
    change_manifest(path, lambda document: document.update(views=table))


def _views(arrays: dict[str, Any]) -> Attack:
    return lambda path: _stored(path, arrays)


def _told(changes: dict[str, Any]) -> Attack:
    return lambda path: _stored(path, {"boxes": BOXES, "flips": FLIPS}, **changes)


def _with(value: float) -> np.ndarray:
    boxes = BOXES.copy()
    boxes[1, 3, 2] = value
    return boxes


MIXED: dict[str, Any] = {
    "boxes": BOXES,
    "flips": FLIPS,
    "partners": np.ones((2, ROWS), "<u4"),
    "shares": np.full((2, ROWS), 0.5, "<f4"),
    "cuts": np.full((2, ROWS, 4), 0.25, "<f2"),
    "partner_boxes": BOXES,
    "partner_flips": FLIPS,
}
ARRAYS: dict[str, dict[str, Any]] = {
    "of_partners_that_are_not_there": MIXED | {"partners": np.full((2, ROWS), 21, "<u4")},
    "of_partners_without_views": MIXED | {"partner_boxes": 0 * BOXES},
    "of_shares_beyond_1": MIXED | {"shares": np.full((2, ROWS), np.inf, "<f4")},
    "cut_of_nan": MIXED | {"cuts": np.full((2, ROWS, 4), np.nan, "<f2")},
    "of_half_a_box_in_pixels": {
        "pixel_boxes": np.eye(4, dtype="<u2")[[2] * ROWS][None],
        "flips": FLIPS[:1],
    },
    "of_more_than_the_image": {"boxes": _with(1e9), "flips": FLIPS},
    "of_nan": {"boxes": _with(np.nan), "flips": FLIPS},
    "before_the_image": {"boxes": -BOXES, "flips": FLIPS},
    "flipped_twice": {"boxes": BOXES, "flips": FLIPS + np.uint8(2)},
    "of_other_types": {"boxes": BOXES.astype("<f2"), "flips": FLIPS},
    "of_fewer_samples": {"boxes": BOXES[:, :9], "flips": FLIPS[:, :9]},
    "of_fewer_seeds": {"boxes": BOXES[:1], "flips": FLIPS[:1]},
    "of_more_samples": {"boxes": np.full((2, 21, 4), 0.25, "<f4"), "flips": FLIPS[:, :9]},
    "of_boxes_alone": {"boxes": BOXES},
    "of_seeds_beyond_the_last": {"draw_seeds": np.full((2, ROWS), 1 << 31, "<u4") + np.uint32(1)},
    "of_seeds_and_flips": {"draw_seeds": np.ones((2, ROWS), "<u4"), "flips": FLIPS},
    "of_seeds_of_fewer_samples": {"draw_seeds": np.ones((2, 9), "<u4")},
    "of_seeds_without_samples": {"draw_seeds": np.ones(2 * ROWS, "<u4")},
    "by_another_name": {"box": BOXES, "flips": FLIPS},
}
many(
    "what is stored of its views .* is absent or damaged",
    {f"views_{name}": case for name, case in ARRAYS.items()},
    _views,
)
TOLD: dict[str, dict[str, Any]] = {
    "of_no_seed": {"seeds": 0},
    "of_too_many_seeds": {"seeds": HUGE},
    "of_true": {"seeds": True},
    "of_no_bytes": {"view_bytes": 0},
    "of_too_many_bytes": {"view_bytes": 257},
    "outside_of_the_root": {"sha256": "../../../../../etc/passwd"},
    "without_a_digest": {"sha256": None},
}
many(
    r"its manifest \(zarr.json\) is damaged: ",
    {f"views_{name}": case for name, case in TOLD.items()},
    _told,
)


def _many_rows(rows: int) -> Attack:
    def forge(path: Path) -> None:
        _stored(path, {"boxes": BOXES, "flips": FLIPS}, seeds=1 << 18)
        change_manifest(path, lambda document: document.update(rows=rows))

    return forge


many(
    r"its manifest \(zarr.json\) is damaged: the views that are stored of \d+ samples",
    {"views_of_too_many_bytes": 1 << 14},
    _many_rows,
)
