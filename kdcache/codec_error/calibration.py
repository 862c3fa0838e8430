"""Fitting a codec to a teacher: a sample of its logits in, the codec out, at a step or at the step
that meets a target."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from kdcache.cache import stored_bytes
from kdcache.codec_error.gradients import decoded_batches, gradient_error
from kdcache.codec_error.samples import Pairs
from kdcache.codecs import BasisCodec, Codec, RowCodec, open_codec
from kdcache.codecs.transform import Calibration
from kdcache.errors import CodecError
from kdcache.losses import dist_loss
from kdcache.views import keyed_permutation

TAUS = (1.0, 4.0)
BATCH = 256
_MOST_LOGITS = 2**26  # 268 MB
_MOST_HELD_OUT = 2048
_FINEST = 0.01
_COARSEST = 64.0
_NEAR = 0.005
_TRIALS = 16
DEFAULT_ERROR = 0.4
"""Of DIST's gradient, that the default codec may have; at step 2 ImageNet logits have 0.20 at tau 1
and 0.32 at tau 4."""
_DEFAULT_HALVINGS = 10


@dataclass(frozen=True, eq=False)
class Fitted:
    """A codec fitted to a teacher, and the means to say what it loses."""

    codec: RowCodec
    trial: RowCodec
    """The same, fitted without the samples of `held_out`."""
    held_out: Pairs

    @cached_property
    def errors(self) -> dict[float, float]:
        """Error of DIST's gradient (beta = gamma) by temperature, on samples that the fit has not
        seen.

        Empty where there is no gradient, since the proxy student sees what the teacher sees.
        """
        return _dist_errors(self.trial, self.held_out) if self.held_out.differ else {}


def sample_views(codec: Codec) -> int:
    """Return how many views a codec is fitted to and measured on: fewer where there are many
    classes, to keep within memory."""
    return min(codec.views, _MOST_LOGITS // codec.classes)


def fit_codec(codec: RowCodec, pairs: Pairs) -> Fitted:
    """Return `codec` fitted to a teacher's logits, if it needs a fit, with its errors.

    Targets are met, and errors measured, on a quarter of the samples, with a basis fitted to the
    others.

    Raises:
        CodecError: a target that cannot be met, or too few views.
    """
    seen, held_out = _parted(pairs)
    if not isinstance(codec, BasisCodec):
        return Fitted(codec, codec, held_out)
    whole = _whole(pairs)
    trial = Calibration(seen.teacher, pairs.head)
    step = codec.step or _target_step(codec, whole, trial, held_out)
    return Fitted(codec.with_fit(whole.fit(step)), codec.with_fit(trial.fit(step)), held_out)


def fit_default(codec: BasisCodec, pairs: Pairs) -> Fitted:
    """Return the codec where none is chosen: `codec`, at the coarsest of its step, a half, a
    quarter ... that is near enough.

    That is one whose error is at most DEFAULT_ERROR at both temperatures. A step is in units of
    logits, so that one that suits most teachers erases one of small logits. Where no step will do,
    such as of too few views for a basis, it is `full`.
    """
    assert codec.step is not None
    seen, held_out = _parted(pairs)
    calibration = Calibration(seen.teacher, pairs.head)
    measured = held_out
    # a recipe that draws nothing: the teacher on another sample stands in for the choice alone
    if not measured.differ:
        measured = replace(held_out, student=held_out.student.roll(1, 0))
    for halving in range(_DEFAULT_HALVINGS + 1):
        step = codec.step / 2**halving
        wanted = codec.with_step(step)
        trial = wanted.with_fit(calibration.fit(step))
        if not measured.differ or max(_dist_errors(trial, measured).values()) <= DEFAULT_ERROR:
            return Fitted(wanted.with_fit(_whole(pairs).fit(step)), trial, held_out)
    full = open_codec("full", classes=codec.classes)
    return Fitted(full, full, held_out)


def _whole(pairs: Pairs) -> Calibration:
    return Calibration(pairs.by_group().teacher, pairs.head)


def _dist_errors(codec: Codec, pairs: Pairs) -> dict[float, float]:
    """Return the error of DIST's gradient by temperature."""
    size = min(BATCH, len(pairs.teacher))
    decoded = list(decoded_batches(codec, pairs.teacher, size))
    losses = {tau: partial(dist_loss, tau=tau) for tau in TAUS}
    errors = {
        tau: gradient_error(
            pairs.teacher, decoded, pairs.student, loss=losses[tau], batch_size=size
        )
        for tau in TAUS
    }
    return {tau: error for tau, (error, _) in errors.items()}


def _target_step(
    codec: BasisCodec, whole: Calibration, trial: Calibration, held_out: Pairs
) -> float:
    """Return the coarsest step that meets an error, or the finest that meets a number of bytes.

    An error is that of `trial` on samples that it has not seen. Bytes are counted over the whole
    sample, each row on a basis that has not seen it: a single quarter of few samples can take some
    percent more or fewer than the rest.
    """

    def error(step: float) -> float:
        return max(_dist_errors(codec.with_fit(trial.fit(step)), held_out).values())

    def size(step: float) -> float:
        fit = whole.fit(step)
        fitted = codec.with_fit(fit)
        return stored_bytes(fitted, fitted.pack(whole.integers(fit)))

    if codec.error is not None:
        held_out.require_gradient()
        return _boundary("error", error, codec.error, inside=_FINEST, outside=_COARSEST)
    assert codec.bytes is not None
    return _boundary("bytes", size, codec.bytes, inside=_COARSEST, outside=_FINEST)


def _boundary(
    name: str, measure: Callable[[float], float], target: float, *, inside: float, outside: float
) -> float:
    """Return the step nearest to `outside` that meets the target, if it can, by at most half a
    percent of the target."""
    met: tuple[float, float] | None = None
    missed: tuple[float, float] | None = None
    step = 1.0
    for _ in range(_TRIALS):
        value = max(measure(step), 1e-12)
        if value <= target:
            met = step, value
        else:
            missed = step, value
        if met and (met[1] >= (1 - _NEAR) * target or met[0] == outside):
            return met[0]
        if missed and missed[0] == inside:
            raise CodecError(
                f"lowrank:{name}={target:g} cannot be met on this sample: step {inside:g} has"
                f" {name} {missed[1]:.3g}; give a larger one, fit it on views of more samples, or"
                " use full"
            )
        if met and missed:
            step = _between(met, missed, (1 - _NEAR / 2) * target)
        else:
            step = _halfway(step, outside if met else inside)
    assert met, "a limit is reached sooner"
    return met[0]


def _halfway(step: float, limit: float) -> float:
    """Return a step of half or twice the size, towards `limit` but not past it."""
    return max(step / 2, limit) if limit < step else min(2 * step, limit)


def _between(met: tuple[float, float], missed: tuple[float, float], target: float) -> float:
    """Return the step at which a power law through two (step, value) has the target, well between
    the two."""
    share = math.log(target / met[1]) / math.log(missed[1] / met[1])
    return met[0] * math.exp(min(max(share, 0.1), 0.9) * math.log(missed[0] / met[0]))


def _parted(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Return three quarters of the rows by group, and some of the others, which are of other
    samples, in random order."""
    pairs = pairs.by_group()
    count = max(len(pairs.teacher) // 4, 1)
    seen, held_out = np.split(np.arange(len(pairs.teacher)), [-count])
    return pairs.take(seen), pairs.take(held_out[keyed_permutation(count, 0)[:_MOST_HELD_OUT]])
