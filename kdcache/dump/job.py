"""A dump made ready: source, recipe, teacher and codec opened, checked and fitted; nothing is
written yet."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kdcache.cache import Cache, Manifest, open_cache
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.opening import open_storage, probe_new
from kdcache.cache.source_list import SourceList
from kdcache.cache.unit_sizes import require_blocks
from kdcache.codec_error.calibration import Fitted
from kdcache.codec_error.sample_run import SampleRun
from kdcache.codecs import (
    Codec,
    RowCodec,
    check_codec,
    default_codec,
    open_codec,
    require_fitting,
    row_codec,
    with_layout,
)
from kdcache.config.seeds import parse_seeds
from kdcache.dump.config import DumpConfig
from kdcache.dump.encoding import BatchEncoder
from kdcache.dump.fitting import (
    CodecFitting,
    await_first_worker,
    sample_run,
    sample_size,
)
from kdcache.dump.given import NO_OBJECTS, GivenObjects
from kdcache.dump.new_manifest import mixing_block, new_manifest, tar_settings, teacher_entry
from kdcache.dump.present_cache import codec_of_cache
from kdcache.dump.source import known_source
from kdcache.dump.unit import UnitMaker
from kdcache.errors import UsageError
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.model import open_model
from kdcache.models.specs import check_model
from kdcache.models.vision_model import VisionModel
from kdcache.models.weight_misfit import DETECTOR_ADVICE, classes_advice
from kdcache.models.wrapping import tried_model
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import own_place
from kdcache.sources import Source, open_source, require_outside
from kdcache.sources.drawn_samples import require_drawn_alike
from kdcache.targets import task_of
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.views import ManySeedLoader, Recipe, RowsUnderSeeds, ViewDataset, load_recipe
from kdcache.views.dataset import require_following


@dataclass(frozen=True, kw_only=True)
class Job:
    """A dump made ready: everything opened and checked, nothing written."""

    config: DumpConfig
    seeds: list[int]
    source: Source
    recipe: Recipe
    teacher: VisionModel
    compute: Compute
    batch_size: int
    """Views that the teacher sees at once: where the configuration says `auto`, the number that
    suits this device."""
    codec: Codec
    """With its fit, if it needs one."""
    fitted: Fitted | None
    """How it was fitted and measured, of a plan whose cache is not there yet."""
    sample: SampleRun
    """What the teacher gave of the codec's sample."""
    manifest: Manifest
    labels: SeenLabels
    """Of the first views, which are judged once."""
    objects: GivenObjects
    """That a program gave."""
    listing: SourceList | None = None
    """Of the source, for a cache that is new, or has lost it."""

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

    def loader(self, cache: Cache, requests: Iterable[RowsUnderSeeds]) -> ManySeedLoader:
        """Return the loader of the views asked for."""
        return ManySeedLoader(
            self.dataset(cache),
            requests,
            workers=self.config.compute.workers,
            pin_memory=self.compute.pin_memory,
        )

    def encoder(self, cache: Cache) -> BatchEncoder:
        """Return what encodes the batches of the dump."""
        return BatchEncoder(
            cache,
            self.source,
            self.teacher,
            self.compute,
            is_scored=self.config.teacher_classes is None,
        )

    def unit(self, cache: Cache, seed: int, unit: int) -> UnitMaker:
        """Return a unit in the making."""
        place = own_place()
        # a worker on Ray may find a rank in its environment: that of whoever started Ray there
        rank = None
        if place.world_size > 1 and self.config.engine == "process":
            rank = place.rank
        return UnitMaker(
            cache,
            self.dataset(cache),
            seed=seed,
            unit=unit,
            rank=rank,
        )


def probe_place(config: DumpConfig, *, writes: bool = True) -> None:
    """Check that what the cache lacks can be written; a complete cache is only read.

    Args:
        config: the dump.
        writes: whether that may be tried by writing, which a plan may not.

    Raises:
        CacheError: it cannot, or something else is there.
        UsageError: it would lie among the data.
    """
    storage = open_storage(config.cache)
    if not storage.exists(MANIFEST):
        require_outside(config.cache, "cache", config.data)
        probe_new(storage, writes=writes)
        return
    cache = open_cache(storage)
    for seed in parse_seeds(config.seeds):
        if cache.missing_units(seed):
            storage.probe(writes=writes)
            return


def prepare(
    config: DumpConfig, objects: GivenObjects = NO_OBJECTS, *, is_plan: bool = False
) -> Job:
    """Return the job that `config` describes.

    Args:
        config: what the dump is told.
        objects: in the place of what it names.
        is_plan: whether it is only to be planned: then an exact codec is measured too, and no
            checksums of the data are made.

    Raises:
        KdcacheError: anything in it that is absent, unknown or does not fit together.
    """
    seeds = parse_seeds(config.seeds)
    compute = Compute(config.compute)
    opened = _opened(config, objects)
    layout = opened.teacher.layout
    codec = _codec(config, opened)
    batch_size = _batch_size(config, opened, compute)
    sized = replace(config, batch_size=batch_size)
    if not codec.is_exact or config.content_digests:
        await_first_worker(open_storage(config.cache))
    cache = _present_cache(config)
    data = known_source(config, opened.source, cache, is_plan=is_plan)
    if cache is not None:
        codec = row_codec(codec_of_cache(cache, config.codec, codec.classes))
    tars = tar_settings(config, seeds, data.source, cache)
    entry = teacher_entry(config, opened.teacher)
    size = sample_size(codec, layout, len(data.source), len(seeds))
    sample = sample_run(sized, data.entry, opened.recipe, entry, size, is_plan=is_plan)
    fitted = None
    if cache is None and (is_plan or not codec.is_exact):
        fitting = CodecFitting(
            config=sized,
            source=data.source,
            recipe=opened.recipe,
            teacher=opened.teacher,
            sample=sample,
            size=size,
        )
        fitted = fitting.fitted(codec)
        codec = fitted.codec
    whole_codec = with_layout(codec, layout)
    manifest = new_manifest(sized, data, opened.recipe, entry, layout, codec=whole_codec, tars=tars)
    return Job(
        config=config,
        seeds=seeds,
        source=data.source,
        recipe=opened.recipe,
        teacher=opened.teacher,
        compute=compute,
        batch_size=batch_size,
        codec=whole_codec,
        fitted=fitted if is_plan else None,
        sample=sample,
        manifest=manifest.with_errors(_codec_errors(fitted, cache)),
        labels=opened.labels,
        objects=objects,
        listing=data.listing,
    )


class _Opened(NamedTuple):
    """What a dump takes views from and shows them to."""

    source: Source
    recipe: Recipe
    teacher: VisionModel
    classes: int
    """Of the teacher."""
    labels: SeenLabels


def _opened(config: DumpConfig, objects: GivenObjects) -> _Opened:
    """Return source, recipe and teacher, as a program gave them or as the configuration names them.

    What can be told without the next one is told before it is opened.
    """
    recipe = objects.recipe
    if recipe is None:
        recipe = load_recipe(config.recipe)
    if objects.teacher is None:
        check_model(config.teacher, is_trained=True)
    if config.codec is not None:
        check_codec(config.codec)
    require_blocks(config.unit_rows, mixing_block(recipe))
    source = objects.source
    if source is None:
        source = open_source(config.data)
    require_following(recipe, source)
    require_drawn_alike(source)
    labels = SeenLabels(source)
    classes = config.teacher_classes or source.classes
    if config.codec is not None:
        open_codec(config.codec, classes=classes)
    teacher = _teacher(config, objects, recipe, classes=classes, task=task_of(source))
    if classes != source.classes and not teacher.layout.is_of_softmaxes:
        raise UsageError(
            f"the teacher has {classes} classes, data {source.spec} {source.classes}:"
            f" {DETECTOR_ADVICE}"
        )
    return _Opened(source, recipe, teacher, classes, labels)


def _batch_size(config: DumpConfig, opened: _Opened, compute: Compute) -> int:
    """Return how many views the teacher sees at once."""
    rows = np.arange(len(opened.source))
    sizes = [opened.teacher.preprocessing.size]
    dataset = ViewDataset(opened.source, opened.recipe, rows, sizes=sizes, skip_unreadable=True)
    return settled_batch_size([opened.teacher], dataset, rows, compute, config.batch_size)


def _codec(config: DumpConfig, opened: _Opened) -> RowCodec:
    """Return the codec that is asked for, or the default of such logits, without a fit."""
    layout = opened.teacher.layout
    spec = config.codec or default_codec(opened.classes, layout)
    codec = open_codec(spec, classes=layout.row_width(opened.classes))
    require_fitting(codec, layout)
    return codec


def _teacher(
    config: DumpConfig, objects: GivenObjects, recipe: Recipe, *, classes: int, task: str
) -> VisionModel:
    """Return the teacher, as a program gave it or as the configuration names it."""
    if objects.teacher is None:
        return open_model(
            config.teacher,
            classes=classes,
            recipe=recipe,
            trained=True,
            task=task,
            classes_advice=classes_advice(task),
        )
    return tried_model(objects.teacher, recipe, objects.preprocessing, classes=classes, task=task)


def _present_cache(config: DumpConfig) -> Cache | None:
    """Return the cache if it is there already."""
    if not open_storage(config.cache).exists(MANIFEST):
        return None
    return open_cache(config.cache)


def _codec_errors(fitted: Fitted | None, cache: Cache | None) -> Mapping[float, float]:
    """Return the errors of the codec by temperature: as measured now, or those that the cache
    has."""
    if fitted is not None:
        return fitted.errors
    if cache is not None:
        return cache.manifest.gradient_error
    return {}
