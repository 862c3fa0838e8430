"""The transform behind `lowrank`: how a basis is fitted to logits, and how logits become integers
on it.

Reverse water-filling: with the same step on every axis of the principal basis, axes that vary less
than the step cost nothing. Rounding looks at what an integer costs to store and at where an error
hurts: a wrong logit of a likely class turns the gradient of DIST far more than that of an unlikely
one, so each integer is chosen against the weighted error that the others leave. Decoding knows
nothing of that: it is one matrix product.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from kdcache.codecs.protocol import LARGEST, require_arrays
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.runtime.float64 import in_float64
from kdcache.shapes import Logits

_ARRAYS = {"basis": "<f2", "mean": "<f4", "step": "<f4", "rounding": "<f4", "kinds": "<u4"}
LIMITS = {"wide": 32_767, "byte": 127, "ternary": 1}
"""The largest integer on an axis of each kind."""
_BLOCKS = (
    16  # axes are rounded in so many turns; the axes of one turn do not see each other's errors
)
# log of an error's weight per unit of logit above the class's mean, and where that ends
_SLOPE = 0.35
_HIGHEST = 6.0
_BIT = 0.09  # what a stored bit may cost, in squared steps
_MOST_BITS = 12.0
_HEAD_ROWS = 6.0  # the head's prior counts as a sixth of a row per class
_LEAST_SHARE = 0.05  # axes that are nonzero less often are dropped
_BYTE_SHARE = 0.3  # axes that are nonzero less often are ternary
_HEADROOM = 1.25  # of the largest integer counted
_COUNTED = 4096  # rows, at most, on which costs are counted
_EXACT_CLASSES = 2048
_MOST_AXES = 1024
_PARTS = 4  # of the rows; each is counted with a basis of the other three


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a calibration sample decides; axes are ordered by falling variance, the `wide` ones
    first."""

    basis: np.ndarray
    """Orthonormal rows, each of sum zero, but for rounding: float32 `[axes, classes]` that hold
    float16 numbers."""
    mean: np.ndarray
    """Of the centred logits, float32 `[classes]`."""
    step: float
    """Quantisation step, in units of logits."""
    rounding: np.ndarray
    """How far past one half |coefficient| / step must be to round up, float32 `[2, axes]`: from 0
    to 1, and beyond 1."""
    wide: int
    """Axes that take two bytes each."""
    byte: int
    """Axes after them that take one; five of those that follow share one."""

    @property
    def kinds(self) -> dict[str, int]:
        """The number of axes of each kind, in their order."""
        return {
            "wide": self.wide,
            "byte": self.byte,
            "ternary": len(self.basis) - self.wide - self.byte,
        }

    @property
    def limit(self) -> np.ndarray:
        """The largest integer that an axis can hold, float32 `[axes]`."""
        limits: list[float] = []
        for kind, num_axes in self.kinds.items():
            limits += [float(LIMITS[kind])] * num_axes
        return np.array(limits, np.float32)

    def to(self, device: "torch.device | str") -> "PlacedFit":
        """Return this fit on `device`."""
        return PlacedFit(
            basis=torch.from_numpy(self.basis).to(device),
            mean=torch.from_numpy(self.mean).to(device),
            step=self.step,
            rounding=torch.from_numpy(self.rounding).to(device),
            limit=torch.from_numpy(self.limit).to(device),
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a cache keeps."""
        return {
            "basis": self.basis.astype(_ARRAYS["basis"]),
            "mean": self.mean.astype(_ARRAYS["mean"]),
            "step": np.array([self.step], _ARRAYS["step"]),
            "rounding": self.rounding.astype(_ARRAYS["rounding"]),
            "kinds": np.array(list(self.kinds.values()), _ARRAYS["kinds"]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], classes: int) -> "Fit":
        """Return the fit that `arrays` hold.

        Raises:
            CodecError: arrays that are absent, of another shape or type, or not finite; or logits
                would not be below `LARGEST`.
        """
        require_arrays("lowrank", arrays, _ARRAYS, {"kinds": (3,)})
        wide, byte, ternary = arrays["kinds"].tolist()
        axes = wide + byte + ternary
        shapes = {"basis": (axes, classes), "mean": (classes,), "step": (1,), "rounding": (2, axes)}
        require_arrays("lowrank", arrays, _ARRAYS, shapes)
        step = float(arrays["step"][0])
        if not 1 / LARGEST <= step <= LARGEST:
            raise CodecError(
                f"lowrank: the step of the fit is {step:g}; it must be from {1 / LARGEST:g} to"
                f" {LARGEST:g}"
            )
        fit = cls(
            basis=arrays["basis"].astype(np.float32),
            mean=arrays["mean"].astype(np.float32),
            step=step,
            rounding=arrays["rounding"].astype(np.float32),
            wide=wide,
            byte=byte,
        )
        largest_integers = fit.limit + 1  # one more: -128 is a byte, too
        largest = largest_integers @ np.abs(fit.basis * np.float32(step)) + np.abs(fit.mean)
        if not (largest < LARGEST).all():
            raise CodecError(f"lowrank: with step {step:g} the fit gives logits past {LARGEST:.3g}")
        return fit


@dataclass(frozen=True, kw_only=True)
class PlacedFit:
    """A fit as tensors on a device, see `Fit`."""

    basis: Tensor
    mean: Tensor
    step: float
    rounding: Tensor
    limit: Tensor

    @cached_property
    def scaled(self) -> Tensor:
        """The basis times the step."""
        return self.basis * self.step


def quantised(logits: Logits, fit: PlacedFit) -> Tensor:
    """Return the integers of each row on the axes of `fit`, float32 `[rows, axes]`, at most 1.5
    steps from its coefficients."""
    centred = logits - logits.mean(1, keepdim=True)
    rest = centred - fit.mean
    weight = torch.exp(_SLOPE * rest.clamp(-_HIGHEST, _HIGHEST))
    weight /= weight.mean(1, keepdim=True)
    scaled = fit.scaled
    inverse = fit.basis / fit.step
    exact = rest @ inverse.T
    low = (exact - 1.5).ceil().maximum(-fit.limit)
    high = (exact + 1.5).floor().minimum(fit.limit)
    low = low.minimum(fit.limit)
    high = high.maximum(-fit.limit)
    integers = _rounded(exact, fit.rounding).clamp(low, high)
    rest = rest - integers @ scaled
    importance = weight @ fit.basis.square().T
    for turn in range(min(_BLOCKS, len(scaled))):
        axes = slice(turn, None, _BLOCKS)
        old = integers[:, axes]
        importance_of_turn = importance[:, axes]
        ideal = old + (weight * rest) @ inverse[axes].T / importance_of_turn
        rounding = fit.rounding[:, None, axes] / importance_of_turn
        new = _rounded(ideal, rounding).clamp(low[:, axes], high[:, axes])
        rest -= (new - old) @ scaled[axes]
        integers[:, axes] = new
    return integers


def _rounded(values: Tensor, rounding: Tensor) -> Tensor:
    """Return the integers of values; `rounding` is how far past one half a size must be to be
    rounded up, up to 1 and beyond."""
    size = values.abs()
    threshold = torch.where(size < 1, rounding[0], rounding[1])
    integers = torch.floor(size + 0.5 - threshold).clamp_min(0)
    return integers * values.sign()


class Calibration:
    """A calibration sample with its principal basis, from which fits at several steps are made.

    All is computed on the device of the sample; fits come on the host.
    """

    def __init__(self, logits: Logits, head: Tensor | None = None) -> None:
        """Find the basis.

        Args:
            logits: `[rows, classes]`, in random order, but views of one sample side by side.
            head: weights of the classifier, `[classes, features]`: a prior of the logits'
                covariance.

        Raises:
            CodecError: fewer than four rows, or rows that do not differ.
        """
        if len(logits) < 4:
            raise CodecError(
                f"lowrank: {len(logits)} calibration views; at least 4 are needed, better several"
                " per class"
            )
        logits = logits.float()
        self._mean, self._basis = _principal_basis(logits, head)
        self._axes = len(self._basis)
        # a basis fits the rows it is made from too well: on them its weaker axes seem to hardly
        # vary
        self._held_out: list[tuple[Logits, Tensor, Tensor]] = []
        """Rows, with the mean and the basis of the others."""
        for part in _parts(*logits.shape):
            others = torch.cat([logits[: part.start], logits[part.stop :]])
            mean, basis = _principal_basis(others, head)
            self._held_out.append((logits[part], mean, basis))
            self._axes = min(self._axes, len(basis))

    def fit(self, step: float) -> Fit:
        """Return the fit at a step, with rounding and layout as the integers of rows ask for that a
        basis has not seen."""
        # counted without feedback first: it would fill axes that nothing yet says are dear
        coefficients = []
        for rows, mean, basis in self._held_out:
            centred = rows - rows.mean(1, keepdim=True) - mean
            all_axes = centred @ basis.T / step
            coefficients.append(all_axes[:, : self._axes])
        first = self._laid_out(step, torch.cat(coefficients).round())
        fit = self._laid_out(step, self.integers(first))
        # what is encoded with is what will be decoded with
        return Fit.from_arrays(fit.to_arrays(), len(fit.mean))

    def integers(self, fit: Fit) -> Tensor:
        """Return the integers of the rows that are counted, laid out as `fit`, each row's on a
        basis that has not seen it."""
        integers = []
        placed = fit.to(self._basis.device)
        for rows, mean, basis in self._held_out:
            trial = replace(placed, basis=basis[: len(fit.basis)], mean=mean)
            integers.append(quantised(rows, trial))
        return torch.cat(integers)

    def _laid_out(self, step: float, integers: Tensor) -> Fit:
        """Return the fit with the rounding and layout that a sample's integers ask for."""
        size = integers.abs()
        share = (size > 0).float().mean(0)
        # by number, not by the last one: a small sample uses some weak axes more than their
        # variance says
        num_axes = max(int((share >= _LEAST_SHARE).sum()), 1)
        num_untied = int((share >= _BYTE_SHARE).sum())
        size = size[:, :num_axes]
        large_axes = (size.amax(0) * _HEADROOM > LIMITS["byte"]).nonzero()
        wide = 0
        if len(large_axes):
            wide = int(large_axes.max()) + 1
        return Fit(
            basis=self._basis[:num_axes].cpu().numpy(),
            mean=self._mean.cpu().numpy(),
            step=step,
            rounding=_rounding(size).cpu().numpy(),
            wide=wide,
            byte=max(num_untied - wide, 0),
        )


def _parts(rows: int, classes: int) -> list[slice]:
    """Return the rows to count on, at most 4,096, in parts: each quarter, or the last one alone
    where a basis is dear."""
    starts = [rows * part // _PARTS for part in range(_PARTS + 1)]
    if classes > _EXACT_CLASSES:
        return [slice(max(starts[-2], rows - _COUNTED), rows)]
    most = _COUNTED // _PARTS
    return [slice(max(start, stop - most), stop) for start, stop in pairwise(starts)]


def _principal_basis(logits: Logits, head: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mean of the centred rows, and their principal axes by falling variance.

    A sample of about as many rows as classes says little about the weaker axes. The logits are
    `head @ features`, so the head's Gram matrix is what their covariance would be if features were
    white: it is mixed in, the less the larger the sample.
    """
    centred = logits - logits.mean(1, keepdim=True)
    mean = centred.mean(0)
    sample = (centred - mean) / math.sqrt(len(logits))
    if head is not None:
        head = head.to(logits.device)
        prior = (head - head.mean(0)).float().T
        share = 1 / (1 + _HEAD_ROWS * len(logits) / logits.shape[1])
        prior = prior * (sample.norm() / prior.norm().clamp_min(1e-12))
        sample = torch.cat([math.sqrt(1 - share) * sample, math.sqrt(share) * prior])
    if float(sample.square().sum()) <= float(logits.abs().max()) ** 2 * 1e-12:
        raise CodecError(
            "lowrank: the calibration views all have the same logits; check the teacher and its"
            " weights"
        )
    return mean, _principal_axes(sample)


def _principal_axes(sample: Tensor) -> Tensor:
    """Return the axes of `sample.T @ sample`, up to 2,048 classes all of sum zero, else the
    strongest 1,024."""
    classes = sample.shape[1]
    if classes <= _EXACT_CLASSES:
        covariance = in_float64(sample.T @ sample)
        # the same on every axis of sum zero: it moves none, and parts the constant one from those
        # that the sample lacks
        identity = torch.eye(classes, dtype=torch.float64, device=covariance.device)
        sum_zero = identity - 1 / classes
        covariance += covariance.trace() / classes * sum_zero
        rising: Tensor = torch.linalg.eigh(covariance)[1].T
        return rising.flip(0)[:-1].float().contiguous().to(sample.device)
    devices = []
    if sample.device.type == "cuda":
        devices = [sample.device]
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        _, singular, axes = torch.svd_lowrank(sample, q=min(_MOST_AXES, *sample.shape), niter=2)
    return axes.T[singular > singular[0] * 1e-4].contiguous()


def _rounding(integers: Tensor) -> Tensor:
    """Return `[2, axes]`: half of what the bits of a nonzero, and of each further one, are worth,
    in steps.

    From x to x + 1 pays if the squared error falls by more than `_BIT` times the bits it costs.
    These come from the share of zeros and, beyond, a geometric distribution with the sizes' mean.
    """
    rows = len(integers)
    total = integers.sum(0)
    nonzero = (integers > 0).sum(0).float() + 0.5
    share = nonzero / (rows + 1)
    more = 1 - (nonzero / (total + 1)).clamp(0.02, 0.98)
    share_of_zeros = (1 - share).clamp_min(1e-6)
    bits_of_nonzero = torch.log2(2 * share_of_zeros / (share * (1 - more)))
    bits_of_more = -torch.log2(more)
    bits = torch.stack([bits_of_nonzero, bits_of_more])
    return _BIT / 2 * bits.clamp(0, _MOST_BITS)
