"""The dump: run the teacher once over every view that is missing, and commit its records unit by unit."""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcache.cache import Cache, Commit, Manifest, create_cache, library_versions, open_cache, record_layout
from kdcache.cache.objects import open_objects
from kdcache.calibration import DEFAULT_ERROR, Fitted, fit_codec, fit_default, sample_views
from kdcache.codecs import Codec, LowRank, codec_spec, default_codec, fit_arrays, is_exact, open_codec
from kdcache.compute import Compute, ComputeConfig
from kdcache.config import dump_config, parse_seeds
from kdcache.errors import CodecError, MismatchError, UnreadableSampleError, UsageError
from kdcache.fidelity import fitted_gradients
from kdcache.gradients import is_far
from kdcache.inference import run_models
from kdcache.models import VisionModel, open_model, state_sha256
from kdcache.pairs import pairs_of_models
from kdcache.rerun import lossy_origin
from kdcache.shapes import Logits, Records
from kdcache.sources import Source, open_source
from kdcache.tracking import progress, say, steady_rate
from kdcache.units import UnitMaker
from kdcache.views import Batch, Recipe, ViewDataset, ViewLoader, in_pairs, load_recipe, partners
from kdcache.views.loading import Request

PLAN_BATCHES, PLAN_SECONDS = 16, 10.0
_EXACT_VIEWS = 512  # that a plan measures an exact codec on, for the last bits of its floats


@dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """What `dump-teacher` does."""

    cache: str
    """Folder of the cache."""
    data: str
    """Spec of the source."""
    teacher: str
    """Spec of the teacher, with its weights."""
    teacher_classes: int | None = None
    """Classes of the teacher, where they are not those of the data; students then need a map of classes."""
    recipe: str
    """A shipped recipe's name, or a TOML file."""
    seeds: str = "0:1"
    """Augmentation seeds, `A:B` with B left out."""
    codec: str | None = None
    """Spec of the codec; by default that of the cache, or of a new one what `default_codec` and `fit_default` choose."""
    batch_size: int = 256
    unit_rows: int | None = None
    """Rows per unit; by default a power of two near 4 MB."""
    order_seed: int = 0
    """Key of the permutation from samples to rows."""
    skip_unreadable: bool = False
    """Record samples that cannot be read as absent, instead of stopping."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "unit_rows", "teacher_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.order_seed < 2**32:
            raise UsageError(f"order_seed is {self.order_seed}; it must be from 0 to 2^32 - 1")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dump made ready: everything opened and checked, nothing written."""

    config: DumpConfig
    seeds: list[int]
    source: Source
    recipe: Recipe
    teacher: VisionModel
    compute: Compute
    codec: Codec
    """With its fit, if it needs one."""
    fitted: Fitted | None
    """How it was fitted and measured, unless the cache was there before, or the codec is exact and this no plan."""
    manifest: Manifest

    def dataset(self, cache: Cache) -> ViewDataset:
        """Return the views of the teacher's input size."""
        size = self.teacher.preprocessing.size
        return ViewDataset(self.source, self.recipe, cache.order, sizes=[size], skip_unreadable=self.config.skip_unreadable)

    def loader(self, cache: Cache, requests: Iterable[Request]) -> ViewLoader:
        """Return the loader of the views asked for."""
        return ViewLoader(
            self.dataset(cache),
            requests,
            workers=self.config.compute.workers,
            pin_memory=self.compute.pin_memory,
        )

    def unit(self, cache: Cache, seed: int, unit: int) -> UnitMaker:
        """Return a unit in the making."""
        return UnitMaker(cache, self.dataset(cache), seed=seed, unit=unit, is_scored=self.config.teacher_classes is None)


def prepare(config: DumpConfig, *, measures_exact: bool = False) -> Job:
    """Return the job that `config` describes; a codec that is exact is measured only if that is asked for.

    Raises:
        KdcacheError: anything in it that is absent, unknown or does not fit together.
    """
    seeds = parse_seeds(config.seeds)
    compute = Compute(config.compute)
    recipe = load_recipe(config.recipe)
    source = open_source(config.data)
    classes = config.teacher_classes or source.classes
    teacher = open_model(config.teacher, classes=classes, recipe=recipe, trained=True)
    held = open_cache(config.cache) if open_objects(config.cache).exists("zarr.json") else None
    spec = config.codec or default_codec(classes)
    codec = _held_codec(held, config.codec, classes) if held else open_codec(spec, classes=classes)
    measures = held is None and (measures_exact or not is_exact(codec))
    fitted = _fitted(config, codec, source, recipe, teacher) if measures else None
    codec = fitted.codec if fitted else codec
    errors = fitted.errors if fitted else held.manifest.gradient_error if held else {}
    return Job(
        config=config,
        seeds=seeds,
        source=source,
        recipe=recipe,
        teacher=teacher,
        compute=compute,
        codec=codec,
        fitted=fitted,
        manifest=_manifest(config, source, recipe, teacher, codec).with_errors(errors),
    )


def _held_codec(cache: Cache, spec: str | None, classes: int) -> Codec:
    """Return the codec that is asked for, with the fit of the cache, or the cache's own if none is."""
    _require_direct(cache)
    return cache.codec if spec is None else cache.with_fit(open_codec(spec, classes=classes))


def _fitted(config: DumpConfig, codec: Codec, source: Source, recipe: Recipe, teacher: VisionModel) -> Fitted:
    """Return the codec fitted to, and measured on, a sample of the teacher's own views."""
    views = min(_EXACT_VIEWS if is_exact(codec) else sample_views(codec), 2 * len(source))
    say(f"measuring codec {codec_spec(codec)} on {views} views of the teacher")
    settings: dict[str, Any] = {"batch_size": config.batch_size, "order_seed": config.order_seed}
    pairs = pairs_of_models([teacher], source, recipe, views=views, compute=Compute(config.compute), **settings)
    if config.codec is not None or not isinstance(codec, LowRank):
        return fit_codec(codec, pairs)
    fitted = fit_default(codec, pairs)
    if codec_spec(fitted.codec) != codec_spec(codec):
        _tell_choice(fitted)
    return fitted


def _tell_choice(fitted: Fitted) -> None:
    """Say which codec was taken in the place of the usual default, and why."""
    coarser = "no coarser step" if isinstance(fitted.codec, LowRank) else "no step of lowrank"
    turned = f", which turns DIST's gradient by {_told(fitted.errors)} of its norm" if fitted.errors else ""
    why = f"{coarser} keeps that within {100 * DEFAULT_ERROR:.0f} % on this teacher"
    say(f"note: codec {codec_spec(fitted.codec)} is taken{turned}; {why}")


def _tell_error(manifest: Manifest, codec: Codec) -> None:
    """Say how far the records turn DIST's gradient, where it is far."""
    if far := {tau: error for tau, error in manifest.gradient_error.items() if is_far(error, codec)}:
        turned = f"turns DIST's gradient by {_told(far)} of its norm on this teacher"
        say(f"note: codec {codec_spec(codec)} {turned}; kdcache fidelity shows what other codecs do")


def _told(errors: Mapping[float, float]) -> str:
    return ", ".join(f"{100 * error:.0f} % at tau {tau:g}" for tau, error in errors.items())


def _require_direct(cache: Cache) -> None:
    """Raise a MismatchError if the cache was recoded from a lossy one: records of a dump would be others than its own."""
    if origin := lossy_origin(cache):
        raise MismatchError(
            f"cache {cache.folder} was recoded from {origin}, so that its records are not those of a dump; "
            "add the seeds to the cache that it came from, and run recode again"
        )


def _manifest(config: DumpConfig, source: Source, recipe: Recipe, teacher: VisionModel, codec: Codec) -> Manifest:
    preprocessing = teacher.preprocessing
    return Manifest(
        task="classification",
        classes=config.teacher_classes or source.classes,
        rows=len(source),
        source={"spec": source.spec, "fingerprint": source.fingerprint},
        order_seed=config.order_seed,
        recipe=recipe.to_dict(),
        teacher={
            "spec": teacher.spec,
            "architecture": teacher.architecture,
            "sha256": state_sha256(teacher.module),
            "size": preprocessing.size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "precision": config.compute.precision,
        },
        **record_layout(codec, len(source), config.unit_rows, block=recipe.mixing.block if recipe.mixing else 1),
        skip_unreadable=config.skip_unreadable,
        made_by={
            "versions": library_versions(),
            "config": dump_config(config, "dump-teacher"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def dump_teacher(config: DumpConfig) -> dict[str, Any]:
    """Write every unit of the seeds that the cache lacks; run again, it goes on where it stopped.

    Returns:
        `cache`, `seeds`, `rows` per seed, `units_written` now, `seconds` they took, and over all units of these seeds: `bytes`,
        `bytes_per_view`, `teacher_accuracy` in percent (None if its classes are others) and the number of `absent` rows.

    Raises:
        MismatchError: the cache was made with other settings.
        KdcacheError: bad input, unwritable cache, NaN logits; what was committed stays.
    """
    job = prepare(config)
    _tell_error(job.manifest, job.codec)
    cache = create_cache(config.cache, job.manifest, fit_arrays(job.codec))
    todo = [(seed, unit) for seed in job.seeds for unit in cache.missing_units(seed)]
    for seed in job.seeds:
        cache.start_seed(seed)
    start = time.monotonic()
    written = _write_units(job, cache, todo) if todo else 0
    seconds = time.monotonic() - start
    commits = [commit for seed in job.seeds for commit in cache.commits(seed)]
    summary = _summary(job, cache, commits)
    chance, accuracy = 100 / job.source.classes, summary["teacher_accuracy"]
    if accuracy is not None and accuracy < 2 * chance and job.source.classes > 2:
        say(
            f"note: the teacher is right on {accuracy:.1f} % of these views, chance is {chance:.1f} %: "
            "are its weights loaded, and are its classes those of the data?"
        )
    return {"units_written": written, "seconds": seconds, **summary}


def plan_dump(config: DumpConfig) -> dict[str, Any]:
    """Return what the dump would take, from a timed probe of a few batches; nothing is written.

    Returns:
        `views`, `units`, `files`, `bytes`, `bytes_per_view`, `seconds`, `views_per_second`, `free_bytes`, how many
        `units_done` are there already, the `codec`, the error of DIST's gradient from its records by temperature, as the
        manifest has it where the cache is there already, `gradients` as `fidelity` has them (empty there), and the
        `teacher_accuracy` in percent on the probe's views.
    """
    job = prepare(config, measures_exact=True)
    cache = Cache(open_objects(config.cache), job.manifest, job.codec)
    if cache.folder.exists("zarr.json"):
        cache = open_cache(config.cache)
        cache.require(job.manifest)
    manifest, fit = job.manifest, fit_arrays(job.codec)
    done = sum(manifest.num_units - len(cache.missing_units(seed)) for seed in job.seeds)
    first = _views(job, manifest.unit_range(0), job.seeds[0])[: PLAN_BATCHES * config.batch_size]
    probe, times, parts = job.unit(cache, job.seeds[0], 0), [time.monotonic()], []
    for batch, logits, records in _records(job, cache, _batches(first, config.batch_size)):
        probe.add(batch, logits, records)
        times.append(time.monotonic())
        parts.append(records)
        if times[-1] - times[0] > PLAN_SECONDS:
            break
    rate = steady_rate(times, [len(part) for part in parts])
    bytes_per_view = len(cache.encode_unit(0, np.concatenate(parts))) / sum(map(len, parts))
    views = manifest.rows * len(job.seeds)
    left = views * (1 - done / (manifest.num_units * len(job.seeds)))
    return {
        "views": views,
        "units": manifest.num_units * len(job.seeds),
        "units_done": done,
        "files": 2 + len(job.seeds) * (2 * manifest.num_units + 2) + (2 + 2 * len(fit) if fit else 0),
        "bytes": round(views * bytes_per_view),
        "bytes_per_view": bytes_per_view,
        "seconds": left / rate,
        "views_per_second": rate,
        "codec": codec_spec(job.codec),
        "gradient_error": job.manifest.made_by["gradient_error"],
        "gradients": fitted_gradients(job.fitted) if job.fitted else [],
        "teacher_accuracy": probe.statistics.get("accuracy"),
        "free_bytes": shutil.disk_usage(_existing_parent(Path(config.cache))).free,
    }


def _write_units(job: Job, cache: Cache, todo: Sequence[tuple[int, int]]) -> int:
    """Compute and commit the units of `todo`; one unit is being committed while the next is computed."""
    manifest = cache.manifest
    written = 0
    current: UnitMaker | None = None
    pending: Future[Commit] | None = None
    total = sum(len(manifest.unit_range(unit)) for _, unit in todo)
    with progress("dump", total, "views") as bar, ThreadPoolExecutor(1, "kdcache-commit") as committer:
        for batch, logits, records in _records(job, cache, _unit_requests(job, cache, todo)):
            if current is None:
                seed, unit = int(batch.seeds[0]), int(batch.rows[0]) // manifest.unit_rows
                current = job.unit(cache, seed, unit)
            current.add(batch, logits, records)
            bar.advance(len(records), f"seed {current.seed}")
            if current.is_complete:
                if pending is not None:
                    pending.result()
                pending, current = committer.submit(current.commit), None
                written += 1
        if pending is not None:
            pending.result()
    return written


def _unit_requests(job: Job, cache: Cache, todo: Sequence[tuple[int, int]]) -> Iterator[Request]:
    """Yield the batches of each unit; a batch never crosses units, so that a unit is computed the same way every time."""
    for seed, unit in todo:
        if not cache.is_committed(seed, unit):  # another dump of this cache may have been here
            yield from _batches(_views(job, cache.manifest.unit_range(unit), seed), job.config.batch_size)


def _views(job: Job, rows: range, seed: int) -> list[tuple[int, int]]:
    """Return (row, seed) of `rows`, with the two of a pair that is mixed side by side, so that each image is drawn once."""
    ordered = np.arange(rows.start, rows.stop)
    if job.recipe.mixing:
        ordered = in_pairs(ordered, partners(len(job.source), job.recipe.mixing, job.recipe.key, seed))
    return [(int(row), seed) for row in ordered]


def _batches(views: Sequence[tuple[int, int]], size: int) -> Iterator[Request]:
    yield from (views[start : start + size] for start in range(0, len(views), size))


def _records(job: Job, cache: Cache, requests: Iterable[Request]) -> Iterator[tuple[Batch, Logits, Records]]:
    """Yield each batch with its logits, on the host, and records."""
    for batch, (logits,) in run_models([job.teacher], _readable(job.loader(cache, requests)), job.compute):
        yield batch, logits, _encode(job, cache, batch, logits)


def _readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except UnreadableSampleError as error:
        raise UnreadableSampleError(f"{error}, or dump with --skip-unreadable to record it as absent") from error


def _encode(job: Job, cache: Cache, batch: Batch, logits: Logits) -> Records:
    try:
        return cache.codec.encode(logits)
    except CodecError as error:
        wrong = (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist()
        if not wrong:
            raise
        row = int(batch.rows[wrong[0]])
        key = job.source.key(int(cache.order[row]))
        raise CodecError(
            f"teacher {job.teacher.spec} gives NaN or infinite logits for sample {key} (row {row}, "
            f"seed {int(batch.seeds[0])}); check its weights, and its precision (float16 overflows past 65,504)"
        ) from error


def _summary(job: Job, cache: Cache, commits: Sequence[Commit]) -> dict[str, Any]:
    size = sum(commit.num_bytes for commit in commits)
    rows = sum(commit.stop - commit.start for commit in commits)
    counted = [commit.stop - commit.start - len(commit.absent) for commit in commits]
    correct = sum(commit.statistics.get("accuracy", 0.0) * count for commit, count in zip(commits, counted, strict=True))
    accuracy = correct / max(sum(counted), 1) if job.config.teacher_classes is None else None
    return {
        "cache": str(cache.folder),
        "seeds": job.seeds,
        "rows": cache.manifest.rows,
        "bytes": size,
        "bytes_per_view": size / rows,
        "teacher_accuracy": accuracy,
        "absent": sum(len(commit.absent) for commit in commits),
    }


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing_parent(path.parent)
