"""Every class, as small integers on cosines over the places of a map and on the axes of a basis
fitted to the teacher's logits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from kdcache.codecs.cosine_digits import LIMIT
from kdcache.codecs.cosine_fit import MOST_CLASSES, CosineFit, PlacedCosineFit, fitted_to
from kdcache.codecs.cosine_maps import CosineMaps
from kdcache.codecs.protocol import CodecDefaults, checked
from kdcache.config.fields import not_an_option
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError, UsageError
from kdcache.positions import Layout
from kdcache.shapes import Logits, PerRow
from kdcache.soft_targets import DenseTargets

_VIEWS = 16_384


@dataclass(frozen=True, kw_only=True)
class Cosine(CodecDefaults):
    """The codec `cosine`: integers on cosines over places and on fitted axes over classes.

    This is the codec of a row by itself, which has a single place; `over_grid` is that of maps and
    of the levels of a pyramid, which it is for.
    """

    name: ClassVar[str] = "cosine"
    keeps_all: ClassVar[bool] = True
    # of maps, whose small integers share bytes, level 16 takes 2 % less in forty times as long
    zstd_level: ClassVar[int] = 1
    most_classes: ClassVar[int] = MOST_CLASSES
    classes: int
    steps: float = 12.0
    """Quantisation steps to the standard deviation of a row, in the median of the sample; more are
    more exact and take more bytes. They are those of the segment with most positions."""
    fitted: CosineFit | None = not_an_option()

    def __post_init__(self) -> None:
        if self.classes > MOST_CLASSES:
            raise UsageError(
                f"cosine holds at most {MOST_CLASSES:,} classes, not {self.classes:,}; use full or"
                " topk"
            )
        if not (math.isfinite(self.steps) and 1e-3 <= self.steps <= 1e6):
            raise UsageError(f"cosine:steps={self.steps} must be from 0.001 to 1,000,000")

    @property
    def views(self) -> int:
        """As many rows as a basis of many classes takes."""
        return _VIEWS

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`axes`: int32 per axis. No fields before the fit."""
        if self.fitted is None:
            return np.dtype([])
        return np.dtype([("axes", "<i4", (self.classes,))])

    def over_grid(self, layout: Layout) -> CosineMaps:
        """Return the codec of the maps or levels of a layout."""
        return CosineMaps(self, layout)

    def fit(self, logits: Logits) -> "Cosine":
        """Return this codec fitted to rows of a calibration sample, `[rows, classes]`.

        Raises:
            CodecError: too few rows, or logits that are not finite.
        """
        return self.with_fit(fitted_to(checked(logits, self.classes), self.steps))

    def with_fit(self, fit: CosineFit) -> "Cosine":
        """Return this codec with `fit`."""
        return replace(self, fitted=fit)

    def fit_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the fit; none before it is made."""
        if not self.fitted:
            return {}
        return self.fitted.to_arrays()

    def with_fit_arrays(self, arrays: Mapping[str, np.ndarray]) -> "Cosine":
        """Return this codec with the fit that `arrays` hold.

        Raises:
            CodecError: arrays that are not a fit for these classes.
        """
        return self.with_fit(CosineFit.from_arrays(arrays, self.classes))

    def fields_of(self, logits: Logits) -> dict[str, Tensor]:
        """Return the field of the rows' integers."""
        fit = self.fit_on(logits.device)
        integers = ((logits - fit.mean) @ fit.basis.T / fit.step).round()
        return {"axes": integers.clamp(-LIMIT, LIMIT).to(torch.int32)}

    def from_fields(self, fields: Mapping[str, Tensor]) -> DenseTargets:
        """Return the rows whose records have these fields."""
        integers = fields["axes"].clamp(-LIMIT, LIMIT).float()
        fit = self.fit_on(integers.device)
        return DenseTargets(torch.addmm(fit.mean, integers, fit.scaled))

    def stated_error(self, logits: Logits) -> PerRow:
        """Return a bound on the norm of decoded - exact: half a step per axis, and what is past the
        largest integer."""
        fit = self.fit_on(logits.device)
        centred = logits.float() - fit.mean
        past = ((centred @ fit.basis.T).abs() / fit.step - LIMIT).clamp_min(0)
        steps = (past + 0.5).square().sum(1).sqrt()
        # the last terms: what float32 rounds
        rounding = (centred.norm(dim=1) + fit.mean.norm()) * 2.0**-16
        bound: Tensor = steps * fit.step * 1.001 + rounding
        return bound

    @cached_property
    def _placed(self) -> "dict[torch.device, PlacedCosineFit]":
        return {}

    def fit_on(self, device: "torch.device") -> PlacedCosineFit:
        """Return the fit on `device`.

        Raises:
            CodecError: there is none yet.
        """
        if device not in self._placed:
            self._placed[device] = self.require_fit().to(device)
        return self._placed[device]

    def require_fit(self) -> CosineFit:
        """Return the fit.

        Raises:
            CodecError: there is none yet.
        """
        if self.fitted is None:
            raise CodecError(
                "cosine has no fit yet; it is made from a calibration sample: codec.fit(logits)"
            )
        return self.fitted
