"""The levels of a feature pyramid, with anchors side by side: one-stage detection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from kdcache.errors import UsageError, quoted
from kdcache.positions.protocol import (
    MOST_SEGMENTS,
    Layout,
    Segment,
    require_count,
    require_sizes,
)
from kdcache.shapes import Activation

MOST_ANCHORS = 64
_LONGEST_DIGEST = 64


@dataclass(frozen=True)
class Pyramid(Layout):
    """Every anchor at every place of every level: level by level, line by line, the anchors of a
    place side by side."""

    kind: ClassVar[str] = "pyramid"
    levels: tuple[tuple[int, int], ...]
    """Height and width of each level, the finest first."""
    anchors: tuple[int, ...]
    """How many there are at each place, by level."""
    activation: Activation = "sigmoid"
    """How logits become probabilities; of a softmax the background is a class beside the
    others."""
    anchor_boxes: str = ""
    """Digest of the anchors' boxes where a place has several, so that one anchor is not compared
    with another; empty where a place has one, or they are not known."""

    @classmethod
    def require(cls, values: Mapping[str, Any]) -> None:
        """Check the sizes of the levels, the numbers of anchors and the activation.

        Raises:
            UsageError: they are no integers, too many, or too large, not as many numbers as levels,
                or an activation that there is not.
        """
        levels = values["levels"]
        anchors = values["anchors"]
        require_sizes(levels, MOST_SEGMENTS, "levels")
        if not isinstance(anchors, tuple) or len(anchors) != len(levels):
            raise UsageError(
                f"anchors is {quoted(anchors)}; it must have a number for each of the"
                f" {len(levels)} levels"
            )
        for count in anchors:
            require_count(count, MOST_ANCHORS, "a number of anchors")
        activation = values["activation"]
        if activation not in get_args(Activation):
            choices = " or ".join(get_args(Activation))
            raise UsageError(f"activation is {quoted(activation)}; it must be {choices}")
        digest = values["anchor_boxes"]
        if not isinstance(digest, str) or len(digest) > _LONGEST_DIGEST:
            raise UsageError(f"anchor_boxes is {quoted(digest)}; it must be a digest of anchors")

    @property
    def has_background(self) -> bool:
        """It has where an anchor's classes exclude each other: most anchors hold no object."""
        return self.activation == "softmax"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The levels."""
        segments = []
        for place, (height, width) in enumerate(self.levels):
            shape = (height, width, self.anchors[place])
            segments.append(Segment(f"level{place}", shape))
        return tuple(segments)
