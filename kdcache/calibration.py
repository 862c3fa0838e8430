"""Fitting a codec to a teacher: a sample of its logits in, the codec out, at a step or at the step that meets a target."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from kdcache.cache import stored_bytes
from kdcache.codecs import Codec, Full, LowRank
from kdcache.codecs.transform import Calibration
from kdcache.errors import CodecError
from kdcache.gradients import decoded_batches, gradient_error
from kdcache.losses import dist_loss
from kdcache.pairs import Pairs
from kdcache.views import keyed_permutation

TAUS = (1.0, 4.0)
BATCH = 256
_MEASURED = 4096  # views of a codec that needs no fit; a quarter of them is measured on
_MOST_LOGITS = 2**26  # 268 MB
_MOST_HELD_OUT = 2048
_FINEST, _COARSEST, _HALVINGS = 0.01, 64.0, 10
DEFAULT_ERROR = 0.4
"""Of DIST's gradient, that the default codec may have; at step 2 ImageNet logits have 0.20 at tau 1 and 0.31 at tau 4."""
_DEFAULT_HALVINGS = 10


@dataclass(frozen=True, eq=False)
class Fitted:
    """A codec fitted to a teacher, and the means to say what it loses."""

    codec: Codec
    trial: Codec
    """The same, fitted without the samples of `held_out`."""
    held_out: Pairs

    @cached_property
    def errors(self) -> dict[float, float]:
        """Error of DIST's gradient (beta = gamma) by temperature, on samples that the fit has not seen.

        Empty where there is no gradient, since the stand-in student sees what the teacher sees.
        """
        return _dist_errors(self.trial, self.held_out) if self.held_out.differ else {}


def sample_views(codec: Codec) -> int:
    """Return how many views a codec is fitted to and measured on: fewer where there are many classes, to keep within memory."""
    return min(codec.views if isinstance(codec, LowRank) else _MEASURED, _MOST_LOGITS // codec.classes)


def fit_codec(codec: Codec, pairs: Pairs) -> Fitted:
    """Return `codec` fitted to a teacher's logits, if it needs a fit, with its errors.

    Targets are met, and errors measured, on a quarter of the samples, with a basis fitted to the others.

    Raises:
        CodecError: a target that cannot be met, or too few views.
    """
    seen, held_out = _parted(pairs)
    if not isinstance(codec, LowRank):
        return Fitted(codec, codec, held_out)
    trials = _Trials(codec, Calibration(seen.teacher, pairs.head), held_out)
    step = codec.step or trials.step()
    return Fitted(codec.with_fit(_whole(pairs).fit(step)), trials.at(step), held_out)


def fit_default(codec: LowRank, pairs: Pairs) -> Fitted:
    """Return the codec where none is chosen: `codec`, at the coarsest of its step, a half, a quarter ... that is near enough.

    That is one whose error is at most DEFAULT_ERROR at both temperatures. A step is in units of logits, so that one that suits
    most teachers erases one of small logits. Where no step will do, such as of too few views for a basis, it is `full`.
    """
    assert codec.step is not None
    seen, held_out = _parted(pairs)
    calibration, measured = Calibration(seen.teacher, pairs.head), held_out
    if not measured.differ:  # a recipe that draws nothing: the teacher on another sample stands in for the choice alone
        measured = replace(held_out, student=held_out.student.roll(1, 0))
    for halving in range(_DEFAULT_HALVINGS + 1):
        wanted = replace(codec, step=codec.step / 2**halving)
        assert wanted.step is not None
        trial = wanted.with_fit(calibration.fit(wanted.step))
        if not measured.differ or max(_dist_errors(trial, measured).values()) <= DEFAULT_ERROR:
            return Fitted(wanted.with_fit(_whole(pairs).fit(wanted.step)), trial, held_out)
    full = Full(classes=codec.classes)
    return Fitted(full, full, held_out)


def _whole(pairs: Pairs) -> Calibration:
    return Calibration(pairs.by_group().teacher, pairs.head)


def _dist_errors(codec: Codec, pairs: Pairs) -> dict[float, float]:
    """Return the error of DIST's gradient by temperature."""
    size = min(BATCH, len(pairs.teacher))
    decoded = list(decoded_batches(codec, pairs.teacher, size))
    losses = {tau: partial(dist_loss, tau=tau) for tau in TAUS}
    errors = {tau: gradient_error(pairs.teacher, decoded, pairs.student, loss=losses[tau], batch_size=size) for tau in TAUS}
    return {tau: error for tau, (error, _) in errors.items()}


class _Trials:
    """What fits at several steps cost and lose, on samples that their basis has not seen."""

    def __init__(self, codec: LowRank, calibration: Calibration, pairs: Pairs) -> None:
        self._codec, self._calibration, self._pairs = codec, calibration, pairs

    def step(self) -> float:
        """Return the coarsest step that meets the codec's target."""
        if self._codec.error is not None:
            self._pairs.require_gradient()
            return self._boundary("error", self.error, self._codec.error, _FINEST, _COARSEST)
        assert self._codec.bytes is not None
        return self._boundary("bytes", self.bytes, self._codec.bytes, _COARSEST, _FINEST)

    def error(self, step: float) -> float:
        """Return the error of DIST's gradient, the worst over the temperatures."""
        return max(_dist_errors(self.at(step), self._pairs).values())

    def bytes(self, step: float) -> float:
        """Return the bytes per view on disk."""
        codec = self.at(step)
        return stored_bytes(codec, codec.encode(self._pairs.teacher))

    def at(self, step: float) -> LowRank:
        """Return the codec at a step, with a basis that has not seen the pairs."""
        return self._codec.with_fit(self._calibration.fit(step))

    def _boundary(self, name: str, measure: Callable[[float], float], target: float, inside: float, outside: float) -> float:
        """Return the step farthest from `inside` that meets the target, by halving the interval of its logarithm."""
        if (best := measure(inside)) > target:
            raise CodecError(
                f"lowrank:{name}={target:g} cannot be met on this sample: step {inside:g} has {name} {best:.3g}; "
                "give a larger one, fit it on views of more samples, or use full"
            )
        if measure(outside) <= target:
            return outside
        for _ in range(_HALVINGS):
            middle = math.sqrt(inside * outside)
            inside, outside = (middle, outside) if measure(middle) <= target else (inside, middle)
        return inside


def _parted(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return three quarters of the rows by group, and some of the others, which are of other samples, in random order."""
    pairs = pairs.by_group()
    count = max(len(pairs.teacher) // 4, 1)
    seen, held_out = np.split(np.arange(len(pairs.teacher)), [-count])
    return pairs.take(seen), pairs.take(held_out[keyed_permutation(count, 0)[:_MOST_HELD_OUT]])
