"""The codec of a dump: fitted to, and measured on, a sample of the teacher's own views."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kdcache.cache import Manifest, library_versions
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.documents.parts import SourceEntry, TeacherEntry
from kdcache.cache.storage.protocol import Storage
from kdcache.codec_error.calibration import (
    Fitted,
    fit_codec,
    fit_default,
    sample_views,
)
from kdcache.codec_error.gradients import is_far
from kdcache.codec_error.position_sample import MAP_VIEWS, MEASURED_VIEWS
from kdcache.codec_error.sample import Sample
from kdcache.codec_error.sample_run import SampleRun
from kdcache.codec_error.teacher_sample import sample_of_models
from kdcache.codecs import BasisCodec, Codec, RowCodec, codec_spec, open_codec
from kdcache.config.spec import parse_spec
from kdcache.dump.config import DumpConfig
from kdcache.dump.unreadable import told_to_skip
from kdcache.errors import CodecError
from kdcache.models.vision_model import VisionModel
from kdcache.positions import Layout
from kdcache.runtime.batch_size import chosen
from kdcache.runtime.console import LINE_SECONDS, log, own_name, say
from kdcache.runtime.device import Compute, device_type
from kdcache.runtime.distributed import own_place
from kdcache.sources import Source
from kdcache.views import Recipe

FIT_SECONDS = 900.0  # that each rank gives those before it to measure the codec
SAMPLE_SECONDS = 10.0  # in which a plan runs the teacher on the sample
_EXACT_VIEWS = 512  # that a plan measures an exact codec on, for the last bits of its floats
_SHARE = 10  # one in so many views of a dump may be run for its sample
_LEAST_VIEWS = 1024
"""In any case, or as many as there are classes: with the last layer's weights that is enough."""


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


class SampleSize(NamedTuple):
    """How much of a teacher's output a codec is fitted to and measured on."""

    rows: int
    """Views, each a row of logits; of maps the positions."""
    map_views: int
    """Views that the positions are taken from."""


def sample_size(codec: RowCodec, layout: Layout, num_samples: int, num_seeds: int) -> SampleSize:
    """Return the size of the sample: of a small dump no more than a tenth of its views, if these
    are enough for a basis.

    Args:
        codec: that is fitted and measured; a number of views that its spec gives is taken.
        layout: of the teacher's logits.
        num_samples: of the source.
        num_seeds: of the dump.
    """
    share = num_samples * num_seeds // _SHARE
    map_views = min(MAP_VIEWS, max(share, MEASURED_VIEWS))
    if codec.is_exact:
        num_rows = _EXACT_VIEWS
    else:
        num_rows = sample_views(codec)
    if layout.sites:  # there are enough positions
        return SampleSize(num_rows, map_views)
    if "views" not in parse_spec(codec_spec(codec)).options:
        num_rows = min(num_rows, max(share, _LEAST_VIEWS, codec.classes))
    return SampleSize(min(num_rows, 2 * num_samples), map_views)


def sample_run(
    config: DumpConfig,
    source: SourceEntry,
    recipe: Recipe,
    teacher: TeacherEntry,
    size: SampleSize,
    *,
    is_plan: bool,
) -> SampleRun:
    """Return what runs the teacher over the sample: a plan for some seconds, and a dump goes on
    from there."""
    decisive = {
        "size": size,
        "source": [source.fingerprint, source.sizes],
        "recipe": recipe.fingerprint,
        "teacher": {**teacher.to_json(), "spec": None},
        "classes": config.teacher_classes or source.classes,
        "order_seed": config.order_seed,
        "batch_size": config.batch_size,
        "device": device_type(config.compute.device),
        "versions": library_versions(),
    }
    seconds = None
    if is_plan:
        seconds = SAMPLE_SECONDS
    return SampleRun(json.dumps(decisive, sort_keys=True), seconds)


@dataclass(frozen=True, kw_only=True)
class CodecFitting:
    """What a codec is fitted to and measured on: a sample of the teacher's own views."""

    config: DumpConfig
    source: Source
    recipe: Recipe
    teacher: VisionModel
    sample: SampleRun
    size: SampleSize

    def fitted(self, codec: RowCodec) -> Fitted:
        """Return the codec with its fit; where none was chosen, one that suits the teacher."""
        say(f"measuring codec {codec_spec(codec)} on {self.size.rows} {self._kind_of_rows()}")
        try:
            result = self._fit(codec)
        except CodecError:
            if not self.sample.views_left:
                raise
            self.sample.seconds = None  # more views may be enough
            result = self._fit(codec)
        if left := self.sample.views_left:
            say(f"note: measured without {left} of these views, which the dump begins with")
        return result

    def _fit(self, codec: RowCodec) -> Fitted:
        """Return the codec fitted to the sample; of the usual default, where it does not suit the
        teacher, `full`."""
        sample = self._drawn()
        if self.config.codec is not None or codec.is_exact:
            return fit_codec(codec, sample)
        try:
            if isinstance(codec, BasisCodec):
                return fit_default(codec, sample)
            return fit_codec(codec, sample)
        except CodecError as error:
            full = open_codec("full", classes=codec.classes)
            if self.sample.views_left or codec.name == full.name:
                raise
            say(f"note: codec {codec_spec(full)} is taken in the place of the usual one: {error}")
            return fit_codec(full, sample)

    def _kind_of_rows(self) -> str:
        if self.teacher.stride is not None:
            return "pixels of the teacher's maps"
        if self.teacher.sites:
            return "positions of the teacher's logits"
        return "views of the teacher"

    def _drawn(self) -> Sample:
        """Return the sample, where the teacher runs."""
        compute = Compute(self.config.compute)
        with told_to_skip(None):
            sample = sample_of_models(
                [self.teacher],
                self.source,
                self.recipe,
                num_rows=self.size.rows,
                map_views=self.size.map_views,
                batch_size=chosen(self.config.batch_size),
                order_seed=self.config.order_seed,
                compute=compute,
                skip_unreadable=self.config.skip_unreadable,
                sample=self.sample,
            )
        return sample.to(compute.device)


def tell_error(manifest: Manifest, codec: Codec) -> None:
    """Say how far the records turn DIST's gradient, where it is far."""
    errors = manifest.gradient_error
    far_errors = {tau: error for tau, error in errors.items() if is_far(error, codec)}
    if not far_errors:
        return
    turned = f"turns DIST's gradient by {_errors_text(far_errors)} of its norm on this teacher"
    others = "kdcache codec-error shows what other codecs do"
    say(f"note: codec {codec_spec(codec)} {turned}; {others}")


def _errors_text(errors: Mapping[float, float]) -> str:
    return ", ".join(f"{100 * error:.0f} % at tau {tau:g}" for tau, error in errors.items())
