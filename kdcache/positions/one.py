"""One row of logits a view: classification."""

from dataclasses import dataclass
from typing import ClassVar

from kdcache.positions.protocol import Layout, Segment


@dataclass(frozen=True)
class One(Layout):
    """A single position."""

    kind: ClassVar[str] = "one"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The row."""
        return (Segment("row", ()),)

    @property
    def sites(self) -> tuple[int, ...]:
        """None: logits are `[views, classes]`."""
        return ()
