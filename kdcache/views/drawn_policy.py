"""RandAugment as TinyViT's program draws it, and as timm does it, see stored_draw.py."""

import re
from collections.abc import Callable
from typing import NamedTuple

from kdcache.views.numpy_draws import NumpyDraws

_MOST_LEVEL = 10
"""Of a magnitude, where the policy says nothing else."""
_PROBABILITY = 0.5
"""That an operation which was chosen is done."""
_LEAST_FACTOR = 0.1
_UNIFORM = 100.0
"""A deviation beyond it stands for an even distribution."""
_SECTION = re.compile(r"(mstd)(\d+(?:\.\d+)?)|(mmax|inc|m|n)(\d+)")


class DrawnOperation(NamedTuple):
    """An operation with what it takes."""

    name: str
    """timm's."""
    value: float | None
    """None of one that takes nothing."""


class _Kind(NamedTuple):
    """How an operation's value follows from a magnitude."""

    name: str
    value: Callable[[float], float] | None
    """Of a tenth of the magnitude."""
    is_signed: bool = False
    """Whether the sign is drawn, too."""
    is_change: bool = False
    """Whether the value is by how much a factor differs from 1."""


_BEFORE: tuple[_Kind, ...] = (
    _Kind("AutoContrast", None),
    _Kind("Equalize", None),
    _Kind("Invert", None),
    _Kind("Rotate", lambda share: share * 30.0, is_signed=True),
)
_AFTER: tuple[_Kind, ...] = (
    _Kind("ShearX", lambda share: share * 0.3, is_signed=True),
    _Kind("ShearY", lambda share: share * 0.3, is_signed=True),
    _Kind("TranslateXRel", lambda share: share * 0.45, is_signed=True),
    _Kind("TranslateYRel", lambda share: share * 0.45, is_signed=True),
)
_FACTORS = ("Color", "Contrast", "Brightness", "Sharpness")
_SOLARIZE_ADD = _Kind("SolarizeAdd", lambda share: int(share * 110))
_PLAIN: tuple[_Kind, ...] = (
    *_BEFORE,
    _Kind("Posterize", lambda share: int(share * 4)),
    _Kind("Solarize", lambda share: int(share * 256)),
    _SOLARIZE_ADD,
    *(_Kind(name, lambda share: share * 1.8 + 0.1) for name in _FACTORS),
    *_AFTER,
)
_INCREASING: tuple[_Kind, ...] = (
    *_BEFORE,
    _Kind("Posterize", lambda share: 4 - int(share * 4)),
    _Kind("Solarize", lambda share: 256 - int(share * 256)),
    _SOLARIZE_ADD,
    *(_Kind(name, lambda share: share * 0.9, is_signed=True, is_change=True) for name in _FACTORS),
    *_AFTER,
)
"""The operations in the order in which they are chosen from; here larger magnitudes change more."""


class DrawnPolicy:
    """A policy `rand-...`, with what its program makes of each section.

    Args:
        text: for example `rand-m9-mstd0.5-inc1`: magnitude, its deviation, its largest value
            (`mmax`), number of operations (`n`), and whether larger magnitudes change more.
    """

    def __init__(self, text: str) -> None:
        """Read a policy.

        Raises:
            ValueError: it is none that is read.
        """
        sections = _sections(text)
        self._magnitude = int(sections.get("m", _MOST_LEVEL))
        self._deviation = float(sections.get("mstd", 0))
        self._most = int(sections.get("mmax", 0)) or _MOST_LEVEL
        self._num_operations = int(sections.get("n", 2))
        # their program reads `inc0` as `inc1`
        self._kinds = _INCREASING if "inc" in sections else _PLAIN

    def drawn(self, draws: NumpyDraws) -> tuple[DrawnOperation, ...]:
        """Return the operations of a view."""
        operations: list[DrawnOperation] = []
        for place in draws.places(len(self._kinds), self._num_operations):
            if draws.share() <= _PROBABILITY:
                operations.append(self._operation(self._kinds[place], draws))
        return tuple(operations)

    def _operation(self, kind: _Kind, draws: NumpyDraws) -> DrawnOperation:
        """Return an operation with its value, for which a magnitude is drawn in any case."""
        magnitude: float = self._magnitude
        if self._deviation > _UNIFORM:
            magnitude = draws.between(0, magnitude)
        elif self._deviation > 0:
            magnitude = draws.normal(magnitude, self._deviation)
        if kind.value is None:
            return DrawnOperation(kind.name, None)
        value = kind.value(max(0.0, min(magnitude, self._most)) / _MOST_LEVEL)
        if kind.is_signed and draws.share() > 0.5:
            value = -value
        if kind.is_change:
            value = max(_LEAST_FACTOR, 1.0 + value)
        return DrawnOperation(kind.name, value)


def _sections(text: str) -> dict[str, str]:
    """Return the numbers of a policy by their letters.

    Raises:
        ValueError: there are others, or one twice.
    """
    kind, *parts = text.split("-")
    sections: dict[str, str] = {}
    for part in parts:
        match = _SECTION.fullmatch(part)
        if match is None:
            break
        sections[match[1] or match[3]] = match[2] or match[4]
    if kind != "rand" or len(sections) != len(parts):
        raise ValueError(
            f"policy {text!r}; what is read is rand with m, mstd, mmax, n and inc, each once, for"
            " example rand-m9-mstd0.5-inc1"
        )
    return sections
