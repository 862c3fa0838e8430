"""Every class, in float32, float16, bfloat16, or in 8 or 4 bits with an offset and a scale per
row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from kdcache.codecs.protocol import CodecDefaults
from kdcache.deferred import Tensor, torch
from kdcache.shapes import Logits, PerRow
from kdcache.soft_targets import DenseTargets

_FIELD_TYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "uint8": "u1", "uint4": "u1"}
EXACT_DTYPES = ("float32", "float16", "bfloat16")
_STEPS = {"uint8": 255, "uint4": 15}


@dataclass(frozen=True, kw_only=True)
class Full(CodecDefaults):
    """The codec `full`: `[classes]` values per record."""

    name: ClassVar[str] = "full"
    keeps_all: ClassVar[bool] = True
    zstd_level: ClassVar[int] = 5
    classes: int
    dtype: Literal["float32", "float16", "bfloat16", "uint8", "uint4"] = "float16"
    """bfloat16 is stored as the upper two bytes of float32, in uint16, since numpy has no such
    type; uint4 as two classes in a byte, the first in the lower half."""

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`logits`, and for uint8 and uint4 the row's `offset` and `scale`: logit = offset + scale
        * stored."""
        width = self.classes
        if self.dtype == "uint4":
            width = -(-self.classes // 2)
        fields: list[Any] = [("logits", _FIELD_TYPES[self.dtype], (width,))]
        if self.dtype in _STEPS:
            fields += [("offset", "<f4"), ("scale", "<f4")]
        return np.dtype(fields)

    @property
    def is_exact(self) -> bool:
        """Whether the logits are stored as floats."""
        return self.dtype in EXACT_DTYPES

    def fields_of(self, logits: Logits) -> dict[str, Tensor]:
        """Return the fields of records of all classes."""
        if self.dtype == "bfloat16":  # of which no logit below `LARGEST` leaves the range
            return {"logits": logits.to(torch.bfloat16).view(torch.int16)}
        if self.dtype not in _STEPS:
            return {"logits": logits}
        values, offset, scale = _quantised(logits, _STEPS[self.dtype])
        if self.dtype == "uint4":
            values = _packed(values)
        return {"logits": values, "offset": offset, "scale": scale}

    def from_fields(self, fields: Mapping[str, Tensor]) -> DenseTargets:
        """Return the rows whose records have these fields."""
        values = fields["logits"]
        if self.dtype == "uint4":
            pairs = torch.stack([values & 15, values >> 4], dim=2)
            values = pairs.flatten(1)[:, : self.classes]
        if self.dtype in _STEPS:
            return DenseTargets(fields["offset"][:, None] + fields["scale"][:, None] * values)
        if self.dtype == "bfloat16":
            bits = (values << 16).to(torch.int32)
            return DenseTargets(bits.view(torch.float32))
        return DenseTargets(values)

    def stated_error(self, logits: Logits) -> PerRow:
        """Return half a quantisation step at the row's largest magnitude (of the row's range for
        uint8 and uint4)."""
        largest = logits.float().abs().amax(dim=1)
        if self.dtype in _STEPS:
            _, scale = _range(logits.float(), _STEPS[self.dtype])
            return scale * 0.501 + largest * 2.0**-22
        bits = {"float32": 24, "float16": 11, "bfloat16": 8}[self.dtype]
        return largest * 2.0**-bits + 2.0**-25


def _quantised(logits: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return `[rows, classes]` uint8 from 0 to `steps`, and the offset and scale of each row."""
    offset, scale = _range(logits, steps)
    exact = (logits - offset[:, None]) / scale[:, None]
    values = exact.round().clamp(0, steps).to(torch.uint8)
    return values, offset, scale


def _range(logits: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the offset and the scale of each row."""
    low, high = logits.aminmax(dim=1)
    # a constant row still needs a scale to divide by
    least = torch.finfo(torch.float32).tiny
    return low, ((high - low) / steps).clamp_min(least)


def _packed(values: Tensor) -> Tensor:
    """Return two columns per byte, the first in the lower half; a last one on its own has zeros
    above."""
    padded = torch.nn.functional.pad(values, (0, values.shape[1] % 2))
    lower = padded[:, 0::2]
    upper = padded[:, 1::2]
    return lower | (upper << 4)
