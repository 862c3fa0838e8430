"""Whole views of several positions each, on which codecs are measured that code maps or levels as a
whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.codec_error.gradients import Difference, gradients
from kdcache.codecs import RowCodec, with_layout
from kdcache.losses import dist_loss
from kdcache.positions import Layout, Segment
from kdcache.shapes import Activation, Logits, Scalar, ViewLogits
from kdcache.soft_targets import SoftTargets

WHOLE_VIEWS = 16
_MOST_VALUES = 1 << 26
"""Views that are kept, and the most logits of all of them."""


@dataclass(frozen=True, eq=False)
class WholeViews:
    """The logits of some views at all of their positions."""

    logits: ViewLogits
    """`[views, positions, classes]`."""
    layout: Layout

    @property
    def neighbours(self) -> ViewLogits:
        """For each position the logits on the next one along the width, `[views, positions,
        classes]`: a proxy student's."""
        parts = []
        for segment, part in zip(self.layout.segments, self.layout.split(self.logits), strict=True):
            grid = part.reshape(len(part), *segment.shape, part.shape[-1])
            parts.append(grid.roll(-1, dims=2).flatten(1, len(segment.shape)))
        return self.layout.joined(parts)


def whole_views(views: Sequence[Tensor], layout: Layout) -> WholeViews | None:
    """Return the first views, as many as memory should hold, see `num_whole_views`; None of
    proposals.

    Args:
        views: the logits of each, `[*sites, classes]`.
        layout: what their positions are.
    """
    if layout.has_boxes:
        return None
    flat = []
    for logits in views:
        flat.append(logits.reshape(layout.num_positions, logits.shape[-1]).float())
    count = num_whole_views(layout, flat[0].shape[-1])
    return WholeViews(torch.stack(flat[:count]), layout)


def num_whole_views(layout: Layout, classes: int) -> int:
    """Return how many views are kept whole: none of proposals, whose number is a view's own."""
    if layout.has_boxes:
        return 0
    most = _MOST_VALUES // (layout.num_positions * classes)
    return min(max(most, 1), WHOLE_VIEWS)


def whole_errors(
    rows: RowCodec, views: WholeViews, activation: Activation, taus: Sequence[float]
) -> dict[float, float]:
    """Return the error of DIST's gradient (beta = gamma) by temperature, of a loss for each
    segment, summed.

    Args:
        rows: the codec of a row, with its fit.
        views: on which it is measured; the student is the teacher on the next position.
        activation: how the loss makes probabilities.
        taus: temperatures.
    """
    codec = with_layout(rows, views.layout)
    logits = views.logits.reshape(len(views.logits), *views.layout.sites, codec.classes)
    soft_targets = codec.decode(codec.encode(logits), logits.device)
    decoded = soft_targets.logits().reshape(views.logits.shape)
    differences = {tau: Difference() for tau in taus}
    students = views.layout.split(views.neighbours)
    exact_parts = views.layout.split(views.logits)
    decoded_parts = views.layout.split(decoded)
    for place, segment in enumerate(views.layout.segments):
        student = _rows_of(students[place], segment, activation)
        exact = _rows_of(exact_parts[place], segment, activation)
        other = _rows_of(decoded_parts[place], segment, activation)
        for tau in taus:
            exact_gradient = _gradient(student, exact, activation, tau)
            other_gradient = _gradient(student, other, activation, tau)
            differences[tau].add(exact_gradient, other_gradient)
    return {tau: difference.error for tau, difference in differences.items()}


def _rows_of(part: Tensor, segment: Segment, activation: Activation) -> Logits:
    """Return the rows that a loss compares: by sigmoid one for each place, with the classes of all
    of its anchors."""
    rows = part.flatten(0, 1)
    if activation == "softmax":
        return rows
    _, _, *anchors = segment.shape
    num_anchors = 1
    if anchors:
        (num_anchors,) = anchors
    return rows.reshape(len(rows) // num_anchors, -1)


def _gradient(student: Logits, teacher: Logits, activation: Activation, tau: float) -> Tensor:
    def losses(ours: Logits, theirs: Logits | SoftTargets) -> list[Scalar]:
        return [dist_loss(ours, theirs, tau=tau, activation=activation)]

    (gradient,) = gradients(student, teacher, losses)
    return gradient
