"""A student with all that trains it: one epoch loop, one step, and the state from which both go
on."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.errors import KdcacheError, MismatchError, UsageError
from kdcache.loader.opening import open_replay
from kdcache.loader.record_checks import check_records
from kdcache.loader.replay import Replay
from kdcache.loader.steps import StepLoader
from kdcache.losses import Loss, open_loss
from kdcache.models.first_batch import check_gradients, check_student, require_trainable
from kdcache.models.inference import model_code
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.console import Clock, progress, steady_rate
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import (
    all_sum,
    broadcast_buffers,
    broadcast_object,
    is_main,
    on_main,
    rank,
    stoppable_alone,
    world_size,
)
from kdcache.runtime.user_code import exception_text
from kdcache.runtime.waiting import waiting
from kdcache.shapes import Rows
from kdcache.targets import task_of
from kdcache.tasks import open_task
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.train.agreement import require_same, require_same_weights
from kdcache.train.checkpoint import what_is_kept
from kdcache.train.config import TrainConfig
from kdcache.train.evaluation import Evaluation, evaluation_recipe
from kdcache.train.metrics_log import Metrics
from kdcache.train.optim import make_optimizer, make_schedule
from kdcache.train.preflight import check_training
from kdcache.views import Batch, Recipe, seed_generators

_NO_ROWS: Rows = np.empty(0, np.int64)


class Trainer:
    """A student, its views, its teacher, and where in the training they are."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.compute = Compute(config.compute)
        on_main(lambda: check_training(config, self.compute), "what can be known of the settings")
        self.loss: Loss = open_loss(config.loss)
        replay = open_replay(
            config,
            self.loss.requires,
            check=lambda cache: check_records(cache, self.loss, config.loss),
        )
        self.task = open_task(task_of(replay.source))
        self._require_possible(replay.recipe)
        seed_generators(config.run_seed, 0)
        self.student: VisionModel = self._open_student(replay)
        self.model = self._place()
        self.loader = self._make_loader(replay)
        self._labels = SeenLabels(replay.source)
        self.evaluation = self._evaluation()
        self._try_evaluation()
        self.optimizer = make_optimizer(self.student.module, config.optimizer)
        self._steps = self.loader.steps_per_epoch
        self.schedule = make_schedule(
            self.optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=self._steps
        )
        self.scaler = self.compute.scaler()
        self.average = self._average()
        self._require_agreement()
        self.parallel = self._parallel()
        self.step = 0
        """Steps in all."""
        self._unscored: dict[str, Any] | None = None
        """The line of an epoch that is trained and not evaluated yet."""
        self._sums: dict[str, Tensor] = {}
        self._clock = Clock()
        self._is_first_step = True

    @property
    def epoch(self) -> int:
        """How many epochs are trained."""
        return self.loader.epoch

    @property
    def epoch_step(self) -> int:
        """How many steps of the next one are done."""
        return self.loader.step

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are trained and evaluated."""
        return self.epoch >= self.config.epochs and self._unscored is None

    @property
    def epochs_scored(self) -> int:
        """How many epochs are trained and evaluated."""
        return self.epoch if self._unscored is None else self.epoch - 1

    def run_epoch(
        self,
        metrics: Metrics,
        after_step: Callable[[], None] = lambda: None,
        before_evaluation: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Train what is left of the epoch, evaluate, and return the epoch's line of metrics.

        A run that was stopped in the evaluation goes on with that.

        Args:
            metrics: where lines of steps go.
            after_step: called after each step but the epoch's last, when `state` may be taken.
            before_evaluation: called after the epoch's last step, when `state` may be taken.

        Raises:
            KdcacheError: missing or damaged units, unreadable samples, a loss that is not finite.
            StoppedError: a process of the run was told to stop while it waited.
        """
        if self._unscored is None:
            self._unscored = self._train_epoch(metrics, after_step)
            before_evaluation()
        line = self._unscored | self.evaluate()
        self._unscored = None
        return line

    def _train_epoch(self, metrics: Metrics, after_step: Callable[[], None]) -> dict[str, Any]:
        """Train what is left of the epoch, and return its line of metrics without scores."""
        seeds = self._start_epoch()
        title = f"epoch {self.epoch + 1}/{self.config.epochs}"
        num_steps = self.loader.num_steps
        with progress(title, num_steps, "steps", is_shown=is_main()) as bar:
            bar.advance(self.epoch_step)
            batches = self._clock.waiting("data_seconds", self.loader.rendered())
            for parts in _in_turns(batches, self.config.accumulate):
                with self._together():
                    terms = self.train_step(parts)
                for name, value in terms.items():
                    self._sums[name] = self._sums.get(name, 0.0) + value
                if self.step % self.config.log_steps == 0:
                    metrics.write({"kind": "step", **self._place_and_rate(), **_numbers(terms)})
                if self.epoch_step < num_steps:
                    after_step()
                bar.advance(1)
        losses = self.require_finite()
        seconds = self._clock.total()
        line = {
            "kind": "epoch",
            **self._place_and_rate(),
            "seed": seeds[0],
            **losses,
            "seconds": seconds,
        }
        line |= {
            "views_per_second": self.epoch_step * self.loader.views_per_step / seconds,
            **self._clock.parts,
        }
        self.loader.end_epoch()
        self._sums = {}
        return line

    def probe(self, *, seconds: float) -> dict[str, Any]:
        """Train a few steps of an epoch to see how long they take; the trainer is of no use
        afterwards.

        Returns:
            `steps_per_epoch`, `views_per_second`, and `data_share`, the share of the time that was
            spent waiting for views.
        """
        self._start_epoch()
        times = [time.monotonic()]
        size = self.loader.views_per_step
        batches = self._clock.waiting("data_seconds", self.loader.rendered())
        for parts in _in_turns(batches, self.config.accumulate):
            float(self.train_step(parts)["loss"])  # waits for the device
            times.append(time.monotonic())
            if len(times) == 2:
                self._clock.restart()  # the first step waits for loader workers, and compiles
            if len(times) > 3 and broadcast_object(times[-1] - times[0] > seconds):
                break
        counts = [min(size, len(self.loader.source))] * (len(times) - 1)
        data_share = 0.0
        if len(times) > 2:
            data_share = self._clock.parts.get("data_seconds", 0.0) / self._clock.total()
        return {
            "steps_per_epoch": self.loader.num_steps,
            "views_per_second": steady_rate(times, counts),
            "data_share": data_share,
        }

    def train_step(self, parts: Iterable[Batch]) -> dict[str, Tensor]:
        """Take one optimiser step over the parts of a batch.

        Returns:
            The loss and its weighted terms, means over all processes, detached, on the device.
        """
        parts = list(parts)
        if self.step == 0:
            for part in parts:
                self._labels.add(part)
            self._labels.tell()
        # dropout's
        self.compute.seed(
            seed_generators(self.config.run_seed, self.epoch + 1, self.epoch_step, rank())
        )
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with self._synchronised(number == self.config.accumulate):
                terms = self._terms(part, is_first=self._is_first_step and number == 1)
                loss = torch.stack(list(terms.values())).sum() / self.config.accumulate
                with model_code(f"training of model {self.student.spec}"):
                    self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for name, term in {"loss": loss * self.config.accumulate, **terms}.items():
                sums[name] = sums.get(name, 0.0) + term.detach() / (
                    self.config.accumulate * world_size()
                )
        if self._is_first_step and world_size() > 1:
            check_gradients(self.student)
        self._is_first_step = False
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.module.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.loader.step += 1
        self._set_rate()
        if self.average is not None:
            self.average.update(self.student, step=self.step)
        return dict(zip(sums, all_sum(torch.stack([*sums.values()])), strict=True))

    def _terms(self, batch: Batch, *, is_first: bool) -> dict[str, Tensor]:
        """Return the weighted terms of the loss of a part of a batch; the first is looked at."""
        with self._clock.part("cache_seconds"):
            placed = self.loader.placed(batch)
        with self.compute.autocast(), model_code(f"training of model {self.student.spec}"):
            logits = self.parallel(placed.images)
        if is_first:
            check_student(self.student, logits, self.loader.num_classes)
        smoothing = self.config.label_smoothing
        return self.task.terms(
            self.loss, logits, placed.teacher, placed.labels, label_smoothing=smoothing
        )

    def evaluate(self) -> dict[str, float]:
        """Return scores on the evaluation data, if there is any (`top1`, `top5`, `eval_loss`), and
        these after `ema_`."""
        if self.evaluation is None:
            return {}
        models: dict[str, nn.Module] = {"": self.model}
        if self.average is not None:
            models["ema_"] = self.average.module
        for model in models.values():
            broadcast_buffers(model)  # each process has batch norms of its own
        with stoppable_alone():
            return self.evaluation.scores(models)

    def require_readable_evaluation(self) -> None:
        """Check that all evaluation data can be read, unless that is known.

        Raises:
            KdcacheError: some of it cannot.
        """
        if self.evaluation is not None:
            self.evaluation.require_readable()

    def close(self) -> None:
        """End loader workers, and what is fetched ahead."""
        self.loader.close()
        if self.evaluation is not None:
            self.evaluation.close()

    def weights(self) -> dict[str, nn.Module]:
        """Return the modules whose weights are the result: `student`, and `ema` if there is an
        average."""
        return {
            "student": self.student.module,
            **({"ema": self.average.module.module} if self.average else {}),
        }

    def require_finite(self) -> dict[str, float]:
        """Return the mean losses of the epoch so far.

        Raises:
            KdcacheError: they are not finite.
        """
        losses = {
            name: value / max(self.epoch_step, 1) for name, value in _numbers(self._sums).items()
        }
        if not math.isfinite(losses.get("loss", 0.0)):
            raise KdcacheError(
                f"the loss of epoch {self.epoch + 1} is {losses['loss']}; lower optimizer.lr"
                f" ({self.config.optimizer.lr}), set clip_grad, or use another precision, in"
                f" a new folder; {what_is_kept(Path(self.config.run))}"
            )
        return losses

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs, as tensors and plain values."""
        state = {
            **self.loader.state_dict(),
            "step": self.step,
            "unscored": self._unscored,
            "sums": _numbers(self._sums),
            "clock": {"total": self._clock.total(), **self._clock.parts} if self.epoch_step else {},
            "identity": self._identity(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        return state | {name: module.state_dict() for name, module in self.weights().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            MismatchError: it was saved with another data set or cache, or by a student whose code
                is another by now.
        """
        for name, value in self._identity().items():
            if state["identity"].get(name) != value:
                raise MismatchError(
                    f"run {self.config.run} was trained with another {name} "
                    f"({state['identity'].get(name)} there, {value} now); choose a new run folder"
                )
        with self._fitting("weights"):
            for name, module in self.weights().items():
                module.load_state_dict(state[name])
        with self._fitting("state of the optimizer"):
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.loader.load_state_dict(state)
        self._unscored = state.get("unscored")
        self._sums = {
            name: torch.tensor(value, device=self.compute.device)
            for name, value in state["sums"].items()
        }
        self._clock = Clock(**state["clock"])

    @contextmanager
    def _fitting(self, what: str) -> Iterator[None]:
        """Load a part of a checkpoint in the block: it fits no longer if the student is built
        otherwise by now."""
        try:
            yield
        except (RuntimeError, ValueError, KeyError) as error:
            raise MismatchError(
                f"run {self.config.run}: the {what} of its checkpoint do not fit:"
                f" {exception_text(error)}; the code of {self.config.student}, timm or torch is"
                " another than when the run began: go back to it, or choose a new run folder"
            ) from error

    def _start_epoch(self) -> list[int]:
        """Set the views of the epoch, and return its seeds."""
        seeds = self.loader.start_epoch()
        if self.step:
            self._set_rate()
        self.parallel.train()
        if not self.epoch_step:
            self._clock = Clock()
        return seeds

    def _set_rate(self) -> None:
        """Set the learning rate by the share of the epoch that is done: one that lacks rows is no
        shorter for the schedule."""
        done = self.epoch + self.epoch_step / max(self.loader.num_steps, 1)
        self.schedule.step_update(round(done * self._steps))

    def _place_and_rate(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def _identity(self) -> dict[str, str]:
        evaluated = self.evaluation.source.fingerprint if self.evaluation is not None else "none"
        return {**self.loader.identity(), "evaluation source": evaluated}

    def _require_agreement(self) -> None:
        """Check that all processes train the same: gradients are averaged, and nothing would tell.

        Raises:
            MismatchError: they do not.
        """
        recipe = "none" if self.evaluation is None else self.evaluation.recipe.fingerprint
        facts = {
            **self._identity(),
            "evaluation recipe": recipe,
            "list of samples": self.loader.samples_digest(),
        }
        require_same(facts, "what the run is made of")
        require_same_weights(self.student.module)

    def _require_possible(self, recipe: Recipe) -> None:
        """Check that the loss is one of the task and fits the recipe."""
        spec = self.config.loss
        self.task.check(self.loss, spec)
        if "label" in self.loss.requires and recipe.mixing:
            raise UsageError(
                f"loss {spec} needs one label a view, and recipe {recipe.name} mixes; use dist or"
                " kl"
            )

    def _open_student(self, replay: Replay) -> VisionModel:
        student = open_model(
            self.config.student,
            classes=replay.source.classes,
            recipe=replay.recipe,
            task=self.task.name,
        )
        require_trainable(student)
        return student

    def _make_loader(self, replay: Replay) -> StepLoader:
        return StepLoader(
            self.config,
            replay,
            self.compute,
            self.loss.requires,
            size=self.student.preprocessing.size,
            sites=self.student.sites,
        )

    def _try_evaluation(self) -> None:
        """Tell what is known of the labels to evaluate on, and evaluate the first views."""
        if self.evaluation is None:
            return
        SeenLabels(self.evaluation.source)  # tells it
        if not self.config.compute.compile:
            self.evaluation.try_out(self.model)

    def _place(self) -> nn.Module:
        """Return the student on its device, with batch norms over all processes if so
        configured."""
        if self.config.sync_batch_norm:
            self.student.module = nn.SyncBatchNorm.convert_sync_batchnorm(self.student.module)  # type: ignore[no-untyped-call]
        return self.compute.place(self.student)

    def _parallel(self) -> nn.Module:
        if world_size() == 1:
            return self.model
        index = [self.compute.device.index] if self.compute.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=index)

    def _average(self) -> Any:
        from timm.utils import ModelEmaV3  # noqa: PLC0415

        config = self.config.ema
        if not config.decay:
            return None
        return ModelEmaV3(self.student, decay=config.decay, use_warmup=config.warmup)

    def _evaluation(self) -> Evaluation | None:
        if self.config.eval_data is None:
            return None
        is_from_cache = bool(self.loader.replay.caches)
        recipe = evaluation_recipe(
            self.config.eval_recipe, self.loader.replay.recipe, is_from_cache=is_from_cache
        )
        return Evaluation(
            self.config.eval_data,
            self.loader.source,
            recipe,
            size=self.student.preprocessing.size,
            batch_size=self.config.batch_size,
            window=self.config.eval_window,
            compute=self.compute,
        )

    def _together(self) -> AbstractContextManager[Any]:
        """Return the context of a step, in which a process may wait for one that has no views."""
        if world_size() == 1:
            return nullcontext()
        return waiting(f"step {self.step + 1}, in which all processes take part")

    def _synchronised(self, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context of a part's backward pass: gradients are averaged over processes after
        the last one."""
        if is_last or not isinstance(self.parallel, DistributedDataParallel):
            return nullcontext()
        return self.parallel.no_sync()


def _in_turns(batches: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield `count` batches at a time; while they are waited for, a signal may end the run."""
    while True:
        with stoppable_alone():
            parts = list(itertools.islice(batches, count))
        if not parts:
            return
        yield parts


def _numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """Return the values of scalars, after a single wait for the device."""
    return (
        dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True)) if values else {}
    )
