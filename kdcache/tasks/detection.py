"""Object detection by one stage: class logits at each anchor of each level of a pyramid.

With the teacher a head's classes are compared as the DIST paper's training compares them (Huang et
al., NeurIPS 2022, with the code of MasKD): by their sigmoids, a row for each place of a level with
all of its anchors, a loss for each level, summed. The detector's own losses are the labels' part.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.losses import Loss
from kdcache.models.detection import HeadOutput
from kdcache.positions import Segment
from kdcache.shapes import Activation, Labels, Logits, Rows, Scalar, ViewLogits
from kdcache.soft_targets import DenseTargets, SoftTargets, segments_of
from kdcache.targets import ClassBoxes
from kdcache.tasks.box_score import BoxScore
from kdcache.tasks.label_notes import missing_classes

_FEW_VIEWS = 4


class Detection:
    """The task `detection`."""

    name: ClassVar[str] = ClassBoxes.task
    best: ClassVar[str] = "ap"
    summary: ClassVar[tuple[str, ...]] = ("ap", "ap50", "ap75")
    codec: ClassVar[str | None] = "cosine"
    scores_whole_images: ClassVar[bool] = False

    def check(self, loss: Loss, spec: str) -> None:
        """Refuse a loss that needs a label for each row, or maps.

        Raises:
            UsageError: it does.
        """
        if loss.requires & {"label", "maps", "masks"}:
            raise UsageError(
                f"loss {spec} needs a class for each row, or maps, which the positions of a"
                " detector have not; use dist or kl, without ignore_masked"
            )
        if getattr(loss, "standardize", False):
            raise UsageError(
                f"loss {spec} standardizes rows for a softmax, and a detector's scores are"
                " sigmoids; leave standardize out"
            )

    def terms(
        self,
        loss: Loss,
        output: HeadOutput,
        teacher: SoftTargets,
        labels: Labels,
        *,
        label_smoothing: float,
    ) -> dict[str, Scalar]:
        """Return the terms summed over the levels, and the sum of the detector's own losses.

        Raises:
            UsageError: label smoothing, which these have not.
        """
        if label_smoothing:
            raise UsageError(
                f"label_smoothing is {label_smoothing}; a detector's losses have none: leave it out"
            )
        sums: dict[str, Scalar] = {}
        if "teacher" in loss.requires:
            sums = _against(loss, output, teacher)
        losses = list(output.label_losses(labels).values())
        sums["task"] = loss.ce * torch.stack(losses).sum()
        return sums

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

    def statistics(self, logits: ViewLogits, targets: Any) -> dict[str, float]:
        """Return means over views: `confidence` is the largest probability at any position, and
        there is no accuracy."""
        rows = logits.float()
        best = torch.sigmoid(rows).flatten(1).amax(1)
        return {
            "mean": float(rows.mean()),
            "std": float(rows.std(dim=-1, correction=0).mean()),
            "confidence": float(best.mean()),
        }


class DetectionScore:
    """Average precision of what detectors find."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._score = BoxScore(class_names)

    def add(self, output: HeadOutput, labels: Labels) -> None:
        """Count a batch, after the detector's own suppression."""
        self._score.add(output.detections(), labels)

    def result(self) -> dict[str, float]:
        """Return `BoxScore.result`; every process of the run must ask."""
        return self._score.result()


def _by_activation(loss: Loss, activation: Activation) -> Loss:
    """Return a loss that makes probabilities as the head is trained to, if it was not told how."""
    if getattr(loss, "activation", "") is None:
        return replace(loss, activation=activation)  # type: ignore[type-var]
    return loss


def _against(loss: Loss, output: HeadOutput, teacher: SoftTargets) -> dict[str, Scalar]:
    sums: dict[str, Scalar] = {}
    loss = _by_activation(loss, output.layout.activation)
    segments = output.layout.segments
    parts = output.layout.split(output.logits)
    for segment, logits, targets in zip(segments, parts, segments_of(teacher), strict=True):
        rows = _by_place(logits.flatten(0, 1), segment)
        teacher_rows = DenseTargets(_by_place(targets.logits(), segment))
        no_classes = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for name, term in loss.terms(rows, teacher_rows, no_classes).items():
            sums[name] = sums.get(name, 0.0) + term
    return sums


def _by_place(rows: Tensor, segment: Segment) -> Logits:
    """Return a row for each place of a level, with the classes of all of its anchors, of rows for
    each anchor."""
    _, _, num_anchors = segment.shape
    return rows.reshape(len(rows) // num_anchors, -1)
