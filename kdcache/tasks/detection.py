"""Object detection: class logits at the anchors of a pyramid's levels, or at proposals.

The classes of a one-stage head are compared with the teacher's as the DIST paper's training
compares them (Huang et al., NeurIPS 2022, with the code of MasKD): a row for each place of a level
with all of its anchors, a loss for each level, summed. Those of a second stage are compared at the
teacher's proposals, a row for each. The detector's own losses are the labels' part.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.losses import Loss
from kdcache.models.detector_output import DetectorOutput
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Layout
from kdcache.positions.proposals import is_there
from kdcache.shapes import Activation, Detections, Labels, Rows, Scalar, Views
from kdcache.soft_targets import AnchorTargets, DenseTargets, SoftTargets
from kdcache.targets import ClassBoxes
from kdcache.tasks.box_predictions import BoxPredictions
from kdcache.tasks.box_score import BoxScore
from kdcache.tasks.boxes_in_images import boxes_in_images
from kdcache.tasks.class_probabilities import class_probabilities
from kdcache.tasks.detection_picture import draw_detection
from kdcache.tasks.deviations import row_deviations
from kdcache.tasks.label_notes import missing_classes
from kdcache.tasks.picture import Picture, ShownView
from kdcache.tasks.predictions import PredictionSettings
from kdcache.tasks.programs import Program
from kdcache.tasks.score_names import BEST

_FEW_VIEWS = 4


class Detection:
    """The task `detection`."""

    name: ClassVar[str] = ClassBoxes.task
    best: ClassVar[str] = BEST[name]
    summary: ClassVar[tuple[str, ...]] = ("ap", "ap50", "ap75")
    scores_whole_images: ClassVar[bool] = False
    can_compile: ClassVar[bool] = False

    def check(self, loss: Loss, spec: str, *, label_smoothing: float) -> None:
        """Refuse a loss that needs a label for each row, or maps, and labels that are smoothed.

        Raises:
            UsageError: it does, or they are.
        """
        if label_smoothing:
            raise UsageError(
                f"label_smoothing is {label_smoothing}; a detector's losses have none: leave it out"
            )
        if loss.requires & {"label", "maps", "masks"}:
            raise UsageError(
                f"loss {spec} needs a class for each row, or maps, which the positions of a"
                " detector have not; use dist or kl, without ignore_masked"
            )
        if any(getattr(part, "standardize", False) for part in loss.parts):
            raise UsageError(
                f"loss {spec} standardizes rows, which forgets how sure a detector is that there is"
                " an object; leave standardize out"
            )

    def terms(
        self,
        loss: Loss,
        output: DetectorOutput,
        teacher: SoftTargets,
        labels: Labels,
        *,
        label_smoothing: float,
    ) -> dict[str, Scalar]:
        """Return the terms summed over the levels, and the sum of the detector's own losses."""
        assert not label_smoothing, "check refuses it"
        sums: dict[str, Scalar] = {}
        if "teacher" in loss.requires:
            sums = _against(loss, output, teacher)
        losses = list(output.label_losses(labels).values())
        sums["task"] = loss.ce * torch.stack(losses).sum()
        return sums

    def output(self, model: nn.Module, views: Views) -> DetectorOutput:
        """Return what the detector gives."""
        output: DetectorOutput = model(views)
        return output

    def label_notes(
        self, labels: Sequence[Rows], classes: int, names: Sequence[str] | None
    ) -> list[str]:
        """Return a note if no view has an object, or if classes never occur; see
        `Task.label_notes`."""
        counts = np.zeros(classes, np.int64)
        for distinct in labels:
            counts[distinct] += 1
        num_views = len(labels)
        if num_views >= _FEW_VIEWS and not counts.any():
            return [f"the {num_views} views looked at hold no object; are the annotations right?"]
        return missing_classes(counts, num_views, "views", names)

    def score(self, class_names: Sequence[str], device: torch.device | str) -> "DetectionScore":
        """Return an empty score."""
        return DetectionScore(class_names)

    def reports(self, class_names: Sequence[str], device: torch.device | str) -> Sequence[Any]:
        """Return none: the scores have each class."""
        return []

    def predictions(self, settings: PredictionSettings) -> BoxPredictions:
        """Return an empty table of them.

        Raises:
            KdcacheError: they cannot be written so.
        """
        return BoxPredictions(settings)

    def program(self, model: VisionModel, *, gives_logits: bool) -> Program:
        """Return `box_program`; of logits there are none.

        Raises:
            ModelError: a detector of one's own.
        """
        from kdcache.tasks.box_program import box_program  # noqa: PLC0415 # torchvision's detectors

        return box_program(model)

    def statistics(self, logits: TeacherLogits, targets: Any, layout: Layout) -> dict[str, Tensor]:
        """Return means over views: `confidence` is the largest probability of a class at any
        position, and there is no accuracy. Views without a proposal do not count."""
        sums = logits.values.new_zeros(3, dtype=torch.float32)
        num_counted = sums.new_zeros(())
        for view, rows in enumerate(logits.values):  # one by one: maps of all are large
            is_row = torch.ones(len(rows.flatten(0, -2)), dtype=torch.bool, device=rows.device)
            if logits.boxes is not None:
                is_row = is_there(logits.boxes.counts[view : view + 1], len(rows))[0]
            means = _view_statistics(rows.float().flatten(0, -2), is_row, layout)
            sums += torch.where(is_row.any(), means, 0.0)
            num_counted += is_row.any()
        mean, std, confidence = sums / num_counted.clamp_min(1)
        return {"mean": mean, "std": std, "confidence": confidence}

    def shown(self, view: ShownView, output: Any, who: str) -> ShownView:
        """Return the view with the boxes that a student finds."""
        assert view.labels.objects is not None
        (found,) = boxes_in_images(output.detections(), view.labels.objects)
        boxes, scores, classes = (part.float().cpu() for part in found)
        return replace(
            view, detections=Detections(boxes, scores, classes.long()), first_class=0, who=who
        )

    def picture(self, view: ShownView) -> Picture:
        """Return `draw_detection`."""
        return draw_detection(view)


def _view_statistics(rows: Tensor, is_row: Tensor, layout: Layout) -> Tensor:
    """Return mean and deviation of a view's rows, and its confidence, float32 `[3]`, over the rows
    that there are."""
    num_rows = is_row.sum()
    means = torch.where(is_row, rows.mean(-1), 0.0).sum() / num_rows
    spread = torch.where(is_row, row_deviations(rows), 0.0).sum() / num_rows
    surest = class_probabilities(rows, layout).amax(-1)
    return torch.stack([means, spread, torch.where(is_row, surest, 0.0).amax()])


class DetectionScore:
    """Average precision of what detectors find."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._score = BoxScore(class_names)

    def add(self, output: DetectorOutput, labels: Labels) -> None:
        """Count a batch, after the detector's own suppression."""
        self._score.add(output.detections(), labels)

    def result(self) -> dict[str, float]:
        """Return `BoxScore.result`; every process of the run must ask."""
        return self._score.result()


def _surest(
    rows: Tensor, teacher_rows: SoftTargets, share: float, layout: Layout
) -> tuple[Tensor, SoftTargets]:
    """Return a share of the rows of both: those in which the teacher gives a class of the data the
    largest probability. A share of 1 is all, as they are."""
    if share == 1:
        return rows, teacher_rows
    teacher_logits = teacher_rows.logits()
    probabilities = class_probabilities(teacher_logits.flatten(0, -2), layout)
    confidence = probabilities.reshape(len(rows), -1).amax(1)
    count = math.ceil(share * len(rows))
    places = confidence.topk(count).indices
    chosen_logits = teacher_logits[places]
    if chosen_logits.ndim == 3:
        return rows[places], AnchorTargets(chosen_logits)
    return rows[places], DenseTargets(chosen_logits)


def _by_activation(loss: Loss, activation: Activation) -> Loss:
    """Return a loss that makes probabilities as the head is trained to, if it was not told how."""
    if getattr(loss, "activation", "") is None:
        return replace(loss, activation=activation)  # type: ignore[type-var]
    return loss


def _against(loss: Loss, output: DetectorOutput, teacher: SoftTargets) -> dict[str, Scalar]:
    """Return the terms against the teacher, summed over what is compared together."""
    sums: dict[str, Scalar] = {}
    losses = [_by_activation(part, output.layout.activation) for part in loss.parts]
    for compared in output.beside(teacher):
        for part in losses:
            share = getattr(part, "positions", 1.0)
            rows, teacher_rows = _surest(*compared, share, output.layout)
            no_classes = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            for name, term in part.terms(rows, teacher_rows, no_classes).items():
                sums[name] = sums.get(name, 0.0) + term
    return sums
