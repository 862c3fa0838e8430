"""One row of logits a view: classification."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kdcache.positions.protocol import Layout, Segment


@dataclass(frozen=True)
class One(Layout):
    """A single position."""

    kind: ClassVar[str] = "one"

    @classmethod
    def require(cls, values: Mapping[str, Any]) -> None:
        """Nothing to check: there are no fields."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The row."""
        return (Segment("row", ()),)

    @property
    def sites(self) -> tuple[int, ...]:
        """None: logits are `[views, classes]`."""
        return ()
