"""The dump: run the teacher once over every view that is missing, and commit its records unit by
unit."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from kdcache.cache import Cache, Commit, create_cache
from kdcache.cache.absences import reasons_in
from kdcache.cache.committing import require_manifest, start_seed
from kdcache.cache.coverage import ask_for, coverage_of
from kdcache.cache.documents.commit import mean_statistics
from kdcache.config.arguments import checked_arguments, given
from kdcache.config.fields import build
from kdcache.config.seeds import advised_seeds, seeds_text
from kdcache.dump.config import DumpConfig
from kdcache.dump.engines import open_engine
from kdcache.dump.fitting import tell_error
from kdcache.dump.given import (
    NO_OBJECTS,
    GivenObjects,
    given_recipe,
    given_source,
    given_teacher,
)
from kdcache.dump.job import Job, prepare, probe_place
from kdcache.dump.next_step import EPOCHS, training_command
from kdcache.dump.unit import tell_clipped
from kdcache.models.modules import device_of, kept_modes
from kdcache.models.preprocessing import GivenPreprocessing
from kdcache.runtime.batch_size import BatchSize
from kdcache.runtime.console import log, own_name, say
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.launch import require_count
from kdcache.runtime.stopping import heeding, look
from kdcache.runtime.wording import counted
from kdcache.shapes import Size

__all__ = ["DumpConfig", "dump_teacher", "run_dump"]

_MOST_REASONS = 3
"""Of absent views that a result names."""


@checked_arguments
def dump_teacher(
    cache: str | Path,
    *,
    data: Any,
    teacher: str | nn.Module,
    recipe: Any,
    seeds: str | Sequence[int] = "0:1",
    codec: str | None = None,
    size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    teacher_classes: int | None = None,
    batch_size: BatchSize | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    unit_rows: int | None = None,
    order_seed: int = 0,
    store: Literal["zarr", "webdataset"] | None = None,
    seeds_per_unit: int | None = None,
    images: bool | None = None,
    content_digests: bool | None = None,
    skip_unreadable: bool = False,
) -> dict[str, Any]:
    """Run a teacher once over views of some data, and keep its logits in a cache.

    Called again, it goes on where it stopped, and adds seeds. Of several processes that a launcher
    started (torchrun, srun) each makes a share of the units, and returns when all are there.

    Args:
        cache: path or address of the cache, new or to be added to.
        data: the data set, or its spec.
        teacher: a module that takes normalised images and returns logits, or a spec with weights.
            All its parts come back in the modes that they were in.
        recipe: of the views: a shipped one, a TOML file, a recipe that is loaded, or transforms of
            torchvision's or timm's, see `kdcache.recipe_of`.
        seeds: augmentation seeds, such as `"0:90"` or `range(90)`.
        codec: spec of the codec; by default that of the cache, of a new one what suits the classes.
        size: of a module, height and width of the views that it takes, or one number; by default
            the module's own, as timm's say it that take no other, or the recipe's.
        mean: of a module, of pixels scaled to 0 to 1, one number or one a channel; by default the
            module's own.
        std: as `mean`.
        teacher_classes: classes of the teacher, where they are not those of the data.
        batch_size: views of a batch; `auto` tries how many are fastest; by default 256, on a CPU
            fewer large ones.
        num_workers: processes that render views; by default one for each core, up to 8.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`, to which a module goes; by default
            where it is, and of a spec `auto`.
        precision: the autocast type of the teacher.
        unit_rows: rows of a unit; by default a power of two near 4 MB.
        order_seed: key of the permutation from samples to rows.
        store: `zarr` shards or `webdataset` tars; by default what the cache has, or zarr.
        seeds_per_unit: seeds whose records lie in one tar.
        images: whether tars hold the images, too.
        content_digests: whether a checksum of each file is kept.
        skip_unreadable: whether samples that cannot be read are recorded as absent.

    Returns:
        See `run_dump`.

    Raises:
        UsageError: an argument that cannot be meant.
        MismatchError: the cache was made with other settings.
        KdcacheError: bad input, unwritable cache, NaN logits; what was committed stays.
        StoppedError: a signal told it to stop; what was committed stays.
    """
    preprocessing = GivenPreprocessing(size=size, mean=mean, std=std)
    module, teacher_spec = given_teacher(teacher, preprocessing)
    source, data_spec = given_source(data)
    own_recipe, recipe_name = given_recipe(recipe)
    options = given(workers=num_workers, device=device or device_of(module), precision=precision)
    settings = {
        "cache": str(cache),
        "data": data_spec,
        "teacher": teacher_spec,
        "recipe": recipe_name,
        "seeds": seeds_text(seeds),
        "codec": codec,
        "teacher_classes": teacher_classes,
        "batch_size": batch_size,
        "unit_rows": unit_rows,
        "order_seed": order_seed,
        "store": store,
        "seeds_per_unit": seeds_per_unit,
        "images": images,
        "content_digests": content_digests,
        "skip_unreadable": skip_unreadable,
        "compute": build(ComputeConfig, options, "dump_teacher:"),
    }
    config = build(DumpConfig, settings, "dump_teacher:")
    objects = GivenObjects(
        source=source, recipe=own_recipe, teacher=module, preprocessing=preprocessing
    )
    if module is None:
        return run_dump(config, objects)
    with kept_modes(module):
        return run_dump(config, objects)


def run_dump(config: DumpConfig, objects: GivenObjects = NO_OBJECTS) -> dict[str, Any]:
    """Write every unit of the seeds that the cache lacks; run again, it goes on where it stopped.

    Several processes may do so at once, see `engines`: each returns when all units are there.

    Args:
        config: what to do.
        objects: in the place of what it names.

    Returns:
        `cache`, its `task`, `seeds`, `rows` per seed, `units_written` now by this process or its
        workers on Ray, `seconds` they took, and over all units of these seeds: `bytes`,
        `bytes_per_view`, `teacher_accuracy` in percent (None if its classes are others), the number
        of `absent` rows, the first `absent_reasons`, whether the cache `has_images`, and `next`,
        the command of a training from it.

    Raises:
        MismatchError: the cache was made with other settings.
        KdcacheError: bad input, unwritable cache, NaN logits; what was committed stays.
        StoppedError: a signal told it to stop; what was committed stays.
    """
    require_count()
    engine = open_engine(config)
    if who := own_name():  # a worker that is killed while it opens all this leaves at least a line
        log(who, f"opens data and teacher for the dump into {config.cache}")
    probe_place(config)
    job = prepare(config, objects)
    tell_error(job.manifest, job.codec)
    list_arrays = None
    if job.listing is not None:
        list_arrays = job.listing.arrays
    # of two dumps that start at once and choose a codec, the later one's sample may ask for another
    # step
    cache = create_cache(
        config.cache,
        job.manifest,
        job.codec.fit_arrays(),
        source=list_arrays,
        views=job.recipe.views,
        any_codec=config.codec is None,
    )
    job.sample.forget()  # the cache has the fit
    ask_for(cache, job.seeds)
    for seed in job.seeds:
        start_seed(cache, seed)
    start = time.monotonic()
    written = 0
    with heeding(lambda: f": {written} units written"):
        written = engine(job, cache)
        look()
    seconds = time.monotonic() - start
    require_manifest(cache, reads=True)
    commits: list[Commit] = []
    for seed in job.seeds:
        commits += cache.commits(seed)
    summary = _summary(job, cache, commits)
    tell_clipped(cache, commits)
    _tell_chance(summary["teacher_accuracy"], job.source.classes)
    _tell_few_seeds(job, cache)
    return {"units_written": written, "seconds": seconds, **summary}


def _tell_chance(accuracy: float | None, num_classes: int) -> None:
    """Say that a teacher is hardly right more often than by chance, if it is not."""
    chance = 100 / num_classes
    if accuracy is not None and accuracy < 2 * chance and num_classes > 2:
        say(
            f"note: the teacher is right on {accuracy:.1f} % of these views, chance is {chance:.1f}"
            " %: are its weights loaded, and are its classes those of the data?"
        )


def _tell_few_seeds(job: Job, cache: Cache) -> None:
    """Say how many seeds suit the training that comes next, if the cache was asked for few."""
    asked = coverage_of(cache, []).seeds  # by its requests: no unit is listed
    num_seeds = len({*asked, *job.seeds})
    advised = advised_seeds(EPOCHS, num_seeds)
    if advised is None or not job.recipe.is_drawn:
        return
    group = cache.manifest.seeds_per_unit  # a dump writes whole groups
    stop = -(-advised // group) * group
    say(
        f"note: {EPOCHS} epochs of {counted(num_seeds, 'seed')} would show a student each view"
        f" {EPOCHS // num_seeds} times; it usually learns more from about {advised}:"
        f" --seeds 0:{stop} adds them"
    )


def _summary(job: Job, cache: Cache, commits: Sequence[Commit]) -> dict[str, Any]:
    """Return what is said of all units of the seeds."""
    unit_bytes = {}
    num_rows = 0
    num_absent = 0
    statistics = []
    for commit in commits:
        unit_bytes[commit.key] = commit.num_bytes  # several seeds may share a unit
        count = commit.stop - commit.start
        num_rows += count
        num_absent += len(commit.absent)
        statistics.append((commit.statistics, count - len(commit.absent)))
    accuracy = None
    if job.config.teacher_classes is None:
        accuracy = mean_statistics(statistics).get("accuracy")
    num_bytes = sum(unit_bytes.values())
    return {
        "cache": str(cache),
        "task": cache.manifest.task,
        "seeds": job.seeds,
        "rows": cache.manifest.rows,
        "bytes": num_bytes,
        "bytes_per_view": num_bytes / num_rows,
        "teacher_accuracy": accuracy,
        "absent": num_absent,
        "absent_reasons": list(reasons_in(commits))[:_MOST_REASONS],
        "has_images": cache.manifest.has_images,
        "next": training_command(job),
    }
