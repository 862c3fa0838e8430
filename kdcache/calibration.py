"""Fitting a codec to a teacher: a sample of its logits in, the codec out, at a step or at the step that meets a target."""

import math
from collections.abc import Callable
from functools import partial

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


def fit_codec(codec: Codec, pairs: Pairs, head: Tensor | None = None) -> Codec:
    """Return `codec` fitted to a teacher's logits; itself, if it has nothing to fit.

    Targets are met on a quarter of the samples, with a basis fitted to the others.

    Args:
        codec: the codec.
        pairs: logits of the teacher, and of a stand-in student for `error=`.
        head: weights of the teacher's classifier, `[classes, features]`, if known.

    Raises:
        CodecError: a target that cannot be met, or too few views.
    """
    if not isinstance(codec, LowRank):
        return codec
    pairs = _held_out_last(pairs)
    calibration = Calibration(pairs.teacher, head)
    held_out = pairs.take(np.arange(len(pairs.teacher))[-min(len(calibration.held_out), _MOST_HELD_OUT) :])
    return codec.with_fit(calibration.fit(codec.step or _Trials(calibration, codec, held_out).step()))


def head_weight(model: VisionModel) -> Tensor | None:
    """Return the weights of a model's last linear layer, `[classes, features]`, or None if it does not end in one."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    weight = linear[-1].weight.detach().flatten(1).float().cpu() if linear else None
    return weight if weight is not None and linear[-1].weight[0, 0].numel() == 1 else None


class _Trials:
    """What fits at several steps cost and lose, on samples that their basis has not seen."""

    def __init__(self, calibration: Calibration, codec: LowRank, pairs: Pairs) -> None:
        self._calibration, self._codec, self._pairs = calibration, codec, pairs

    def step(self) -> float:
        """Return the coarsest step that meets the codec's target."""
        if self._codec.error is not None:
            self._pairs.require_gradient()
            return self._boundary("error", self.error, self._codec.error, _FINEST, _COARSEST)
        assert self._codec.bytes is not None
        return self._boundary("bytes", self.bytes, self._codec.bytes, _COARSEST, _FINEST)

    def error(self, step: float) -> float:
        """Return the error of DIST's gradient, the worst over the temperatures."""
        teacher, codec = self._pairs.teacher, self._at(step)
        size = min(_BATCH, len(teacher))
        return max(
            gradient_error(
                teacher,
                decoded_batches(codec, teacher, size),
                self._pairs.student,
                loss=partial(dist_loss, tau=tau),
                batch_size=size,
            )[0]
            for tau in _TAUS
        )

    def bytes(self, step: float) -> float:
        """Return the bytes per view on disk."""
        codec = self._at(step)
        return stored_bytes(codec, codec.encode(self._pairs.teacher))

    def _at(self, step: float) -> LowRank:
        return self._codec.with_fit(self._calibration.trial(step))

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
