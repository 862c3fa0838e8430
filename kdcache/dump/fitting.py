"""The codec of a dump: fitted to, and measured on, a sample of the teacher's own views."""

import math
import time
from collections.abc import Mapping
from typing import Any

from kdcache.cache import Cache, Manifest
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.storage.protocol import Storage
from kdcache.codec_error.calibration import (
    DEFAULT_ERROR,
    Fitted,
    fit_codec,
    fit_default,
    sample_views,
)
from kdcache.codec_error.gradients import is_far
from kdcache.codec_error.teacher_pairs import pairs_of_models
from kdcache.codecs import BasisCodec, Codec, RowCodec, codec_spec, open_codec
from kdcache.dump.config import DumpConfig
from kdcache.errors import MismatchError
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.console import LINE_SECONDS, log, own_name, say
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import own_place
from kdcache.sources import Source
from kdcache.verify.logits import lossy_origin
from kdcache.views import Recipe

FIT_SECONDS = 900.0  # that each rank gives those before it to measure the codec
_EXACT_VIEWS = 512  # that a plan measures an exact codec on, for the last bits of its floats


def await_first_worker(folder: Storage) -> None:
    """Return when the cache is there, which rank 0 makes with the codec that it fits and measures,
    or when it takes too long.

    Only then is it worth while that another fits too: the ranks take their turns, and the first
    that is done decides.
    """
    rank = own_place().rank
    limit = FIT_SECONDS * rank
    start = time.monotonic()
    last_line = -math.inf
    while not folder.exists(MANIFEST):
        now = time.monotonic()
        if now - start >= limit:
            if rank:
                none = f"no cache in {folder} after {limit:.0f} s"
                log(own_name(), f"measures the codec itself: {none}")
            return
        if now - last_line >= LINE_SECONDS:
            until = f"at most {limit:.0f} s"
            log(own_name(), f"waits for the cache, whose codec rank 0 measures; {until}")
            last_line = now
        time.sleep(min(FIT_SECONDS, 1.0))


def codec_of_cache(cache: Cache, spec: str | None, classes: int) -> Codec:
    """Return the codec that is asked for, with the fit of the cache, or the cache's own if none
    is.

    Raises:
        MismatchError: the cache was recoded from a lossy one.
    """
    _require_direct(cache)
    if spec is None:
        return cache.codec
    return cache.with_fit(open_codec(spec, classes=classes))


def _require_direct(cache: Cache) -> None:
    """Raise a MismatchError if the cache was recoded from a lossy one: records of a dump would be
    others than its own."""
    if origin := lossy_origin(cache):
        raise MismatchError(
            f"cache {cache} was recoded from {origin}, so that its records are not those of a dump;"
            " add the seeds to the cache that it came from, and run recode again"
        )


def fitted_codec(
    config: DumpConfig, codec: RowCodec, source: Source, recipe: Recipe, teacher: VisionModel
) -> Fitted:
    """Return the codec fitted to, and measured on, a sample of the teacher's own views."""
    num_views = _EXACT_VIEWS
    if not codec.is_exact:
        num_views = sample_views(codec)
    what = "positions of the teacher's logits"
    if teacher.stride is not None:
        what = "pixels of the teacher's maps"
    if not teacher.sites:
        # of maps it is pixels, of which there are enough
        num_views = min(num_views, 2 * len(source))
        what = "views of the teacher"
    say(f"measuring codec {codec_spec(codec)} on {num_views} {what}")
    settings: dict[str, Any] = {"batch_size": config.batch_size, "order_seed": config.order_seed}
    pairs = pairs_of_models(
        [teacher], source, recipe, views=num_views, compute=Compute(config.compute), **settings
    )
    if config.codec is not None or not isinstance(codec, BasisCodec):
        return fit_codec(codec, pairs)
    fitted = fit_default(codec, pairs)
    if codec_spec(fitted.codec) != codec_spec(codec):
        _tell_choice(fitted)
    return fitted


def _tell_choice(fitted: Fitted) -> None:
    """Say which codec was taken in the place of the usual default, and why."""
    coarser = "no step of lowrank"
    if isinstance(fitted.codec, BasisCodec):
        coarser = "no coarser step"
    turned = ""
    if fitted.errors:
        turned = f", which turns DIST's gradient by {_errors_text(fitted.errors)} of its norm"
    why = f"{coarser} keeps that within {100 * DEFAULT_ERROR:.0f} % on this teacher"
    say(f"note: codec {codec_spec(fitted.codec)} is taken{turned}; {why}")


def tell_error(manifest: Manifest, codec: Codec, teacher: VisionModel) -> None:
    """Say how far the records turn DIST's gradient, where it is far."""
    errors = manifest.gradient_error
    far_errors = {tau: error for tau, error in errors.items() if is_far(error, codec)}
    if not far_errors:
        return
    turned = f"turns DIST's gradient by {_errors_text(far_errors)} of its norm on this teacher"
    others = "kdcache codec-error shows what other codecs do"
    if teacher.sites:  # of maps, which that command does not measure
        others = "kdcache dump-teacher --plan --codec SPEC shows what another codec does"
    say(f"note: codec {codec_spec(codec)} {turned}; {others}")


def _errors_text(errors: Mapping[float, float]) -> str:
    return ", ".join(f"{100 * error:.0f} % at tau {tau:g}" for tau, error in errors.items())
