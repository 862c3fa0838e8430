"""A student with all that trains it: one epoch loop, one step, and the state from which both go
on."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError
from kdcache.loader.opening import open_replay
from kdcache.loader.record_checks import check_records
from kdcache.losses import Loss, open_loss
from kdcache.models.first_batch import check_gradients, check_student
from kdcache.models.inference import model_code
from kdcache.models.vision_model import VisionModel, class_logits
from kdcache.runtime.console import progress
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import (
    all_sum,
    broadcast_buffers,
    is_main,
    on_main,
    rank,
    stoppable_alone,
    world_size,
)
from kdcache.runtime.waiting import waiting
from kdcache.targets import task_of
from kdcache.tasks import open_task
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.train.agreement import require_same, require_same_weights
from kdcache.train.checkpoint import what_is_kept
from kdcache.train.config import TrainConfig
from kdcache.train.metrics_log import Metrics
from kdcache.train.optim import make_optimizer, make_schedule
from kdcache.train.parts import (
    gradient_exchange,
    make_loader,
    open_evaluation,
    open_student,
    parallel_model,
    placed_student,
    require_possible,
    weight_average,
)
from kdcache.train.preflight import check_training
from kdcache.train.resume import fitting_state, require_same_identity
from kdcache.train.tally import EpochTally, scalars
from kdcache.views import Batch, seed_generators


class Trainer:
    """A student, its views, its teacher, and where in the training they are."""

    def __init__(self, config: TrainConfig) -> None:
        """Open all that the training needs, and check it.

        Raises:
            KdcacheError: whatever of it cannot be opened, or does not fit together.
        """
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
        require_possible(self.task, self.loss, config, replay.recipe)
        seed_generators(config.run_seed, 0)
        self.student: VisionModel = open_student(config.student, replay, self.task.name)
        self.model = placed_student(
            self.student, self.compute, sync_batch_norm=config.sync_batch_norm
        )
        self.loader = make_loader(config, replay, self.loss, self.student, self.compute)
        self._labels = SeenLabels(replay.source)
        self.evaluation = open_evaluation(config, replay, self.student, self.compute)
        if self.evaluation is not None and not config.compute.compile:
            self.evaluation.try_out(self.model)
        self.optimizer = make_optimizer(self.student.module, config.optimizer)
        self._steps = self.loader.steps_per_epoch
        self.schedule = make_schedule(
            self.optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=self._steps
        )
        self.scaler = self.compute.scaler()
        self.average = weight_average(self.student, config.ema)
        self._require_agreement()
        self.parallel = parallel_model(self.model, self.compute)
        self.step = 0
        """Steps in all."""
        self._unscored: dict[str, Any] | None = None
        """The line of an epoch that is trained and not evaluated yet."""
        self.tally = EpochTally()
        """Of the epoch that is at work."""
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
        if self._unscored is None:
            return self.epoch
        return self.epoch - 1

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
        seeds = self.start_epoch()
        title = f"epoch {self.epoch + 1}/{self.config.epochs}"
        num_steps = self.loader.num_steps
        with progress(title, num_steps, "steps", is_shown=is_main()) as bar:
            bar.advance(self.epoch_step)
            for parts in self.batches():
                with self._together():
                    terms = self.train_step(parts)
                self.tally.add(terms)
                if self.step % self.config.log_steps == 0:
                    metrics.write({"kind": "step", **self._place_and_rate(), **scalars(terms)})
                if self.epoch_step < num_steps:
                    after_step()
                bar.advance(1)
        line = {"kind": "epoch", **self._place_and_rate(), "seed": seeds[0]}
        line |= self._finite_losses()
        seconds = self.tally.clock.total()
        line["seconds"] = seconds
        line["views_per_second"] = self.epoch_step * self.loader.views_per_step / seconds
        line |= self.tally.clock.parts
        self.loader.end_epoch()
        self.tally = EpochTally()
        return line

    def batches(self) -> Iterator[list[Batch]]:
        """Return, for each step that is left of the epoch, the parts of its batch."""
        batches = self.tally.clock.waiting("data_seconds", self.loader.rendered())
        return _in_turns(batches, self.config.accumulate)

    def train_step(self, parts: Iterable[Batch]) -> dict[str, Tensor]:
        """Take one optimiser step over the parts of a batch.

        Returns:
            The loss and its weighted terms, means over all processes, detached, on the device.
        """
        parts = list(parts)
        if self.step == 0:
            self._look_at_labels(parts)
        # dropout's
        seed = seed_generators(self.config.run_seed, self.epoch + 1, self.epoch_step, rank())
        self.compute.seed(seed)
        divisor = self.config.accumulate * world_size()
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            for name, term in self._backward(part, number).items():
                sums[name] = sums.get(name, 0.0) + term.detach() / divisor
        if self._is_first_step and world_size() > 1:
            check_gradients(self.student)
        self._is_first_step = False
        self._update()
        totals = all_sum(torch.stack(list(sums.values())))
        return dict(zip(sums, totals, strict=True))

    def _look_at_labels(self, parts: Iterable[Batch]) -> None:
        """Tell what seems wrong with the labels of the first step, if anything does."""
        for part in parts:
            self._labels.add(part)
        self._labels.tell()

    def _backward(self, part: Batch, number: int) -> dict[str, Tensor]:
        """Add to the gradients those of a part of a batch, the `number`th, from 1.

        Returns:
            The loss of the part and its weighted terms.
        """
        num_parts = self.config.accumulate
        with gradient_exchange(self.parallel, is_last=number == num_parts):
            terms = self._terms(part, is_first=self._is_first_step and number == 1)
            loss = torch.stack(list(terms.values())).sum() / num_parts
            with model_code(f"training of model {self.student.spec}"):
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return {"loss": loss * num_parts, **terms}

    def _terms(self, batch: Batch, *, is_first: bool) -> dict[str, Tensor]:
        """Return the weighted terms of the loss of a part of a batch; the first is looked at."""
        with self.tally.clock.part("cache_seconds"):
            placed = self.loader.placed(batch)
        with self.compute.autocast(), model_code(f"training of model {self.student.spec}"):
            output = self.parallel(placed.images)
        if is_first:
            check_student(self.student, class_logits(output), self.loader.num_classes)
        smoothing = self.config.label_smoothing
        return self.task.terms(
            self.loss, output, placed.teacher, placed.labels, label_smoothing=smoothing
        )

    def _update(self) -> None:
        """Change the weights, and their average, by the gradients of a step that is complete."""
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
        modules: dict[str, nn.Module] = {"student": self.student.module}
        if self.average is not None:
            modules["ema"] = self.average.module.module
        return modules

    def _finite_losses(self) -> dict[str, float]:
        """Return the mean losses of the epoch so far.

        Raises:
            KdcacheError: they are not finite.
        """
        losses = self.tally.means(self.epoch_step)
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
            **self.tally.state(has_begun=self.epoch_step > 0),
            "identity": self._identity(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        for name, module in self.weights().items():
            state[name] = module.state_dict()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            MismatchError: it was saved with another data set or cache, or by a student whose code
                is another by now.
        """
        require_same_identity(self.config, state["identity"], self._identity())
        with fitting_state(self.config, "weights"):
            for name, module in self.weights().items():
                module.load_state_dict(state[name])
        with fitting_state(self.config, "state of the optimizer"):
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.loader.load_state_dict(state)
        self._unscored = state.get("unscored")
        self.tally.load_state(state, self.compute.device)

    def start_epoch(self) -> list[int]:
        """Set the views of the epoch, and return its seeds."""
        seeds = self.loader.start_epoch()
        if self.step:
            self._set_rate()
        self.parallel.train()
        if not self.epoch_step:
            self.tally = EpochTally()
        return seeds

    def _set_rate(self) -> None:
        """Set the learning rate by the share of the epoch that is done: one that lacks rows is no
        shorter for the schedule."""
        epochs_done = self.epoch + self.epoch_step / max(self.loader.num_steps, 1)
        self.schedule.step_update(round(epochs_done * self._steps))

    def _place_and_rate(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def _identity(self) -> dict[str, str]:
        """Return what tells the data and the caches of a run."""
        fingerprint = "none"
        if self.evaluation is not None:
            fingerprint = self.evaluation.source.fingerprint
        return {**self.loader.identity(), "evaluation source": fingerprint}

    def _require_agreement(self) -> None:
        """Check that all processes train the same: gradients are averaged, and nothing would tell.

        Raises:
            MismatchError: they do not.
        """
        recipe_fingerprint = "none"
        if self.evaluation is not None:
            recipe_fingerprint = self.evaluation.recipe.fingerprint
        facts = {
            **self._identity(),
            "evaluation recipe": recipe_fingerprint,
            "list of samples": self.loader.samples_digest(),
        }
        require_same(facts, "what the run is made of")
        require_same_weights(self.student.module)

    def _together(self) -> AbstractContextManager[Any]:
        """Return the context of a step, in which a process may wait for one that has no views."""
        if world_size() == 1:
            return nullcontext()
        return waiting(f"step {self.step + 1}, in which all processes take part")


def _in_turns(batches: Iterator[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield `count` batches at a time; while they are waited for, a signal may end the run."""
    while True:
        with stoppable_alone():
            parts = list(itertools.islice(batches, count))
        if not parts:
            return
        yield parts
