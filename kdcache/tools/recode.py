"""Recoding: another codec's cache from a finished one, without the teacher and without the
images."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import (
    Cache,
    Commit,
    Manifest,
    library_versions,
    open_cache,
    record_layout,
)
from kdcache.cache.committing import commit_unit, require_written, start_seed
from kdcache.cache.coverage import ask_for
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.documents.parts import Absence, MadeBy, Probe, RecodedFrom
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.opening import create_from, open_storage, probe_new
from kdcache.codec_error.cache_sample import sample_of_cache
from kdcache.codec_error.calibration import fit_codec, sample_views
from kdcache.codecs import (
    BasisCodec,
    Codec,
    RowCodec,
    codec_spec,
    row_codec,
    with_layout,
)
from kdcache.codecs.conversion import converted
from kdcache.config.arguments import checked_arguments
from kdcache.dump.unit import tell_clipped
from kdcache.errors import MismatchError, UsageError
from kdcache.runtime.console import progress, say
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.shapes import Records
from kdcache.tools.recode_checks import checked_recoding, require_possible

_LOGITS_AT_ONCE = 2**24  # decoded together, 67 MB


@checked_arguments
def recode_cache(
    cache: str | Path, new: str | Path, *, codec: str, seeds: str | None = None
) -> dict[str, Any]:
    """Write to `new` what `cache` holds, with another codec; run again, it goes on where it
    stopped.

    Everything but the records and their layout is carried over, so that a student trains from `new`
    as from `cache`.

    Args:
        cache: the folder of a cache with a complete seed.
        new: the folder of the new cache.
        codec: spec of its codec, which must hold no more than that of `cache`.
        seeds: `A:B`; by default all complete seeds of `cache`.

    Returns:
        `cache` (the new one), `source`, `seeds`, `rows` per seed, `units_written` now, `seconds`
        they took, the number of `absent` rows, `before` and `after`, each with `codec`, `bytes` and
        `bytes_per_view` over these seeds, and `gradient_error`: how far the new codec turns DIST's
            gradient, by temperature; empty if `cache` is not exact, or has no
        two different views of a sample. Then `origin_error` is the codec of the nearest cache
        before it that was measured, and its errors, which the new one adds to; None if there is
        none.

    Raises:
        UsageError: a codec that is unknown, or would hold more than `cache`.
        MissingUnitError: a seed that is not complete.
        MismatchError: `new` is another cache.
        KdcacheError: a damaged unit or an unwritable folder; what was committed stays.
        StoppedError: a signal told it to stop; what was committed stays.
    """
    recoding = checked_recoding(cache, new, codec=codec, seeds=seeds)
    source = recoding.source
    commits = {seed: source.commits(seed) for seed in recoding.seeds}
    target = _create(source, new, recoding.codec)
    ask_for(target, commits)
    start = time.monotonic()
    num_written = 0
    with heeding(lambda: f": {num_written} units written"):
        num_written = _write_units(source, target, commits)
        look()
    require_written(target, itertools.product(commits, range(target.manifest.num_units)))
    seconds = time.monotonic() - start
    new_commits = {seed: target.commits(seed) for seed in commits}
    tell_clipped(target, _joined(new_commits))
    return {
        "cache": str(target),
        "source": str(source),
        "seeds": list(commits),
        "rows": target.manifest.num_held,
        "units_written": num_written,
        "seconds": seconds,
        "absent": _num_absent(commits),
        "before": _size(source, commits),
        "after": _size(target, new_commits),
        **_errors(target.manifest),
    }


def _errors(manifest: Manifest) -> dict[str, Any]:
    """Return the errors of a new cache's codec; where it was not measured, those of the nearest
    cache before it that was."""
    origin_error = None
    if not manifest.gradient_error:
        origin_error = manifest.origin_error
    return {"gradient_error": manifest.made_by.gradient_error, "origin_error": origin_error}


def _create(source: Cache, new: str | Path, new_codec: RowCodec) -> Cache:
    """Return the new cache, made with a fit to a sample of the source's records, or as it is there
    already."""
    storage = open_storage(new)
    codec: Codec
    errors: dict[float, float] = {}
    if storage.exists(MANIFEST):
        codec = open_cache(new).with_fit(new_codec)
    else:
        probe_new(storage)  # before the time that a fit takes
        codec, errors = _fitted(source, new_codec)
    codec = with_layout(row_codec(codec), source.manifest.layout)
    manifest = _manifest(source, codec).with_errors(errors)
    target = create_from(source, new, manifest, codec.fit_arrays(), samples=source.samples)
    origin = target.manifest.made_by.recoded_from
    if origin is None or origin.manifest != source.manifest.digest:
        raise MismatchError(f"cache {new} was not recoded from {source}; choose a new folder")
    return target


def _fitted(source: Cache, codec: RowCodec) -> tuple[Codec, dict[float, float]]:
    """Return the codec with its fit, and its errors where the source tells."""
    is_exact = source.codec.is_exact
    if not (is_exact or isinstance(codec, BasisCodec)):
        return codec, {}
    sample = sample_of_cache(source, num_rows=sample_views(codec))
    if isinstance(codec, BasisCodec) and codec.error is not None and not sample.views.differ:
        raise UsageError(
            f"{codec_spec(codec)} needs two different views of a sample, and cache {source} does"
            " not hold them; dump another seed, or give step= or bytes="
        )
    rows = f"{len(sample.teacher)} {_kind_of_rows(source)}"
    say(f"measuring codec {codec_spec(codec)} on {rows} of {source}")
    fitted = fit_codec(codec, sample)
    require_possible(source, fitted.codec)
    if not is_exact:
        return fitted.codec, {}
    return fitted.codec, fitted.errors


def _kind_of_rows(source: Cache) -> str:
    """Return what each row of logits is of."""
    layout = source.manifest.layout
    if layout.maps:
        return "pixels"
    if layout.sites:
        return "positions"
    return "views"


def _manifest(source: Cache, codec: Codec) -> Manifest:
    manifest = source.manifest
    layout = record_layout(codec, manifest.rows)
    if layout["unit_rows"] % manifest.unit_rows:
        layout = record_layout(codec, manifest.rows, manifest.unit_rows)
    origin = RecodedFrom(
        codec=codec_spec(source.codec), manifest=manifest.digest, made_by=manifest.made_by
    )
    made_by = MadeBy(
        versions=library_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recoded_from=origin,
    )
    store: dict[str, Any] = {"store": "zarr", "seeds_per_unit": 1, "has_images": False}
    return dataclasses.replace(manifest, **layout, **store, made_by=made_by)


def _write_units(source: Cache, target: Cache, commits: Mapping[int, Sequence[Commit]]) -> int:
    """Recode and commit every unit that is missing, until the process is told to stop."""
    todo: list[Unit] = []
    num_views = 0
    for seed in commits:
        for unit in target.missing_units(seed):
            todo.append((seed, unit))
            num_views += len(target.manifest.unit_range(unit))
    if todo:
        target.storage.probe()
    for seed in commits:
        start_seed(target, seed)
    num_written = 0
    with progress("recode", num_views, "views") as bar:
        for seed, unit in until_stopped(todo):
            # another recode into this cache may have been here
            if not target.is_committed(seed, unit):
                _write_unit(source, target, (seed, unit), commits[seed])
                num_written += 1
            bar.advance(len(target.manifest.unit_range(unit)), f"seed {seed}")
    return num_written


def _write_unit(source: Cache, target: Cache, unit: Unit, commits: Sequence[Commit]) -> None:
    """Recode and commit one unit from those of the seed's `commits` that its rows are in."""
    rows = target.manifest.unit_range(unit[1])
    parts = [commit for commit in commits if commit.start in rows]
    records, share_clipped = _recoded(source, target, parts)
    facts = _facts(parts)
    if share_clipped is not None:
        facts["statistics"]["clipped"] = share_clipped
    commit_unit(target, *unit, records, **facts)


def _recoded(source: Cache, target: Cache, parts: Sequence[Commit]) -> tuple[Records, float | None]:
    """Return the records of one new unit, zeros of rows without one as after a dump, and the share
    of the others clipped; None of a codec that does not clip."""
    pieces: list[Records] = []
    clipped_pieces: list[Tensor] = []
    for commit in parts:
        for piece, is_clipped in _pieces(source, target, commit):
            pieces.append(piece)
            if is_clipped is not None:
                clipped_pieces.append(is_clipped)
    records = np.concatenate(pieces)
    present_rows = np.concatenate([source.held_rows(commit) for commit in parts])
    is_present = np.zeros(len(records), bool)
    is_present[present_rows - parts[0].start] = True
    records[~is_present] = np.zeros((), records.dtype)
    if not clipped_pieces:
        return records, None
    is_clipped_row = torch.cat(clipped_pieces).numpy()
    num_clipped = int(is_clipped_row[is_present].sum())
    return records, num_clipped / max(int(is_present.sum()), 1)


def _pieces(
    source: Cache, target: Cache, commit: Commit
) -> Iterator[tuple[Records, Tensor | None]]:
    """Yield the recoded records of one unit of the source and which are clipped, in pieces that are
    the same every time."""
    records = source.read_unit(commit)
    num_logits = target.manifest.layout.num_positions * target.manifest.row_width
    size = max(_LOGITS_AT_ONCE // num_logits, 1)
    for start in range(0, len(records), size):
        yield converted(source.codec, target.codec, records[start : start + size])


def _facts(parts: Sequence[Commit]) -> dict[str, Any]:
    """Return what the commits of the source say, for the commit of the unit that they go into."""
    absent: list[Absence] = []
    probes: list[Probe] = []
    statistics: list[tuple[dict[str, float], int]] = []
    for commit in parts:
        absent += commit.absent
        probes += commit.probes
        num_present = commit.stop - commit.start - len(commit.absent)
        statistics.append((commit.statistics, num_present))
    return {
        "absent": absent,
        "probes": probes,
        "statistics": mean_statistics(statistics),
        "versions": parts[0].versions,
    }


def _joined(commits: Mapping[int, Sequence[Commit]]) -> list[Commit]:
    """Return the commits of all seeds."""
    return list(itertools.chain.from_iterable(commits.values()))


def _num_absent(commits: Mapping[int, Sequence[Commit]]) -> int:
    """Return how many rows of all seeds are absent."""
    num_absent = 0
    for commit in _joined(commits):
        num_absent += len(commit.absent)
    return num_absent


def _size(cache: Cache, commits: Mapping[int, Sequence[Commit]]) -> dict[str, Any]:
    """Return the codec of a cache, and what these seeds take of its units: each seed of a unit an
    equal share."""
    num_bytes = 0
    for commit in _joined(commits):
        num_bytes += commit.num_bytes
    num_bytes //= cache.manifest.seeds_per_unit
    num_views = len(commits) * cache.manifest.num_held
    return {
        "codec": codec_spec(cache.codec),
        "bytes": num_bytes,
        "bytes_per_view": num_bytes / num_views,
    }
