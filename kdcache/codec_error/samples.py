"""Logits of a teacher and of a proxy student on the same views, to measure a codec on before
anything is trained.

The proxy is a student's own logits where there are any, and else the teacher on another view of
the same sample.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.cache.sample_checksums import checked_source
from kdcache.cache.source_check import require_source
from kdcache.codecs import codec_spec
from kdcache.codecs.full import EXACT_DTYPES
from kdcache.errors import CacheError, UsageError
from kdcache.models.inference import run_models
from kdcache.models.model import VisionModel, head_weight, open_model
from kdcache.runtime.console import progress, say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Logits, Rows, ViewLogits
from kdcache.sources import Source, open_source
from kdcache.targets import gives_maps, task_of
from kdcache.views import Recipe, ViewDataset, ViewLoader, keyed_permutation, load_recipe, row_order

ANOTHER_VIEW = "the teacher on another view of the sample"
NEXT_PIXEL = "the teacher on the next pixel"
_MAP_VIEWS = 64
"""Views of maps whose pixels are the rows."""
_SEEDS = (0, 1)
_HOST = ComputeConfig(device="cpu")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of two models' logits on the same views."""

    teacher: Logits
    student: Logits
    groups: Rows
    """Rows of one number belong together, as views of one sample do, and never fall into different
    halves."""
    proxy: str
    """What the student's logits are, in words."""
    head: Tensor | None = None
    """Weights of the teacher's classifier, `[classes, features]`, if known: a prior for a codec's
    fit."""

    def __post_init__(self) -> None:
        for name in ("teacher", "student"):
            logits = getattr(self, name)
            if not bool(torch.isfinite(logits).all()):
                row = int((~torch.isfinite(logits).all(dim=1)).nonzero()[0])
                raise UsageError(
                    f"{name}: row {row} holds NaN or infinite logits; check the model and its"
                    " precision"
                )

    @property
    def differ(self) -> bool:
        """Whether the two models' logits differ anywhere; if not, a loss between them has no
        gradient."""
        return not torch.equal(self.teacher, self.student)

    def require_gradient(self) -> None:
        """Raise a UsageError if the two models' logits do not differ."""
        if not self.differ:
            raise UsageError(
                f"the student ({self.proxy}) gives the teacher's own logits, so that there is no"
                " gradient to measure; use a recipe that draws at random, or another student"
            )

    def halves(self, split: int = 0) -> "tuple[Pairs, Pairs]":
        """Return (to fit on, to measure on), split by group and in random order; the second has
        half of the rows or more.

        Args:
            split: key of the split: each number gives another one.

        Raises:
            UsageError: a single group, which cannot be split.
        """
        names, members = np.unique(self.groups, return_inverse=True)
        if len(names) < 2:
            raise UsageError(
                "all rows are of one sample; codecs are fitted on some samples and measured on"
                " others"
            )
        rank = np.argsort(keyed_permutation(len(names), split))[members]
        order = keyed_permutation(len(members), 1)
        sizes = np.cumsum(np.bincount(rank, minlength=len(names)))
        last = min(int(np.searchsorted(sizes, (len(members) + 1) // 2)), len(names) - 2)
        return self.take(order[rank[order] > last]), self.take(order[rank[order] <= last])

    def by_group(self) -> "Pairs":
        """Return all rows, those of a group side by side, the groups in random order."""
        names, members = np.unique(self.groups, return_inverse=True)
        return self.take(np.argsort(keyed_permutation(len(names), 0)[members], kind="stable"))

    def take(self, rows: Rows) -> "Pairs":
        """Return the rows asked for, in their order."""
        parts = {name: getattr(self, name)[rows] for name in ("teacher", "student", "groups")}
        return replace(self, **parts)


def pairs_from_npz(path: str | Path) -> Pairs:
    """Return the rows of an .npz file: `teacher` `[rows, classes]`, and `student` of that shape,
    `image_id` `[rows]` or both.

    Without `student` the proxy is the teacher on the next row of the same `image_id`; an image
    with one row is left out. `head`, the weights of the teacher's classifier `[classes, features]`,
    may be there too.

    Raises:
        UsageError: no such file, arrays that are absent, not numbers, or of other shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {
                name: file[name]
                for name in ("teacher", "student", "image_id", "head")
                if name in file
            }
            held = ", ".join(file.files) or "nothing"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} cannot be read as an .npz of plain arrays: {' '.join(str(error).split())}"
        ) from error
    if "teacher" not in arrays or not {"student", "image_id"} & set(arrays):
        raise UsageError(f"{path} holds {held}; it needs `teacher`, and `student` or `image_id`")
    teacher = _logits(arrays["teacher"], f"{path}: teacher")
    groups = arrays.get("image_id", np.arange(len(teacher)))
    if groups.shape != (len(teacher),):
        raise UsageError(
            f"{path}: image_id has shape {groups.shape}; it must hold one value for each of"
            f" {len(teacher)} rows"
        )
    head = _head(arrays["head"], teacher.shape[1], f"{path}: head") if "head" in arrays else None
    if "student" in arrays:
        student = _logits(arrays["student"], f"{path}: student")
        if teacher.shape != student.shape:
            raise UsageError(
                f"{path}: teacher {tuple(teacher.shape)} and student {tuple(student.shape)} differ;"
                " both must be logits [rows, classes] of the same views and the same classes"
            )
        return Pairs(
            teacher=teacher,
            student=student,
            groups=groups,
            proxy="`student` of the file",
            head=head,
        )
    return replace(_of_groups(teacher, groups), head=head)


def pairs_from_cache(
    path: str | Path,
    *,
    views: int,
    student: str | None = None,
    data: str | None = None,
    batch_size: int = 256,
    compute: ComputeConfig = _HOST,
) -> Pairs:
    """Return rows of a `full` cache: of its first two complete seeds, or of one if a student is
    given.

    Args:
        path: the cache.
        views: about how many rows to take.
        student: spec of the proxy student, with its weights.
        data: spec of the cache's source, whose images the student looks at.
        batch_size: views of one of the student's forward passes.
        compute: where and how the student runs.

    Raises:
        CacheError: no such cache, or one that does not hold exact logits of enough seeds.
        UsageError: a student without data, or the other way round.
        MismatchError: data that is not that of the cache.
    """
    cache = open_cache(path)
    _require_rows(cache.manifest.task)
    if not cache.codec.is_exact:
        exact = " or ".join(f"full:dtype={dtype}" for dtype in EXACT_DTYPES)
        raise CacheError(
            f"cache {path} holds {codec_spec(cache.codec)}; codecs are measured against exact"
            f" logits: {exact}"
        )
    if (student is None) != (data is None):
        raise UsageError(
            "with a cache, student and data go together: the student looks at the images of the"
            " cache's source"
        )
    seeds = cache.complete_seeds()[: 2 if student is None else 1]
    if len(seeds) < (2 if student is None else 1):
        raise CacheError(
            f"cache {path} holds {len(seeds)} complete seeds; two are needed, for the teacher and"
            " for its proxy student: dump another seed, or give a student and data"
        )
    if student is None or data is None:
        return pairs_of_cache(cache, views=views)
    running = Compute(compute)
    rows = _first_rows(cache, seeds, views)
    recipe = cache.recipe
    source = open_source(data)
    require_source(cache, source)
    source = checked_source([cache], source)
    model = open_model(student, classes=source.classes, recipe=recipe, trained=True)
    recipe.require_one_draw(model.preprocessing.size, cache.manifest.input_size)
    dataset = ViewDataset(
        source, recipe, cache.order, sizes=[model.preprocessing.size], skip_unreadable=True
    )
    there, (logits,) = _run([model], dataset, _views(rows, seeds), batch_size, running)
    return Pairs(
        teacher=_cached(cache, seeds[0], rows)[there],
        student=logits,
        groups=rows[there],
        proxy=student,
    )


def _require_rows(task: str) -> None:
    if gives_maps(task):
        raise UsageError(
            f"codec-error is for classification, not {task}; what a codec of maps costs"
            " dump-teacher --plan says"
        )


def pairs_of_cache(cache: Cache, *, views: int) -> Pairs:
    """Return about `views` rows of a cache's first two complete seeds, as its records have them.

    Of a single seed the teacher is its own proxy, which is enough to fit a codec on and not to
    measure one. Of maps it is so many pixels of the first seed, and the proxy is the teacher on
    the next pixel; likewise of other positions.

    Args:
        cache: a cache with a complete seed.
        views: about how many rows to take.
    """
    seeds = cache.complete_seeds()[:2]
    if cache.manifest.layout.sites:
        rows = _first_rows(cache, seeds[:1], min(views, _MAP_VIEWS))
        parts_of_views = []
        for logits, row in zip(_cached(cache, seeds[0], rows), rows, strict=True):
            # where a view has fewer proposals than it may have, zeros stand
            there = logits[logits.any(1)] if cache.manifest.layout.has_boxes else logits
            if len(there):
                parts_of_views.append(_pixels(there, int(row), -(-views // len(rows))))
        return _of_pixels(parts_of_views)
    rows = _first_rows(cache, seeds, views)
    parts = [_cached(cache, seed, rows) for seed in seeds]
    if len(parts) == 1:
        return Pairs(
            teacher=parts[0], student=parts[0], groups=rows, proxy="the teacher on the same view"
        )
    return _of_two_views(parts[0], parts[1], rows)


def pairs_from_teacher(
    teacher: str,
    *,
    data: str,
    recipe: str,
    views: int,
    student: str | None = None,
    batch_size: int = 256,
    compute: ComputeConfig = _HOST,
) -> Pairs:
    """Return the logits of a teacher on `views` views: half as many samples, drawn at random, under
    two seeds.

    Args:
        teacher: spec of the teacher, with its weights.
        data: spec of the source.
        recipe: name or TOML file of the recipe.
        views: about how many views to take.
        student: spec of the proxy student, with its weights.
        batch_size: views of one forward pass.
        compute: where and how the models run.

    Raises:
        KdcacheError: something that cannot be opened, or does not fit together.
    """
    running = Compute(compute)
    opened = load_recipe(recipe)
    source = open_source(data)
    _require_rows(task_of(source))
    specs = [teacher] if student is None else [teacher, student]
    models = [
        open_model(spec, classes=source.classes, recipe=opened, trained=True) for spec in specs
    ]
    settings: dict[str, Any] = {"views": views, "batch_size": batch_size, "compute": running}
    return pairs_of_models(models, source, opened, **settings)


def pairs_of_models(
    models: Sequence[VisionModel],
    source: Source,
    recipe: Recipe,
    *,
    views: int,
    batch_size: int,
    compute: Compute,
    order_seed: int = 0,
) -> Pairs:
    """Return the logits of a teacher, and of a proxy student if `models` has two, on about
    `views` views under two seeds.

    Of maps it is so many pixels of fewer views, and the proxy is the teacher on the next pixel.
    """
    if models[0].sites:
        return _of_maps(
            models[0],
            source,
            recipe,
            pixels=views,
            batch_size=batch_size,
            compute=compute,
            order_seed=order_seed,
        )
    sizes = [model.preprocessing.size for model in models]
    recipe.require_one_draw(*sizes)
    rows = np.arange(min(len(source), max(views // len(_SEEDS), 1)))
    dataset = ViewDataset(
        source, recipe, row_order(len(source), order_seed), sizes=sizes, skip_unreadable=True
    )
    there, logits = _run(models, dataset, _views(rows, _SEEDS), batch_size, compute)
    groups = np.tile(rows, len(_SEEDS))[there]
    head = head_weight(models[0], source.classes)
    if len(models) > 1:
        return Pairs(
            teacher=logits[0], student=logits[1], groups=groups, proxy=models[1].spec, head=head
        )
    first, second = logits[0].chunk(2)
    return replace(_of_two_views(first, second, groups[: len(first)]), head=head)


def _of_maps(
    model: VisionModel,
    source: Source,
    recipe: Recipe,
    *,
    pixels: int,
    batch_size: int,
    compute: Compute,
    order_seed: int,
) -> Pairs:
    """Return pixels of a teacher's maps, as many of each view, from places that are drawn at
    random, and their neighbours."""
    rows = range(min(len(source), _MAP_VIEWS))
    dataset = ViewDataset(
        source,
        recipe,
        row_order(len(source), order_seed),
        sizes=[model.preprocessing.size],
        skip_unreadable=True,
    )
    requests = [
        [(row, 0) for row in rows[start : start + batch_size]]
        for start in range(0, len(rows), batch_size)
    ]
    loader = ViewLoader(
        dataset, requests, workers=compute.config.workers, pin_memory=compute.pin_memory
    )
    parts: list[tuple[Logits, Logits, Rows]] = []
    for batch, (maps,) in run_models([model], loader, compute):
        kept = np.setdiff1d(np.arange(len(batch.rows)), [position for position, _ in batch.absent])
        parts += [
            _pixels(maps[view], int(batch.rows[view]), -(-pixels // len(rows))) for view in kept
        ]
    if not parts:
        raise UsageError(f"none of {len(rows)} samples of {source.spec} can be read")
    return _of_pixels(parts)


def _pixels(maps: Tensor, row: int, count: int) -> tuple[Logits, Logits, Rows]:
    """Return pixels of a view's maps, `[heads, height, width, classes]`, or of its positions,
    `[positions, classes]`; their neighbours to the right, and their row for each."""
    width = maps.shape[-2]
    flat = maps.float().flatten(0, -2)
    at = keyed_permutation(len(flat), 0, row)[:count]
    neighbours = at - at % width + (at % width + 1) % width
    return flat[at], flat[neighbours], np.full(len(at), row)


def _of_pixels(parts: Sequence[tuple[Logits, Logits, Rows]]) -> Pairs:
    teacher, student, groups = zip(*parts, strict=True)
    return Pairs(
        teacher=torch.cat(teacher),
        student=torch.cat(student),
        groups=np.concatenate(groups),
        proxy=NEXT_PIXEL,
    )


def _run(
    models: Sequence[VisionModel],
    dataset: ViewDataset,
    views: Sequence[tuple[int, int]],
    batch_size: int,
    compute: Compute,
) -> tuple[Rows, list[Logits]]:
    """Return which of the views could be read, and the logits of each model on these."""
    requests = [views[start : start + batch_size] for start in range(0, len(views), batch_size)]
    there: list[Rows] = []
    outputs: list[list[Logits]] = [[] for _ in models]
    with progress("views", len(views), "views") as bar:
        loader = ViewLoader(
            dataset, requests, workers=compute.config.workers, pin_memory=compute.pin_memory
        )
        for number, (batch, logits) in enumerate(run_models(models, loader, compute)):
            kept = np.setdiff1d(
                np.arange(len(batch.rows)), [position for position, _ in batch.absent]
            )
            there.append(number * batch_size + kept)
            for output, part in zip(outputs, logits, strict=True):
                output.append(part[kept].float())
            bar.advance(len(batch.rows))
    found = np.concatenate(there)
    if len(found) < len(views):
        say(
            f"note: {len(views) - len(found)} of {len(views)} views are left out: their samples"
            " cannot be read"
        )
    return found, [torch.cat(output) for output in outputs]


def _views(rows: Rows, seeds: Sequence[int]) -> list[tuple[int, int]]:
    views: list[tuple[int, int]] = []
    for seed in seeds:
        views += [(int(row), seed) for row in rows]
    return views


def _first_rows(cache: Cache, seeds: Sequence[int], views: int) -> Rows:
    """Return the first rows, a random sample as all are in random order, of which each seed holds a
    record."""
    absent: list[int] = []
    for seed in seeds:
        for commit in cache.commits(seed):
            absent += [absence.row for absence in commit.absent]
    return np.setdiff1d(np.flatnonzero(cache.is_held)[: max(views // len(seeds), 1)], absent)


def _cached(cache: Cache, seed: int, rows: Rows) -> ViewLogits:
    """Return the logits of `rows`, in rising order, from no more units than hold them."""
    parts = []
    for unit in range(cache.manifest.num_units):
        held = cache.manifest.unit_range(unit)
        inside = rows[(rows >= held.start) & (rows < held.stop)]
        if len(inside):
            records = cache.read_unit(cache.commit_of(seed, unit))
            parts.append(cache.codec.decode(records[inside - held.start]).logits())
    return torch.cat(parts)


def _of_two_views(first: Logits, second: Logits, samples: Rows) -> Pairs:
    """Return the rows of two views of each sample, each the other's proxy."""
    return Pairs(
        teacher=torch.cat([first, second]),
        student=torch.cat([second, first]),
        groups=np.concatenate([samples, samples]),
        proxy=ANOTHER_VIEW,
    )


def _of_groups(teacher: Logits, groups: Rows) -> Pairs:
    """Return rows that stand in for each other in a circle within each group; a row alone in its
    group is left out."""
    order = np.argsort(groups, kind="stable")
    _, start, inverse, count = np.unique(
        groups[order], return_index=True, return_inverse=True, return_counts=True
    )
    at = np.arange(len(order))
    following = start[inverse] + (at - start[inverse] + 1) % count[inverse]
    shared = count[inverse] > 1
    if not shared.any():
        raise UsageError(
            "no image_id has two rows, of which one could stand in for a student; give `student`"
        )
    return Pairs(
        teacher=teacher[order[shared]],
        student=teacher[order[following[shared]]],
        groups=groups[order[shared]],
        proxy=ANOTHER_VIEW,
    )


def _logits(array: np.ndarray, what: str) -> Logits:
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] < 2:
        raise UsageError(
            f"{what} is {array.dtype} of shape {array.shape}; it must be raw logits, floats [rows,"
            " classes]"
        )
    # what does not fit becomes infinite, and is refused by its row
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(np.float32))


def _head(array: np.ndarray, classes: int, what: str) -> Tensor:
    if (
        array.dtype.kind != "f"
        or array.ndim != 2
        or len(array) != classes
        or not np.isfinite(array).all()
    ):
        raise UsageError(
            f"{what} is {array.dtype} of shape {array.shape}; it must be finite weights [{classes},"
            " features]"
        )
    return torch.from_numpy(array.astype(np.float32))
