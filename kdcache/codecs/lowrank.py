"""Every class, as small integers on the axes of a basis fitted to the teacher's logits."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.codecs.protocol import DenseRows, checked, to_fields
from kdcache.codecs.transform import Calibration, Fit, quantised
from kdcache.errors import CodecError, UsageError
from kdcache.shapes import Logits, PerRow, Records
from kdcache.spec import not_an_option

_ROWS = 1024  # encoded at a time
_PER_BYTE = 5
_PLACES = torch.tensor([1, 3, 9, 27, 81])
_VALUES = torch.arange(256).to(torch.uint8).view(torch.int8).to(torch.int32) + int(_PLACES.sum())
_TERNARY = (_VALUES[:, None].div(_PLACES, rounding_mode="floor") % 3 - 1).float()
"""The five values in each byte, `[256, 5]`; those of bytes that `_packed` never gives mean nothing."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The codec `lowrank`: integers on the axes of a basis fitted to the teacher's logits; up to a constant per row."""

    name: ClassVar[str] = "lowrank"
    keeps_all: ClassVar[bool] = True
    chunk_bytes: ClassVar[int | None] = 16
    # level 12 takes 12 % more in chunks of over 1,024 rows, 13 takes 1 to 3 % more; 16 still stores 8,000 views/s on a core at
    # 290 bytes, and above it nothing is gained
    zstd_level: ClassVar[int] = 16
    classes: int
    step: float | None = None
    """Quantisation step, in units of logits; smaller is more exact and takes more bytes."""
    error: float | None = None
    """Instead of a step: the error of DIST's gradient that the fit must meet, at tau 1 and 4."""
    bytes: float | None = None
    """Instead of a step: the bytes per view, as stored, that the fit must meet."""
    views: int = 8192
    """Views in the calibration sample."""
    fitted: Fit | None = not_an_option()

    def __post_init__(self) -> None:
        given = {name: value for name in ("step", "error", "bytes") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise UsageError(f"lowrank with {', '.join(given) or 'no target'}: give one of step=, error= and bytes=")
        for name, value in (*given.items(), ("views", self.views)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"lowrank:{name}={value} must be above 0")

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`wide`: int16 per axis; `byte`: int8 per axis; `ternary`: five axes per byte. No fields before the fit."""
        if self.fitted is None:
            return np.dtype([])
        kinds = self.fitted.kinds
        bytes_of_ternary = -(-kinds["ternary"] // _PER_BYTE)
        fields = [("wide", "<i2", kinds["wide"]), ("byte", "i1", kinds["byte"]), ("ternary", "u1", bytes_of_ternary)]
        return np.dtype([(name, base, (count,)) for name, base, count in fields if count])

    def fit(self, logits: Logits, head: Tensor | None = None) -> "LowRank":
        """Return this codec fitted to a calibration sample at its step.

        Args:
            logits: `[rows, classes]`, several rows per class for a stable basis.
            head: weights of the teacher's classifier, `[classes, features]`, if they are known: a prior for a small sample.

        Raises:
            CodecError: a target other than a step, too few rows, or rows that do not differ.
        """
        if self.step is None:
            raise CodecError("lowrank without step= is fitted by a search: use kdcache.calibration")
        return self.with_fit(Calibration(checked(logits, self.classes), head).fit(self.step))

    def with_fit(self, fit: Fit) -> "LowRank":
        """Return this codec with `fit`."""
        return replace(self, fitted=fit)

    def encode(self, logits: Logits) -> Records:
        """Return records of the rows' integers.

        Raises:
            CodecError: logits of another class count, or not finite.
        """
        fit = self._fit
        logits = checked(logits, self.classes).to(fit.basis.device)
        records = np.zeros(len(logits), self.record_dtype)
        for start in range(0, len(logits), _ROWS):
            integers = quantised(logits[start : start + _ROWS], fit).to(torch.int16).cpu()
            for kind, part in zip(fit.kinds, torch.split(integers, list(fit.kinds.values()), dim=1), strict=True):
                if part.shape[1]:
                    stored = _packed(part) if kind == "ternary" else part
                    records[kind][start : start + _ROWS] = stored.numpy()
        return records

    def decode(self, records: Records, device: torch.device | str = "cpu") -> DenseRows:
        """Return the rows, decoded on `device`; each row's logits have mean zero."""
        fields = to_fields(records, device)
        parts = [_unpacked(field) if kind == "ternary" else field.float() for kind, field in fields.items()]
        basis, mean = self._on(torch.device(device))
        return DenseRows(torch.addmm(mean, torch.cat(parts, 1)[:, : len(basis)], basis))

    def stated_error(self, logits: Logits) -> PerRow:
        """Return a bound on |decoded - centred logits|: what lies outside the basis, one step per axis, and what is clipped."""
        fit = self._fit
        centred = logits.float() - logits.float().mean(1, keepdim=True) - fit.mean
        coefficients = centred @ fit.basis.T
        outside = (centred - coefficients @ fit.basis).square().sum(1)
        clipped = (coefficients.abs() - fit.limit * fit.step).clamp_min(1.5 * fit.step)
        bound: Tensor = (outside + clipped.square().sum(1)).sqrt() * 1.001 + centred.norm(dim=1) * 2.0**-9 + 1e-4
        return bound  # the last two terms: a stored basis has 11 bits

    @property
    def _fit(self) -> Fit:
        if self.fitted is None:
            raise CodecError("lowrank has no fit yet; it is made from a calibration sample: codec.fit(logits)")
        return self.fitted

    @cached_property
    def _placed(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the basis times the steps, and the mean, on `device`."""
        if device not in self._placed:
            fit = self._fit
            self._placed[device] = (fit.basis * fit.step).to(device), fit.mean.to(device)
        return self._placed[device]


def _packed(integers: Tensor) -> Tensor:
    """Return five ternary values to a byte, as base-3 digits around a byte of 0 for five zeros."""
    padded = torch.nn.functional.pad(integers, (0, -integers.shape[1] % _PER_BYTE))
    digits = padded.reshape(len(padded), padded.shape[1] // _PER_BYTE, _PER_BYTE)
    value: Tensor = (digits * _PLACES.to(digits)).sum(2)
    return value.to(torch.int8).view(torch.uint8)


def _unpacked(packed: Tensor) -> Tensor:
    """Return the ternary values of `_packed`, float32."""
    return torch.nn.functional.embedding(packed.to(torch.int32), _TERNARY.to(packed.device)).flatten(1)
