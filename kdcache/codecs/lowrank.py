"""Every class, as small integers on the axes of a basis fitted to the teacher's logits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np

from kdcache.codecs.protocol import CodecDefaults, checked
from kdcache.codecs.transform import Calibration, Fit, PlacedFit, quantised
from kdcache.config.fields import not_an_option
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError, UsageError
from kdcache.shapes import Logits, PerRow
from kdcache.soft_targets import DenseTargets

_ROWS = 1024  # encoded at a time
_PER_BYTE = 5


@dataclass(frozen=True, kw_only=True)
class LowRank(CodecDefaults):
    """The codec `lowrank`: integers on the axes of a basis fitted to the teacher's logits; up to a
    constant per row."""

    name: ClassVar[str] = "lowrank"
    keeps_all: ClassVar[bool] = True
    keeps_mean: ClassVar[bool] = False
    # level 12 takes 12 % more in chunks of over 1,024 rows, 13 takes 1 to 3 % more; 16 still stores
    # 8,000 views/s on a core at
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
        if self.classes < 2:
            raise UsageError(
                "lowrank on 1 class has nothing to hold: its probability is always 1; use full"
            )
        options = {"step": self.step, "error": self.error, "bytes": self.bytes}
        targets = {name: value for name, value in options.items() if value is not None}
        if len(targets) != 1:
            names = ", ".join(targets) or "no target"
            raise UsageError(f"lowrank with {names}: give one of step=, error= and bytes=")
        for name, value in (*targets.items(), ("views", self.views)):
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"lowrank:{name}={value} must be above 0")

    @property
    def chunk_bytes(self) -> int:
        """Few, so that axes of unlike laws have tables of their own."""
        return 16

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`wide`: int16 per axis; `byte`: int8 per axis; `ternary`: five axes per byte. No fields
        before the fit."""
        if self.fitted is None:
            return np.dtype([])
        kinds = self.fitted.kinds
        fields: list[Any] = []
        if kinds["wide"]:
            fields.append(("wide", "<i2", (kinds["wide"],)))
        if kinds["byte"]:
            fields.append(("byte", "i1", (kinds["byte"],)))
        if kinds["ternary"]:
            num_bytes = -(-kinds["ternary"] // _PER_BYTE)
            fields.append(("ternary", "u1", (num_bytes,)))
        return np.dtype(fields)

    def fit(self, logits: Logits, head: Tensor | None = None) -> "LowRank":
        """Return this codec fitted to a calibration sample at its step.

        Args:
            logits: `[rows, classes]`, several rows per class for a stable basis.
            head: weights of the teacher's classifier, `[classes, features]`, if they are known: a
                prior for a small sample.

        Raises:
            CodecError: a target other than a step, too few rows, or rows that do not differ.
        """
        if self.step is None:
            raise CodecError(
                "lowrank without step= is fitted by a search: use kdcache.codec_error.calibration"
            )
        calibration = Calibration(checked(logits, self.classes), head)
        return self.with_fit(calibration.fit(self.step))

    def with_fit(self, fit: Fit) -> "LowRank":
        """Return this codec with `fit`."""
        return replace(self, fitted=fit)

    def fit_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the fit; none before it is made."""
        if not self.fitted:
            return {}
        return self.fitted.to_arrays()

    def with_fit_arrays(self, arrays: Mapping[str, np.ndarray]) -> "LowRank":
        """Return this codec with the fit that `arrays` hold.

        Raises:
            CodecError: arrays that are not a fit for these classes.
        """
        return self.with_fit(Fit.from_arrays(arrays, self.classes))

    def fields_of(self, logits: Logits) -> dict[str, Tensor]:
        """Return the fields of the rows' records."""
        fit = self._on(logits.device)
        integers = [quantised(part, fit) for part in torch.split(logits, _ROWS)]
        return self.fields_of_integers(torch.cat(integers))

    def fields_of_integers(self, integers: Tensor) -> dict[str, Tensor]:
        """Return the fields of the records of rows of integers `[rows, axes]`."""
        fields = {}
        start = 0
        narrow = integers.to(torch.int16)
        for kind, count in self._fit.kinds.items():
            if not count:
                continue
            values = narrow[:, start : start + count]
            if kind == "ternary":
                values = _packed(values)
            fields[kind] = values
            start += count
        return fields

    def from_fields(self, fields: Mapping[str, Tensor]) -> DenseTargets:
        """Return the rows whose records have these fields."""
        parts = []
        for kind, field in fields.items():
            if kind == "ternary":
                values = _unpacked(field)
            else:
                values = field.float()
            parts.append(values)
        fit = self._on(parts[0].device)
        integers = torch.cat(parts, 1)[:, : len(fit.basis)]
        return DenseTargets(torch.addmm(fit.mean, integers, fit.scaled))

    def stated_error(self, logits: Logits) -> PerRow:
        """Return a bound on |decoded - centred logits|: what lies outside the basis, one step per
        axis, and what is clipped."""
        fit = self._on(logits.device)
        centred = _centred(logits.float(), fit)
        coefficients = centred @ fit.basis.T
        outside = (centred - coefficients @ fit.basis).square().sum(1)
        clipped = (coefficients.abs() - fit.limit * fit.step).clamp_min(1.5 * fit.step)
        distance = (outside + clipped.square().sum(1)).sqrt()
        # the last two terms: a stored basis has 11 bits
        bound: Tensor = distance * 1.001 + centred.norm(dim=1) * 2.0**-9 + 1e-4
        return bound

    def clipped(self, logits: Logits) -> Tensor:
        """Return which rows are so far from the sample that they lose more to clipping than to
        rounding, bool `[rows]`."""
        fit = self._on(logits.device)
        coefficients = _centred(logits.float(), fit) @ fit.basis.T
        excess = (coefficients.abs() / fit.step - fit.limit).clamp_min(0)
        rounding_loss = len(fit.basis) / 12
        is_clipped: Tensor = excess.square().sum(1) > rounding_loss
        return is_clipped

    @property
    def _fit(self) -> Fit:
        if self.fitted is None:
            raise CodecError(
                "lowrank has no fit yet; it is made from a calibration sample: codec.fit(logits)"
            )
        return self.fitted

    @cached_property
    def _placed(self) -> "dict[torch.device, PlacedFit]":
        return {}

    def _on(self, device: "torch.device") -> PlacedFit:
        """Return the fit on `device`."""
        if device not in self._placed:
            self._placed[device] = self._fit.to(device)
        return self._placed[device]


def _centred(logits: Logits, fit: PlacedFit) -> Logits:
    return logits - logits.mean(1, keepdim=True) - fit.mean


def _packed(integers: Tensor) -> Tensor:
    """Return five ternary values to a byte, as base-3 digits around a byte of 0 for five zeros."""
    padded = torch.nn.functional.pad(integers, (0, -integers.shape[1] % _PER_BYTE))
    num_bytes = padded.shape[1] // _PER_BYTE
    digits = padded.reshape(len(padded), num_bytes, _PER_BYTE)
    places = 3 ** torch.arange(_PER_BYTE, device=digits.device)
    value: Tensor = (digits * places).sum(2)
    return value.to(torch.int8).view(torch.uint8)


@cache
def _ternary(device: "torch.device") -> Tensor:
    """Return the five values in each byte, `[256, 5]`, on a device; those of bytes that `_packed`
    never gives mean nothing."""
    places = 3 ** torch.arange(_PER_BYTE)
    of_bytes = torch.arange(256).to(torch.uint8).view(torch.int8).to(torch.int32) + places.sum()
    digits = of_bytes[:, None].div(places, rounding_mode="floor") % 3
    return (digits - 1).float().to(device)


def _unpacked(packed: Tensor) -> Tensor:
    """Return the ternary values of `_packed`, float32."""
    return torch.nn.functional.embedding(packed.to(torch.int32), _ternary(packed.device)).flatten(1)
