"""Views that codecs are measured on: a teacher's logits at all of their positions, and a proxy
student's beside them.

What is measured is the gradient that the task's training would have: of a loss for each segment of
a layout, of the rows that it compares, summed by weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kdcache.codec_error.gradients import Difference, Teacher, gradients, whole_batches
from kdcache.codecs import RowCodec, encoded, with_layout
from kdcache.losses import dist_loss
from kdcache.positions import Boxes, Layout, One
from kdcache.shapes import Activation, LogitRows, Records, Scalar, ViewLogits
from kdcache.soft_targets import SoftTargets, by_segment, compared_rows, segments_of

BATCH = 256
"""Rows of a batch of the loss, where a view has one."""


class Compared(NamedTuple):
    """What a loss compares together."""

    student: Tensor
    """The student's logits, `[rows, row width]`, or `[places, anchors, row width]`."""
    teacher: SoftTargets
    """The teacher's at the same positions."""
    weight: float
    """Of the loss, in the sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredViews:
    """Views with a teacher's and a proxy student's logits."""

    logits: ViewLogits
    """The teacher's, `[views, *layout.sites, row width]`."""
    student: ViewLogits
    """The student's, of the same shape."""
    layout: Layout
    boxes: Boxes | None = None
    """Of proposals, where they are."""

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def differ(self) -> bool:
        """Whether the two models' logits differ anywhere; if not, a loss between them has no
        gradient."""
        return not torch.equal(self.logits, self.student)

    @property
    def usual_batch(self) -> int:
        """Views of a batch of the loss, where none is said: all that have several positions, since
        they have rows enough."""
        if isinstance(self.layout, One):
            return min(BATCH, len(self))
        return len(self)

    def batch_sizes(self, wanted: Sequence[int]) -> list[int]:
        """Return the sizes of batches of the loss, each once: as wanted, but that a batch of views
        of several positions has at most all of them."""
        if isinstance(self.layout, One):
            return list(dict.fromkeys(wanted))
        return list(dict.fromkeys(min(size, len(self)) for size in wanted))

    def to(self, device: torch.device) -> "MeasuredViews":
        """Return the views on `device`."""
        boxes = self.boxes
        if boxes is not None:
            boxes = Boxes(boxes.places.to(device), boxes.counts.to(device))
        return replace(
            self, logits=self.logits.to(device), student=self.student.to(device), boxes=boxes
        )

    def with_other_views(self) -> "MeasuredViews":
        """Return the views with the teacher on another of them in the student's place."""
        return replace(self, student=self.logits.roll(1, 0))

    def records(self, rows: RowCodec) -> Records:
        """Return the records of all views.

        Args:
            rows: the codec of a row, with its fit.

        Raises:
            CodecError: logits that it cannot hold.
        """
        return encoded(with_layout(rows, self.layout), self.logits, self.boxes)

    def compared(self, views: slice, decoded: SoftTargets | None = None) -> list[Compared]:
        """Return what the losses of a batch compare.

        Args:
            views: of the batch.
            decoded: what a codec gives back of them; by default the exact logits.
        """
        boxes = self.boxes
        if boxes is not None:
            boxes = Boxes(boxes.places[views], boxes.counts[views])
        teacher = decoded or by_segment(self.logits[views], self.layout, boxes)
        students = segments_of(by_segment(self.student[views], self.layout, boxes))
        student = [rows.logits() for rows in students]
        rows = compared_rows(student, teacher, self.layout)
        parts = []
        for segment, (ours, theirs) in zip(self.layout.segments, rows, strict=True):
            parts.append(Compared(ours, theirs, segment.weight))
        return parts


def neighbours(logits: ViewLogits, layout: Layout, boxes: Boxes | None = None) -> ViewLogits:
    """Return for each position the logits at the next one, in the shape of `logits`: of maps and
    levels the one to the right, of proposals the next of the view. The last one's next is the
    first.

    Args:
        logits: `[views, *layout.sites, row width]`.
        layout: what the positions are.
        boxes: of proposals.
    """
    flat = logits.reshape(len(logits), layout.num_positions, logits.shape[-1])
    if boxes is not None:
        places = torch.arange(layout.num_positions, device=flat.device)
        counts = boxes.counts[:, None]
        following = torch.where(places < counts, (places + 1) % counts.clamp_min(1), places)
        return flat.gather(1, following[:, :, None].expand_as(flat))
    parts = []
    for segment, part in zip(layout.segments, layout.split(flat), strict=True):
        grid = part.reshape(len(part), *segment.shape, part.shape[-1])
        parts.append(grid.roll(-1, dims=2).flatten(1, len(segment.shape)))
    return layout.joined(parts).reshape(logits.shape)


def dist_errors(rows: RowCodec, views: MeasuredViews, taus: Sequence[float]) -> dict[float, float]:
    """Return the error of DIST's gradient (beta = gamma) by temperature: |decoded - exact| /
    |exact| over all whole batches.

    Args:
        rows: the codec of a row, with its fit.
        views: on which it is measured.
        taus: temperatures.
    """
    codec = with_layout(rows, views.layout)
    records = views.records(rows)
    differences = {tau: Difference() for tau in taus}
    for batch in whole_batches(len(views), views.usual_batch):
        decoded = codec.decode(records[batch], views.logits.device)
        pairs = zip(views.compared(batch), views.compared(batch, decoded), strict=True)
        for exact, other in pairs:
            for tau, difference in differences.items():
                of_tau = partial(_dist_gradient, tau=tau, activation=views.layout.activation)
                difference.add(of_tau(exact), of_tau(other))
    return {tau: difference.error for tau, difference in differences.items()}


def _dist_gradient(part: Compared, tau: float, activation: Activation) -> Tensor:
    """Return the gradient of DIST with respect to the student's logits."""

    def losses(student: LogitRows, teacher: Teacher) -> list[Scalar]:
        return [part.weight * dist_loss(student, teacher, tau=tau, activation=activation)]

    (gradient,) = gradients(part.student, part.teacher, losses)
    return gradient
