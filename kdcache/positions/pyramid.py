"""The levels of a feature pyramid, with anchors side by side: one-stage detection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kdcache.positions.protocol import (
    MOST_SEGMENTS,
    Layout,
    Segment,
    require_count,
    require_sizes,
)
from kdcache.shapes import Activation

MOST_ANCHORS = 64


@dataclass(frozen=True)
class Pyramid(Layout):
    """Every anchor at every place of every level: level by level, line by line, the anchors of a
    place side by side."""

    kind: ClassVar[str] = "pyramid"
    activation: ClassVar[Activation] = "sigmoid"
    levels: tuple[tuple[int, int], ...]
    """Height and width of each level, the finest first."""
    anchors: int = 1
    """How many there are at each place."""

    @classmethod
    def require(cls, values: Mapping[str, Any]) -> None:
        """Check the sizes of the levels and the number of anchors.

        Raises:
            UsageError: they are no integers, too many, or too large.
        """
        require_sizes(values["levels"], MOST_SEGMENTS, "levels")
        require_count(values["anchors"], MOST_ANCHORS, "anchors")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The levels."""
        segments = []
        for place, (height, width) in enumerate(self.levels):
            shape = (height, width, self.anchors)
            segments.append(Segment(f"level{place}", shape))
        return tuple(segments)
