"""What a layout is: a view's logits are `[positions, classes]`, and it says what the positions
are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar

from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError, quoted
from kdcache.shapes import MOST_SIDE, Activation

MOST_SEGMENTS = 16


@dataclass(frozen=True)
class Segment:
    """Positions that a loss compares together."""

    name: str
    """Of the field that holds them in a record."""
    shape: tuple[int, ...]
    """How they lie, the last axis innermost."""
    weight: float = 1.0
    """What their loss counts, in the sum over segments."""

    @property
    def num_positions(self) -> int:
        """How many they are."""
        return prod(self.shape)


class Layout(ABC):
    """What the positions of a view's logits are; a frozen dataclass, whose fields a manifest
    keeps."""

    kind: ClassVar[str]
    """The word for it in a manifest."""
    has_boxes: ClassVar[bool] = False
    """Whether a view has its own number of positions, and each of them a box."""

    def __post_init__(self) -> None:
        self.require(self._values())

    def _values(self) -> dict[str, Any]:
        """Return the values of the fields by name."""
        return {name: getattr(self, name) for name in _field_names(type(self))}

    @classmethod
    @abstractmethod
    def require(cls, values: Mapping[str, Any]) -> None:
        """Check the values of the fields, which may be anything.

        Raises:
            UsageError: one of another type or out of range.
        """

    @property
    @abstractmethod
    def segments(self) -> tuple[Segment, ...]:
        """The segments, in the order of their positions."""

    @property
    def activation(self) -> Activation:
        """How logits at its positions become probabilities."""
        return "softmax"

    @property
    def has_background(self) -> bool:
        """Whether a row of logits begins with one of the background, which is no class of the
        data."""
        return False

    def row_width(self, classes: int) -> int:
        """Return how many logits a row has, where the data has so many classes."""
        return classes + int(self.has_background)

    def holds_alike(self, other: "Layout") -> bool:
        """Return whether a student of this layout can be compared with a teacher of the other."""
        return self == other

    @property
    def is_of_softmaxes(self) -> bool:
        """Whether a position's logits are those of one softmax over the classes alone: then their
        probabilities can be averaged with another teacher's, and mapped to other classes."""
        return self.activation == "softmax" and not self.has_background

    def contrast(self, other: "Layout") -> str:
        """Return in words how it differs from another."""
        if self.kind != other.kind:
            return f"{self.kind}, not {other.kind}"
        others = other.to_dict()
        differences = []
        for name, value in self.to_dict().items():
            if value != others[name]:
                differences.append(f"{name} {quoted(value)}, not {quoted(others[name])}")
        return "; ".join(differences)

    @property
    def maps(self) -> tuple[int, int, int] | None:
        """The number of heads, and the height and width of their maps, if these have one size; None
        of other layouts."""
        return None

    @property
    def num_positions(self) -> int:
        """How many positions a view has."""
        return sum(segment.num_positions for segment in self.segments)

    @property
    def sites(self) -> tuple[int, ...]:
        """The shape of a view's logits but for the classes."""
        return self.maps or (self.num_positions,)

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest keeps: the kind and the fields."""
        content: dict[str, Any] = {"kind": self.kind}
        for name, value in self._values().items():
            content[name] = _as_lists(value)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Layout":
        """Return the layout that `to_dict` told.

        Raises:
            UsageError: a field that is absent, unknown, of another type or out of range.
        """
        names = _field_names(cls)
        keys = sorted(["kind", *names])
        if sorted(content) != keys:
            raise UsageError(
                f"a layout of kind {cls.kind} has {quoted(sorted(content))}; it must have {keys}"
            )
        values = {}
        for name in names:
            values[name] = _as_tuples(content[name])
        cls.require(values)
        return cls(**values)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the rows of each segment, `[views, positions of the segment, ...]`, of those of
        all positions, `[views, positions, ...]`."""
        sizes = [segment.num_positions for segment in self.segments]
        return list(torch.split(rows, sizes, dim=1))

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the rows of all positions, `[views, positions, ...]`, of those of each segment."""
        return torch.cat(list(parts), dim=1)

    def first(self, count: int) -> "Layout":
        """Return the layout of the first `count` segments, or itself where all belong together."""
        return self


def require_count(value: object, most: int, what: str) -> None:
    """Raise a UsageError if a value is no integer from 1 to `most`."""
    # by type: True is an int, and no number of anchors
    if type(value) is not int or not 1 <= value <= most:
        raise UsageError(f"{what} is {quoted(value)}; it must be an integer from 1 to {most}")


def require_sizes(sizes: object, most: int, what: str) -> None:
    """Raise a UsageError if a value is no tuple of 1 to `most` pairs of height and width."""
    if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= most:
        raise UsageError(
            f"{what} is {quoted(sizes)}; it must have 1 to {most} pairs of height and width"
        )
    for size in sizes:
        if not isinstance(size, tuple) or len(size) != 2:
            raise UsageError(f"{what} has {quoted(size)}; each must be a height and a width")
        for side in size:
            require_count(side, MOST_SIDE, f"a side of {what}")


def _field_names(cls: type[Layout]) -> list[str]:
    """Return the names of the fields of a layout, a dataclass."""
    return [field.name for field in fields(cls)]  # type: ignore[arg-type]


def _as_lists(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return [_as_lists(item) for item in value]


def _as_tuples(value: Any) -> Any:
    """Return a list of lists as a tuple of tuples; what is nested deeper stays as it is."""
    if not isinstance(value, list):
        return value
    items = []
    for item in value:
        if isinstance(item, list):
            items.append(tuple(item))
        else:
            items.append(item)
    return tuple(items)
