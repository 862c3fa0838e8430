"""Importing: a cache from what somebody else's program stored of its teacher."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kdcache.cache import Cache, Commit, Manifest, create_cache, library_versions, record_layout
from kdcache.cache.committing import require_written, start_seed
from kdcache.cache.coverage import ask_for
from kdcache.cache.documents.commit import mean_statistics
from kdcache.cache.documents.manifest import MANIFEST
from kdcache.cache.documents.parts import (
    ImportedFrom,
    MadeBy,
    RecipeEntry,
    TeacherEntry,
)
from kdcache.cache.opening import open_storage, probe_new
from kdcache.cache.source_list import SourceList, kept_list, list_of, source_entry
from kdcache.codecs import TopK
from kdcache.config.arguments import checked_arguments
from kdcache.config.seeds import parse_seeds
from kdcache.dump.new_manifest import views_entry
from kdcache.errors import UsageError
from kdcache.imports.config import ImportConfig, check_specs
from kdcache.imports.crops import GatheredCrops, gathered_crops
from kdcache.imports.protocol import Origin, ViewSettings
from kdcache.imports.registry import FORMATS
from kdcache.imports.units import UnitImporter
from kdcache.runtime.console import progress, say
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.sources import Source, open_source, require_outside
from kdcache.targets import ClassLabel, task_of
from kdcache.views import Recipe
from kdcache.views.stored_views import StoredViews

_UNKNOWN = "unknown"


@checked_arguments
def import_cache(
    format: str,
    folder: str | Path,
    cache: str | Path,
    *,
    data: str,
    teacher_name: str,
    program_config: str | Path | None = None,
    crops: str | None = None,
    size: int | None = None,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
) -> dict[str, Any]:
    """Write a cache of the soft labels and crops that somebody else's program stored; run again, it
    goes on where it stopped.

    Args:
        format: whose files they are, `fkd`, `ml-dr` or `tinyvit`.
        folder: where they are.
        cache: the folder or the address of the cache.
        data: spec of the images that the labels are of.
        teacher_name: what the cache says of the teacher, which no file tells.
        program_config: the file of settings that their program was run with, which says how views
            were made; `tinyvit` needs it, and no other takes one.
        crops: `A:B`, the crops of each sample that become the seeds from 0 on; by default all.
        size: the side of a view, where no model has a wish of its own; by default that of their
            program.
        interpolation: how a crop is resized; by default as in their program.

    Returns:
        See `run_import`.

    Raises:
        UsageError: an argument that cannot be meant, or a format whose views cannot be rendered.
        CacheError: files that are absent, damaged or of another kind, or an unwritable cache.
        MismatchError: the cache was made otherwise.
        SourceError: data that cannot be opened, or an image that cannot be read.
        StoppedError: a signal told it to stop; what was committed stays.
    """
    return run_import(
        ImportConfig(
            format=format,
            folder=str(folder),
            cache=str(cache),
            data=data,
            teacher_name=teacher_name,
            program_config=None if program_config is None else str(program_config),
            crops=crops,
            size=size,
            interpolation=interpolation,
        )
    )


def run_import(config: ImportConfig) -> dict[str, Any]:
    """Write what a configuration says; errors as `import_cache`.

    Returns:
        `cache`, `folder`, `format`, `seeds`, `rows` per seed, `labels` of each view,
        `units_written` now and the `seconds` they took, and over all of these seeds `absent` rows,
        `bytes`, `bytes_per_view` and `teacher_accuracy` in percent, None if that takes reading the
        data.
    """
    check_specs(config)
    storage = open_storage(config.cache)
    if not storage.exists(MANIFEST):
        require_outside(config.cache, "cache", config.data)
        probe_new(storage)  # before the time that reading all files takes
    source = open_source(config.data)
    if task_of(source) != ClassLabel.task:
        raise UsageError(
            f"data {source.spec} is for {task_of(source)}, and labels of format {config.format}"
            f" are for {ClassLabel.task}; give data with a class for each image"
        )
    crops = None
    if config.crops is not None:
        crops = parse_seeds(config.crops, "crops")
    program_config = None
    if config.program_config is not None:
        program_config = Path(config.program_config)
    origin = FORMATS[config.format](Path(config.folder), source, program_config)
    gathered = gathered_crops(origin, len(source), crops)
    recipe = stored_recipe(config, origin, gathered.views)
    cache = _created(config, source, gathered, recipe)
    seeds = list(range(gathered.views.num_seeds))
    ask_for(cache, seeds)
    for seed in seeds:
        start_seed(cache, seed)
    importer = UnitImporter(cache, source, origin, views=gathered.views, crops=gathered.crops)
    start = time.monotonic()
    num_written = 0
    with heeding(lambda: f": {num_written} units written"):
        num_written = _write_units(cache, importer, seeds)
        look()
    units = [(seed, unit) for seed in seeds for unit in range(cache.manifest.num_units)]
    require_written(cache, units)
    summary = _summary(cache, seeds)
    _tell(summary, source.classes)
    return {
        "cache": str(cache),
        "folder": config.folder,
        "format": config.format,
        "seeds": seeds,
        "rows": cache.manifest.rows,
        "labels": gathered.num_labels,
        "units_written": num_written,
        "seconds": time.monotonic() - start,
        **summary,
    }


def stored_recipe(config: ImportConfig, origin: Origin, views: StoredViews) -> Recipe:
    """Return the recipe of an imported cache, which renders the views that are stored."""
    settings = ViewSettings(
        size=config.size or origin.settings.size,
        interpolation=config.interpolation or origin.settings.interpolation,
    )
    transforms = origin.transforms(views.digest, settings)
    table = {"mode": "RGB", "size": settings.size, "eval": "eval", "transforms": transforms}
    return Recipe(config.format, table, views=views)


def _created(
    config: ImportConfig, source: Source, gathered: GatheredCrops, recipe: Recipe
) -> Cache:
    """Return the new cache, or the one that an import before this one has begun."""
    listing = kept_list(list_of(source))
    manifest = _manifest(config, source, listing, gathered, recipe)
    arrays = None
    if listing is not None:
        arrays = listing.arrays
    return create_cache(config.cache, manifest, source=arrays, views=gathered.views)


def _manifest(
    config: ImportConfig,
    source: Source,
    listing: SourceList | None,
    gathered: GatheredCrops,
    recipe: Recipe,
) -> Manifest:
    # ten bits, all of float16's: probabilities near 1 differ in the last ones
    codec = TopK(classes=source.classes, k=gathered.num_labels, mantissa=10)
    teacher = TeacherEntry(
        spec=config.teacher_name,
        sha256=_UNKNOWN,
        size=recipe.input_size,
        mean=(),
        std=(),
        precision=_UNKNOWN,
    )
    made_by = MadeBy(
        versions=library_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        imported_from=ImportedFrom(format=config.format, crops=config.crops),
    )
    return Manifest(
        task=ClassLabel.task,
        classes=source.classes,
        rows=len(source),
        source=source_entry(source, listing),
        order_seed=0,
        recipe=RecipeEntry.from_json(recipe.to_dict()),
        teacher=teacher,
        **record_layout(codec, len(source)),
        skip_unreadable=True,
        views=views_entry(recipe),
        made_by=made_by,
    )


def _write_units(cache: Cache, importer: UnitImporter, seeds: Sequence[int]) -> int:
    """Write the units that are missing, each under all seeds that lack it; return how many."""
    seeds_of: dict[int, list[int]] = {}
    for seed in seeds:
        for unit in cache.missing_units(seed):
            seeds_of.setdefault(unit, []).append(seed)
    num_views = 0
    for unit, unit_seeds in seeds_of.items():
        num_views += len(cache.manifest.unit_range(unit)) * len(unit_seeds)
    num_written = 0
    with progress("import", num_views, "views") as bar:
        for unit in until_stopped(sorted(seeds_of)):
            importer.write(unit, seeds_of[unit])
            num_written += len(seeds_of[unit])
            bar.advance(len(cache.manifest.unit_range(unit)) * len(seeds_of[unit]))
    return num_written


def _summary(cache: Cache, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what is said of all units of the seeds."""
    commits: list[Commit] = []
    for seed in seeds:
        commits += cache.commits(seed)
    num_bytes = 0
    num_absent = 0
    statistics: list[tuple[Mapping[str, float], int]] = []
    for commit in commits:
        num_bytes += commit.num_bytes
        num_absent += len(commit.absent)
        statistics.append((commit.statistics, commit.stop - commit.start - len(commit.absent)))
    return {
        "absent": num_absent,
        "bytes": num_bytes,
        "bytes_per_view": num_bytes / (len(seeds) * cache.manifest.rows),
        "teacher_accuracy": mean_statistics(statistics).get("accuracy"),
    }


def _tell(summary: Mapping[str, Any], num_classes: int) -> None:
    """Say that the labels hardly agree with the data's classes, if they do not."""
    accuracy = summary["teacher_accuracy"]
    chance = 100 / num_classes
    if accuracy is not None and accuracy < 2 * chance and num_classes > 2:
        say(
            f"note: the likeliest class of a label is that of its image in {accuracy:.1f} % of the"
            f" views, chance is {chance:.1f} %: are the data's classes those of the labels, in the"
            " same order?"
        )
