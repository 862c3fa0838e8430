"""Soft targets of several positions a view: the rows of each segment of a layout."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.positions import Boxes, Layout, One, Segment, common_layout
from kdcache.positions.proposals import is_there
from kdcache.shapes import PerRow, ViewLogits
from kdcache.soft_targets.protocol import AnchorTargets, DenseTargets, SoftTargets

_ONE_BY_ONE = (
    "soft targets of maps go into a loss head by head: give teacher.heads[0], and the student's"
    " logits as rows of pixels, [views * height * width, classes]"
)
_BY_SEGMENT = (
    "soft targets of several positions a view go into a loss segment by segment: give"
    " teacher.segments[0], and the student's logits there, [views * positions, classes]"
)


@dataclass(frozen=True)
class SegmentTargets:
    """The teacher's logits of a batch, segment by segment: a head's map, a level, the proposals."""

    segments: Sequence[SoftTargets]
    """Of each segment the rows of all views' positions, view by view; of proposals only those that
    there are."""
    layout: Layout
    boxes: Tensor | None = None
    """Of proposals where they lie, float32 `[views, count, 4]`, zeros past a view's own count."""
    counts: Tensor | None = None
    """Of proposals how many each view has, int64 `[views]`."""

    @property
    def heads(self) -> Sequence[SoftTargets]:
        """Of maps the rows of each head, main first."""
        return self.segments

    def logits(self) -> ViewLogits:
        """Return raw logits, float32 `[views, *layout.sites, classes]`; zeros past a view's number
        of proposals."""
        return self._joined([rows.logits() for rows in self.segments])

    def probs(self, tau: float | PerRow, tempered_student: Tensor | None = None) -> ViewLogits:
        """Return softmax(logits / tau), in the shape of `logits`.

        Raises:
            CodecError: a temperature for each row, or a student: a loss takes segments one by one.
        """
        if tempered_student is not None or torch.is_tensor(tau):
            require_one_segment(self)
        return self._joined([rows.probs(tau) for rows in self.segments])

    def std(self) -> Tensor:
        """Return the standard deviation of each position's logits, `[views, *layout.sites]`."""
        columns = [rows.std()[:, None] for rows in self.segments]
        return self._joined(columns)[..., 0]

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return values of all positions, `[views, *layout.sites, ...]`, from those of each
        segment, `[rows, ...]`."""
        if self.counts is not None:
            return self._spread(parts[0], self.counts)
        width = parts[0].shape[-1]
        by_view = []
        for part, segment in zip(parts, self.layout.segments, strict=True):
            by_view.append(part.reshape(-1, segment.num_positions, width))
        whole = self.layout.joined(by_view)
        return whole.reshape(len(whole), *self.layout.sites, width)

    def _spread(self, rows: Tensor, counts: Tensor) -> Tensor:
        """Return values of as many proposals as a view may have, zeros where there is none."""
        places = is_there(counts, self.layout.num_positions)
        whole = rows.new_zeros(*places.shape, rows.shape[-1])
        whole[places] = rows
        return whole


def require_one_segment(rows: SoftTargets) -> None:
    """Raise a CodecError if soft targets are of several positions a view, which a loss takes
    segment by segment."""
    if not isinstance(rows, SegmentTargets):
        return
    if rows.layout.maps:
        raise CodecError(_ONE_BY_ONE)
    raise CodecError(_BY_SEGMENT)


def segments_of(rows: SoftTargets) -> Sequence[SoftTargets]:
    """Return the rows of each segment; of classification there is one."""
    if isinstance(rows, SegmentTargets):
        return rows.segments
    return [rows]


def compared_rows(
    student: Sequence[Tensor], teacher: SoftTargets, layout: Layout
) -> Iterator[tuple[Tensor, SoftTargets]]:
    """Yield of each segment what a loss compares: a student's rows, and the teacher's at the same
    positions. Anchors side by side are one row for each place, `[places, anchors, row width]`.

    Args:
        student: logits of each segment's positions, `[rows, row width]`.
        teacher: of the same views.
        layout: of both.
    """
    for segment, rows, targets in zip(layout.segments, student, segments_of(teacher), strict=True):
        if len(segment.shape) < 3:
            yield rows, targets
        else:
            yield _by_place(rows, segment), AnchorTargets(_by_place(targets.logits(), segment))


def _by_place(rows: Tensor, segment: Segment) -> Tensor:
    """Return a row for each place of a level, `[places, anchors, row width]`, of those of each
    anchor, `[places * anchors, row width]`."""
    _, _, num_anchors = segment.shape
    return rows.reshape(-1, num_anchors, rows.shape[-1])


def per_segment(make: Callable[..., SoftTargets], *teachers: Any) -> Any:
    """Return what `make` gives of several teachers' rows, for each segment that all of them have.

    Raises:
        CodecError: several teachers with proposals, whose boxes are their own.
        UsageError: logits that do not lie alike; only auxiliary heads may be lacking.
    """
    first = teachers[0]
    if not isinstance(first, SegmentTargets):
        return make(*teachers)
    if first.layout.has_boxes and len(teachers) > 1:
        raise CodecError(
            "proposals of several teachers are at boxes of their own and cannot be combined; take"
            " one teacher, whose cache holds all rows"
        )
    layouts = []
    segment_rows = []
    for teacher in teachers:
        layouts.append(teacher.layout)
        segment_rows.append(teacher.segments)
    layout = common_layout(layouts)
    segments = [make(*rows) for rows in zip(*segment_rows, strict=False)]
    return SegmentTargets(segments, layout, first.boxes, first.counts)


def by_segment(logits: ViewLogits, layout: Layout, boxes: Boxes | None = None) -> SoftTargets:
    """Return logits that are all known as soft targets.

    Args:
        logits: `[views, *layout.sites, classes]`, or `[views, positions, classes]`.
        layout: what the positions are.
        boxes: of proposals where they are.
    """
    if isinstance(layout, One):
        return DenseTargets(logits)
    if boxes is not None:
        is_proposal = is_there(boxes.counts, layout.num_positions)
        proposals = DenseTargets(logits[is_proposal])
        return SegmentTargets([proposals], layout, boxes.places, boxes.counts)
    flat = logits.reshape(len(logits), layout.num_positions, logits.shape[-1])
    segments = []
    for part in layout.split(flat):
        rows = part.flatten(0, 1)
        segments.append(DenseTargets(rows))
    return SegmentTargets(segments, layout)
