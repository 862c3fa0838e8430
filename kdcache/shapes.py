"""The shape vocabulary of kdcache; signatures use these names and the tests check them with beartype."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Logits: TypeAlias = Float[Tensor, "rows classes"]
"""Raw class scores, one row per view."""

Probabilities: TypeAlias = Float[Tensor, "rows classes"]
"""Class probabilities, one row per view, each summing to 1."""

PerRow: TypeAlias = Float[Tensor, " rows"]
Scalar: TypeAlias = Float[Tensor, ""]
Targets: TypeAlias = Int[Tensor, " rows"]
"""Class indices."""

View: TypeAlias = UInt8[Tensor, "channels height width"]
Views: TypeAlias = UInt8[Tensor, "rows channels height width"]
"""Pixels as rendered: 0 to 255, before any model's normalisation."""

Records: TypeAlias = np.ndarray
"""Structured array `[rows]` of a codec's dtype."""

Rows: TypeAlias = np.ndarray
"""Row numbers of a cache, int64 `[rows]`."""


class Labels(NamedTuple):
    """Class labels of views; those of mixed views have a second label."""

    first: Targets
    mixed: tuple[Targets, PerRow] | None = None
    """The second label, and the share of the first; the second has the rest."""

    @property
    def leading(self) -> Targets:
        """The label of the larger share."""
        if self.mixed is None:
            return self.first
        second, share = self.mixed
        return torch.where(share >= 0.5, self.first, second)

    def to(self, move: Callable[[Tensor], Tensor]) -> "Labels":
        """Return the labels with every tensor moved."""
        return Labels(move(self.first), None if self.mixed is None else (move(self.mixed[0]), move(self.mixed[1])))
