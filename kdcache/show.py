"""A picture of one view of a cache: what the teacher saw, what it should say and what it says. People look before they train."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.drift import source_of
from kdcache.errors import KdcacheError, UsageError
from kdcache.plots import check_plot
from kdcache.shapes import IGNORED, Masks, ViewLogits, as_size
from kdcache.sources import Source
from kdcache.tasks.segmentation import upsampled
from kdcache.views import Batch, Recipe, ViewDataset

_TOP = 5
_LISTED = 20
"""Classes in a legend, those with the most pixels."""


def show_view(cache: Cache, path: str | Path, *, index: int, seed: int, data: str | None = None) -> dict[str, Any]:
    """Draw sample `index` of the source under `seed` into `path`.

    Of segmentation: the view, the mask, the teacher's most likely classes and how sure it is of them; of classification: the view
    and the five classes that the teacher finds most likely.

    Args:
        cache: holds that view.
        path: of the picture, its kind by its ending.
        index: of the sample, as the source counts.
        seed: of the view.
        data: spec of the source; by default that of the manifest, if opening it only reads images.

    Returns:
        `file`, `sample` (its key), `row` of the cache, `confidence` (the teacher's mean) and `accuracy` in percent of it.

    Raises:
        UsageError: no such sample, a source that must be named, or a picture that cannot be drawn there.
        MismatchError: data that is not the cache's source.
        MissingUnitError: the view is not in the cache.
        KdcacheError: a damaged unit, an unreadable image.
    """
    check_plot(path)
    source, row = source_of(cache, data), _row(cache, index)
    batch = _dataset(cache, source).batch([(row, seed)])
    logits = _logits(cache, row, seed)
    names = getattr(source, "class_names", None) or tuple(map(str, range(cache.manifest.classes)))
    title = f"{source.key(index)}, seed {seed}"
    draw = _draw_maps if cache.manifest.task == "segmentation" else _draw_bars
    found = draw(path, batch, logits, [*names], title)
    return {"file": str(path), "sample": source.key(index), "row": row, **found}
