"""How fast a device is at losses, training steps, epochs, dumps, and ways to run a model."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from device_counts import counted
from gpu_bench import Bench, Row, Rows
from measure import interleave, spread
from torch import Tensor

from kdcache.cache import Cache, create_cache
from kdcache.cache.committing import start_seed
from kdcache.codecs import open_codec
from kdcache.codecs.registry import CODECS
from kdcache.dump.engines.process import run_in_process
from kdcache.dump.job import Job, prepare
from kdcache.dump.run import DumpConfig
from kdcache.losses import open_loss
from kdcache.shapes import Labels
from kdcache.soft_targets import DenseTargets, SoftTargets
from kdcache.tasks import open_task
from kdcache.train.run import Trainer
from kdcache.train.side_by_side import StudentRun, train_epoch
from kdcache.views import ViewLoader

LABELS = "ce"
DIST = "dist:tau=1,beta=2,gamma=2"
LOSSES = (DIST, "kl:tau=4")
CACHED = ("full:dtype=float16", "topk:k=10", "lowrank:step=2,views=256")
FEATURES = 256
SAMPLE = 512
"""Axes of the logits, and rows that codecs are fitted to."""


def losses(bench: Bench, *, rows: int, classes: int) -> Rows:
    """Yield what DIST, KL and cross-entropy take, forward and backward, from decoded rows."""
    generator = torch.Generator().manual_seed(0)
    features = min(FEATURES, classes)
    head = torch.randn(features, classes, generator=generator) / features**0.5
    teacher = 3 * torch.randn(rows, features, generator=generator) @ head
    student = (teacher + torch.randn(rows, classes, generator=generator)).to(bench.device)
    targets = torch.randint(classes, (rows,), generator=generator).to(bench.device)
    none = DenseTargets(student)
    yield {
        "codec": "none",
        "decode, ms": 0.0,
        **_loss_columns(bench, student, targets, teacher=none, spec=LABELS),
    }
    for spec in _codecs_for(classes):
        codec = open_codec(spec, classes=classes).fit(teacher[:SAMPLE])
        records = codec.encode(teacher.to(bench.device))
        decode = partial(codec.decode, records, bench.device)
        columns = {"codec": spec, "decode, ms": bench.milliseconds(decode)}
        for loss in LOSSES:
            yield {
                **columns,
                **_loss_columns(bench, student, targets, teacher=decode(), spec=loss),
            }


def _codecs_for(classes: int) -> list[str]:
    k = min(10, classes // 4)
    specs = ["full:dtype=float16", f"topk:k={k}", "lowrank:step=2", "cosine"]
    return [spec for spec in specs if classes <= CODECS[spec.partition(":")[0]].most_classes]


def _loss_columns(
    bench: Bench, student: Tensor, targets: Tensor, *, teacher: SoftTargets, spec: str
) -> Row:
    loss = open_loss(spec)
    task = open_task("classification")
    logits = student.clone().requires_grad_()

    def call() -> None:
        terms = task.terms(loss, logits, teacher, Labels(targets), label_smoothing=0.0)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        logits.grad = None  # which would count as there before

    return {
        "loss": spec,
        "loss, ms": bench.milliseconds(call),
        "peak, MB": bench.peak_megabytes(call),
        **counted(call, bench.device).columns(1),
    }


def training_steps(bench: Bench) -> Rows:
    """Yield what a step of the trainer takes, and asks of the device, on one batch again and
    again."""
    settings = {"labels only": {"loss": LABELS}}
    for codec in CACHED:
        settings[f"DIST, {codec}"] = {"loss": DIST, "cache": bench.cache(codec)}
    for name, changes in settings.items():
        with bench.trainer(**changes) as trainer:
            step = step_of(trainer)
            took = bench.milliseconds(step)
            yield {"step": name, "ms": took, **counted(step, bench.device).columns(1)}


def step_of(trainer: Trainer) -> Callable[[], None]:
    """Return what takes a step on a batch that was rendered: it is moved, joined with soft targets,
    and trained on."""
    trainer.lead()
    trainer.loader.start_epoch()
    trainer.start_epoch()
    batch = next(trainer.loader.rendered())

    def step() -> None:
        trainer.train_step([trainer.loader.placed(batch)])

    return step


def dumped_batches(bench: Bench) -> Rows:
    """Yield what a batch of a dump asks of the device: a dump of two seeds less one of a single
    seed, so that what is done once is left out."""
    for codec in CACHED:
        views = 8 * bench.sizes.batch
        job, cache = _job(bench, bench.sizes.dumped[0], codec, views)
        run_seeds(job, cache, [0])
        one = counted(_Seeds(job, cache, count=1, first=1000), bench.device)
        two = counted(_Seeds(job, cache, count=2, first=2000), bench.device)
        unit_batches = -(-cache.manifest.unit_rows // bench.sizes.batch)
        yield {"codec": codec, **(two - one).columns(cache.manifest.num_units * unit_batches)}


class _Seeds:
    """Dumps so many seeds at each call, always new ones."""

    def __init__(self, job: Job, cache: Cache, *, count: int, first: int) -> None:
        self._job = job
        self._cache = cache
        self._count = count
        self._next = first

    def __call__(self) -> None:
        seeds = list(range(self._next, self._next + self._count))
        self._next += self._count
        run_seeds(self._job, self._cache, seeds)


def run_seeds(job: Job, cache: Cache, seeds: list[int]) -> None:
    """Dump these seeds of an opened job."""
    for seed in seeds:
        start_seed(cache, seed)
    run_in_process(replace(job, seeds=seeds), cache)


def _job(bench: Bench, model: str, codec: str, views: int) -> tuple[Job, Cache]:
    """Return a dump made ready, and its new cache."""
    config = DumpConfig(
        cache=str(bench.folder / f"dump-{time.monotonic_ns()}"),
        teacher=bench.teacher(model),
        recipe=bench.recipe,
        codec=codec,
        unit_rows=views // 2,
        **{**bench.common, **bench.best, "data": bench.data(views)},
    )
    job = prepare(config)
    return job, create_cache(config.cache, job.manifest, job.codec.fit_arrays())


def dump(bench: Bench, *, model: str) -> Rows:
    """Yield the rates of a dump, of bare inference over the same views, and of the teacher on
    views that are there."""
    views = bench.sizes.dumped_views
    job, cache = _job(bench, model, CACHED[0], views)
    teacher = job.compute.place(job.teacher).eval()
    seeds = iter(range(10**6))

    def loader(count: int) -> ViewLoader:
        seed = next(seeds)
        requests = [
            [(row, seed) for row in range(start, min(start + bench.sizes.batch, views))]
            for start in range(0, count, bench.sizes.batch)
        ]
        return ViewLoader(
            job.dataset(cache),
            requests,
            workers=bench.sizes.workers,
            pin_memory=job.compute.pin_memory,
        )

    def bare(batches: Any) -> None:
        with torch.inference_mode(), job.compute.autocast():
            for batch in batches:
                teacher(job.compute.move(batch.views[0]))
        bench.wait()

    rendered = list(loader(bench.sizes.batch)) * -(-views // bench.sizes.batch)
    variants: dict[str, Callable[[int], object]] = {
        "dump": lambda _: run_seeds(job, cache, [next(seeds)]),
        "bare": lambda _: bare(loader(views)),
        "teacher alone": lambda _: bare(rendered),
    }
    times = interleave(variants, bench.sizes.repetitions)
    for name, seconds in times.items():
        ratio = times["bare"][:, 0] / seconds[:, 0]
        rate = views / seconds[:, 0]
        yield {"what": name, "views/s": spread(rate), "rate / bare": spread(ratio)}


class _LastEpoch:
    """Keeps the last line of metrics."""

    line: Mapping[str, Any]

    def write(self, line: Mapping[str, Any]) -> None:
        self.line = line


def epochs(bench: Bench) -> Rows:
    """Yield the time of epochs of one student on labels, from caches, and with the teacher in the
    loop, in turns."""
    teacher = bench.teacher(bench.sizes.teacher)
    settings: dict[str, dict[str, Any]] = {"labels only": {"loss": LABELS}}
    for codec in CACHED:
        settings[f"DIST, {codec}"] = {"loss": DIST, "cache": bench.cache(codec)}
    settings["DIST, teacher in the loop"] = {"loss": DIST, "teacher": teacher}
    lines = {name: _LastEpoch() for name in settings}
    variants: dict[str, Callable[[int], object]] = {}
    with ExitStack() as stack:
        for name, changes in settings.items():
            trainer = stack.enter_context(bench.trainer(**bench.best, **changes))
            run = StudentRun(trainer, lines[name])
            variants[name] = partial(_epoch, bench, run)
        times = interleave(variants, bench.sizes.repetitions)
    for name, seconds in times.items():
        line = lines[name].line
        yield {
            "what": name,
            "views/s": spread(bench.sizes.views / seconds[:, 0]),
            "time / labels only": spread(seconds[:, 0] / times["labels only"][:, 0]),
            "waits for views": line["data_seconds"] / line["seconds"],
            "reads the cache": line["cache_seconds"] / line["seconds"],
        }


def _epoch(bench: Bench, run: StudentRun, _: int) -> None:
    train_epoch([run])
    bench.wait()


def ways(bench: Bench, *, compiled: bool = False) -> Rows:
    """Yield the time of a training step for each way to run the student."""
    best = {"precision": "bfloat16", "channels_last": True}
    all_options: list[dict[str, Any]] = [{}, {"precision": "bfloat16"}, {"channels_last": True}]
    all_options.append(best)
    if compiled:
        all_options = [{**best, "compile": True}]
    for options in all_options:
        yield _way_row(bench, options)


def _way_row(bench: Bench, options: Mapping[str, Any]) -> Row:
    compute = replace(bench.compute.config, **options)
    cache = bench.cache(CACHED[0])
    with bench.trainer(loss=DIST, cache=cache, compute=compute) as trainer:
        step = step_of(trainer)
        start = time.perf_counter()
        step()
        bench.wait()
        first = time.perf_counter() - start
        took = bench.milliseconds(step)
        return {
            "way": ", ".join(f"{name} {value}" for name, value in options.items()) or "float32",
            "step, ms": took,
            "views/s": 1000 * bench.sizes.batch / took["median"],
            "peak, MB": bench.peak_megabytes(step),
            "first step, s": first,
        }
