"""Classification: one row of class logits per view."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.losses import Loss
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Layout, One
from kdcache.runtime.distributed import all_sum
from kdcache.runtime.float64 import float64_device, in_float64
from kdcache.shapes import Labels, Logits, Rows, Scalar, Targets, Views
from kdcache.soft_targets import DenseTargets, SoftTargets
from kdcache.targets import ClassLabel
from kdcache.tasks.class_predictions import ClassPredictions
from kdcache.tasks.class_program import class_program
from kdcache.tasks.class_report import ClassReport
from kdcache.tasks.classification_picture import draw_classification
from kdcache.tasks.deviations import row_deviations
from kdcache.tasks.label_notes import class_text, is_one_class_only, missing_classes
from kdcache.tasks.losses import refuse_positions
from kdcache.tasks.picture import Picture, ShownView
from kdcache.tasks.predictions import PredictionSettings
from kdcache.tasks.programs import Program
from kdcache.tasks.score_names import BEST


class Classification:
    """The task `classification`."""

    name: ClassVar[str] = ClassLabel.task
    best: ClassVar[str] = BEST[name]
    summary: ClassVar[tuple[str, ...]] = ("top1", "top5", "eval_loss")
    scores_whole_images: ClassVar[bool] = False
    can_compile: ClassVar[bool] = True

    def check(self, loss: Loss, spec: str, *, label_smoothing: float) -> None:
        """Refuse a loss that compares pixels, or would leave some out, or positions.

        Raises:
            UsageError: it does.
        """
        if loss.requires & {"maps", "masks"}:
            raise UsageError(
                f"loss {spec} is one of maps, for segmentation; use dist, kl, dkd or nkd, without"
                " ignore_masked"
            )
        refuse_positions(loss, spec)

    def terms(
        self,
        loss: Loss,
        logits: Logits,
        teacher: SoftTargets,
        labels: Labels,
        *,
        label_smoothing: float,
    ) -> dict[str, Scalar]:
        """Return the loss's terms, and the cross-entropy with the labels."""
        task = task_loss(logits, labels, label_smoothing=label_smoothing)
        return {**loss.terms(logits, teacher, labels.first), "task": loss.ce * task}

    def output(self, model: nn.Module, views: Views) -> Logits:
        """Return the logits."""
        logits: Logits = model(views)
        return logits

    def label_notes(
        self, labels: Sequence[Rows], classes: int, names: Sequence[str] | None
    ) -> list[str]:
        """Return a note if there is one class only, or if classes never occur; see
        `Task.label_notes`."""
        if classes == 1:
            return [
                f"it has one class only, {class_text(0, names)}: there is nothing to tell apart"
            ]
        targets = np.concatenate(labels)
        counts = np.bincount(targets, minlength=classes)
        present = np.flatnonzero(counts)
        if len(present) == 1 and is_one_class_only(len(targets), classes):
            only = class_text(int(present[0]), names)
            return [
                f"all {len(targets)} labels looked at are class {only}, of {classes} classes; are"
                " the labels right?"
            ]
        return missing_classes(counts, len(targets), "labels", names)

    def score(self, class_names: Sequence[str], device: torch.device | str) -> "Score":
        """Return an empty score."""
        return Score(device)

    def reports(self, class_names: Sequence[str], device: torch.device | str) -> list[ClassReport]:
        """Return an empty report by class."""
        return [ClassReport(class_names, device)]

    def predictions(self, settings: PredictionSettings) -> ClassPredictions:
        """Return an empty table of them.

        Raises:
            KdcacheError: they cannot be written so.
        """
        return ClassPredictions(settings)

    def program(self, model: VisionModel, *, gives_logits: bool) -> Program:
        """Return `class_program`."""
        return class_program(model, gives_logits=gives_logits)

    def statistics(
        self, logits: TeacherLogits, targets: Targets | None, layout: Layout
    ) -> dict[str, Tensor]:
        """Return `logit_statistics`."""
        return logit_statistics(logits.values, targets)

    def shown(self, view: ShownView, output: Any, who: str) -> ShownView:
        """Return the view with the logits of a student."""
        return replace(
            view,
            teacher=DenseTargets(output.float().cpu()),
            layout=One(),
            first_class=0,
            who=who,
        )

    def picture(self, view: ShownView) -> Picture:
        """Return `draw_classification`."""
        return draw_classification(view)


def task_loss(logits: Logits, labels: Labels, *, label_smoothing: float) -> Scalar:
    """Return the cross-entropy with the labels, float32, the mean over rows; mixed views have two,
    weighted by their shares."""
    logits = logits.float()
    if labels.mixed is None:
        return nn.functional.cross_entropy(logits, labels.first, label_smoothing=label_smoothing)
    second, share = labels.mixed
    settings: dict[str, Any] = {"label_smoothing": label_smoothing, "reduction": "none"}
    second_losses = nn.functional.cross_entropy(logits, second, **settings)
    first_losses = nn.functional.cross_entropy(logits, labels.first, **settings)
    return torch.lerp(second_losses, first_losses, share).mean()


class Score:
    """Top-1 and top-5 accuracy in percent, and mean cross-entropy, over any number of batches and
    all processes."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=float64_device(device))

    def add(self, logits: Logits, labels: Labels) -> None:
        """Count a batch; nothing is copied from the device until `result`."""
        targets = labels.first
        best_classes = logits.topk(min(5, logits.shape[1]), dim=1).indices
        is_right = best_classes == targets[:, None]
        losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        rows = torch.ones_like(losses)
        top1 = is_right[:, 0].to(losses)
        top5 = is_right.any(1).to(losses)
        self._sums += in_float64(torch.stack([rows, top1, top5, losses])).sum(1)

    def result(self) -> dict[str, float]:
        """Return `top1`, `top5` and `eval_loss`; every process of the run must ask."""
        rows, top1, top5, loss = all_sum(self._sums).tolist()
        return {"top1": 100 * top1 / rows, "top5": 100 * top5 / rows, "eval_loss": loss / rows}


def logit_statistics(logits: Logits, targets: Targets | None) -> dict[str, Tensor]:
    """Return means over rows that show at a glance whether a teacher sees what it should, scalars
    on the device of the logits.

    `mean` and `std` of a row's logits, `confidence` (the largest probability) and, if targets are
    of the logits' classes, `accuracy` in percent.
    """
    logits = logits.float()
    confidence, predicted = torch.softmax(logits, dim=1).max(1)
    means = {
        "mean": logits.mean(),
        "std": row_deviations(logits).mean(),
        "confidence": confidence.mean(),
    }
    if targets is not None:
        is_right = (predicted == targets).float()
        means["accuracy"] = 100 * in_float64(is_right.mean())
    return means
