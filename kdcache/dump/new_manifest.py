"""The manifest that a dump writes, from its source, recipe, teacher and codec."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from kdcache.cache import Cache, Manifest, library_versions, record_layout, tar_layout
from kdcache.cache.documents.parts import MadeBy, RecipeEntry, TeacherEntry, ViewsEntry
from kdcache.codecs import Codec
from kdcache.config.files import dump_config
from kdcache.dump.config import DumpConfig
from kdcache.dump.source import KnownSource
from kdcache.errors import UsageError
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import VisionModel
from kdcache.positions import Layout
from kdcache.sources import Source, mean_image_bytes
from kdcache.targets import task_of
from kdcache.views import Recipe


def mixing_block(recipe: Recipe) -> int:
    """Return how many rows that lie side by side are mixed with each other; 1 if none are."""
    if not recipe.mixing:
        return 1
    return recipe.mixing.block


def tar_settings(
    config: DumpConfig, seeds: Sequence[int], source: Source, cache: Cache | None
) -> dict[str, Any]:
    """Return what `tar_layout` needs to know of a webdataset store; nothing for a zarr store.

    Args:
        config: what the dump is told.
        seeds: its seeds.
        source: the source.
        cache: if it is there already.

    Raises:
        UsageError: settings of another store, or seeds that are not whole groups.
    """
    manifest = None
    if cache is not None:
        manifest = cache.manifest
    store = config.store or _usual_store(manifest)
    if store == "zarr":
        if config.seeds_per_unit is not None or config.images:
            raise UsageError(
                "seeds_per_unit and images are for webdataset stores; give --store webdataset, or"
                " leave them out"
            )
        return {}
    num_seeds = len(seeds)
    has_images = True
    way_out = ", or seeds_per_unit"
    if manifest is not None and manifest.store == store:
        num_seeds = manifest.seeds_per_unit
        has_images = manifest.has_images
        way_out = ""
    if config.seeds_per_unit is not None:
        num_seeds = config.seeds_per_unit
    if config.images is not None:
        has_images = config.images
    if not _are_whole_groups(seeds, num_seeds):
        raise UsageError(
            f"seeds are {config.seeds}, and {num_seeds} of them share a tar: 0 to {num_seeds - 1},"
            f" {num_seeds} to {2 * num_seeds - 1}, ...; give whole groups{way_out}"
        )
    image_bytes = None
    if has_images:
        image_bytes = mean_image_bytes(source)
    return {"seeds": num_seeds, "image_bytes": image_bytes}


def _usual_store(manifest: Manifest | None) -> str:
    """Return what units are if it is not told: what they are in the cache, of a new one shards."""
    if manifest is None:
        return "zarr"
    return manifest.store


def _are_whole_groups(seeds: Sequence[int], size: int) -> bool:
    """Return whether seeds make up groups of `size`, each from a multiple of it on."""
    group_seeds: set[int] = set()
    for first in {seed - seed % size for seed in seeds}:
        group_seeds.update(range(first, first + size))
    return group_seeds == set(seeds)


def teacher_entry(config: DumpConfig, teacher: VisionModel) -> TeacherEntry:
    """Return what a manifest says of the teacher."""
    preprocessing = teacher.preprocessing
    return TeacherEntry(
        spec=teacher.spec,
        architecture=teacher.architecture,
        sha256=state_sha256(teacher.module),
        size=preprocessing.size,
        stride=teacher.stride,
        mean=tuple(preprocessing.mean),
        std=tuple(preprocessing.std),
        precision=config.compute.precision,
    )


def views_entry(recipe: Recipe) -> ViewsEntry | None:
    """Return what a manifest says of the stored views that a recipe has; None if it has none."""
    views = recipe.views
    if views is None:
        return None
    return ViewsEntry(seeds=views.num_seeds, view_bytes=views.view_bytes, sha256=views.digest)


def new_manifest(
    config: DumpConfig,
    data: KnownSource,
    recipe: Recipe,
    teacher: TeacherEntry,
    layout: Layout,
    *,
    codec: Codec,
    tars: dict[str, Any],
) -> Manifest:
    """Return the manifest of a dump.

    Args:
        config: what the dump is told.
        data: its source.
        recipe: of the views.
        teacher: what it says of the teacher.
        layout: of the teacher's logits.
        codec: with its fit.
        tars: what `tar_settings` gives.
    """
    source = data.source
    sizes: dict[str, Any] = {
        "unit_rows": config.unit_rows,
        "block": mixing_block(recipe),
    }
    if tars:
        store = tar_layout(codec, len(source), **sizes, **tars)
    else:
        store = record_layout(codec, len(source), **sizes)
    return Manifest(
        task=task_of(source),
        layout=layout,
        classes=config.teacher_classes or source.classes,
        rows=len(source),
        source=data.entry,
        order_seed=config.order_seed,
        recipe=RecipeEntry.from_json(recipe.to_dict()),
        teacher=teacher,
        **store,
        views=views_entry(recipe),
        skip_unreadable=config.skip_unreadable,
        made_by=MadeBy(
            versions=library_versions(),
            config=dump_config(config, "dump-teacher"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
