"""A dump made ready: source, recipe, teacher and codec opened, checked and fitted; nothing is
written yet."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from torch import nn

from kdcache.cache import Cache, Manifest, library_versions, open_cache, record_layout, tar_layout
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.documents.parts import MadeBy, RecipeEntry, TeacherEntry
from kdcache.cache.opening import open_storage, probe_new
from kdcache.cache.source_list import SourceList
from kdcache.cache.storage.protocol import Storage
from kdcache.cache.unit_sizes import require_blocks
from kdcache.codec_error.calibration import (
    DEFAULT_ERROR,
    Fitted,
    fit_codec,
    fit_default,
    sample_views,
)
from kdcache.codec_error.gradients import is_far
from kdcache.codec_error.teacher_pairs import pairs_of_models
from kdcache.codecs import (
    BasisCodec,
    Codec,
    RowCodec,
    codec_spec,
    default_codec,
    open_codec,
    row_codec,
    with_layout,
)
from kdcache.config.files import dump_config, parse_seeds
from kdcache.dump.config import DumpConfig
from kdcache.dump.source import KnownSource, known_source
from kdcache.dump.unit import UnitMaker
from kdcache.errors import MismatchError, UsageError
from kdcache.models.model import check_model, open_model
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import MapModel, VisionModel
from kdcache.models.wrapping import tried_model
from kdcache.positions import layout_of_sites
from kdcache.runtime.console import LINE_SECONDS, log, own_name, say
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import own_place
from kdcache.sources import Source, mean_image_bytes, open_source
from kdcache.targets import task_of
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.verify.logits import lossy_origin
from kdcache.views import Recipe, ViewDataset, ViewLoader, load_recipe
from kdcache.views.dataset import Request

FIT_SECONDS = 900.0  # that each rank gives those before it to measure the codec
_MANY = 2**20  # classes, of which a codec's options are checked before the source says how many
_EXACT_VIEWS = 512  # that a plan measures an exact codec on, for the last bits of its floats


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a program gives as objects, in the place of what a configuration names."""

    source: Source | None = None
    recipe: Recipe | None = None
    teacher: nn.Module | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """Of the teacher: `size`, `mean` and `std`, see `wrapped`."""


NOTHING_GIVEN = Given()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dump made ready: everything opened and checked, nothing written."""

    config: DumpConfig
    seeds: list[int]
    source: Source
    recipe: Recipe
    teacher: VisionModel
    compute: Compute
    codec: Codec
    """With its fit, if it needs one."""
    fitted: Fitted | None
    """How it was fitted and measured, unless the cache was there before, or the codec is exact and
    this no plan."""
    manifest: Manifest
    labels: SeenLabels
    """Of the first views, which are judged once."""
    given: Given
    listing: SourceList | None = None
    """Of the source, for a cache that is new."""

    def dataset(self, cache: Cache) -> ViewDataset:
        """Return the views of the teacher's input size."""
        size = self.teacher.preprocessing.size
        return ViewDataset(
            self.source,
            self.recipe,
            cache.order,
            sizes=[size],
            skip_unreadable=self.config.skip_unreadable,
        )

    def loader(self, cache: Cache, requests: Iterable[Request]) -> ViewLoader:
        """Return the loader of the views asked for."""
        return ViewLoader(
            self.dataset(cache),
            requests,
            workers=self.config.compute.workers,
            pin_memory=self.compute.pin_memory,
        )

    def unit(self, cache: Cache, seed: int, unit: int) -> UnitMaker:
        """Return a unit in the making."""
        place = own_place()
        # a worker on Ray may find a rank in its environment: that of whoever started Ray there
        is_ranked = place.world_size > 1 and self.config.engine == "process"
        return UnitMaker(
            cache,
            self.dataset(cache),
            seed=seed,
            unit=unit,
            is_scored=self.config.teacher_classes is None,
            rank=place.rank if is_ranked else None,
        )


def probe_place(config: DumpConfig, *, writes: bool = True) -> None:
    """Check that what the cache lacks can be written; a complete cache is only read.

    Args:
        config: the dump.
        writes: whether that may be tried by writing, which a plan may not.

    Raises:
        CacheError: it cannot, or something else is there.
    """
    storage = open_storage(config.cache)
    if not storage.exists(MANIFEST):
        probe_new(storage, writes=writes)
        return
    held = open_cache(storage)
    if any(held.missing_units(seed) for seed in parse_seeds(config.seeds)):
        storage.probe(writes=writes)


def prepare(config: DumpConfig, given: Given = NOTHING_GIVEN, *, is_plan: bool = False) -> Job:
    """Return the job that `config` describes.

    Args:
        config: what the dump is told.
        given: objects in the place of what it names.
        is_plan: whether it is only to be planned: then an exact codec is measured too, and no
            checksums of the data are made.

    Raises:
        KdcacheError: anything in it that is absent, unknown or does not fit together.
    """
    seeds = parse_seeds(config.seeds)
    compute = Compute(config.compute)
    recipe = load_recipe(config.recipe) if given.recipe is None else given.recipe
    if given.teacher is None:
        check_model(config.teacher)
    if config.codec is not None:
        open_codec(config.codec, classes=_MANY)
    require_blocks(config.unit_rows, recipe.mixing.block if recipe.mixing else 1)
    opened = open_source(config.data) if given.source is None else given.source
    labels = SeenLabels(opened)
    classes = config.teacher_classes or opened.classes
    codec = open_codec(config.codec or default_codec(classes), classes=classes)
    task = task_of(opened)
    teacher = _teacher(config, given, recipe, classes=classes, task=task)
    if not codec.is_exact or config.content_digests:
        _await_first_worker(open_storage(config.cache))
    held = open_cache(config.cache) if open_storage(config.cache).exists(MANIFEST) else None
    data = known_source(config, opened, held, is_plan=is_plan)
    source = data.source
    codec = row_codec(_held_codec(held, config.codec, classes)) if held else codec
    stored = _stored(config, seeds, source, held)
    measures = held is None and (is_plan or not codec.is_exact)
    fitted = _fitted(config, codec, source, recipe, teacher) if measures else None
    whole = with_layout(fitted.codec if fitted else codec, layout_of_sites(teacher.sites))
    errors = _errors(fitted, held)
    manifest = _manifest(config, data, recipe, teacher, codec=whole, stored=stored)
    return Job(
        config=config,
        seeds=seeds,
        source=source,
        recipe=recipe,
        teacher=teacher,
        compute=compute,
        codec=whole,
        fitted=fitted,
        manifest=manifest.with_errors(errors),
        labels=labels,
        given=given,
        listing=data.listing,
    )


def _teacher(
    config: DumpConfig, given: Given, recipe: Recipe, *, classes: int, task: str
) -> VisionModel:
    if given.teacher is None:
        return open_model(config.teacher, classes=classes, recipe=recipe, trained=True, task=task)
    return tried_model(given.teacher, recipe, classes=classes, task=task, **given.preprocessing)


def _await_first_worker(folder: Storage) -> None:
    """Return when the cache is there, which rank 0 makes with the codec that it fits and measures,
    or when it takes too long.

    Only then is it worth while that another fits too: the ranks take their turns, and the first
    that is done decides.
    """
    me = own_place()
    limit = FIT_SECONDS * me.rank
    start = time.monotonic()
    told = -math.inf
    while not folder.exists(MANIFEST):
        now = time.monotonic()
        if now - start >= limit:
            if me.rank:
                none = f"no cache in {folder} after {limit:.0f} s"
                log(own_name(), f"measures the codec itself: {none}")
            return
        if now - told >= LINE_SECONDS:
            until = f"at most {limit:.0f} s"
            log(own_name(), f"waits for the cache, whose codec rank 0 measures; {until}")
            told = now
        time.sleep(min(FIT_SECONDS, 1.0))


def tell_error(job: Job) -> None:
    """Say how far the records turn DIST's gradient, where it is far."""
    if far := {
        tau: error for tau, error in job.manifest.gradient_error.items() if is_far(error, job.codec)
    }:
        turned = f"turns DIST's gradient by {_told(far)} of its norm on this teacher"
        others = "kdcache codec-error shows what other codecs do"
        if job.teacher.sites:  # of maps, which that command does not measure
            others = "kdcache dump-teacher --plan --codec SPEC shows what another codec does"
        say(f"note: codec {codec_spec(job.codec)} {turned}; {others}")


def _held_codec(cache: Cache, spec: str | None, classes: int) -> Codec:
    """Return the codec that is asked for, with the fit of the cache, or the cache's own if none
    is."""
    _require_direct(cache)
    return cache.codec if spec is None else cache.with_fit(open_codec(spec, classes=classes))


def _fitted(
    config: DumpConfig, codec: RowCodec, source: Source, recipe: Recipe, teacher: VisionModel
) -> Fitted:
    """Return the codec fitted to, and measured on, a sample of the teacher's own views."""
    wanted = _EXACT_VIEWS if codec.is_exact else sample_views(codec)
    # of maps it is pixels, of which there are enough
    views = wanted if teacher.sites else min(wanted, 2 * len(source))
    what = "pixels of the teacher's maps" if teacher.sites else "views of the teacher"
    say(f"measuring codec {codec_spec(codec)} on {views} {what}")
    settings: dict[str, Any] = {"batch_size": config.batch_size, "order_seed": config.order_seed}
    pairs = pairs_of_models(
        [teacher], source, recipe, views=views, compute=Compute(config.compute), **settings
    )
    if config.codec is not None or not isinstance(codec, BasisCodec):
        return fit_codec(codec, pairs)
    fitted = fit_default(codec, pairs)
    if codec_spec(fitted.codec) != codec_spec(codec):
        _tell_choice(fitted)
    return fitted


def _errors(fitted: Fitted | None, held: Cache | None) -> Mapping[float, float]:
    """Return the errors of the codec by temperature: as measured now, or those that the cache
    has."""
    if fitted:
        return fitted.errors
    return held.manifest.gradient_error if held else {}


def _tell_choice(fitted: Fitted) -> None:
    """Say which codec was taken in the place of the usual default, and why."""
    coarser = "no coarser step" if isinstance(fitted.codec, BasisCodec) else "no step of lowrank"
    turned = ""
    if fitted.errors:
        turned = f", which turns DIST's gradient by {_told(fitted.errors)} of its norm"
    why = f"{coarser} keeps that within {100 * DEFAULT_ERROR:.0f} % on this teacher"
    say(f"note: codec {codec_spec(fitted.codec)} is taken{turned}; {why}")


def _told(errors: Mapping[float, float]) -> str:
    return ", ".join(f"{100 * error:.0f} % at tau {tau:g}" for tau, error in errors.items())


def _require_direct(cache: Cache) -> None:
    """Raise a MismatchError if the cache was recoded from a lossy one: records of a dump would be
    others than its own."""
    if origin := lossy_origin(cache):
        raise MismatchError(
            f"cache {cache} was recoded from {origin}, so that its records are not those of a dump;"
            " add the seeds to the cache that it came from, and run recode again"
        )


def _stored(
    config: DumpConfig, seeds: Sequence[int], source: Source, held: Cache | None
) -> dict[str, Any]:
    """Return what `tar_layout` needs to know of a webdataset store; nothing for a zarr store."""
    there = held.manifest if held else None
    store = config.store or (there.store if there else "zarr")
    if store == "zarr":
        if config.seeds_per_unit is not None or config.images:
            raise UsageError(
                "seeds_per_unit and images are for webdataset stores; give --store webdataset, or"
                " leave them out"
            )
        return {}
    is_same = there is not None and there.store == store
    count = config.seeds_per_unit or (there.seeds_per_unit if there and is_same else len(seeds))
    firsts = {seed - seed % count for seed in seeds}
    if any(not {*range(first, first + count)} <= {*seeds} for first in firsts):
        way_out = "" if is_same else ", or seeds_per_unit"
        raise UsageError(
            f"seeds are {config.seeds}, and {count} of them share a tar: 0 to {count - 1}, {count}"
            f" to {2 * count - 1}, ...; give whole groups{way_out}"
        )
    has_images = config.images
    if has_images is None:
        has_images = there.has_images if there and is_same else True
    return {"seeds": count, "image_bytes": mean_image_bytes(source) if has_images else None}


def _manifest(
    config: DumpConfig,
    data: KnownSource,
    recipe: Recipe,
    teacher: VisionModel,
    *,
    codec: Codec,
    stored: dict[str, Any],
) -> Manifest:
    source = data.source
    preprocessing = teacher.preprocessing
    sizes: dict[str, Any] = {
        "unit_rows": config.unit_rows,
        "block": recipe.mixing.block if recipe.mixing else 1,
    }
    if stored:
        layout = tar_layout(codec, len(source), **sizes, **stored)
    else:
        layout = record_layout(codec, len(source), **sizes)
    return Manifest(
        task=task_of(source),
        layout=layout_of_sites(teacher.sites),
        classes=config.teacher_classes or source.classes,
        rows=len(source),
        source=data.entry,
        order_seed=config.order_seed,
        recipe=RecipeEntry.from_json(recipe.to_dict()),
        teacher=TeacherEntry(
            spec=teacher.spec,
            architecture=teacher.architecture,
            sha256=state_sha256(teacher.module),
            size=preprocessing.size,
            stride=teacher.stride if isinstance(teacher, MapModel) else None,
            mean=tuple(preprocessing.mean),
            std=tuple(preprocessing.std),
            precision=config.compute.precision,
        ),
        **layout,
        skip_unreadable=config.skip_unreadable,
        made_by=MadeBy(
            versions=library_versions(),
            config=dump_config(config, "dump-teacher"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
