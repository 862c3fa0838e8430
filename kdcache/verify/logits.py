"""The teacher run again: whether a model is the one that a cache was made with, and whether it
still gives its logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, Commit
from kdcache.cache.documents.parts import as_json
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.source import local_images
from kdcache.codecs import open_codec
from kdcache.config.spec import build
from kdcache.errors import CacheError, MismatchError, brief
from kdcache.models.inference import run_models
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.console import progress
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import PerRow, Records, Rows, ViewLogits, as_size
from kdcache.sources import Source
from kdcache.verify.views import version_changes
from kdcache.views import ViewDataset, ViewLoader, keyed_permutation

ROWS_PER_UNIT = 4
"""Views that are run again of one unit, where there are units enough."""
ROUNDING = 0.05
"""Part of the standard deviation of a row's logits by which another device, precision or release of
a library may move any of them. bfloat16 instead of float32, the coarsest change, moves the worst
class of the middle row by 2 to 4 % (a trained ResNet-20 on 10 classes; ResNet-50, ViT-S and
ConvNeXt-T at random weights on 1,000), float16 by less than 1 %."""


def require_teacher(cache: Cache, model: VisionModel) -> None:
    """Check that `model` is the teacher that `cache` was made with.

    Raises:
        MismatchError: other weights, or other preprocessing.
    """
    made = cache.manifest.teacher
    wants = model.preprocessing
    here = {
        "sha256": state_sha256(model.module),
        "size": wants.size,
        "mean": list(wants.mean),
        "std": list(wants.std),
    }
    for name, value in here.items():
        told = as_json(getattr(made, name))
        if (as_size(told) if name == "size" else told) != value:
            what = "hash of weights" if name == "sha256" else name
            raise MismatchError(
                f"teacher {model.spec} is not the one that cache {cache} was made with "
                f"({brief(made.spec)}): its "
                f"{what} is {value}, not {brief(told)}"
            )


def lossy_origin(cache: Cache) -> str | None:
    """Return the spec of the codec that `cache` was recoded from if that was lossy: its records are
    not those of a dump."""
    origin = cache.manifest.made_by.recoded_from
    if origin is None or open_codec(origin.codec, classes=cache.manifest.classes).is_exact:
        return None
    return brief(origin.codec)


def compute_of(cache: Cache, **settings: Any) -> ComputeConfig:
    """Return where and how the teacher of `cache` runs again: in the precision of the dump, but for
    `settings`.

    Raises:
        UsageError: a setting that is unknown, or of the wrong type.
    """
    precision = cache.manifest.teacher.precision
    return build(ComputeConfig, {"precision": precision, **settings}, "compute")


def compare_logits(
    cache: Cache,
    source: Source,
    model: VisionModel,
    *,
    views: int,
    batch_size: int,
    compute: Compute,
) -> dict[str, Any]:
    """Run the teacher again on about `views` views, spread over seeds and units, and compare its
    logits with the records.

    Records are compared as decoded, so that the codec's loss is on both sides. But a value near a
    boundary of the codec's quantiser goes to either side of it at the least change, and then
    differs by a whole step. Both sides are as near to it, though: whether rounding explains a row
    is judged by how much further off the logits the cache's record is than a fresh one.

    Args:
        cache: the cache, recoded from no lossy one.
        source: the one that it was made from.
        model: its teacher.
        views: about how many views to run.
        batch_size: views of one forward pass.
        compute: where and how the teacher runs.

    Returns:
        `views`; `equal_records`, how many records are equal byte for byte; `largest_difference` of
        decoded logits, and the `median_difference`, over the rows, of each row's largest; `beyond`,
        how many rows moved by more than rounding explains; and the `precision` that the teacher ran
        in.

    Raises:
        CacheError: no record to compare, or a unit that is damaged.
        UnreadableSampleError: an image that could be read at the dump.
        CodecError: logits that are not finite.
    """
    chosen = _choose(cache, views)
    if not chosen:
        raise CacheError(
            f"cache {cache} holds no record to compare with the teacher's logits; dump a seed first"
        )
    recipe = cache.recipe
    dataset = ViewDataset(source, recipe, cache.order, sizes=[model.preprocessing.size])
    wanted: list[tuple[int, int]] = []
    for commit, rows in chosen:
        wanted += [(row, commit.seed) for row in rows.tolist()]
    with local_images(source, [commit for commit, _ in chosen]):
        logits = _run(model, dataset, wanted, batch_size, compute)
    held = np.concatenate([cache.read_unit(commit)[rows - commit.start] for commit, rows in chosen])
    fresh = cache.codec.encode(logits)
    raw = logits.reshape(-1, logits.shape[-1])
    exact = raw if cache.codec.keeps_mean else raw - raw.mean(dim=1, keepdim=True)
    then, now = (cache.codec.nearest(records, exact) for records in (held, fresh))
    differences = _largest(then - now, len(logits))
    further = _largest(then - exact, len(logits)) - _largest(now - exact, len(logits))
    spread = raw.std(dim=1, correction=0).reshape(len(logits), -1).mean(1)
    return {
        "views": len(logits),
        "equal_records": int((_bytes(held) == _bytes(fresh)).all(1).sum()),
        "largest_difference": float(differences.max()),
        "median_difference": float(differences.quantile(0.5)),
        "beyond": int((further > ROUNDING * spread).sum()),
        "precision": compute.config.precision,
    }


def logits_faults(cache: Cache, model: VisionModel, found: dict[str, Any]) -> list[str]:
    """Return the fault, if `compare_logits` found logits that rounding does not explain.

    Single rows may be beyond it: a network can be at a tipping point. Where half of them are, it is
    not rounding.
    """
    if 2 * found["beyond"] < found["views"]:
        return []
    ran = f"it ran in {found['precision']}, at the dump in {cache.manifest.teacher.precision}"
    seed = cache.seeds()[0]
    changes = version_changes(cache.commit_of(seed, cache.committed_units(seed)[0]))
    versions = (
        f"versions differ: {'; '.join(changes)}" if changes else "library versions are the same"
    )
    fault = (
        f"teacher {model.spec} has the weights that cache {cache} was made with, and gives other"
        f" logits: in {found['beyond']} of {found['views']} views they differ by more than rounding"
        f" explains (by {found['median_difference']:.3g} in the median of all views); {ran};"
        f" {versions}; give the spec and the code of the dump, or dump again into a new cache"
    )
    return [fault]


def _choose(cache: Cache, views: int) -> list[tuple[Commit, Rows]]:
    """Return commits of all seeds in a keyed order, and of each some rows that hold a record."""
    units: list[Unit] = []
    for seed in cache.seeds():
        units += [(seed, unit) for unit in cache.committed_units(seed)]
    places = keyed_permutation(len(units), views)[: -(-views // ROWS_PER_UNIT)]
    if not len(places):
        return []
    counts = map(len, np.array_split(np.arange(views), len(places)))
    chosen = [
        _some_rows(cache, cache.commit_of(*units[place]), count)
        for place, count in zip(places, counts, strict=True)
    ]
    return [(commit, rows) for commit, rows in chosen if len(rows)]


def _some_rows(cache: Cache, commit: Commit, count: int) -> tuple[Commit, Rows]:
    held = cache.held_rows(commit)
    return commit, held[keyed_permutation(len(held), commit.seed, commit.unit)[:count]]


def _run(
    model: VisionModel,
    dataset: ViewDataset,
    views: Sequence[tuple[int, int]],
    batch_size: int,
    compute: Compute,
) -> ViewLogits:
    requests = [views[start : start + batch_size] for start in range(0, len(views), batch_size)]
    loader = ViewLoader(
        dataset, requests, workers=compute.config.workers, pin_memory=compute.pin_memory
    )
    parts = []
    with progress("teacher", len(views), "views") as bar:
        for _, (logits,) in run_models([model], loader, compute):
            parts.append(logits.float())
            bar.advance(len(logits))
    return torch.cat(parts)


def _largest(differences: Tensor, views: int) -> PerRow:
    """Return the largest difference in each view."""
    return differences.abs().reshape(views, -1).amax(dim=1)


def _bytes(records: Records) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return (
        np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize)
    )
