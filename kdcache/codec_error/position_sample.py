"""A sample of a teacher whose views have several positions: maps, levels of a pyramid, proposals.

Codecs are fitted to some positions of many views, and measured on some others whole, since a loss
compares all of a view's positions, and a record holds them together. The proxy student is a
student's own logits where there are any, and else the teacher at the next position: another view of
the sample would show other things there.

So near a student has a small exact gradient, and errors are shares of it. They were larger than
with students that had been trained, and codecs came in the same order (docs/results/maps.md). A
figure thus compares codecs, and of a training it is a careful guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kdcache.codec_error.measured_views import MeasuredViews, neighbours
from kdcache.codec_error.sample import Sample, require_finite
from kdcache.errors import UsageError
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Boxes, Layout
from kdcache.shapes import Rows, ViewLogits
from kdcache.sources.index_cache import Arrays
from kdcache.views import keyed_permutation

MAP_VIEWS = 64
"""Views that are taken, where no number is said."""
MEASURED_VIEWS = 16
_MEASURED_SHARE = 4
_MOST_VALUES = 1 << 25
"""Codecs are measured on one in so many of these views, on so many at most, and on no more logits
than this, unless a single view has more."""


@dataclass(frozen=True, kw_only=True)
class PositionSample(Sample):
    """Positions of views, and some views whole."""

    whole: MeasuredViews
    whole_rows: Rows
    """Numbers of these views among `groups`."""

    def __post_init__(self) -> None:
        require_finite(self.teacher, "teacher")

    @property
    def views(self) -> MeasuredViews:
        """The whole views."""
        return self.whole

    def halves(self) -> "tuple[PositionSample, PositionSample]":
        """Return the positions of the other views, and the whole ones.

        Raises:
            UsageError: there are no others.
        """
        fitting, measured = self.parted()
        if fitting is self:
            raise UsageError(
                "a single view is measured, and none is left to fit codecs to; give a larger"
                " number of views, or more data"
            )
        return fitting, measured

    def parted(self) -> "tuple[PositionSample, PositionSample]":
        """Return the positions of the other views, all if there are no others, and the whole
        ones."""
        is_of_others = ~np.isin(self.groups, self.whole_rows)
        if not is_of_others.any():
            return self, self
        return self.take(np.flatnonzero(is_of_others)).by_group(), self

    def require_gradient(self) -> None:
        """Raise a UsageError if there is no whole view, or if the two models' logits do not
        differ."""
        if not len(self.whole):
            raise UsageError("no sample can be read of those that codecs are measured on")
        super().require_gradient()

    def with_other_views(self) -> "PositionSample":
        """Return the sample with the teacher on another view in the student's place."""
        return replace(self, whole=self.whole.with_other_views())

    def take(self, rows: Rows) -> "PositionSample":
        """Return the positions asked for, in their order, and all whole views."""
        return replace(self, teacher=self.teacher[rows], groups=self.groups[rows])

    def to(self, device: torch.device) -> "PositionSample":
        """Return the sample on `device`."""
        return replace(self, teacher=self.teacher.to(device), whole=self.whole.to(device))


def measured_rows(rows: Rows, layout: Layout, width: int) -> Rows:
    """Return those of the rows whose views are kept whole: the first ones, as many as tell codecs
    apart and memory should hold.

    Args:
        rows: of the views that are taken.
        layout: of their logits.
        width: logits of a position.
    """
    most = _MOST_VALUES // (layout.num_positions * width)
    count = min(len(rows) // _MEASURED_SHARE, MEASURED_VIEWS, most)
    return rows[: max(count, 1)]


def positions_of_views(
    logits: TeacherLogits,
    rows: Rows,
    *,
    count: int,
    whole_rows: Rows,
    student: ViewLogits | None = None,
) -> Arrays:
    """Return positions of views, from places that are drawn at random, and some of the views whole,
    as `position_sample` takes them.

    Args:
        logits: of the views.
        rows: their numbers.
        count: positions of each.
        whole_rows: numbers of views that are kept whole.
        student: logits of a proxy student on those that are kept whole.
    """
    teacher = [torch.zeros(0, logits.values.shape[-1])]
    groups = [np.zeros(0, np.int64)]
    for place, row in enumerate(rows.tolist()):
        positions = _drawn(logits.rows_of(place), row, count)
        teacher.append(positions)
        groups.append(np.full(len(positions), row))
    is_whole = np.isin(rows, whole_rows)
    whole = logits.at(torch.from_numpy(is_whole))
    arrays = {
        "teacher": torch.cat(teacher).numpy(),
        "rows": np.concatenate(groups),
        "whole": whole.values.float().numpy(),
        "whole_rows": rows[is_whole],
    }
    if whole.boxes is not None:
        arrays["places"] = whole.boxes.places.numpy()
        arrays["counts"] = whole.boxes.counts.numpy()
    if student is not None:
        arrays["student"] = student.float().numpy()
    return arrays


def _drawn(positions: Tensor, row: int, count: int) -> Tensor:
    """Return `count` of a view's positions, `[*sites, row width]`."""
    flat = positions.float().flatten(0, -2)
    if not len(flat):  # as of a view without a proposal
        return flat
    return flat[keyed_permutation(len(flat), 0, row)[:count]]


def next_place_text(layout: Layout) -> str:
    """Return in words what is in the student's place where there is none."""
    if layout.has_boxes:
        return "the teacher at the next proposal"
    return "the teacher at the next position"


def position_sample(
    parts: Sequence[Arrays], layout: Layout, *, proxy: str | None = None
) -> PositionSample:
    """Return the sample that `positions_of_views` gave in parts.

    Args:
        parts: of it.
        layout: of the logits.
        proxy: what the student's logits are, in words; by default the teacher's own, see
            `neighbours`.
    """
    arrays = {}
    for name in parts[0]:
        arrays[name] = np.concatenate([part[name] for part in parts])
    whole = torch.from_numpy(arrays["whole"])
    boxes = None
    if layout.has_boxes:
        boxes = Boxes(torch.from_numpy(arrays["places"]), torch.from_numpy(arrays["counts"]))
    if "student" in arrays:
        student = torch.from_numpy(arrays["student"])
        require_finite(student.flatten(0, -2), "student")
    else:
        student = neighbours(whole, layout, boxes)
    return PositionSample(
        teacher=torch.from_numpy(arrays["teacher"]),
        groups=arrays["rows"],
        proxy=proxy or next_place_text(layout),
        whole=MeasuredViews(logits=whole, student=student, layout=layout, boxes=boxes),
        whole_rows=arrays["whole_rows"],
    )
