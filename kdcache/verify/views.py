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

ProbedView = tuple[Commit, Probe]
"""The commit of its unit, and the probe of a view."""
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
    pixels = _thumbnail(view).numpy().tobytes()
    thumbnail = base64.b64encode(pixels).decode()
    return Probe(row=row, crc32=crc32(view), thumbnail=thumbnail, steps=trace)


def num_traced(manifest: Manifest, seed: int, unit: int) -> int:
    """Return how many probes with steps a unit keeps of a seed, of many seeds of some only."""
    seeds = manifest.unit_seeds(seed)
    num_seeds = len(seeds)
    turn = (seeds.index(seed) - unit) % num_seeds
    if turn >= PROBES_PER_UNIT:
        return 0
    return max(PROBES_PER_UNIT // num_seeds, 2)


def num_probes(manifest: Manifest) -> int:
    """Return how many probes each unit keeps of each seed, besides, so that a seed has enough.

    They are even, since the two of a mixed pair are probed together.
    """
    num_needed = min(PROBES_PER_SEED, manifest.rows)
    # of the two of each of these seeds
    num_with_steps = 2 * PROBES_PER_UNIT * manifest.num_units // manifest.seeds_per_unit
    if manifest.seeds_per_unit > PROBES_PER_UNIT and num_with_steps >= num_needed:
        return 0
    count = 2
    while _num_in_all_units(manifest, count) < num_needed:
        count += 2
    return min(count, max(_MOST_PROBES // manifest.seeds_per_unit, 2))


def _num_in_all_units(manifest: Manifest, count: int) -> int:
    """Return how many probes of a seed its units have together, with `count` each where they have
    so many rows. All units but the last one have as many rows as the first."""
    last_unit = manifest.num_units - 1
    num_in_first = min(count, len(manifest.unit_range(0)))
    num_in_last = min(count, len(manifest.unit_range(last_unit)))
    return last_unit * num_in_first + num_in_last


def probed_commits(cache: Cache, seeds: Sequence[int], views: int) -> Iterator[Commit]:
    """Yield commits of `seeds`, spread over their units, until they have `views` probes, or no more
    seem to come."""
    units: list[Unit] = []
    for seed in seeds:
        units += [(seed, unit) for unit in cache.committed_units(seed)]
    # of seeds that share a unit some have none in it
    places = keyed_permutation(len(units), views)[: 4 * views]
    for place in places:
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
    num_rows = cache.manifest.rows
    num_samples = len(source)
    if num_samples != num_rows:  # which no fingerprint of the manifest's own can tell
        raise MismatchError(
            f"cache {cache} has {num_rows} rows, data {source.spec} {num_samples} samples"
        )
    recipe = cache.recipe.at(cache.manifest.input_size)
    dataset = ViewDataset(source, recipe, cache.order, sizes=[recipe.size])
    probes = _probes_of(commits)[:views]
    if views > 0 and not probes:
        say(
            f"note: cache {cache} keeps no probe of these seeds: views rendered here were not"
            " compared with the teacher's"
        )
    others = [(commit, probe) for commit, probe in probes if _compare(dataset, commit, probe)]
    if others:
        cause = _most_likely_cause(dataset, others)
        warnings.warn(
            f"{len(others)} of {len(probes)} re-rendered views have other pixels but the same"
            f" thumbnail as at the dump: {cause}",
            KdcacheWarning,
            stacklevel=2,
        )
    return {"checked": len(probes), "other_pixels": len(others)}


def _probes_of(commits: Iterable[Commit]) -> list[ProbedView]:
    """Return all probes of some commits, each with its commit."""
    probes: list[ProbedView] = []
    for commit in commits:
        probes += [(commit, probe) for probe in commit.probes]
    return probes


def version_changes(commit: Commit) -> list[str]:
    """Return one phrase for each library whose version is another than at the dump."""
    versions = library_versions()
    changes: list[str] = []
    # a commit does not tell the versions of what was not recorded yet when it was written
    for name, version in commit.versions.items():
        if name in versions and versions[name] != version:
            changes.append(f"{name} {version} then, {versions[name]} now")
    return changes


def _compare(dataset: ViewDataset, commit: Commit, probe: Probe) -> bool:
    """Return whether the pixels differ under an equal thumbnail."""
    sample = int(dataset.order[probe.row])
    key = dataset.source.key(sample)
    where = f"view {key} under seed {commit.seed} (row {probe.row})"
    try:
        batch = dataset.batch([(probe.row, commit.seed)])
    except UnreadableSampleError as error:
        raise ViewMismatchError(
            f"{where} was read at the dump and is not readable now: {error}"
        ) from error
    view = batch.views[0][0]
    movement = _movement(view, probe)
    if movement > TOLERANCE:
        step = _first_difference(dataset, commit, probe)
        advice = _way_out(commit, step)
        if step is not None:
            advice = f"pixels first differ after {step}; {advice}"
        raise ViewMismatchError(
            f"{where} is not what the teacher saw: its thumbnail differs by {movement} of 255"
            f" (allowed: {TOLERANCE}); {advice}"
        )
    return bool(crc32(view) != probe.crc32)


def _movement(view: View, probe: Probe) -> int:
    """Return by how many levels of 255 a view's thumbnail is off that of the dump, at most."""
    pixels = _thumbnail(view).reshape(-1).to(torch.int16)
    data = base64.b64decode(probe.thumbnail)
    pixels_at_dump = torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.int16))
    if pixels.shape != pixels_at_dump.shape:
        return 255
    return int((pixels_at_dump - pixels).abs().max())


def _most_likely_cause(dataset: ViewDataset, others: Sequence[ProbedView]) -> str:
    """Return what most likely gave some views other pixels under equal thumbnails."""
    # views without steps would ask those of their unit that have some, which most likely are here
    probes = [(commit, probe) for commit, probe in others if probe.steps is not None]
    steps: Counter[str] = Counter()
    for commit, probe in probes or others[:1]:
        step = _first_difference(dataset, commit, probe)
        if step is not None and not step.startswith(_DECODING):
            steps[step] += 1
    if not steps:
        return "most likely another image decoder, which is harmless"
    ((step, _),) = steps.most_common(1)
    first_commit, _ = others[0]
    return f"pixels first differ after {step}; {_way_out(first_commit, step)}"


def _first_difference(dataset: ViewDataset, commit: Commit, probe: Probe) -> str | None:
    """Return the step after which a view's pixels first differ; None if no steps are kept."""
    if probe.steps is None:
        return _first_difference_of_unit(dataset, commit)
    recipe = dataset.recipes[0]
    step = _differing_step(dataset, commit.seed, probe.row, probe.steps)
    if step is not None:
        return step
    if recipe.mixing is None:
        return "mixing it, or a step of its partner" if recipe.mixes else "the last step"
    other_row = partner(probe.row, len(dataset), recipe.mixing, recipe.key, commit.seed)
    trace = _trace_of(commit, other_row)
    if trace is None:
        return f"mixing it with row {other_row}, or a step of that row"
    step = _differing_step(dataset, commit.seed, other_row, trace)
    if step is None:
        return f"mixing it with row {other_row}"
    return f"{step} of its partner, row {other_row}"


def _trace_of(commit: Commit, row: int) -> Trace | None:
    """Return the steps that a commit keeps of a row; None if it keeps none."""
    for probe in commit.probes:
        if probe.row == row and probe.steps is not None:
            return probe.steps
    return None


def _first_difference_of_unit(dataset: ViewDataset, commit: Commit) -> str | None:
    """Return the step after which a view of a unit has other pixels, of those with steps."""
    for probe in commit.probes:
        if probe.steps is None:
            continue
        step = _differing_step(dataset, commit.seed, probe.row, probe.steps)
        if step is not None:
            return step
    return None


def _differing_step(dataset: ViewDataset, seed: int, row: int, trace: Trace) -> str | None:
    """Return the first step of a view, before it is mixed, that comes out otherwise than at the
    dump, whose trace this is."""
    steps = zip(trace, dataset.trace(row, seed), strict=False)
    for position, ((_, crc_at_dump), (name, crc)) in enumerate(steps):
        if crc == crc_at_dump:
            continue
        if position == 0:
            return _DECODING
        if position == 1:
            return f"converting it to mode {dataset.recipes[0].mode}"
        return f"transform {position - 1}, {name}"
    return None


def _way_out(commit: Commit, step: str | None) -> str:
    """Return what the user can do about views that differ after a step."""
    changes = version_changes(commit)
    if changes:
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
    pixels = view[None].double()
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, _SIDE)[0]
    return means.round().to(torch.uint8)
