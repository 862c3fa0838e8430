"""A picture of one view of a cache: what the teacher saw, what is right and what it says. People
look before they train."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcache.cache import Cache
from kdcache.cache.source import local_images, views_of
from kdcache.codec_error.plot import check_plot
from kdcache.config.files import recorded_settings
from kdcache.errors import KdcacheError, UsageError, brief, printable
from kdcache.shapes import IGNORED
from kdcache.sources import Source
from kdcache.tasks.segmentation import upsampled
from kdcache.views.permutation import row_of

_TOP = 5
_LISTED = 24
"""Classes in the bars; most classes in a legend."""


def show_view(
    cache: Cache, file: str | Path, *, index: int, seed: int, data: str | None = None
) -> dict[str, Any]:
    """Draw sample `index` of the source under `seed` into `file`.

    Of segmentation the view, the mask, the teacher's most likely classes and how sure it is of
    them; of classification the view and the five classes that the teacher finds most likely.

    Args:
        cache: that holds the view.
        file: the picture, in the format that its name ends in.
        index: of the sample in the source.
        seed: of the view.
        data: spec of the source; by default the images that the cache holds.

    Returns:
        `file`, `sample` (its key), `row` (its row of the cache) and the teacher's mean
        `confidence`.

    Raises:
        UsageError: no such sample, no such format, or a source that must be named.
        MismatchError: data that is not the cache's source.
        CacheError: a view that the cache lacks, or a damaged unit.
        KdcacheError: matplotlib is not installed, or the file cannot be written.
    """
    check_plot(file)
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
    layout = cache.manifest.layout
    if layout.sites and layout.maps is None:
        raise UsageError(
            f"cache {cache} holds logits of {layout.kind}, which cannot be drawn;"
            " one row a view can, and maps of one size"
        )
    dataset = views_of(cache, data, size=cache.manifest.input_size)
    source = dataset.source
    probabilities = cache.codec.decode(cache.read(seed, [row])).probs(1.0)[0]
    with local_images(source, [commit]):
        batch = dataset.batch([(row, seed)])
    names = [str(name) for name in getattr(source, "class_names", None) or range(source.classes)]
    said_from = _first_of_teacher(cache, source)
    if said_from:
        names += [f"teacher's {number}" for number in range(cache.manifest.classes)]
    view = batch.views[0][0].permute(1, 2, 0).numpy()
    title = f"{source.key(index)}, seed {seed}"
    target = batch.labels.first[0]
    if layout.maps:
        figure = _drawn_maps(view, target.numpy(), probabilities[:1], names, said_from)
    else:
        figure = _drawn_bars(view, int(target), probabilities, names, said_from)
    _save(figure, file, title)
    confidence = float((probabilities[0] if layout.maps else probabilities).amax(-1).mean())
    return {"file": str(file), "sample": source.key(index), "row": row, "confidence": confidence}


def _first_of_teacher(cache: Cache, source: Source) -> int:
    """Return where the teacher's classes begin among all that are drawn: 0 if they are those of the
    data.

    A teacher of other classes, dumped with `teacher_classes`, is neither right nor wrong, and the
    names of the data are not those of its classes.
    """
    made_by = cache.manifest.made_by
    for origin in made_by.origins():
        made_by = origin.made_by
    has_others = cache.manifest.classes != source.classes
    is_said = "teacher_classes" in recorded_settings(made_by.config)
    return source.classes if has_others or is_said else 0


def _drawn_maps(
    view: np.ndarray,
    mask: np.ndarray,
    maps: torch.Tensor,
    names: list[str],
    said_from: int,
) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415

    planes = upsampled(maps, (mask.shape[0], mask.shape[1]))[0]
    sure, said = (found.numpy() for found in planes.max(0))
    said = said + said_from
    colours = _colours(len(names))
    known = mask != IGNORED
    target = np.where(known[:, :, None], colours[np.where(known, mask, 0)], 0)
    about = "its own classes" if said_from else _right_text((said == mask)[known])
    titles = ("view", "mask (black: no class)", f"teacher: {about}")
    figure = Figure(figsize=(11, 1.6 + 10 * mask.shape[0] / mask.shape[1]), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    for panel, image, name in zip(panels[:3], (view, target, colours[said]), titles, strict=True):
        panel.imshow(image, cmap="gray")
        panel.set_title(name, fontsize=10)
    confidence = panels[3].imshow(sure, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(confidence, ax=panels[3], shrink=0.8)
    panels[3].set_title("the teacher's confidence", fontsize=10)
    counts = np.bincount(np.concatenate([mask[known], said.ravel()]), minlength=len(names))
    _draw_legend(figure, counts, names, colours)
    for panel in panels:
        panel.set_axis_off()
    return figure


def _colours(count: int) -> np.ndarray:
    """Return the colours of so many classes, uint8 `[count, 3]`."""
    from matplotlib import colormaps  # noqa: PLC0415

    numbers = np.arange(count)
    if count <= 20:
        found = colormaps["tab20"](numbers)
    else:
        found = colormaps["gist_ncar"](0.05 + 0.9 * numbers / count)
    return (255 * found[:, :3]).astype(np.uint8)


def _right_text(is_right: np.ndarray) -> str:
    """Return the share of the pixels with a class of which the teacher says that class."""
    if not len(is_right):
        return "no pixel has a class"
    return f"{100 * is_right.mean():.1f} % of the pixels right"


def _draw_legend(figure: Any, counts: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """List the classes with the most pixels, and how many more there are."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    shown = [one for one in np.argsort(-counts, kind="stable")[:_LISTED] if counts[one]]
    patches = [Patch(color=colours[one] / 255, label=names[one]) for one in shown]
    if (more := int((counts > 0).sum()) - len(shown)) > 0:
        patches.append(Patch(color="none", label=f"and {more} more"))
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _drawn_bars(
    view: np.ndarray,
    target: int,
    probabilities: torch.Tensor,
    names: list[str],
    said_from: int,
) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415

    top = probabilities.topk(min(_TOP, len(probabilities)))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    picture, bars = figure.subplots(1, 2)
    picture.imshow(view, cmap="gray")
    picture.set_axis_off()
    picture.set_title(
        f"label: {names[target]}" if target < len(names) else f"label {target}", fontsize=10
    )
    chosen = [names[said_from + one] for one in top.indices.tolist()]
    drawn = bars.barh(range(len(chosen)), top.values.tolist(), color="#0072b2")
    bars.bar_label(drawn, fmt="%.3f", padding=3, fontsize=9)
    bars.set_yticks(range(len(chosen)), chosen)
    bars.set_xlim(0, 1.15)
    bars.invert_yaxis()
    bars.set_title("the teacher's probabilities", fontsize=10)
    bars.spines[["top", "right"]].set_visible(False)
    return figure


def _save(figure: Any, file: str | Path, title: str) -> None:
    # a name may hold anything
    figure.suptitle(brief(printable(title)), fontsize=11, parse_math=False)
    try:
        figure.savefig(file, dpi=110)
    except OSError as error:
        raise KdcacheError(f"cannot write plot {file}: {error.strerror or error}") from error
