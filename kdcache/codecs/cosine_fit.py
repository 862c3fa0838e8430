"""What `cosine` finds in a sample of rows, and how large its integers are expected to be.

Classes are turned onto the axes of the principal basis, places onto cosines: both are orthonormal,
so that equal steps on all of them are equal errors of the logits (reverse water-filling). Where an
integer lies in a record, and how many bytes it has, follows from integers alone: two machines must
agree on it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcache.codecs.cosine_digits import LIMIT
from kdcache.codecs.protocol import LARGEST, require_arrays
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.runtime.float64 import in_float64
from kdcache.shapes import Logits

MOST_CLASSES = 2048
"""A basis of so many takes 16 MB."""
BANDS = 16
_CORRELATION = 0.8
"""Of neighbours, on which the expected falloff rests; the true one need not be near it."""
_MOST_SIZE = 400
_ARRAYS = {"basis": "<f4", "mean": "<f4", "step": "<f4", "sizes": "<i2", "falloff": "<i2"}


@dataclass(frozen=True, kw_only=True)
class CosineFit:
    """What a sample decides; axes are ordered by falling variance."""

    basis: np.ndarray
    """Orthonormal rows, float32 `[classes, classes]`."""
    mean: np.ndarray
    """Of the logits, float32 `[classes]`."""
    step: float
    """Quantisation step of the largest segment, in units of logits."""
    sizes: np.ndarray
    """Of each axis, int16 `[classes]`, see `Kind.least_size`."""
    falloff: np.ndarray
    """By how much that changes with the frequency along one side, int16 `[bands]`."""

    def to(self, device: "torch.device") -> "PlacedCosineFit":
        """Return this fit on `device`."""
        return PlacedCosineFit(
            basis=torch.from_numpy(self.basis).to(device),
            mean=torch.from_numpy(self.mean).to(device),
            step=self.step,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that a cache keeps."""
        return {
            "basis": self.basis.astype(_ARRAYS["basis"]),
            "mean": self.mean.astype(_ARRAYS["mean"]),
            "step": np.array([self.step], _ARRAYS["step"]),
            "sizes": self.sizes.astype(_ARRAYS["sizes"]),
            "falloff": self.falloff.astype(_ARRAYS["falloff"]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], classes: int) -> "CosineFit":
        """Return the fit that `arrays` hold.

        Raises:
            CodecError: arrays that are absent, unknown, of another shape or type, or not finite; or
                logits would not be below `LARGEST`.
        """
        shapes = {
            "basis": (classes, classes),
            "mean": (classes,),
            "step": (1,),
            "sizes": (classes,),
            "falloff": (BANDS,),
        }
        require_arrays("cosine", arrays, _ARRAYS, shapes)
        for name in ("sizes", "falloff"):
            if np.abs(arrays[name].astype(np.int64)).max() > _MOST_SIZE:
                raise CodecError(f"cosine: array {name} of the fit is past {_MOST_SIZE}")
        step = float(arrays["step"][0])
        if not step >= 1 / LARGEST:
            raise CodecError(
                f"cosine: the step of the fit is {step:g}; it must be {1 / LARGEST:g} or more"
            )
        fit = cls(
            basis=arrays["basis"].astype(np.float32),
            mean=arrays["mean"].astype(np.float32),
            step=step,
            sizes=arrays["sizes"].astype(np.int64),
            falloff=arrays["falloff"].astype(np.int64),
        )
        fit.require_small(1)
        return fit

    def require_small(self, num_places: int) -> None:
        """Check that a record can hold no logits past `LARGEST`, whatever its bytes are.

        Args:
            num_places: whose integers add up to one logit.

        Raises:
            CodecError: it can.
        """
        # cosines are at most sqrt(2 / side) along each side: all together 2 * sqrt(places)
        scaled = np.abs(self.basis * np.float32(self.step))
        of_axes = float(scaled.sum(0).max()) * LIMIT
        largest = 2 * math.sqrt(num_places) * of_axes + float(np.abs(self.mean).max())
        if not largest < LARGEST:
            raise CodecError(
                f"cosine: with step {self.step:g} the fit gives logits past {LARGEST:.3g}"
            )


@dataclass(frozen=True, kw_only=True)
class PlacedCosineFit:
    """What takes tensors of a fit, on a device, see `CosineFit`."""

    basis: Tensor
    mean: Tensor
    step: float

    @cached_property
    def scaled(self) -> Tensor:
        """The basis times the step."""
        return self.basis * self.step


def fitted_to(logits: Logits, steps: float) -> CosineFit:
    """Return the fit to a sample of rows, computed on their device; it comes on the host.

    Args:
        logits: `[rows, classes]`, from all segments.
        steps: of the largest segment, to a row's standard deviation, in the median of the rows.

    Raises:
        CodecError: fewer than two rows.
    """
    if len(logits) < 2:
        raise CodecError(f"cosine: {len(logits)} rows to fit on; at least 2 are needed")
    mean = logits.mean(0)
    centred = logits - mean
    covariance = in_float64(centred.T @ centred) / len(logits)
    rising, axes = torch.linalg.eigh(covariance)
    step = float(np.float32(_deviation(logits) / steps))
    variances = rising.flip(0).clamp_min(0) / step**2
    sizes = (4 * variances.clamp_min(1e-30).log2()).round().clamp(-_MOST_SIZE, _MOST_SIZE)
    fit = CosineFit(
        basis=axes.T.flip(0).float().contiguous().cpu().numpy(),
        mean=mean.cpu().numpy(),
        step=step,
        sizes=sizes.cpu().numpy().astype(np.int64),
        falloff=_falloff(),
    )
    # what is encoded with is what will be decoded with
    return CosineFit.from_arrays(fit.to_arrays(), logits.shape[1])


def expected_sizes(fit: CosineFit, height: int, width: int) -> np.ndarray:
    """Return the size of each integer of a map at the step of the largest segment, as it is
    expected: int16 `[height * width * classes]`, the axes innermost."""
    rows = _along(fit.falloff, height)[:, None, None]
    columns = _along(fit.falloff, width)[None, :, None]
    sizes: np.ndarray = (rows + columns + fit.sizes.astype(np.int16)).reshape(-1)
    return sizes


def cosines(side: int) -> Tensor:
    """Return the orthonormal cosines over places in a line, float32 `[frequency, place]`: the
    discrete cosine transform II of Ahmed, Natarajan and Rao (1974)."""
    places = torch.arange(side, dtype=torch.float64)
    angles = math.pi / side * (places + 0.5) * places[:, None]
    matrix = torch.cos(angles) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _along(falloff: np.ndarray, side: int) -> np.ndarray:
    """Return by how much sizes change with each frequency along a side, int16 `[side]`."""
    frequencies = np.arange(side)
    change = falloff[frequencies * BANDS // side]
    # what is constant: at most as many times the variance as there are places
    change[0] = 4 * (side - 1).bit_length()
    # numpy sorts 16 bits by radix
    return change.astype(np.int16)


def _falloff() -> np.ndarray:
    """Return the variance by frequency of a process in which neighbours correlate (autoregressive
    of the first order), in quarters of its logarithm to base 2."""
    angles = math.pi / BANDS * (np.arange(BANDS) + 0.5)
    square = _CORRELATION**2
    ratios = (1 - square) / (1 + square - 2 * _CORRELATION * np.cos(angles))
    falloff: np.ndarray = np.round(4 * np.log2(ratios)).astype(np.int64)
    return falloff


def _deviation(logits: Logits) -> float:
    """Return the standard deviation of a row, in the median of the rows; of rows that are
    constant, as those of a single class, that of all logits, and if that is zero 1."""
    medians = [float(logits.std(1, correction=0).median()), float(logits.std())]
    for deviation in medians:
        if deviation > float(logits.abs().max()) * 1e-6:
            return deviation
    return 1.0
