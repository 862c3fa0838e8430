"""The view check: whether the views rendered here are those that the teacher saw.

Each unit's commit keeps probes: for a few rows, the CRC-32 of the pixels, also after each step from
the decoded image to the view, and a thumbnail. A thumbnail that moved means another view; other
pixels under an equal thumbnail are most often those of another image decoder, which is harmless.
The steps tell where the difference comes from.
"""

import base64
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, Commit, Manifest, library_versions
from kdcache.cache.documents.parts import Probe
from kdcache.cache.formats.protocol import Unit
from kdcache.errors import KdcacheWarning, MismatchError, UnreadableSampleError, ViewMismatchError
from kdcache.runtime.console import say
from kdcache.shapes import View
from kdcache.sources import Source
from kdcache.views import Trace, ViewDataset, crc32
from kdcache.views.mixing import partner
from kdcache.views.permutation import keyed_permutation

PROBES_PER_UNIT = 4
"""That each unit has with the steps that led to them."""
PROBES_PER_SEED = 32
"""That a seed has in all its units, where it has so many rows; those besides have no steps."""
_MOST_PROBES = 2048  # of a unit, since a commit is read whole
TOLERANCE = 2
"""Levels of 255 by which a thumbnail's pixel may move."""
_SIDE = 8
_DECODING = "decoding the image"


def make_probe(row: int, view: View, trace: Trace | None = None) -> Probe:
    """Return the probe of a rendered view, and of the steps that led to it, as a commit keeps
    it."""
    small = base64.b64encode(_thumbnail(view).numpy().tobytes()).decode()
    return Probe(row=row, crc32=crc32(view), thumbnail=small, steps=trace)


def num_traced(manifest: Manifest, seed: int, unit: int) -> int:
    """Return how many probes with steps a unit keeps of a seed, of many seeds of some only."""
    seeds = manifest.unit_seeds(seed)
    turn = (seeds.index(seed) - unit) % len(seeds)
    return max(PROBES_PER_UNIT // len(seeds), 2) if turn < PROBES_PER_UNIT else 0


def num_probes(manifest: Manifest) -> int:
    """Return how many probes each unit keeps of each seed, besides, so that a seed has enough.

    They are even, since the two of a mixed pair are probed together.
    """
    wanted = min(PROBES_PER_SEED, manifest.rows)
    # of the two of each of these seeds
    traced = 2 * PROBES_PER_UNIT * manifest.num_units // manifest.seeds_per_unit
    if manifest.seeds_per_unit > PROBES_PER_UNIT and traced >= wanted:
        return 0
    sizes = [len(manifest.unit_range(unit)) for unit in {0, manifest.num_units - 1}]
    full = manifest.num_units - len(sizes)  # units besides these, as large as the first
    count = 2
    while full * min(count, sizes[0]) + sum(min(count, size) for size in sizes) < wanted:
        count += 2
    return min(count, max(_MOST_PROBES // manifest.seeds_per_unit, 2))


def probed_commits(cache: Cache, seeds: Sequence[int], views: int) -> Iterator[Commit]:
    """Yield commits of `seeds`, spread over their units, until they have `views` probes, or no more
    seem to come."""
    units: list[Unit] = []
    for seed in seeds:
        units += [(seed, unit) for unit in cache.committed_units(seed)]
    # of seeds that share a unit some have none in it
    for place in keyed_permutation(len(units), views)[: 4 * views]:
        if views <= 0:
            return
        commit = cache.commit_of(*units[place])
        yield commit
        views -= len(commit.probes)


def check_views(
    cache: Cache, source: Source, commits: Iterable[Commit], *, views: int
) -> dict[str, int]:
    """Re-render up to `views` probed views of some units and compare.

    Returns:
        `checked`, and `other_pixels`: how many have other pixels under the same thumbnail.

    Raises:
        ViewMismatchError: a thumbnail moved, or an image can no longer be read.
        KdcacheWarning: (a warning) some pixels differ under equal thumbnails.
    """
    if len(source) != cache.manifest.rows:  # which no fingerprint of the manifest's own can tell
        raise MismatchError(
            f"cache {cache} has {cache.manifest.rows} rows, data {source.spec} {len(source)}"
            " samples"
        )
    recipe = cache.recipe.at(cache.manifest.input_size)
    dataset = ViewDataset(source, recipe, cache.order, sizes=[recipe.size])
    probes: list[tuple[Commit, Probe]] = []
    for commit in commits:
        probes += [(commit, probe) for probe in commit.probes]
    probes = probes[:views]
    if views > 0 and not probes:
        say(
            f"note: cache {cache} keeps no probe of these seeds: views rendered here were not"
            " compared with the teacher's"
        )
    others = [(commit, probe) for commit, probe in probes if _compare(dataset, commit, probe)]
    if others:
        warnings.warn(
            f"{len(others)} of {len(probes)} re-rendered views have other pixels but the same"
            f" thumbnail as at the dump: {_most_likely(dataset, others)}",
            KdcacheWarning,
            stacklevel=2,
        )
    return {"checked": len(probes), "other_pixels": len(others)}


def version_changes(commit: Commit) -> list[str]:
    """Return one phrase for each library whose version is another than at the dump."""
    here = library_versions()
    # a commit does not tell the versions of what was not recorded yet when it was written
    return [
        f"{name} {then} then, {here[name]} now"
        for name, then in commit.versions.items()
        if here.get(name, then) != then
    ]


def _compare(dataset: ViewDataset, commit: Commit, probe: Probe) -> bool:
    """Return whether the pixels differ under an equal thumbnail."""
    key = dataset.source.key(int(dataset.order[probe.row]))
    where = f"view {key} under seed {commit.seed} (row {probe.row})"
    try:
        view = dataset.batch([(probe.row, commit.seed)]).views[0][0]
    except UnreadableSampleError as error:
        raise ViewMismatchError(
            f"{where} was read at the dump and is not readable now: {error}"
        ) from error
    then = torch.from_numpy(
        np.frombuffer(base64.b64decode(probe.thumbnail), np.uint8).astype(np.int16)
    )
    now = _thumbnail(view).reshape(-1).to(torch.int16)
    moved = int((then - now).abs().max()) if then.shape == now.shape else 255
    if moved > TOLERANCE:
        step = _first_difference(dataset, commit, probe)
        first = f"pixels first differ after {step}; " if step else ""
        raise ViewMismatchError(
            f"{where} is not what the teacher saw: its thumbnail differs by {moved} of 255"
            f" (allowed: {TOLERANCE}); {first}{_way_out(commit, step)}"
        )
    return bool(crc32(view) != probe.crc32)


def _most_likely(dataset: ViewDataset, others: Sequence[tuple[Commit, Probe]]) -> str:
    """Return what most likely gave some views other pixels under equal thumbnails."""
    # views without steps would ask those of their unit that have some, which most likely are here
    traced = [(commit, probe) for commit, probe in others if probe.steps is not None] or others[:1]
    steps: Counter[str] = Counter()
    for commit, probe in traced:
        steps[_first_difference(dataset, commit, probe) or _DECODING] += 1
    beyond = Counter(
        {step: count for step, count in steps.items() if not step.startswith(_DECODING)}
    )
    if not beyond:
        return "most likely another image decoder, which is harmless"
    ((step, _),) = beyond.most_common(1)
    return f"pixels first differ after {step}; {_way_out(others[0][0], step)}"


def _first_difference(dataset: ViewDataset, commit: Commit, probe: Probe) -> str | None:
    """Return the step after which a view's pixels first differ; None if no steps are kept."""
    if probe.steps is None:
        return _first_difference_of_unit(dataset, commit)
    recipe = dataset.recipes[0]
    step = _differing_step(dataset, commit.seed, probe.row, probe.steps)
    if step or recipe.mixing is None:
        return step or "the last step"
    other = partner(probe.row, len(dataset), recipe.mixing, recipe.key, commit.seed)
    steps = [one.steps for one in commit.probes if one.row == other]
    kept = next((trace for trace in steps if trace is not None), None)
    if kept is None:
        return f"mixing it with row {other}, or a step of that row"
    step = _differing_step(dataset, commit.seed, other, kept)
    return f"{step} of its partner, row {other}" if step else f"mixing it with row {other}"


def _first_difference_of_unit(dataset: ViewDataset, commit: Commit) -> str | None:
    """Return the step after which a view of a unit has other pixels, of those with steps."""
    for probe in commit.probes:
        if probe.steps is not None:
            step = _differing_step(dataset, commit.seed, probe.row, probe.steps)
            if step:
                return step
    return None


def _differing_step(dataset: ViewDataset, seed: int, row: int, trace: Trace) -> str | None:
    """Return the first step of a view, before it is mixed, that comes out otherwise than at the
    dump, whose trace this is."""
    steps = zip(trace, dataset.trace(row, seed), strict=False)
    for number, ((_, then), (name, now)) in enumerate(steps, start=-1):
        if then != now:
            early = {-1: _DECODING, 0: f"converting it to mode {dataset.recipes[0].mode}"}
            return early.get(number, f"transform {number}, {name}")
    return None


def _way_out(commit: Commit, step: str | None) -> str:
    if changes := version_changes(commit):
        return f"versions differ: {'; '.join(changes)}: install those of the dump, or dump again"
    if step is None or step.startswith(_DECODING):
        return (
            "library versions are the same, so the images themselves have changed: dump again into"
            " a new cache"
        )
    return (
        "library versions are the same, so the processor or the build of a library is another:"
        " train where the dump ran, or dump again into a new cache"
    )


def _thumbnail(view: View) -> Tensor:
    """Return 8x8 area means, uint8 `[channels, 8, 8]`."""
    small = torch.nn.functional.adaptive_avg_pool2d(view[None].double(), _SIDE)[0]
    return small.round().to(torch.uint8)
