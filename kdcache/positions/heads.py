"""Maps of one or several heads: segmentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kdcache.positions.protocol import Layout, Segment, require_sizes

AUXILIARY = 0.4
"""Weight of an auxiliary head, as in the DIST paper's training (Huang et al., NeurIPS 2022) and
PSPNet's before it."""
MOST_HEADS = 64
"""Of one size; of unlike sizes a record has a field for each, and they are as few as other
segments."""


@dataclass(frozen=True)
class Heads(Layout):
    """The pixels of each head's map, head by head, line by line."""

    kind: ClassVar[str] = "heads"
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each head's map, the main head first."""

    @classmethod
    def require(cls, values: Mapping[str, Any]) -> None:
        """Check the sizes of the heads.

        Raises:
            UsageError: they are no pairs of integers, too many, or too large.
        """
        require_sizes(values["sizes"], MOST_HEADS, "sizes")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The heads."""
        segments = []
        for place, size in enumerate(self.sizes):
            weight = 1.0 if place == 0 else AUXILIARY
            segments.append(Segment(f"head{place}", size, weight))
        return tuple(segments)

    @property
    def maps(self) -> tuple[int, int, int] | None:
        """The number of heads, and the height and width of their maps, if these have one size."""
        height, width = self.sizes[0]
        if set(self.sizes) != {(height, width)}:
            return None
        return len(self.sizes), height, width

    def first(self, count: int) -> "Heads":
        """Return the first `count` heads: a teacher may lack the auxiliary ones."""
        return Heads(self.sizes[:count])
