"""The epoch loop: one student, or several side by side over the same views.

Views are rendered, moved and joined with soft targets once for all. Each student takes the step
that it would take alone, from its own seed, and its run comes out the same.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from kdcache.errors import KdcacheError, MismatchError, StoppedError
from kdcache.loader.batch import DistillationBatch
from kdcache.runtime.console import progress, say
from kdcache.runtime.distributed import (
    StopLook,
    broadcast_buffers,
    is_main,
    stoppable_alone,
    world_size,
)
from kdcache.runtime.waiting import waiting
from kdcache.runtime.wording import named
from kdcache.shapes import Size
from kdcache.train.metrics_log import Metrics
from kdcache.train.outlook import Outlook
from kdcache.train.tally import scalars
from kdcache.train.trainer import Trainer
from kdcache.views import Batch


def _nothing(*_: Any) -> None:
    pass


@dataclass
class StudentRun:
    """A student in training, and who is told of it."""

    trainer: Trainer
    metrics: Metrics
    after_step: Callable[[], None] = _nothing
    """Called after each step but the epoch's last, when the trainer's `state` may be taken."""
    before_evaluation: Callable[[], None] = _nothing
    """Called after the epoch's last step, when `state` may be taken."""
    after_epoch: Callable[[Mapping[str, Any]], None] = _nothing
    """Called with the line of metrics of an epoch, after its evaluation if there is one."""
    leaves_others: bool = False
    """Whether others go on when this one fails."""
    error: KdcacheError | None = None
    """Why it has failed."""

    @property
    def is_at_work(self) -> bool:
        """Whether it has epochs to train or to evaluate, and has not failed."""
        return self.error is None and not self.trainer.is_finished

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """Keep an error of the block as this run's own, where others go on without it."""
        try:
            yield
        except StoppedError:
            raise
        except (KdcacheError, torch.OutOfMemoryError) as error:
            if not self.leaves_others:
                raise
            self.error = _told(error)
            say(f"run {self.trainer.config.run} has failed: {self.error}; the others go on")


def _told(error: Exception) -> KdcacheError:
    """Return an error as it is told to users."""
    if isinstance(error, KdcacheError):
        return error
    return KdcacheError("out of GPU memory; train fewer students at a time, or on fewer views")


def train_epochs(runs: Sequence[StudentRun], outlook: Outlook) -> None:
    """Train and evaluate what is left of all epochs of all students.

    Those that are further than others, as after a kill between two checkpoints, wait for them.

    Args:
        runs: of the students.
        outlook: counts what they take.

    Raises:
        MismatchError: runs that began with other augmentation seeds.
        KdcacheError: missing or damaged units, unreadable samples; of a student that does not leave
            others, a loss that is not finite.
        StoppedError: a process of the run was told to stop.
    """
    _require_same_seeds([run.trainer for run in runs])
    look = StopLook()
    while at_work := [run for run in runs if run.is_at_work]:
        train_epoch(at_work, look, outlook)


def train_epoch(
    runs: Sequence[StudentRun],
    look: Callable[[], None] = _nothing,
    outlook: Outlook | None = None,
) -> None:
    """Train what is left of the earliest epoch that a student lacks, and evaluate it if due.

    A run that was stopped in the evaluation goes on with that.

    Args:
        runs: none of them finished.
        look: called between steps, to end for a stop.
        outlook: counts what it takes.

    Raises:
        KdcacheError: see `train_epochs`.
    """
    outlook = outlook or Outlook()
    earliest = min(run.trainer.epochs_scored for run in runs)
    in_epoch = [run for run in runs if run.trainer.epochs_scored == earliest]
    untrained = [run for run in in_epoch if run.trainer.unscored is None]
    if untrained:
        _train(untrained, look, outlook)
    trained = [run for run in in_epoch if run.error is None]
    if trained and trained[0].trainer.evaluates(earliest + 1):
        _score(trained, outlook)
    else:
        for run in trained:
            with run.failing_alone():
                _tell(run, {})


def start_epoch(trainers: Sequence[Trainer]) -> list[int]:
    """Begin what is left of an epoch, where the one that has done least of it is, and return the
    epoch's seeds.

    Raises:
        KdcacheError: missing or damaged units.
    """
    min(trainers, key=lambda trainer: trainer.epoch_step).lead()
    seeds = trainers[0].loader.start_epoch()
    for trainer in trainers:
        trainer.start_epoch()
    return seeds


def batches_of_steps(trainers: Sequence[Trainer]) -> Iterator[list[Batch]]:
    """Return, for each step that is left of the epoch, the parts of its batch."""
    loader = trainers[0].loader
    batches = loader.rendered()
    for trainer in trainers:
        batches = trainer.tally.clock.waiting("data_seconds", batches)
    return _in_turns(batches, loader.config.accumulate)


SizedPart = Mapping[Size, DistillationBatch]
"""A part of a batch on the device, for each input size of the students."""


def placed_parts(trainers: Sequence[Trainer], parts: Sequence[Batch]) -> Iterator[SizedPart]:
    """Yield parts of a batch on the device, with soft targets, one after the other."""
    for part in parts:
        with ExitStack() as clocks:
            for trainer in trainers:
                clocks.enter_context(trainer.tally.clock.part("cache_seconds"))
            placed = trainers[0].loader.placed_by_size(part)
        yield placed


def own_parts(trainer: Trainer, parts: Iterable[SizedPart]) -> Iterator[DistillationBatch]:
    """Yield parts of a batch at a student's input size."""
    for part in parts:
        yield part[trainer.size]


def scores_of(trainers: Sequence[Trainer]) -> list[dict[str, float]]:
    """Return the scores of each student on the evaluation data (`top1`, `top5`, `eval_loss`), and
    these after `ema_`, from one pass over it."""
    scores: list[dict[str, float]] = [{} for _ in trainers]
    evaluation = trainers[0].evaluation
    assert evaluation is not None, "what is scored is scored on something"
    models = []
    sizes = []
    places = []
    for trainer, own_scores in zip(trainers, scores, strict=True):
        for prefix, model in trainer.weights_to_score.items():
            broadcast_buffers(model)  # each process has batch norms of its own
            models.append(model)
            sizes.append(trainer.size)
            places.append((own_scores, prefix))
    with stoppable_alone():
        results = evaluation.scores(models, sizes=sizes)
    for (own_scores, prefix), result in zip(places, results, strict=True):
        for name, value in result.items():
            own_scores[f"{prefix}{name}"] = value
    return scores


def _require_same_seeds(trainers: Sequence[Trainer]) -> None:
    """Raise a MismatchError if runs began with other augmentation seeds: the cache has more by
    now."""
    first, *others = trainers
    for other in others:
        if other.seeds != first.seeds:
            raise MismatchError(
                f"run {first.config.run} goes on with {named(first.seeds, 'seed')}, run"
                f" {other.config.run} with {named(other.seeds, 'seed')}: they see other views;"
                " train them one after the other"
            )


def _train(runs: Sequence[StudentRun], look: Callable[[], None], outlook: Outlook) -> None:
    """Train what is left of an epoch."""
    trainers = [run.trainer for run in runs]
    loader = trainers[0].loader
    seeds = start_epoch(trainers)
    num_steps = loader.num_steps
    title = f"epoch {loader.epoch + 1}/{loader.config.epochs}"
    _start_outlook(outlook, trainers[0])
    with progress(title, num_steps, "steps", is_shown=is_main()) as bar:
        bar.advance(loader.step)
        for parts in batches_of_steps(trainers):
            with _together(loader.step):
                _take_step(runs, parts)
            if loader.step < num_steps:
                look()
            outlook.end_step()
            bar.advance(1, f"run: {outlook.text()}")
            if all(run.error for run in runs):
                return
    for run in runs:
        if run.error is None:
            with run.failing_alone():
                run.trainer.end_epoch(seeds[0])
    loader.end_epoch()
    for run in runs:
        if run.error is None:
            with run.failing_alone():
                run.before_evaluation()


def _start_outlook(outlook: Outlook, trainer: Trainer) -> None:
    loader = trainer.loader
    num_epochs = loader.config.epochs
    epochs_to_come = num_epochs - loader.epoch - 1
    epochs_left = range(loader.epoch + 1, num_epochs + 1)
    outlook.start_epoch(
        steps_left=epochs_to_come * loader.steps_per_epoch + loader.num_steps - loader.step,
        evaluations_left=sum(trainer.evaluates(epoch) for epoch in epochs_left),
    )


def _take_step(runs: Sequence[StudentRun], parts: Sequence[Batch]) -> None:
    """Take a step with each student that has not done it yet."""
    data = runs[0].trainer.data
    loader = data.loader
    if loader.epoch == loader.step == 0:
        data.look_at_labels(parts)
    takers = [run for run in runs if run.error is None and run.trainer.epoch_step == loader.step]
    batch: Any = placed_parts([run.trainer for run in takers], parts)
    if len(takers) > 1:
        batch = list(batch)
    for run in takers:
        with run.failing_alone():
            _take_own_step(run, batch)
    loader.step += 1
    if loader.step < loader.num_steps:
        for run in takers:
            if run.error is None:
                with run.failing_alone():
                    run.after_step()


def _take_own_step(run: StudentRun, batch: Any) -> None:
    trainer = run.trainer
    terms = trainer.train_step(own_parts(trainer, batch))
    trainer.tally.add(terms)
    if trainer.step % trainer.config.log_steps == 0:
        run.metrics.write({"kind": "step", **trainer.place_and_rate(), **scalars(terms)})


def _score(runs: Sequence[StudentRun], outlook: Outlook) -> None:
    """Evaluate students whose epoch is trained: all in one pass, or, if that fails for one, each by
    itself."""
    try:
        with outlook.evaluation():
            scores = scores_of([run.trainer for run in runs])
    except StoppedError:
        raise
    except KdcacheError:
        if len(runs) == 1 or not runs[0].leaves_others:
            raise
    else:
        for run, own_scores in zip(runs, scores, strict=True):
            with run.failing_alone():
                _tell(run, own_scores)
        return
    with outlook.evaluation():
        for run in runs:
            with run.failing_alone():
                _tell(run, scores_of([run.trainer])[0])


def _tell(run: StudentRun, scores: dict[str, float]) -> None:
    line = run.trainer.take_scores(scores)
    run.metrics.write(line)
    run.after_epoch(line)


def _together(step: int) -> AbstractContextManager[Any]:
    """Return the context of a step, in which a process may wait for one that has no views."""
    if world_size() == 1:
        return nullcontext()
    return waiting(f"step {step + 1} of the epoch, in which all processes take part")


def _in_turns(batches: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield `count` batches at a time; while they are waited for, a signal may end the run."""
    while True:
        with stoppable_alone():
            parts = list(itertools.islice(batches, count))
        if not parts:
            return
        yield parts
