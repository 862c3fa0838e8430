"""Drift: whether the views rendered here are those that the teacher saw.

Each unit's commit keeps probes: for a few rows, the CRC-32 of the pixels and a thumbnail. A thumbnail that moved means another
view; equal thumbnails under another CRC mean another image decoder, which is harmless.
"""

import base64
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, Commit, library_versions
from kdcache.errors import DriftError, KdcacheWarning, UnreadableSampleError
from kdcache.shapes import View
from kdcache.sources import Source
from kdcache.views import Recipe, ViewDataset
from kdcache.views.order import keyed_permutation

PROBES_PER_UNIT = 4
TOLERANCE = 2
"""Levels of 255 by which a thumbnail's pixel may move."""
_SIDE = 8


def make_probe(row: int, view: View) -> dict[str, Any]:
    """Return the probe of a rendered view, as a commit keeps it."""
    small = base64.b64encode(_thumbnail(view).numpy().tobytes()).decode()
    return {"row": row, "crc32": zlib.crc32(view.contiguous().numpy().data), "thumbnail": small}


def check_views(cache: Cache, source: Source, seeds: Sequence[int], *, views: int) -> dict[str, int]:
    """Re-render up to `views` probed views of `seeds`, spread over their units, and compare.

    Returns:
        `checked`, and `other_pixels`: how many have other pixels under the same thumbnail.

    Raises:
        DriftError: a thumbnail moved, or an image can no longer be read.
        KdcacheWarning: (a warning) some pixels differ under equal thumbnails.
    """
    recipe = Recipe.from_dict(cache.manifest.recipe).at(cache.manifest.teacher["size"])
    dataset = ViewDataset(source, recipe, cache.order, sizes=[recipe.size])
    probes = _choose(cache, seeds, views)
    others = sum(_compare(dataset, commit, probe) for commit, probe in probes)
    if others:
        warnings.warn(
            f"{others} of {len(probes)} re-rendered views have other pixels but the same thumbnail as at the dump: "
            "most likely another image decoder, which is harmless",
            KdcacheWarning,
            stacklevel=2,
        )
    return {"checked": len(probes), "other_pixels": others}


def _choose(cache: Cache, seeds: Sequence[int], views: int) -> list[tuple[Commit, dict[str, Any]]]:
    units = [(seed, unit) for seed in seeds for unit in cache.committed_units(seed)]
    chosen = keyed_permutation(len(units), views)[: -(-views // PROBES_PER_UNIT)]
    commits = [cache.commit_of(*units[place]) for place in chosen]
    return [(commit, probe) for commit in commits for probe in commit.probes][:views]


def _compare(dataset: ViewDataset, commit: Commit, probe: dict[str, Any]) -> bool:
    """Return whether the pixels differ under an equal thumbnail."""
    key = dataset.source.key(int(dataset.order[probe["row"]]))
    where = f"view {key} under seed {commit.seed} (row {probe['row']})"
    try:
        view = dataset.batch([(probe["row"], commit.seed)]).views[0][0]
    except UnreadableSampleError as error:
        raise DriftError(f"{where} was read at the dump and is not readable now: {error}") from error
    then = torch.from_numpy(np.frombuffer(base64.b64decode(probe["thumbnail"]), np.uint8).astype(np.int16))
    now = _thumbnail(view).reshape(-1).to(torch.int16)
    moved = int((then - now).abs().max()) if then.shape == now.shape else 255
    if moved > TOLERANCE:
        raise DriftError(
            f"{where} is not what the teacher saw: its thumbnail differs by {moved} of 255 (allowed: {TOLERANCE}); "
            f"{_version_changes(commit)}"
        )
    return bool(zlib.crc32(view.contiguous().numpy().data) != probe["crc32"])


def _version_changes(commit: Commit) -> str:
    here = library_versions()
    changes = [
        f"{name} {commit.versions.get(name)} then, {version} now"
        for name, version in here.items()
        if commit.versions.get(name) != version
    ]
    if changes:
        return f"versions differ: {'; '.join(changes)}: install those of the dump, or dump again"
    return "library versions are the same, so the images themselves have changed: dump again into a new cache"


def _thumbnail(view: View) -> Tensor:
    """Return 8x8 area means, uint8 `[channels, 8, 8]`."""
    small = torch.nn.functional.adaptive_avg_pool2d(view[None].double(), _SIDE)[0]
    return small.round().to(torch.uint8)
