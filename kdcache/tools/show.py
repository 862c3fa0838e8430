"""A picture of one view of a cache: what the teacher saw, what is right and what it says. People
look before they train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kdcache.tasks
import kdcache.views
from kdcache.cache import Cache
from kdcache.cache.source import local_images, source_of
from kdcache.codec_error.plot import check_plot, save_figure
from kdcache.errors import UsageError, brief, printable
from kdcache.loader.cache_specs import NO_OPTIONS, CacheOptions
from kdcache.shapes import Views
from kdcache.tasks.picture import Picture, ShownView
from kdcache.tools.teacher_names import class_names, first_of_teacher, names_through_map
from kdcache.views.permutation import row_of


def show_view(
    cache: Cache,
    file: str | Path,
    *,
    index: int,
    seed: int,
    data: Any = None,
    options: CacheOptions = NO_OPTIONS,
) -> dict[str, Any]:
    """Draw sample `index` of the source under `seed` into `file`.

    What is drawn is up to the task, see the `picture` of each in `kdcache/tasks`.

    Args:
        cache: that holds the view.
        file: the picture, in the format that its name ends in.
        index: of the sample in the source.
        seed: of the view.
        data: the data set, or its spec; by default the images that the cache holds.
        options: a map of classes, and names, of a teacher of other classes than the data's.

    Returns:
        `file`, `sample` (its key), `row` (its row of the cache) and the teacher's `confidence`, see
        `Picture`.

    Raises:
        UsageError: no such sample, no such format, logits that cannot be drawn, a source that must
            be named, or a map of classes that does not fit.
        MismatchError: data that is not the cache's source.
        CacheError: a view that the cache lacks, or a damaged unit.
        KdcacheError: matplotlib is not installed, or the file cannot be written.
    """
    check_plot(file)
    drawn = draw_view(cache, index=index, seed=seed, data=data, options=options)
    _save(drawn.picture.figure, file, f"{drawn.key}, seed {seed}")
    confidence = drawn.picture.confidence
    return {"file": str(file), "sample": drawn.key, "row": drawn.row, "confidence": confidence}


class DrawnView(NamedTuple):
    """A view of a cache in a picture."""

    picture: Picture
    key: str
    """Of the sample."""
    row: int
    """Of the cache."""


@dataclass(frozen=True)
class Student:
    """A student that is drawn in the teacher's place."""

    name: str
    output: Callable[[Views], Any]
    """Gives what it makes of views."""


def draw_view(
    cache: Cache,
    *,
    index: int,
    seed: int,
    data: Any = None,
    options: CacheOptions = NO_OPTIONS,
    student: Student | None = None,
) -> DrawnView:
    """Return the picture of sample `index` of the source under `seed`, see `show_view`; with what a
    student says in the place of the teacher, if one is given."""
    if not 0 <= index < cache.manifest.rows:
        raise UsageError(
            f"view {index}:{seed} is of no sample; the cache has samples 0 to"
            f" {cache.manifest.rows - 1}"
        )
    if not cache.committed_units(seed):
        cache.commits(seed)  # an error that says which seeds there are
    row = row_of(index, cache.manifest.rows, cache.manifest.order_seed)
    commit = cache.commit_of(seed, row // cache.manifest.unit_rows)
    cache.require_held(np.array([row]))
    source = source_of(cache, data)
    first_class = first_of_teacher(cache, source)
    names = class_names(source)
    if first_class:
        names += names_through_map(cache, source, options)
    # up to here without torch: what is wrong is told at once
    sizes = [cache.manifest.input_size]
    dataset = kdcache.views.ViewDataset(source, cache.recipe, cache.order, sizes=sizes)
    teacher = cache.codec.decode(cache.read(seed, [row]))
    with local_images(source, [commit]):
        batch = dataset.batch([(row, seed)])
    pixels = batch.views[0][0].permute(1, 2, 0).numpy()
    layout = cache.manifest.layout
    view = ShownView(pixels, batch.labels, teacher, layout, names, first_class)
    task = kdcache.tasks.open_task(cache.manifest.task)
    if student is not None:
        view = task.shown(view, student.output(batch.views[0]), student.name)
    return DrawnView(task.picture(view), source.key(index), row)


def _save(figure: Any, file: str | Path, title: str) -> None:
    # a name may hold anything
    figure.suptitle(brief(printable(title)), fontsize=11, parse_math=False)
    save_figure(figure, file, dpi=110)
