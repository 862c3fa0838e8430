"""Fitting a codec to a teacher: a sample of its logits in, the codec out, at a step or at the step that meets a target."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from kdcache.cache import stored_bytes
from kdcache.codecs import Codec, LowRank
from kdcache.codecs.transform import Calibration
from kdcache.errors import CodecError
from kdcache.gradients import decoded_batches, gradient_error
from kdcache.losses import dist_loss
from kdcache.models import VisionModel
from kdcache.pairs import Pairs
from kdcache.views import keyed_permutation

_TAUS = (1.0, 4.0)
_BATCH = 256
_MOST_HELD_OUT = 2048
_FINEST, _COARSEST, _HALVINGS = 0.01, 64.0, 10


class Fitted(NamedTuple):
    """A codec fitted to a teacher, and what it loses."""

    codec: Codec
    errors: dict[float, float] | None
    """Error of DIST's gradient (beta = gamma) by temperature, on samples that the fit has not seen; None where there is none,
    since the stand-in student sees what the teacher sees."""


def fit_codec(codec: Codec, pairs: Pairs, head: Tensor | None = None) -> Fitted:
    """Return `codec` fitted to a teacher's logits, if it needs a fit, with its measured errors.

    Targets are met, and errors measured, on a quarter of the samples, with a basis fitted to the others.

    Args:
        codec: the codec.
        pairs: logits of the teacher, and of a stand-in student.
        head: weights of the teacher's classifier, `[classes, features]`, if known.

    Raises:
        CodecError: a target that cannot be met, or too few views.
    """
    pairs = _held_out_last(pairs)
    last = max(len(pairs.teacher) // 4, 1)
    held_out = pairs.take(np.arange(len(pairs.teacher))[-min(last, _MOST_HELD_OUT) :])
    if not isinstance(codec, LowRank):
        return Fitted(codec, _errors(codec, held_out))
    trials = _Trials(Calibration(pairs.teacher, head), codec, held_out)
    step = codec.step or trials.step()
    return Fitted(codec.with_fit(trials.calibration.fit(step)), _errors(trials.at(step), held_out))


def head_weight(model: VisionModel, classes: int) -> Tensor | None:
    """Return the weights of a model's last linear layer, `[classes, features]`, or None if that does not give the classes."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not linear or linear[-1].weight.shape[0] != classes or linear[-1].weight[0, 0].numel() != 1:
        return None
    return linear[-1].weight.detach().flatten(1).float().cpu()


def _errors(codec: Codec, pairs: Pairs) -> dict[float, float] | None:
    return {tau: _dist_error(codec, pairs, tau) for tau in _TAUS} if pairs.differ else None


def _dist_error(codec: Codec, pairs: Pairs, tau: float) -> float:
    size = min(_BATCH, len(pairs.teacher))
    decoded = decoded_batches(codec, pairs.teacher, size)
    return gradient_error(pairs.teacher, decoded, pairs.student, loss=partial(dist_loss, tau=tau), batch_size=size)[0]


class _Trials:
    """What fits at several steps cost and lose, on samples that their basis has not seen."""

    def __init__(self, calibration: Calibration, codec: LowRank, pairs: Pairs) -> None:
        self.calibration, self._codec, self._pairs = calibration, codec, pairs

    def step(self) -> float:
        """Return the coarsest step that meets the codec's target."""
        if self._codec.error is not None:
            self._pairs.require_gradient()
            return self._boundary("error", self.error, self._codec.error, _FINEST, _COARSEST)
        assert self._codec.bytes is not None
        return self._boundary("bytes", self.bytes, self._codec.bytes, _COARSEST, _FINEST)

    def error(self, step: float) -> float:
        """Return the error of DIST's gradient, the worst over the temperatures."""
        codec = self.at(step)
        return max(_dist_error(codec, self._pairs, tau) for tau in _TAUS)

    def bytes(self, step: float) -> float:
        """Return the bytes per view on disk."""
        codec = self.at(step)
        return stored_bytes(codec, codec.encode(self._pairs.teacher))

    def at(self, step: float) -> LowRank:
        """Return the codec at a step, with a basis that has not seen the pairs."""
        return self._codec.with_fit(self.calibration.trial(step))

    def _boundary(self, name: str, measure: Callable[[float], float], target: float, inside: float, outside: float) -> float:
        """Return the step farthest from `inside` that meets the target, by halving the interval of its logarithm."""
        if (best := measure(inside)) > target:
            raise CodecError(
                f"lowrank:{name}={target:g} cannot be met on this sample: step {inside:g} has {name} {best:.3g}; "
                "give a larger one, or use full"
            )
        if measure(outside) <= target:
            return outside
        for _ in range(_HALVINGS):
            middle = math.sqrt(inside * outside)
            inside, outside = (middle, outside) if measure(middle) <= target else (inside, middle)
        return inside


def _held_out_last(pairs: Pairs) -> Pairs:
    """Return the rows so that the last quarter is of other samples, in random order: batches of it are like a student's."""
    order = np.argsort(pairs.groups, kind="stable")
    last = len(order) // 4
    order[-last:] = order[-last:][keyed_permutation(last, 0)]
    return pairs.take(order)
