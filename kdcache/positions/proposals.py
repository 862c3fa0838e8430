"""Proposals with their boxes: two-stage detection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.positions.protocol import Layout, Segment, require_count

MOST_PROPOSALS = 10_000
MOST_COORDINATE = 2.0**20
"""Pixels from a view's corner, to either side, within which a box must lie."""


class Boxes(NamedTuple):
    """Where the proposals of views lie, and how many there are."""

    places: Tensor
    """Left, upper, right and lower side of each box in pixels of the view, float32 `[views, count,
    4]`; past a view's own count they mean nothing."""
    counts: Tensor
    """Proposals of each view, int64 `[views]`."""


@dataclass(frozen=True)
class Proposals(Layout):
    """Up to `count` proposals a view."""

    kind: ClassVar[str] = "proposals"
    has_boxes: ClassVar[bool] = True
    count: int
    """The most that a view may have."""

    @classmethod
    def require(cls, values: Mapping[str, Any]) -> None:
        """Check the number of proposals.

        Raises:
            UsageError: it is no integer, or too large.
        """
        require_count(values["count"], MOST_PROPOSALS, "count")

    @property
    def has_background(self) -> bool:
        """It has: a proposal may hold no object."""
        return True

    def holds_alike(self, other: Layout) -> bool:
        """Return whether the other has proposals too: a student's box head takes the teacher's,
        however many there are."""
        return isinstance(other, Proposals)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All proposals together."""
        return (Segment("proposals", (self.count,)),)


def is_there(counts: Tensor, count: int) -> Tensor:
    """Return which of `count` proposals each view has, bool `[views, count]`."""
    return torch.arange(count, device=counts.device) < counts[:, None]


def require_shape(boxes: Boxes, views: int, count: int) -> None:
    """Raise a CodecError unless the boxes are those of so many views, `count` places each."""
    places_shape = tuple(boxes.places.shape)
    counts_shape = tuple(boxes.counts.shape)
    if places_shape != (views, count, 4) or counts_shape != (views,):
        raise CodecError(
            f"boxes of shape {places_shape} with counts of shape {counts_shape}; this codec"
            f" holds those of {(views, count, 4)} and {(views,)}"
        )


def are_believable(boxes: Boxes) -> Tensor:
    """Return which views have a count that there can be, and boxes that are finite and near, bool
    `[views]`; past a view's count they may be anything."""
    count = boxes.places.shape[1]
    is_count = (boxes.counts >= 0) & (boxes.counts <= count)
    return is_count & _is_near(boxes).flatten(1).all(1)


def _is_near(boxes: Boxes) -> Tensor:
    """Return which sides lie near their view, or past its count, bool `[views, count, 4]`."""
    is_absent = ~is_there(boxes.counts, boxes.places.shape[1])
    return (boxes.places.abs() <= MOST_COORDINATE) | is_absent[:, :, None]  # NaN is not near


def require_believable(boxes: Boxes) -> None:
    """Check boxes, after a wait for their device.

    Raises:
        CodecError: a count that there cannot be, or a box that is not finite or too far out.
    """
    if bool(are_believable(boxes).all()):
        return
    count = boxes.places.shape[1]
    least = int(boxes.counts.min())
    most = int(boxes.counts.max())
    if not 0 <= least <= most <= count:
        raise CodecError(f"a view has {most} proposals, or {least}; it may have 0 to {count}")
    raise CodecError(
        f"a box is not finite, or further than {MOST_COORDINATE:.0f} pixels from the view"
    )
