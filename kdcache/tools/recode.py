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
    create_cache,
    library_versions,
    open_cache,
    record_layout,
)
from kdcache.cache.committing import commit_unit, require_written, start_seed
from kdcache.cache.coverage import ask_for, note_left_out
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.documents.parts import Absence, MadeBy, Probe, RecodedFrom
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.opening import open_storage, probe_new, require_apart
from kdcache.codec_error.calibration import fit_codec, sample_views
from kdcache.codec_error.samples import pairs_of_cache
from kdcache.codecs import (
    BasisCodec,
    Codec,
    RowCodec,
    codec_spec,
    open_codec,
    row_codec,
    with_layout,
)
from kdcache.codecs.conversion import converted, needs_scale, scale_of, why_not
from kdcache.config.arguments import checked_arguments
from kdcache.config.files import parse_seeds
from kdcache.dump.unit import tell_clipped
from kdcache.errors import CacheError, MismatchError, UsageError
from kdcache.runtime.console import progress, say
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.shapes import Records

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
    source = open_cache(cache)
    require_apart(new, [cache])
    wanted = open_codec(codec, classes=source.manifest.classes)
    commits = _commits(source, seeds)
    _require_possible(source, wanted)
    made = _create(source, new, wanted)
    ask_for(made, commits)
    start = time.monotonic()
    written = 0
    with heeding(lambda: f": {written} units written"):
        written = _write_units(source, made, commits)
        look()
    require_written(made, itertools.product(commits, range(made.manifest.num_units)))
    seconds = time.monotonic() - start
    made_commits = {seed: made.commits(seed) for seed in commits}
    tell_clipped(made, _joined(made_commits))
    return {
        "cache": str(made),
        "source": str(source),
        "seeds": list(commits),
        "rows": made.manifest.num_held,
        "units_written": written,
        "seconds": seconds,
        "absent": sum(len(commit.absent) for commit in _joined(commits)),
        "before": _size(source, commits),
        "after": _size(made, made_commits),
        "gradient_error": made.manifest.made_by.gradient_error,
        "origin_error": None if made.manifest.gradient_error else made.manifest.origin_error,
    }


def _scale(source: Cache, wanted: Codec) -> float:
    """Return what the cache's codec rounds logits to, over the rows of a unit; 0 where that does
    not matter."""
    if not needs_scale(source.codec, wanted):
        return 0.0
    first = int(source.is_held.argmax())  # of a subset a unit may hold none
    records = source.read_unit(
        source.commit_of(source.complete_seeds()[0], first // source.manifest.unit_rows)
    )
    return scale_of(source.codec, records)


def _require_possible(source: Cache, wanted: Codec) -> None:
    if reason := why_not(source.codec, wanted, _scale(source, wanted)):
        raise UsageError(
            f"cache {source} ({codec_spec(source.codec)}) cannot become {codec_spec(wanted)}:"
            f" {reason}"
        )


def _commits(source: Cache, seeds: str | None) -> dict[int, list[Commit]]:
    """Return the commits of the seeds asked for, or of all that are complete."""
    if seeds is not None:
        return {seed: source.commits(seed) for seed in parse_seeds(seeds)}
    complete = source.complete_seeds()
    if not complete:
        raise CacheError(
            f"cache {source} holds no complete seed; run its dump-teacher command again to"
            " finish one"
        )
    note_left_out(source, complete)
    return {seed: source.commits(seed) for seed in complete}


def _create(source: Cache, new: str | Path, wanted: RowCodec) -> Cache:
    """Return the new cache, made with a fit to a sample of the source's records, or as it is there
    already."""
    storage = open_storage(new)
    there = storage.exists(MANIFEST)
    if not there:
        probe_new(storage)  # before the time that a fit takes
    codec, errors = (open_cache(new).with_fit(wanted), {}) if there else _fitted(source, wanted)
    codec = with_layout(row_codec(codec), source.manifest.layout)
    manifest = _manifest(source, codec).with_errors(errors)
    listed = source.source_arrays()
    made = create_cache(new, manifest, codec.fit_arrays(), samples=source.samples, source=listed)
    origin = made.manifest.made_by.recoded_from
    if origin is None or origin.manifest != source.manifest.digest:
        raise MismatchError(f"cache {new} was not recoded from {source}; choose a new folder")
    return made


def _fitted(source: Cache, wanted: RowCodec) -> tuple[Codec, dict[float, float]]:
    """Return the codec with its fit, and its errors where the source tells."""
    exact = source.codec.is_exact
    if not (exact or isinstance(wanted, BasisCodec)):
        return wanted, {}
    pairs = pairs_of_cache(source, views=sample_views(wanted))
    if isinstance(wanted, BasisCodec) and wanted.error is not None and not pairs.differ:
        raise UsageError(
            f"{codec_spec(wanted)} needs two different views of a sample, and cache {source} does"
            " not hold them; dump another seed, or give step= or bytes="
        )
    rows = f"{len(pairs.teacher)} {_kind_of_rows(source)}"
    say(f"measuring codec {codec_spec(wanted)} on {rows} of {source}")
    fitted = fit_codec(wanted, pairs)
    _require_possible(source, fitted.codec)
    return fitted.codec, fitted.errors if exact else {}


def _kind_of_rows(source: Cache) -> str:
    """Return what each row of logits is of."""
    layout = source.manifest.layout
    if layout.maps:
        return "pixels"
    return "positions" if layout.sites else "views"


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


def _write_units(source: Cache, made: Cache, commits: Mapping[int, Sequence[Commit]]) -> int:
    """Recode and commit every unit that is missing, until the process is told to stop."""
    todo: list[Unit] = []
    for seed in commits:
        todo += [(seed, unit) for unit in made.missing_units(seed)]
    if todo:
        made.storage.probe()
    for seed in commits:
        start_seed(made, seed)
    written = 0
    num_views = sum(len(made.manifest.unit_range(unit)) for _, unit in todo)
    with progress("recode", num_views, "views") as bar:
        for seed, unit in until_stopped(todo):
            rows = made.manifest.unit_range(unit)
            # another recode into this cache may have been here
            if not made.is_committed(seed, unit):
                parts = [commit for commit in commits[seed] if commit.start in rows]
                records, clipped = _recoded(source, made, parts)
                facts = _facts(parts)
                if clipped is not None:
                    facts["statistics"]["clipped"] = clipped
                commit_unit(made, seed, unit, records, **facts)
                written += 1
            bar.advance(len(rows), f"seed {seed}")
    return written


def _recoded(source: Cache, made: Cache, parts: Sequence[Commit]) -> tuple[Records, float | None]:
    """Return the records of one new unit, zeros of rows without one as after a dump, and the share
    of the others clipped; None of a codec that does not clip."""
    pieces: list[Records] = []
    clipped: list[Tensor] = []
    for commit in parts:
        for piece, is_clipped in _pieces(source, made, commit):
            pieces.append(piece)
            if is_clipped is not None:
                clipped.append(is_clipped)
    records = np.concatenate(pieces)
    is_held = np.zeros(len(records), bool)
    is_held[np.concatenate([source.held_rows(commit) for commit in parts]) - parts[0].start] = True
    records[~is_held] = np.zeros((), records.dtype)
    if not clipped:
        return records, None
    num_clipped = int(torch.cat(clipped).numpy()[is_held].sum())
    return records, num_clipped / max(int(is_held.sum()), 1)


def _pieces(source: Cache, made: Cache, commit: Commit) -> Iterator[tuple[Records, Tensor | None]]:
    """Yield the recoded records of one unit of the source and which are clipped, in pieces that are
    the same every time."""
    records = source.read_unit(commit)
    num_logits = made.manifest.layout.num_positions * made.manifest.classes
    size = max(_LOGITS_AT_ONCE // num_logits, 1)
    for start in range(0, len(records), size):
        yield converted(source.codec, made.codec, records[start : start + size])


def _facts(parts: Sequence[Commit]) -> dict[str, Any]:
    """Return what the commits of the source say, for the commit of the unit that they go into."""
    absent: list[Absence] = []
    probes: list[Probe] = []
    told: list[tuple[dict[str, float], int]] = []
    for commit in parts:
        absent += commit.absent
        probes += commit.probes
        told.append((commit.statistics, commit.stop - commit.start - len(commit.absent)))
    return {
        "absent": absent,
        "probes": probes,
        "statistics": mean_statistics(told),
        "versions": parts[0].versions,
    }


def _joined(commits: Mapping[int, Sequence[Commit]]) -> list[Commit]:
    """Return the commits of all seeds."""
    return list(itertools.chain.from_iterable(commits.values()))


def _size(cache: Cache, commits: Mapping[int, Sequence[Commit]]) -> dict[str, Any]:
    size = sum(commit.num_bytes for commit in _joined(commits))
    return {
        "codec": codec_spec(cache.codec),
        "bytes": size,
        "bytes_per_view": size / (len(commits) * cache.manifest.num_held),
    }
