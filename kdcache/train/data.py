"""What students are shown in training, opened once for all that train side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from kdcache.cache import Cache
from kdcache.config.seeds import advised_seeds
from kdcache.errors import UsageError
from kdcache.loader.opening import open_replay
from kdcache.loader.order import num_steps
from kdcache.loader.record_checks import check_records
from kdcache.loader.replay import Replay
from kdcache.loader.steps import StepLoader
from kdcache.losses import Loss, Need, open_loss
from kdcache.models.vision_model import VisionModel
from kdcache.positions import Layout
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import on_main
from kdcache.runtime.generators import seed_generators
from kdcache.runtime.wording import counted
from kdcache.shapes import Rows, Size, size_text
from kdcache.sources import class_names_of
from kdcache.targets import target_kind, task_of
from kdcache.tasks import Task, open_task
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.train.config import TrainConfig
from kdcache.train.parts import (
    open_evaluation,
    open_student,
    placed_student,
    require_possible,
    require_size,
    require_softmax,
)
from kdcache.train.preflight import check_training
from kdcache.views import Batch

_MOST_LEFT_OUT = 0.2
"""Share of an epoch's views that may be left out without a word."""
_NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class OpenedStudent:
    """A student as it was opened, and what it is trained with."""

    student: VisionModel
    model: nn.Module
    """The student on its device."""
    loss: Loss


class TrainingData:
    """Views with soft targets and the evaluation of a training, with the students they fit."""

    def __init__(self, configs: Sequence[TrainConfig]) -> None:
        """Open all that one student needs, or several that see the same views, and check it.

        Args:
            configs: of the students; see `require_one_pass`.

        Raises:
            KdcacheError: whatever of it cannot be opened, or does not fit together.
        """
        first = configs[0]
        self.compute = Compute(first.compute)
        for config in configs:
            check = partial(check_training, config, self.compute)
            on_main(check, "what can be known of the settings")
        losses = [open_loss(config.loss) for config in configs]
        needs: frozenset[Need] = frozenset().union(*(loss.requires for loss in losses))

        def check_cache(cache: Cache) -> None:
            for config, loss in zip(configs, losses, strict=True):
                check_records(cache, loss, config.loss, config.tail)

        replay = open_replay(first, needs, check=check_cache)
        self.task: Task = open_task(task_of(replay.source), align_corners=first.align_corners)
        self.students: dict[str, OpenedStudent] = {}
        """By the folder of the run."""
        for config, loss in zip(configs, losses, strict=True):
            require_possible(self.task, loss, config, replay.recipe)
            self.students[config.run] = self._opened(config, loss, replay)
        sizes = self._input_sizes()
        self.loader = StepLoader(
            first, replay, self.compute, needs, sizes=sizes, layout=self._common_layout()
        )
        self.evaluation = open_evaluation(first, replay, sizes, self.compute)
        self._labels = SeenLabels(replay.source)
        _tell_few_steps(self.loader)
        _tell_few_seeds(replay, first.epochs)
        self.class_names = class_names_of(replay.source)
        """Of the student's classes, if the data has names."""
        if self.class_names is None and self.evaluation is not None:
            self.class_names = class_names_of(self.evaluation.source)

    def look_at_labels(self, parts: Sequence[Batch]) -> None:
        """Tell what seems wrong with the labels of the first step, if anything does."""
        for part in parts:
            self._labels.add(part)
        self._labels.tell()

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

    def _opened(self, config: TrainConfig, loss: Loss, replay: Replay) -> OpenedStudent:
        seed_generators(config.run_seed, 0)
        student = open_student(config.student, replay, self.task.name)
        require_softmax(loss, student, config)
        require_size(loss, student, config, replay.source.classes)
        model = placed_student(student, self.compute, sync_batch_norm=config.sync_batch_norm)
        return OpenedStudent(student, model, loss)

    def _input_sizes(self) -> list[Size]:
        """Return the input sizes of the students, each once.

        Raises:
            UsageError: there are several, and targets follow the views of one.
        """
        specs: dict[Size, str] = {}
        for opened in self.students.values():
            student = opened.student
            specs.setdefault(student.preprocessing.size, student.spec)
        if len(specs) > 1 and target_kind(self.task.name).follows_views:
            (size, spec), (other_size, other_spec), *_ = specs.items()
            raise UsageError(
                f"student {spec} takes views of {size_text(size)}, {other_spec} of"
                f" {size_text(other_size)}: side by side {self.task.name} has one size; give both"
                " input_size, or train them one after the other"
            )
        return [*specs]

    def _common_layout(self) -> Layout:
        """Return what the positions of the logits of all students are.

        Raises:
            UsageError: one has others.
        """
        first, *others = [opened.student for opened in self.students.values()]
        for other in others:
            if not first.layout.holds_alike(other.layout):
                raise UsageError(
                    f"the logits of students {first.spec} and {other.spec} lie at other places;"
                    " train them one after the other"
                )
        return first.layout


def _tell_few_steps(loader: StepLoader) -> None:
    """Say how many views an epoch leaves out, if these are many: its last batch is dropped if it is
    not full."""
    num_views = len(loader.replay.rows(_NO_ROWS))
    batch_size = chosen(loader.config.batch_size)
    steps = num_steps(num_views, batch_size)
    num_left_out = num_views - steps * batch_size
    if num_left_out > _MOST_LEFT_OUT * num_views:
        say(
            f"note: {num_views:,} views make {counted(steps, 'step')} of {batch_size} an epoch,"
            f" and {num_left_out:,} are left out of each, others every time; a smaller batch_size"
            " takes more steps"
        )


def _tell_few_seeds(replay: Replay, epochs: int) -> None:
    """Say how often each view comes, if that is often and other seeds would give other views."""
    num_seeds = len(replay.seeds)
    advised = advised_seeds(epochs, num_seeds)
    if advised is not None and replay.recipe.is_drawn:
        say(
            f"note: {epochs:,} epochs of {counted(num_seeds, 'seed')} show the student each view"
            f" {epochs // num_seeds:,} times; it usually learns more from about"
            f" {counted(advised, 'seed')}"
        )
