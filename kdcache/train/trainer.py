"""A student with all that trains it: one step, and the state from which it goes on."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError, MismatchError
from kdcache.loader.batch import DistillationBatch
from kdcache.models.first_batch import check_gradients, check_student
from kdcache.models.inference import model_code
from kdcache.models.vision_model import class_logits
from kdcache.models.weight_facts import weight_facts
from kdcache.models.weight_record import weight_record
from kdcache.runtime.agreement import require_same
from kdcache.runtime.batch_size import views_at_once
from kdcache.runtime.distributed import all_sum, rank, world_size
from kdcache.runtime.generators import seed_generators
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Size
from kdcache.train.agreement import require_same_weights
from kdcache.train.checkpoint import what_is_kept
from kdcache.train.config import TrainConfig
from kdcache.train.data import TrainingData
from kdcache.train.optim import make_optimizer, make_schedule
from kdcache.train.parts import gradient_exchange, parallel_model, weight_average
from kdcache.train.resume import fitting_state, require_same_identity
from kdcache.train.tally import EpochTally

_PLACE = ("epoch", "epoch_step", "seeds", "left_out", "identity", "order", "sums", "clock")
"""What a checkpoint keeps of the loader and the tally."""
_OTHER = "in a new folder take another one, such as adamw, or a smaller model"


class Trainer:
    """A student, what trains it, and where in the training it is."""

    def __init__(self, config: TrainConfig, data: TrainingData | None = None) -> None:
        """Open all that the training needs, and check it.

        Args:
            config: of the run.
            data: what the student is shown beside others; by default it is opened for this one.

        Raises:
            KdcacheError: whatever of it cannot be opened, or does not fit together.
        """
        self.config = config
        if data is None:
            data = TrainingData([config])
        self.data = data
        self.compute = data.compute
        self.task = data.task
        self.loader = data.loader
        self.evaluation = data.evaluation
        opened = data.students[config.run]
        self.student = opened.student
        self.model = opened.model
        self.loss = opened.loss
        self._loss_terms = self.task.terms
        if self.task.can_compile:
            self._loss_terms = self.compute.compiled(self.task.terms)
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
        self.epoch = 0
        """How many epochs are trained."""
        self.epoch_step = 0
        """How many steps of the next one are done."""
        self.unscored: dict[str, Any] | None = None
        """The line of an epoch that is trained, and whose scores are still to come."""
        self.tally = EpochTally()
        """Of the epoch that is at work."""
        self._saved: dict[str, Any] | None = None
        """Where a checkpoint left the loader and the tally, until its epoch goes on."""
        self._is_first_step = True

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are trained and evaluated."""
        return self.epochs_scored >= self.config.epochs

    @property
    def epochs_scored(self) -> int:
        """How many epochs are trained and evaluated."""
        if self.unscored is None:
            return self.epoch
        return self.epoch - 1

    def evaluates(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 1, is evaluated."""
        if self.evaluation is None:
            return False
        return epoch == self.config.epochs or epoch % self.config.eval_every == 0

    @property
    def weights_to_score(self) -> dict[str, nn.Module]:
        """The models that an evaluation scores, by what the names of their scores begin with."""
        models: dict[str, nn.Module] = {"": self.model}
        if self.average is not None:
            models["ema_"] = self.average.module
        return models

    @property
    def size(self) -> Size:
        """The student's input size."""
        return self.student.preprocessing.size

    @property
    def seeds(self) -> list[int]:
        """The augmentation seeds that its epochs take in turn."""
        if self._saved is not None:
            return list(self._saved["seeds"])
        return self.loader.replay.seeds

    def lead(self) -> None:
        """Have the loader go on from where this student is."""
        if self._saved is None:
            self.loader.set_epoch(self.epoch)
            self.loader.step = self.epoch_step
        else:
            # whose teacher it is was looked at: one student of several may need none
            identity = self.loader.identity()
            self.loader.load_state_dict({**self._saved, "identity": identity})

    def start_epoch(self) -> None:
        """Begin what is left of the epoch that the loader has begun.

        Raises:
            MismatchError: the student has begun it with other views.
        """
        if self._saved is not None:
            self._require_begun_alike(self._saved)
            self.tally.load_state(self._saved, self.compute.device)
            self._saved = None
        if self.step:
            self._set_rate()
        self.parallel.train()
        if not self.epoch_step:
            self.tally = EpochTally()

    def end_epoch(self, seed: int) -> None:
        """Count the epoch as trained; what is told of it waits for its scores.

        Args:
            seed: the first of its augmentation seeds.

        Raises:
            KdcacheError: the losses are not finite.
        """
        line = {"kind": "epoch", **self.place_and_rate(), "seed": seed}
        line |= self._finite_losses()
        seconds = self.tally.clock.total()
        line["seconds"] = seconds
        line["views_per_second"] = self.epoch_step * self.loader.views_per_step / seconds
        line |= self.tally.clock.parts
        self.unscored = line
        self.epoch += 1
        self.epoch_step = 0
        self.tally = EpochTally()

    def take_scores(self, scores: dict[str, float]) -> dict[str, Any]:
        """Return the line of metrics of the epoch that is scored now."""
        assert self.unscored is not None, "an epoch is trained before it is scored"
        line = self.unscored | scores
        self.unscored = None
        return line

    def train_step(self, parts: Iterable[DistillationBatch]) -> dict[str, Tensor]:
        """Take one optimiser step over the parts of a batch.

        Returns:
            The loss and its weighted terms, means over all processes, detached, on the device.
        """
        # dropout's
        seed = seed_generators(self.config.run_seed, self.epoch + 1, self.epoch_step, rank())
        self.compute.seed(seed)
        divisor = self.config.accumulate * world_size()
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with views_at_once(len(part.rows)):
                terms = self._backward(part, number)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach() / divisor
        if self._is_first_step and world_size() > 1:
            check_gradients(self.student)
        self._is_first_step = False
        self._update()
        totals = all_sum(torch.stack(list(sums.values())))
        return dict(zip(sums, totals, strict=True))

    def _backward(self, part: DistillationBatch, number: int) -> dict[str, Tensor]:
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

    def _terms(self, batch: DistillationBatch, *, is_first: bool) -> dict[str, Tensor]:
        """Return the weighted terms of the loss of a part of a batch; the first is looked at."""
        with self.compute.autocast(), model_code(f"training of model {self.student.spec}"):
            output = self.parallel(batch.images)
        if is_first:
            check_student(self.student, class_logits(output), self.loader.num_classes)
        smoothing = self.config.label_smoothing
        terms = self._loss_terms(
            self.loss, output, batch.teacher, batch.labels, label_smoothing=smoothing
        )
        return self._warmed_up(terms)

    def _warmed_up(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms with the weight that those against the teacher have in this epoch."""
        num_epochs = self.config.loss_warmup_epochs
        if self.epoch + 1 >= num_epochs:
            return terms
        weight = (self.epoch + 1) / num_epochs
        return {name: term if name == "task" else weight * term for name, term in terms.items()}

    def _update(self) -> None:
        """Change the weights, and their average, by the gradients of a step that is complete."""
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.module.parameters(), self.config.clip_grad)
        with user_code(f"optimizer {self.config.optimizer.name}", KdcacheError, way_out=_OTHER):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.epoch_step += 1
        self._set_rate()
        if self.average is not None:
            self.average.update(self.student, step=self.step)

    def weights(self) -> dict[str, nn.Module]:
        """Return the modules whose weights are the result: `student`, and `ema` if there is an
        average."""
        modules: dict[str, nn.Module] = {"student": self.student.module}
        if self.average is not None:
            modules["ema"] = self.average.module.module
        return modules

    def weight_record(self) -> dict[str, str]:
        """Return what files of these weights say of the student."""
        facts = weight_facts(
            self.student.preprocessing,
            task=self.task.name,
            num_classes=self.loader.num_classes,
            label_names=self.data.class_names,
        )
        return weight_record(self.config.student, facts)

    def _finite_losses(self) -> dict[str, float]:
        """Return the mean losses of the epoch so far.

        Raises:
            KdcacheError: they are not finite.
        """
        losses = self.tally.means(self.epoch_step)
        if not math.isfinite(losses.get("loss", 0.0)):
            raise KdcacheError(
                f"the loss of epoch {self.epoch + 1} is {losses['loss']}; lower optimizer.lr"
                f" ({self.config.optimizer.lr}), set clip_grad (--set clip_grad=1), or use another"
                f" precision, in a new folder; {what_is_kept(Path(self.config.run))}"
            )
        return losses

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs, as tensors and plain values."""
        place = {
            **self.loader.state_dict(),
            **self.tally.state(has_begun=self.epoch_step > 0),
        }
        if self._saved is not None:
            place |= self._saved
        state = {
            **place,
            "epoch": self.epoch,
            "epoch_step": self.epoch_step,
            "step": self.step,
            "unscored": self.unscored,
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
        self.epoch = state["epoch"]
        self.epoch_step = state["epoch_step"]
        self.unscored = state.get("unscored")
        self._saved = {name: state[name] for name in _PLACE if name in state}
        if not self.config.caches and self.config.seeds is None:
            # each epoch has one of its own; there are more if the run is extended
            self._saved["seeds"] = list(self.loader.replay.seeds)

    def _require_begun_alike(self, saved: Mapping[str, Any]) -> None:
        """Raise a MismatchError if the student has begun its epoch with other rows than the loader
        has now: others that train beside it came to it later, and the cache has grown since."""
        state = self.loader.state_dict()
        if self.epoch_step and not torch.equal(saved["left_out"], state["left_out"]):
            raise MismatchError(
                f"run {self.config.run} began epoch {self.epoch + 1} when the cache held fewer"
                " rows; let it go on by itself"
            )

    def _set_rate(self) -> None:
        """Set the learning rate by the share of the epoch that is done: one that lacks rows is no
        shorter for the schedule."""
        epochs_done = self.epoch + self.epoch_step / max(self.loader.num_steps, 1)
        self.schedule.step_update(round(epochs_done * self._steps))

    def place_and_rate(self) -> dict[str, Any]:
        """Return where the student is, as lines of metrics tell it."""
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
        identity = {**self.loader.identity(), "evaluation source": fingerprint}
        if "teacher" not in self.loss.requires:  # which others that train beside it may need
            identity["teacher"] = "none"
        return identity

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
            "list of samples": self.loader.replay.samples_digest,
        }
        require_same(facts, "what the run is made of")
        require_same_weights(self.student.module)
