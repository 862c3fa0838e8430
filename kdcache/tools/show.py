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
    first_class = _first_of_teacher(cache, source)
    names = _class_names(source)
    if first_class:
        names += [f"teacher's {number}" for number in range(cache.manifest.classes)]
    view = batch.views[0][0].permute(1, 2, 0).numpy()
    target = batch.labels.first[0]
    if layout.maps:
        probabilities = probabilities[0]
        figure = _drawn_maps(view, target.numpy(), probabilities[None], names, first_class)
    else:
        figure = _drawn_bars(view, int(target), probabilities, names, first_class)
    key = source.key(index)
    _save(figure, file, f"{key}, seed {seed}")
    confidence = float(probabilities.amax(-1).mean())
    return {"file": str(file), "sample": key, "row": row, "confidence": confidence}


def _class_names(source: Source) -> list[str]:
    """Return the names of a source's classes; their numbers where it has none."""
    names = getattr(source, "class_names", None) or range(source.classes)
    return list(map(str, names))


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
    if has_others or "teacher_classes" in recorded_settings(made_by.config):
        return source.classes
    return 0


def _drawn_maps(
    view: np.ndarray,
    mask: np.ndarray,
    maps: torch.Tensor,
    names: list[str],
    first_class: int,
) -> Any:
    """Return the figure of a view with its mask and the teacher's maps, whose classes are numbered
    from `first_class`."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    height, width = mask.shape
    confidences, predictions = upsampled(maps, (height, width))[0].max(0)
    classes = predictions.numpy() + first_class
    colours = _colours(len(names))
    has_class = mask != IGNORED
    target = np.where(has_class[:, :, None], colours[np.where(has_class, mask, 0)], 0)
    about_teacher = "its own classes"
    if not first_class:
        about_teacher = _right_text((classes == mask)[has_class])
    figure = Figure(figsize=(11, 1.6 + 10 * height / width), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    images = (view, target, colours[classes])
    titles = ("view", "mask (black: no class)", f"teacher: {about_teacher}")
    for panel, image, title in zip(panels[:3], images, titles, strict=True):
        panel.imshow(image, cmap="gray")
        panel.set_title(title, fontsize=10)
    confidence = panels[3].imshow(confidences.numpy(), vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(confidence, ax=panels[3], shrink=0.8)
    panels[3].set_title("the teacher's confidence", fontsize=10)
    shown_classes = np.concatenate([mask[has_class], classes.ravel()])
    counts = np.bincount(shown_classes, minlength=len(names))
    _draw_legend(figure, counts, names, colours)
    for panel in panels:
        panel.set_axis_off()
    return figure


def _colours(count: int) -> np.ndarray:
    """Return the colours of so many classes, uint8 `[count, 3]`."""
    from matplotlib import colormaps  # noqa: PLC0415

    numbers = np.arange(count)
    if count <= 20:
        colours = colormaps["tab20"](numbers)
    else:
        colours = colormaps["gist_ncar"](0.05 + 0.9 * numbers / count)
    return (255 * colours[:, :3]).astype(np.uint8)


def _right_text(is_right: np.ndarray) -> str:
    """Return the share of the pixels with a class of which the teacher says that class."""
    if not len(is_right):
        return "no pixel has a class"
    return f"{100 * is_right.mean():.1f} % of the pixels right"


def _draw_legend(figure: Any, counts: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """List the classes with the most pixels, and how many more there are."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    num_present = int((counts > 0).sum())
    num_listed = min(num_present, _LISTED)
    most_common = np.argsort(-counts, kind="stable")[:num_listed]
    patches = [Patch(color=colours[number] / 255, label=names[number]) for number in most_common]
    if num_present > num_listed:
        patches.append(Patch(color="none", label=f"and {num_present - num_listed} more"))
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _drawn_bars(
    view: np.ndarray,
    target: int,
    probabilities: torch.Tensor,
    names: list[str],
    first_class: int,
) -> Any:
    """Return the figure of a view with the teacher's most likely classes, which are numbered from
    `first_class`."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    picture, bars = figure.subplots(1, 2)
    picture.imshow(view, cmap="gray")
    picture.set_axis_off()
    label = f"label {target}"
    if target < len(names):
        label = f"label: {names[target]}"
    picture.set_title(label, fontsize=10)
    top = probabilities.topk(min(_TOP, len(probabilities)))
    top_names = [names[first_class + number] for number in top.indices.tolist()]
    places = range(len(top_names))
    bar_patches = bars.barh(places, top.values.tolist(), color="#0072b2")
    bars.bar_label(bar_patches, fmt="%.3f", padding=3, fontsize=9)
    bars.set_yticks(places, top_names)
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
