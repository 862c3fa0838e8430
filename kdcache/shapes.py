"""The shape vocabulary of kdcache; signatures use these names and the tests check them with beartype."""

from typing import TypeAlias

import numpy as np
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
