"""Training a student, from a cache, with a teacher in the loop, or on labels only."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.checkpoint import held_folder, load_checkpoint, make_folder, replace_file, save_checkpoint
from kdcache.codecs import Tail
from kdcache.compute import Compute, ComputeConfig
from kdcache.config import config_differences, dump_config, load_config, parse_seeds
from kdcache.drift import check_views
from kdcache.errors import KdcacheError, MismatchError, UsageError
from kdcache.losses import Loss, open_loss
from kdcache.models import VisionModel, open_model
from kdcache.optim import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from kdcache.sampler import EpochSampler, epoch_rows, num_steps
from kdcache.sources import Source, open_source
from kdcache.tasks.classification import Score, task_loss
from kdcache.teachers import CachedTeacher, NoTeacher, OnlineTeacher, Teacher, check_records
from kdcache.tracking import Clock, MetricsFile, progress, read_metrics, say
from kdcache.views import Batch, Recipe, ViewDataset, ViewLoader, load_recipe, row_order, seed_generators

DRIFT_VIEWS = 8
_FREE = ("compute.workers", "compute.device", "log_steps", "run")
_PLACES = ("data", "eval_data", "cache")
"""Where things lie may change between a run and its resume; that they are the same is checked by their fingerprints."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `train-student` does."""

    run: str
    """Folder of the run."""
    data: str
    """Spec of the source; with a cache, the one that it was made from."""
    student: str
    """Spec of the student."""
    loss: str = "dist:tau=1,beta=2,gamma=2"
    """Spec of the loss."""
    cache: str | None = None
    """Folder of the cache that holds the teacher's logits."""
    tail: Tail = "uniform"
    """How a topk cache's tail is spread over the classes that the codec dropped: evenly, as is usual for the row's top class
    (`prior`), as the student does (`ghost`), or not at all (`none`)."""
    teacher: str | None = None
    """Spec of a teacher to run in the loop, instead of a cache."""
    recipe: str | None = None
    """Recipe of the training views; a cache brings its own."""
    seeds: str | None = None
    """Seeds that epochs take in turn; by default all complete ones of the cache, without a cache a new one each epoch."""
    eval_data: str | None = None
    """Spec of the source to evaluate on after each epoch."""
    eval_recipe: str | None = None
    """By default the one that the training recipe names."""
    epochs: int = 100
    batch_size: int = 256
    run_seed: int = 0
    """Decides the student's initial weights, the order of samples and dropout."""
    label_smoothing: float = 0.0
    clip_grad: float | None = None
    """Largest norm of the whole gradient."""
    log_steps: int = 50
    """Steps between lines of metrics."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise UsageError(f"clip_grad is {self.clip_grad}; it must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if not 0 <= self.run_seed < 2**32:
            raise UsageError(f"run_seed is {self.run_seed}; it must be from 0 to 2^32 - 1")
        if self.cache and self.teacher:
            raise UsageError("give either a cache or a teacher to run in the loop, not both")
        if self.cache and self.recipe:
            raise UsageError("a cache brings its own recipe; leave recipe out")
        if not self.cache and not self.recipe:
            raise UsageError("without a cache the training views need a recipe; give one, such as --recipe cifar")
        needs_teacher = open_loss(self.loss).needs_teacher
        if needs_teacher and not (self.cache or self.teacher):
            raise UsageError(f"loss {self.loss} needs a teacher; give a cache, or a teacher to run in the loop, or --loss ce")
        if self.tail != "uniform" and not (self.cache and needs_teacher):
            raise UsageError(f"tail {self.tail!r} is a way to read a topk cache, and loss {self.loss} reads none; leave it out")


def train_student(config: TrainConfig) -> dict[str, Any]:
    """Train as configured and return the run's result; run again, it goes on after the last finished epoch.

    The run's folder holds `config.toml`, `metrics.jsonl`, `last.pt`, and at the end `student.safetensors` and `result.json`.

    Returns:
        `run`, `epochs`, `steps`, the last `top1`, `top5` and `eval_loss` on the evaluation data (if there is any), `best_top1`,
        `train_loss`, `seconds` of training without evaluation, `views_per_second` in training, `peak_memory` in bytes.

    Raises:
        MismatchError: the run was started with other settings, or the data is not that of the cache.
        KdcacheError: bad input, missing or damaged units, a loss that is not finite.
    """
    run = Path(config.run)
    if _is_finished(run, config):
        finished: dict[str, Any] = json.loads((run / "result.json").read_text())
        return finished
    _check_folder(run, config)
    trainer = Trainer(config)
    make_folder(run)
    with held_folder(run):
        return _train(run, config, trainer)


class Trainer:
    """A student with all that trains it."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.compute = Compute(config.compute)
        self.loss: Loss = open_loss(config.loss)
        self.cache = open_cache(config.cache) if config.cache else None
        if self.cache and self.loss.needs_teacher:
            check_records(self.cache, self.loss, config.loss, config.tail)
        self.recipe = Recipe.from_dict(self.cache.manifest.recipe) if self.cache else load_recipe(str(config.recipe))
        self.source = open_source(config.data)
        self.seeds = _seeds(config, self.cache, self.source)
        seed_generators(config.run_seed, 0)
        self.student: VisionModel = open_model(config.student, classes=self.source.classes, recipe=self.recipe)
        self.model = self.compute.place(self.student)
        self.teacher, sizes = self._teacher()
        self._set_tail()
        seen = [self.cache.manifest.teacher["size"]] if self.cache else sizes[1:]
        self.recipe.require_one_draw(sizes[0], *seen)
        self.sampler = EpochSampler(config.batch_size)
        order = self.cache.order if self.cache else row_order(len(self.source), 0)
        dataset = ViewDataset(self.source, self.recipe, order, sizes=sizes)
        self.loader = self._loader(dataset, self.sampler)
        self.evaluation = self._evaluation()
        self.optimizer = make_optimizer(self.student.module, config.optimizer)
        steps = num_steps(len(self.source), config.batch_size)
        self.schedule = make_schedule(self.optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=steps)
        self.scaler = self.compute.scaler()
        self.epoch = 0
        self.step = 0

    def run_epoch(self, epoch: int, metrics: MetricsFile) -> dict[str, Any]:
        """Train one epoch, evaluate, and return the epoch's line of metrics."""
        seed, following = (self.seeds[e % len(self.seeds)] for e in (epoch, epoch + 1))
        absent = self.teacher.start_seed(seed, following if epoch + 1 < self.config.epochs else None)
        rows = epoch_rows(len(self.source), absent, run_seed=self.config.run_seed, epoch=epoch)
        if not len(rows):
            raise KdcacheError(
                f"no sample of {self.source.spec} could be read when seed {seed} was dumped: nothing to train on"
            )
        self.sampler.set_epoch(rows, seed)
        self.compute.seed(seed_generators(self.config.run_seed, epoch + 1))  # dropout continues the same after a resume
        self.model.train()
        clock = Clock()
        sums: dict[str, Tensor] = {}
        with progress(f"epoch {epoch + 1}/{self.config.epochs}", len(self.sampler), "steps") as bar:
            for batch in clock.waiting("data_seconds", self.loader):
                terms = self.train_step(batch, clock)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value
                if self.step % self.config.log_steps == 0:
                    metrics.write({"kind": "step", "step": self.step, "epoch": epoch, **_floats(terms)})
                bar.advance(1)
        losses = {name: value / len(self.sampler) for name, value in _floats(sums).items()}
        if not math.isfinite(losses["loss"]):
            raise KdcacheError(
                f"the loss of epoch {epoch + 1} is {losses['loss']}; lower optimizer.lr ({self.config.optimizer.lr}), set "
                "clip_grad, or use another precision; the checkpoint before this epoch is kept"
            )
        seconds = clock.total()
        self.epoch = epoch + 1
        line = {
            "kind": "epoch",
            "step": self.step,
            "epoch": epoch,
            "seed": seed,
            **losses,
            "seconds": seconds,
        }
        line |= {"views_per_second": len(self.sampler) * self.config.batch_size / seconds, **clock.parts}
        line |= {"lr": self.optimizer.param_groups[0]["lr"], **self.evaluate()}
        _say_epoch(line, self.config.epochs)
        return line

    def train_step(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Take one optimiser step and return the loss and its weighted terms, detached, on the device."""
        targets = self.compute.move(batch.targets)
        with clock.part("cache_seconds"):
            teacher = self.teacher.rows(batch)
        with self.compute.autocast():
            logits = self.model(self.compute.move(batch.views[0]))
        terms = self.loss.terms(logits, teacher, targets)
        task = task_loss(logits, targets, label_smoothing=self.config.label_smoothing)
        terms["task"] = self.loss.ce * task
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.student.module.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.schedule.step_update(self.step)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return `top1`, `top5` and `eval_loss` on the evaluation data, or nothing if there is none."""
        if self.evaluation is None:
            return {}
        score = Score()
        self.model.eval()
        for batch in self.evaluation:
            with self.compute.autocast():
                logits = self.model(self.compute.move(batch.views[0]))
            score.add(logits, self.compute.move(batch.targets))
        result = score.result()
        return {"top1": result["top1"], "top5": result["top5"], "eval_loss": result["loss"]}

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seeds": self.seeds,
            "identity": self._identity(),
            "student": self.student.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            MismatchError: it was saved with another data set or cache.
        """
        for name, value in self._identity().items():
            if state["identity"].get(name) != value:
                raise MismatchError(
                    f"run {self.config.run} was trained with another {name} "
                    f"({state['identity'].get(name)} there, {value} now); choose a new run folder"
                )
        self.student.module.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.seeds = state["seeds"]  # the cache may have more by now: their turns would change
        self._set_tail()
        self.schedule.step_update(self.step)

    def _identity(self) -> dict[str, str]:
        cache = self.cache.manifest.digest if self.cache else "none"
        evaluated = self.evaluation.dataset.source.fingerprint if self.evaluation else "none"
        own = {"source": self.source.fingerprint, "recipe": self.recipe.fingerprint, "teacher": self.teacher.identity}
        return {**own, "cache": cache, "evaluation source": evaluated}

    def _teacher(self) -> tuple[Teacher, list[int]]:
        """Return where the teacher's rows come from, and the input sizes to render, the student's first."""
        sizes = [self.student.preprocessing.size]
        if not self.loss.needs_teacher:
            return NoTeacher(self.cache), sizes
        if self.cache is not None:
            return CachedTeacher(self.cache, self.compute), sizes
        model = open_model(str(self.config.teacher), classes=self.source.classes, recipe=self.recipe, trained=True)
        if model.preprocessing.size != sizes[0]:
            sizes.append(model.preprocessing.size)
        return OnlineTeacher(model, self.compute), sizes

    def _set_tail(self) -> None:
        if isinstance(self.teacher, CachedTeacher) and self.config.tail != "uniform":
            self.teacher.set_tail(self.config.tail, self.seeds[0])

    def _loader(self, dataset: ViewDataset, requests: Any) -> ViewLoader:
        return ViewLoader(dataset, requests, workers=self.config.compute.workers, pin_memory=self.compute.pin_memory)

    def _evaluation(self) -> ViewLoader | None:
        if self.config.eval_data is None:
            return None
        source = open_source(self.config.eval_data)
        if source.classes != self.source.classes:
            raise MismatchError(
                f"eval_data {source.spec} has {source.classes} classes, data {self.source.spec} {self.source.classes}; "
                "give sets of the same classes"
            )
        names = [getattr(one, "class_names", None) for one in (self.source, source)]
        if None not in names and names[0] != names[1]:
            differing = next((a, b) for a, b in zip(*names, strict=True) if a != b)
            raise MismatchError(
                f"eval_data {source.spec} calls a class {differing[1]!r} that data {self.source.spec} calls {differing[0]!r}; "
                "give sets of the same classes"
            )
        recipe = load_recipe(self.config.eval_recipe or self.recipe.eval).with_mode(self.recipe.mode)
        dataset = ViewDataset(source, recipe, np.arange(len(source)), sizes=[self.student.preprocessing.size])
        size = self.config.batch_size
        batches = [[(row, 0) for row in range(start, min(start + size, len(source)))] for start in range(0, len(source), size)]
        return self._loader(dataset, batches)


def _seeds(config: TrainConfig, cache: Cache | None, source: Source) -> list[int]:
    """Return the seeds of the epochs, after checking the source and some views against the cache."""
    if cache is None:
        return parse_seeds(config.seeds) if config.seeds else list(range(config.epochs))
    if source.fingerprint != cache.manifest.source["fingerprint"]:
        raise MismatchError(
            f"data {source.spec} ({len(source)} samples) is not what cache {cache.folder} was made from "
            f"({cache.manifest.source['spec']}, {cache.manifest.rows} samples): samples were added, removed, renamed, "
            "reordered or relabelled; give the same data, or dump again"
        )
    seeds = parse_seeds(config.seeds) if config.seeds else cache.complete_seeds()
    if not seeds:
        raise MismatchError(f"cache {cache.folder} has no complete seed yet; run its dump-teacher command again")
    for seed in seeds:
        cache.commits(seed)  # what is missing is told before the first epoch, not when its seed's turn comes
    check_views(cache, source, seeds, views=DRIFT_VIEWS)
    return seeds


def _is_finished(run: Path, config: TrainConfig) -> bool:
    """Return whether the run has come to its end with this very configuration; there is nothing to open then."""
    return (run / "result.json").exists() and not _differences(run, config, free=_FREE)


def _check_folder(run: Path, config: TrainConfig) -> None:
    """Check that the run's folder is new, or was started with this configuration."""
    if (run / "config.toml").exists():
        if lines := _differences(run, config, free=_FREE + _PLACES):
            raise MismatchError(
                f"run {run} was started otherwise ({'; '.join(lines)}); choose a new folder, or the same settings"
            )
    elif run.exists() and (not run.is_dir() or any(path.name[0] != "." for path in run.iterdir())):
        raise UsageError(f"run {run} is not empty and not a run; choose a new folder")


def _differences(run: Path, config: TrainConfig, *, free: tuple[str, ...]) -> list[str]:
    there = load_config(TrainConfig, "train-student", file=str(run / "config.toml"), flags={})
    return config_differences(there, config, free=free)


def _train(run: Path, config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """Train what is left of the run whose folder this process holds."""
    if (checkpoint := load_checkpoint(run / "last.pt")) is not None:
        trainer.load_state(checkpoint)
    replace_file(run / "config.toml", lambda file: file.write(dump_config(config, "train-student").encode()))
    metrics = MetricsFile(run / "metrics.jsonl", step=trainer.step)
    for epoch in range(trainer.epoch, config.epochs):
        metrics.write(trainer.run_epoch(epoch, metrics))
        save_checkpoint(run / "last.pt", trainer.state())
    state = trainer.student.module.state_dict()  # cloned below: safetensors takes no tied weights
    weights = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    replace_file(run / "student.safetensors", lambda file: file.write(safetensors_bytes(weights)))
    result = _result(config, trainer, read_metrics(run / "metrics.jsonl"))
    replace_file(run / "result.json", lambda file: file.write(json.dumps(result, indent=1).encode()))
    return result


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _say_epoch(line: dict[str, Any], epochs: int) -> None:
    score = f", top-1 {line['top1']:.2f} %" if "top1" in line else ""
    say(f"epoch {line['epoch'] + 1}/{epochs}: loss {line['loss']:.4f}{score}, {line['views_per_second']:.0f} views/s")


def _result(config: TrainConfig, trainer: Trainer, lines: list[dict[str, Any]]) -> dict[str, Any]:
    epochs = [line for line in lines if line["kind"] == "epoch"]
    last = epochs[-1]
    scores: dict[str, float] = {name: last[name] for name in ("top1", "top5", "eval_loss") if name in last}
    if "top1" in last:
        scores["best_top1"] = max(line["top1"] for line in epochs)
    return {
        "run": config.run,
        "loss": config.loss,
        "epochs": trainer.epoch,
        "steps": trainer.step,
        **scores,
        "train_loss": last["loss"],
        "seconds": sum(line["seconds"] for line in epochs),
        "views_per_second": float(np.median([line["views_per_second"] for line in epochs])),
        "peak_memory": trainer.compute.peak_memory(),
    }
