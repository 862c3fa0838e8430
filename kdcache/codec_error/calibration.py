"""Fitting a codec to a teacher: a sample of its logits in, the codec out, at a step or at the step
that meets a target."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kdcache.cache import stored_bytes
from kdcache.codec_error.measured_views import MeasuredViews, dist_errors
from kdcache.codec_error.sample import Sample
from kdcache.codecs import BasisCodec, Codec, RowCodec
from kdcache.codecs.transform import Calibration
from kdcache.errors import CodecError

TAUS = (1.0, 4.0)
_MOST_LOGITS = 2**26  # 268 MB
_FINEST = 0.01
_COARSEST = 64.0
_NEAR = 0.005
_TRIALS = 16


@dataclass(frozen=True, eq=False)
class Fitted:
    """A codec fitted to a teacher, and the means to say what it loses."""

    codec: RowCodec
    trial: RowCodec
    """The same, fitted to other samples of the data than those of `views`."""
    views: MeasuredViews

    @cached_property
    def errors(self) -> dict[float, float]:
        """Error of DIST's gradient (beta = gamma) by temperature, on samples that the fit has not
        seen.

        Empty where there is no gradient, since the proxy student sees what the teacher sees.
        """
        if not self.views.differ:
            return {}
        return dist_errors(self.trial, self.views, TAUS)


def sample_views(codec: Codec) -> int:
    """Return how many views a codec is fitted to and measured on: fewer where there are many
    classes, to keep within memory."""
    return min(codec.views, _MOST_LOGITS // codec.classes)


def fit_codec(codec: RowCodec, sample: Sample) -> Fitted:
    """Return `codec` fitted to a teacher's logits, if it needs a fit, with its errors.

    Targets are met, and errors measured, on some of the samples of the data, with a basis fitted to
    the others: of rows on a quarter, of several positions a view on whole views.

    Raises:
        CodecError: a target that cannot be met, or too few views.
    """
    fitting, held_out = sample.parted()
    if not isinstance(codec, BasisCodec):
        # of a codec that has nothing to fit both are itself
        return Fitted(codec.fit(sample.teacher), codec.fit(fitting.teacher), held_out.views)
    whole = Calibration(sample.by_group().teacher, sample.head)
    trial = Calibration(fitting.teacher, sample.head)
    step = codec.step
    if step is None:
        step = _target_step(codec, whole, trial, held_out)
    return Fitted(codec.with_fit(whole.fit(step)), codec.with_fit(trial.fit(step)), held_out.views)


def fit_default(codec: BasisCodec, sample: Sample) -> Fitted:
    """Return the codec where none is chosen: `codec`, at the coarsest step that meets its error.

    Where a recipe draws nothing, the student's gradient is measured with the teacher on another
    sample in its place.

    Raises:
        CodecError: no step does, such as of too few views for a basis.
    """
    _, held_out = sample.parted()
    if held_out.views.differ:
        return fit_codec(codec, sample)
    fitted = fit_codec(codec, sample.with_other_views())
    return Fitted(fitted.codec, fitted.trial, held_out.views)


def _target_step(
    codec: BasisCodec, whole: Calibration, trial: Calibration, held_out: Sample
) -> float:
    """Return the coarsest step that meets an error, or the finest that meets a number of bytes.

    An error is that of `trial` on samples that it has not seen. Bytes are counted over the whole
    sample, each row on a basis that has not seen it: a single quarter of few samples can take some
    percent more or fewer than the rest.
    """

    def error(step: float) -> float:
        errors = dist_errors(codec.with_fit(trial.fit(step)), held_out.views, TAUS)
        return max(errors.values())

    def size(step: float) -> float:
        fit = whole.fit(step)
        fitted = codec.with_fit(fit)
        fields = fitted.fields_of_integers(whole.integers(fit))
        return stored_bytes(fitted, fitted.records_of(fields))

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
    hit: _Trial | None = None
    miss: _Trial | None = None
    step = 1.0
    for _ in range(_TRIALS):
        trial = _Trial(step, max(measure(step), 1e-12))
        if trial.value <= target:
            hit = trial
        else:
            miss = trial
        if hit and (hit.value >= (1 - _NEAR) * target or hit.step == outside):
            return hit.step
        if miss and miss.step == inside:
            raise CodecError(
                f"lowrank:{name}={target:g} cannot be met on this sample: step {inside:g} has"
                f" {name} {miss.value:.3g}; give a larger one, fit it on views of more samples, or"
                " use full"
            )
        if hit and miss:
            step = _between(hit, miss, (1 - _NEAR / 2) * target)
        elif hit:
            step = _halfway(step, outside)
        else:
            step = _halfway(step, inside)
    assert hit, "a limit is reached sooner"
    return hit.step


class _Trial(NamedTuple):
    """A step, and the value that is measured at it."""

    step: float
    value: float


def _halfway(step: float, limit: float) -> float:
    """Return a step of half or twice the size, towards `limit` but not past it."""
    if limit < step:
        return max(step / 2, limit)
    return min(2 * step, limit)


def _between(hit: _Trial, miss: _Trial, target: float) -> float:
    """Return the step at which a power law through two trials has the target, well between the
    two."""
    share = math.log(target / hit.value) / math.log(miss.value / hit.value)
    share = min(max(share, 0.1), 0.9)
    return hit.step * math.exp(share * math.log(miss.step / hit.step))
