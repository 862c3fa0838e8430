"""What a task is: where the class logits of a view are, what is learnt from labels, how to score,
what a unit says, and how a view is drawn."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdcache.losses import Loss
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Layout
from kdcache.shapes import Labels, Masks, Rows, Scalar, Targets, Views
from kdcache.soft_targets import SoftTargets
from kdcache.tasks.picture import Picture, ShownView
from kdcache.tasks.predictions import Predictions, PredictionSettings
from kdcache.tasks.programs import Program


@runtime_checkable
class Score(Protocol):
    """Scores over any number of batches and all processes."""

    def add(self, output: Any, labels: Labels) -> None:
        """Count a batch: what a model of kdcache gives of it, and its labels."""

    def result(self) -> dict[str, float]:
        """Return the scores by name; every process of the run must ask."""


@runtime_checkable
class Task(Protocol):
    """Classification, segmentation, detection: what a source's targets are, and what a model's
    logits of a view are."""

    name: ClassVar[str]
    best: ClassVar[str]
    """The score that the best weights of a run have most of."""
    summary: ClassVar[tuple[str, ...]]
    """Ends of the names of the scores that a run's result has."""
    scores_whole_images: ClassVar[bool]
    """Whether evaluation takes images as large as they are, whatever the size of training
    views."""
    can_compile: ClassVar[bool]
    """Whether `terms` works on the same shapes in every step, as torch.compile wants it."""

    def check(self, loss: Loss, spec: str, *, label_smoothing: float) -> None:
        """Check that a loss of this spec is one of the task's, and that its labels can be smoothed.

        Raises:
            UsageError: it is not, or they cannot.
        """

    def terms(
        self,
        loss: Loss,
        output: Any,
        teacher: SoftTargets,
        labels: Labels,
        *,
        label_smoothing: float,
    ) -> dict[str, Scalar]:
        """Return the weighted terms of a batch's loss, by name: those against the teacher, and
        `task`, the labels'."""

    def output(self, model: nn.Module, views: Views) -> Any:
        """Return what a model gives of views in an evaluation."""

    def label_notes(
        self, labels: Sequence[Rows], classes: int, names: Sequence[str] | None
    ) -> list[str]:
        """Return one line for each thing about some labels that cannot be meant.

        Args:
            labels: classes of views, in one array or several; of masks one array each, of the
                classes in it.
            classes: how many there are.
            names: of the classes.
        """

    def score(self, class_names: Sequence[str], device: torch.device | str) -> Score:
        """Return an empty score over classes of these names."""

    def reports(self, class_names: Sequence[str], device: torch.device | str) -> Sequence[Score]:
        """Return empty scores of what is told of single models alone, not after each epoch."""

    def predictions(self, settings: PredictionSettings) -> Predictions:
        """Return what writes what a model sees in images; nothing is written yet.

        Raises:
            KdcacheError: settings that the model's classes or the images' names do not allow.
        """

    def program(self, model: VisionModel, *, gives_logits: bool) -> Program:
        """Return a model as it is exported for other programs.

        Args:
            model: of the task.
            gives_logits: whether it gives logits, and not probabilities.

        Raises:
            ModelError: it cannot be exported.
        """

    def statistics(
        self, logits: TeacherLogits, targets: Targets | Masks | None, layout: Layout
    ) -> dict[str, Tensor]:
        """Return means over views that show at a glance whether a teacher sees what it should,
        scalars on the device of the logits, without a wait for it.

        `mean` and `std` of a row's logits, `confidence` (the largest probability) and, if targets
        are of the logits' classes, `accuracy` in percent.

        Args:
            logits: of views.
            targets: of the views, on the same device, if they are of the teacher's classes.
            layout: where the positions of the logits are.
        """

    def shown(self, view: ShownView, output: Any, who: str) -> ShownView:
        """Return a view with what a student gives of it in the place of what the teacher says.

        Args:
            view: the view.
            output: of the student, of this view alone; its classes are those of the data.
            who: the student is.
        """

    def picture(self, view: ShownView) -> Picture:
        """Return a view with what is right of it and what the teacher says.

        Raises:
            UsageError: logits of a layout that cannot be drawn.
        """
