"""Recoding: another codec's cache from a finished one, without the teacher and without the
images."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache import (
    Cache,
    Commit,
    Manifest,
    create_cache,
    library_versions,
    open_cache,
    record_layout,
)
from kdcache.cache.coverage import ask_for, note_left_out
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.opening import open_objects, probe_new, require_apart
from kdcache.cache.writing import commit_unit, require_written, start_seed
from kdcache.codec_error.calibration import fit_codec, sample_views
from kdcache.codec_error.samples import pairs_of_cache
from kdcache.codecs import (
    Codec,
    Full,
    LowRank,
    MapCodec,
    RowCodec,
    TopK,
    codec_spec,
    fit_arrays,
    is_exact,
    open_codec,
    row_codec,
    with_sites,
)
from kdcache.config.files import parse_seeds
from kdcache.dump.unit import tell_clipped
from kdcache.errors import CacheError, MismatchError, UsageError
from kdcache.runtime.console import progress, say
from kdcache.runtime.stopping import heeding, look, until_asked
from kdcache.shapes import Records

_LOGITS_AT_ONCE = 2**24  # decoded together, 67 MB
_COARSE_TO_FINE = ("uint4", "uint8", "bfloat16", "float16", "float32")
_MANTISSA = {"float32": 10, "float16": 10}
_LOSSY_MANTISSA = 7


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
    tell_clipped(made, [commit for of_seed in made_commits.values() for commit in of_seed])
    return {
        "cache": str(made),
        "source": str(source),
        "seeds": list(commits),
        "rows": made.manifest.num_held,
        "units_written": written,
        "seconds": seconds,
        "absent": sum(len(commit.absent) for of_seed in commits.values() for commit in of_seed),
        "before": _size(source, commits),
        "after": _size(made, made_commits),
        "gradient_error": made.manifest.made_by["gradient_error"],
        "origin_error": None if made.manifest.gradient_error else made.manifest.origin_error,
    }


def why_not(held: Codec, wanted: Codec, scale: float = 0.0) -> str | None:
    """Return why records of `wanted` cannot be made from those of `held`, with the way out, or None
    if they can.

    They cannot if they would seem to know what `held` does not: classes that it dropped, or finer
    values than it kept. `scale` is what `full` in 8 or 4 bits rounds logits to: its records say,
    not its codec.
    """
    if codec_spec(held) == codec_spec(wanted):
        return "it has that codec already: copy the folder"
    if isinstance(wanted, TopK):
        return _why_not_topk(held, wanted)
    if isinstance(held, TopK):
        return (
            f"of {held.classes} classes it keeps the {held.k} largest: dump again, or choose topk"
            " with a smaller k"
        )
    return (
        _why_not_lowrank(held, wanted, scale)
        if isinstance(wanted, LowRank)
        else _why_not_full(held, wanted)
    )


def _why_not_full(held: Codec, wanted: Codec) -> str | None:
    if not (isinstance(held, Full) and isinstance(wanted, Full)):
        return (
            "its logits are quantised on a basis: dump again, or choose lowrank with a larger step,"
            " or topk"
        )
    rank = _COARSE_TO_FINE.index(held.dtype)
    if _COARSE_TO_FINE.index(wanted.dtype) <= rank:
        return None
    others = ", ".join(
        ["lowrank", "topk", *(f"full:dtype={dtype}" for dtype in _COARSE_TO_FINE[:rank])]
    )
    return (
        f"{wanted.dtype} is finer than the {held.dtype} it holds: dump again, or choose from"
        f" {others}"
    )


def _why_not_topk(held: Codec, wanted: TopK) -> str | None:
    if isinstance(held, TopK):
        if wanted.k > held.k:
            return (
                f"it keeps {held.k} logits, not {wanted.k}: dump again, or choose k up to {held.k}"
            )
        if wanted.tau != held.tau:
            return (
                f"the mass of its tail is exact at tau {held.tau:g} only: dump again, or give"
                f" tau={held.tau:g}"
            )
        most = held.mantissa
    else:
        most = (
            _MANTISSA.get(held.dtype, _LOSSY_MANTISSA)
            if isinstance(held, Full)
            else _LOSSY_MANTISSA
        )
    if wanted.mantissa > most:
        return (
            f"it does not hold {wanted.mantissa} bits of each logit: dump again, or give"
            f" mantissa={most} or less"
        )
    return None


def _why_not_lowrank(held: Codec, wanted: LowRank, scale: float) -> str | None:
    if wanted.error is not None and not is_exact(held):
        return (
            "an error is measured against exact logits, which it does not hold: give step= or"
            " bytes="
        )
    step = wanted.fitted.step if wanted.fitted else wanted.step
    if isinstance(held, LowRank) and held.fitted and step is not None and step <= held.fitted.step:
        own = f"{held.fitted.step:.3g}"
        return (
            f"step {step:.3g} is no coarser than its own, {own}: dump again, or give a larger step"
            " or fewer bytes"
        )
    if isinstance(held, Full) and step is not None and step < scale:
        rounds = f"the {scale:.3g} that {held.dtype} rounds its logits to"
        return (
            f"step {step:.3g} is finer than {rounds}: dump again, or give a larger step or fewer"
            " bytes"
        )
    return None


def _scale(source: Cache) -> float:
    """Return what a cache of `full` in 8 or 4 bits rounds logits to, the median over the rows of a
    unit; of others 0."""
    codec = source.codec
    if "scale" not in (row_codec(codec).record_dtype.names or ()):
        return 0.0
    first = int(source.is_held.argmax())  # of a subset a unit may hold none
    records = source.read_unit(
        source.commit_of(source.complete_seeds()[0], first // source.manifest.unit_rows)
    )
    scales = (codec.row_records(records) if isinstance(codec, MapCodec) else records)["scale"]
    present = scales[scales > 0]  # absent rows hold zeros
    return float(np.median(present)) if len(present) else 0.0


def _require_possible(source: Cache, wanted: Codec) -> None:
    if reason := why_not(
        row_codec(source.codec), wanted, _scale(source) if isinstance(wanted, LowRank) else 0.0
    ):
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
    objects = open_objects(new)
    there = objects.exists(MANIFEST)
    if not there:
        probe_new(objects)  # before the time that a fit takes
    codec, errors = (open_cache(new).with_fit(wanted), {}) if there else _fitted(source, wanted)
    codec = with_sites(row_codec(codec), source.manifest.sites)
    manifest = _manifest(source, codec).with_errors(errors)
    listed = source.source_arrays()
    made = create_cache(new, manifest, fit_arrays(codec), samples=source.samples, source=listed)
    if made.manifest.made_by.get("recoded_from", {}).get("manifest") != source.manifest.digest:
        raise MismatchError(f"cache {new} was not recoded from {source}; choose a new folder")
    return made


def _fitted(source: Cache, wanted: RowCodec) -> tuple[Codec, dict[float, float]]:
    """Return the codec with its fit, and its errors where the source tells."""
    exact = is_exact(source.codec)
    if not (exact or isinstance(wanted, LowRank)):
        return wanted, {}
    pairs = pairs_of_cache(source, views=sample_views(wanted))
    if isinstance(wanted, LowRank) and wanted.error is not None and not pairs.differ:
        raise UsageError(
            f"{codec_spec(wanted)} needs two different views of a sample, and cache {source} does"
            " not hold them; dump another seed, or give step= or bytes="
        )
    what = "pixels" if source.manifest.sites else "views"
    say(f"measuring codec {codec_spec(wanted)} on {len(pairs.teacher)} {what} of {source}")
    fitted = fit_codec(wanted, pairs)
    _require_possible(source, fitted.codec)
    return fitted.codec, fitted.errors if exact else {}


def _manifest(source: Cache, codec: Codec) -> Manifest:
    manifest = source.manifest
    layout = record_layout(codec, manifest.rows)
    if layout["unit_rows"] % manifest.unit_rows:
        layout = record_layout(codec, manifest.rows, manifest.unit_rows)
    origin = {
        "codec": codec_spec(source.codec),
        "manifest": manifest.digest,
        "made_by": manifest.made_by,
    }
    made_by = {
        "versions": library_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recoded_from": origin,
    }
    store: dict[str, Any] = {"store": "zarr", "seeds_per_unit": 1, "has_images": False}
    return dataclasses.replace(manifest, **layout, **store, made_by=made_by)


def _write_units(source: Cache, made: Cache, commits: Mapping[int, Sequence[Commit]]) -> int:
    """Recode and commit every unit that is missing, until the process is told to stop."""
    todo = [(seed, unit) for seed in commits for unit in made.missing_units(seed)]
    if todo:
        made.objects.probe()
    for seed in commits:
        start_seed(made, seed)
    written = 0
    with progress(
        "recode", sum(len(made.manifest.unit_range(unit)) for _, unit in todo), "views"
    ) as bar:
        for seed, unit in until_asked(todo):
            rows = made.manifest.unit_range(unit)
            # another recode into this cache may have been here
            if not made.is_committed(seed, unit):
                parts = [commit for commit in commits[seed] if commit.start in rows]
                records, clipped = _recoded(source, made, parts)
                facts = _facts(parts)
                if isinstance(made.codec, LowRank):
                    facts["statistics"]["clipped"] = clipped
                commit_unit(made, seed, unit, records, **facts)
                written += 1
            bar.advance(len(rows), f"seed {seed}")
    return written


def _recoded(source: Cache, made: Cache, parts: Sequence[Commit]) -> tuple[Records, float]:
    """Return the records of one new unit, zeros of rows without one as after a dump, and the share
    of the others clipped."""
    pieces = [piece for commit in parts for piece in _pieces(source, made, commit)]
    records, clipped = (np.concatenate(of_all) for of_all in zip(*pieces, strict=True))
    is_gone = np.ones(len(records), bool)
    is_gone[np.concatenate([source.held_rows(commit) for commit in parts]) - parts[0].start] = False
    records[is_gone], clipped[is_gone] = np.zeros((), records.dtype), False
    return records, float(clipped.sum()) / max(int((~is_gone).sum()), 1)


def _pieces(source: Cache, made: Cache, commit: Commit) -> Iterator[tuple[Records, np.ndarray]]:
    """Yield the recoded records of one unit of the source and which are clipped, in pieces that are
    the same every time."""
    records = source.read_unit(commit)
    held = source.codec
    wanted = made.codec
    size = max(
        _LOGITS_AT_ONCE // math.prod([made.manifest.classes, *(made.manifest.sites or [])]), 1
    )
    for start in range(0, len(records), size):
        piece = records[start : start + size]
        clipped = np.zeros(len(piece), bool)
        if isinstance(held, TopK) and isinstance(wanted, TopK):
            yield wanted.cut(piece, held), clipped
        elif (
            isinstance(held, MapCodec)
            and isinstance(wanted, MapCodec)
            and isinstance(held.rows, TopK)
        ):
            assert isinstance(wanted.rows, TopK), "of what topk holds nothing else can be made"
            yield wanted.of_rows(wanted.rows.cut(held.row_records(piece), held.rows)), clipped
        else:
            logits = held.decode(piece).logits()
            yield (
                wanted.encode(logits),
                wanted.clipped(logits).numpy() if isinstance(wanted, LowRank) else clipped,
            )


def _facts(parts: Sequence[Commit]) -> dict[str, Any]:
    """Return what the commits of the source say, for the commit of the unit that they go into."""
    told = [
        (commit.statistics, commit.stop - commit.start - len(commit.absent)) for commit in parts
    ]
    return {
        "absent": [entry for commit in parts for entry in commit.absent],
        "probes": [probe for commit in parts for probe in commit.probes],
        "statistics": mean_statistics(told),
        "versions": parts[0].versions,
    }


def _size(cache: Cache, commits: Mapping[int, Sequence[Commit]]) -> dict[str, Any]:
    size = sum(commit.num_bytes for of_seed in commits.values() for commit in of_seed)
    return {
        "codec": codec_spec(cache.codec),
        "bytes": size,
        "bytes_per_view": size / (len(commits) * cache.manifest.num_held),
    }
