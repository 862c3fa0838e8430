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
from kdcache.codecs import Codec, boxes_of, encoded
from kdcache.errors import CacheError, MismatchError, brief
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.inference import ModelsOnViews, ReadOut
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Boxes
from kdcache.runtime.batch_size import BatchSize
from kdcache.runtime.console import progress
from kdcache.runtime.device import Compute
from kdcache.shapes import PerRow, Records, Rows, ViewLogits, as_size
from kdcache.sources import Source
from kdcache.verify.known_teacher import require_known_teacher
from kdcache.verify.views import version_changes
from kdcache.views import Batch, ViewDataset, keyed_permutation
from kdcache.views.dataset import Request

UnitRows = tuple[Commit, Rows]
"""The commit of a unit, and some of its rows."""
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
        MismatchError: other weights, or other preprocessing; or none is known.
    """
    require_known_teacher(cache)
    entry = cache.manifest.teacher
    preprocessing = model.preprocessing
    contrasts: list[tuple[str, Any, Any]] = [
        ("hash of weights", state_sha256(model.module), entry.sha256),
        ("size", preprocessing.size, entry.size),
        ("mean", list(preprocessing.mean), list(entry.mean)),
        ("std", list(preprocessing.std), list(entry.std)),
    ]
    for name, value, cached_value in contrasts:
        is_same = value == cached_value
        if name == "size":
            is_same = value == as_size(cached_value)
        if not is_same:
            raise MismatchError(
                f"teacher {model.spec} is not the one that cache {cache} was made with"
                f" ({brief(entry.spec)}): its {name} is {value}, not {brief(as_json(cached_value))}"
            )


def compare_logits(
    cache: Cache,
    source: Source,
    model: VisionModel,
    *,
    views: int,
    batch_size: BatchSize | None,
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
        batch_size: views of one forward pass; `auto` tries how many are fastest, and None takes
            what is usual on the device.
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
    parts = _sample(cache, views)
    if not parts:
        raise CacheError(
            f"cache {cache} holds no record to compare with the teacher's logits; dump a seed first"
        )
    dataset = ViewDataset(source, cache.recipe, cache.order, sizes=[model.preprocessing.size])
    requests: list[tuple[int, int]] = []
    for commit, rows in parts:
        requests += [(row, commit.seed) for row in rows.tolist()]
    with local_images(source, [commit for commit, _ in parts]):
        records = _read(cache, parts)
        boxes = boxes_of(cache.codec, records)
        all_rows = np.concatenate([rows for _, rows in parts])
        size = settled_batch_size([model], dataset, all_rows, compute, batch_size)
        batches = [requests[start : start + size] for start in range(0, len(requests), size)]
        logits = _run(ModelsOnViews([model], dataset, compute), batches, boxes=boxes)
    comparison = _comparison(cache.codec, records, TeacherLogits(logits, boxes))
    comparison["precision"] = compute.config.precision
    return comparison


def _comparison(codec: Codec, cached_records: Records, logits: TeacherLogits) -> dict[str, Any]:
    """Return what `compare_logits` says of the records in the cache and the logits of the teacher
    run again."""
    fresh_records = encoded(codec, logits.values, logits.boxes)
    num_views = len(logits.values)
    raw = logits.values.reshape(-1, logits.values.shape[-1])
    exact_logits = raw
    if not codec.keeps_mean:
        exact_logits = raw - raw.mean(dim=1, keepdim=True)
    cached_logits = codec.nearest(cached_records, exact_logits)
    fresh_logits = codec.nearest(fresh_records, exact_logits)
    differences = _largest(cached_logits - fresh_logits, num_views)
    cached_errors = _largest(cached_logits - exact_logits, num_views)
    fresh_errors = _largest(fresh_logits - exact_logits, num_views)
    spreads = raw.std(dim=1, correction=0).reshape(num_views, -1)
    num_rows = torch.full((num_views,), spreads.shape[1])
    if logits.boxes is not None:
        num_rows = logits.boxes.counts
    spread = spreads.sum(1) / num_rows.clamp(min=1)
    is_beyond = cached_errors - fresh_errors > ROUNDING * spread
    is_equal = (_bytes(cached_records) == _bytes(fresh_records)).all(1)
    return {
        "views": num_views,
        "equal_records": int(is_equal.sum()),
        "largest_difference": float(differences.max()),
        "median_difference": float(differences.quantile(0.5)),
        "beyond": int(is_beyond.sum()),
    }


def logits_faults(cache: Cache, model: VisionModel, comparison: dict[str, Any]) -> list[str]:
    """Return the fault, if `compare_logits` found logits that rounding does not explain.

    Single rows may be beyond it: a network can be at a tipping point. Where half of them are, it is
    not rounding.
    """
    num_beyond = comparison["beyond"]
    num_views = comparison["views"]
    if 2 * num_beyond < num_views:
        return []
    median = comparison["median_difference"]
    precision = comparison["precision"]
    first_seed = cache.seeds()[0]
    first_unit = cache.committed_units(first_seed)[0]
    changes = version_changes(cache.commit_of(first_seed, first_unit))
    versions = "library versions are the same"
    if changes:
        versions = f"versions differ: {'; '.join(changes)}"
    fault = (
        f"teacher {model.spec} has the weights that cache {cache} was made with, and gives other"
        f" logits: in {num_beyond} of {num_views} views they differ by more than rounding explains"
        f" (by {median:.3g} in the median of all views); it ran in {precision}, at the dump in"
        f" {cache.manifest.teacher.precision}; {versions}; give the spec and the code of the dump,"
        " or dump again into a new cache"
    )
    return [fault]


def _sample(cache: Cache, views: int) -> list[UnitRows]:
    """Return commits of all seeds in a keyed order, and of each some rows that hold a record."""
    units: list[Unit] = []
    for seed in cache.seeds():
        units += [(seed, unit) for unit in cache.committed_units(seed)]
    num_units = -(-views // ROWS_PER_UNIT)
    places = keyed_permutation(len(units), views)[:num_units]
    if not len(places):
        return []
    parts: list[UnitRows] = []
    shares = np.array_split(np.arange(views), len(places))
    for place, share in zip(places, shares, strict=True):
        commit = cache.commit_of(*units[place])
        rows = _some_rows(cache, commit, len(share))
        if len(rows):
            parts.append((commit, rows))
    return parts


def _some_rows(cache: Cache, commit: Commit, count: int) -> Rows:
    """Return so many of a unit's rows that hold a record, drawn by its key."""
    rows = cache.held_rows(commit)
    positions = keyed_permutation(len(rows), commit.seed, commit.unit)
    return rows[positions[:count]]


def _read(cache: Cache, parts: Sequence[UnitRows]) -> Records:
    """Return the records of these rows."""
    records: list[Records] = []
    for commit, rows in parts:
        unit_records = cache.read_unit(commit)
        records.append(unit_records[rows - commit.start])
    return np.concatenate(records)


def _run(
    on_views: ModelsOnViews, requests: Sequence[Request], *, boxes: Boxes | None
) -> ViewLogits:
    """Return the model's logits of the views asked for; of proposals those at given boxes: another
    device may choose others."""
    parts = []
    read_out = None
    if boxes is not None:
        read_out = _reader_at(boxes)
    with progress("teacher", sum(map(len, requests)), "views") as bar:
        for _, (logits,) in on_views.run(requests, read_out):
            parts.append(logits.values.float())
            bar.advance(len(logits.values))
    return torch.cat(parts)


def _reader_at(boxes: Boxes) -> ReadOut:
    """Return what gives the logits of batch after batch at the boxes of its views."""
    num_done = 0

    def read(model: VisionModel, output: Any, batch: Batch) -> TeacherLogits:
        nonlocal num_done
        views = slice(num_done, num_done + len(batch.rows))
        num_done = views.stop
        device = model.mean.device
        own = Boxes(boxes.places[views].to(device), boxes.counts[views].to(device))
        logits: TeacherLogits = output.logits_at(own)
        return logits

    return read


def _largest(differences: Tensor, views: int) -> PerRow:
    """Return the largest difference in each view."""
    return differences.abs().reshape(views, -1).amax(dim=1)


def _bytes(records: Records) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    raw = np.ascontiguousarray(records).view(np.uint8)
    return raw.reshape(len(records), records.dtype.itemsize)
