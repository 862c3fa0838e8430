"""`DistillationLoader`: the views, targets and soft targets of each step, for any training loop."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.codecs import Tail
from kdcache.config.arguments import checked_arguments, given
from kdcache.config.fields import build
from kdcache.config.seeds import seeds_text
from kdcache.errors import UsageError
from kdcache.loader.batch import DistillationBatch
from kdcache.loader.config import LoaderConfig, OnMiss
from kdcache.loader.opening import open_replay
from kdcache.loader.replay import Replay
from kdcache.loader.steps import StepLoader
from kdcache.losses import Need
from kdcache.models.preprocessing import (
    GivenPreprocessing,
    Preprocessing,
    checked_size,
    normalisation,
)
from kdcache.models.vision_model import VisionModel, completed
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.runtime.wording import named
from kdcache.shapes import Rows, Size
from kdcache.sources import as_source
from kdcache.views import Batch

_ANY_LOSS: frozenset[Need] = frozenset({"teacher"})


class DistillationLoader(StepLoader):
    """Iterates over the batches of one epoch after the other, exactly as the teacher saw their
    views.

    What holds in `train-student` holds here: the data are those that the cache was made from, some
    views are rendered again and compared, rows that the cache lacks are left out or refused, and
    the order is a function of `run_seed` and the epoch alone, so that a loop can go on after any
    step. Of several processes (torch.distributed) each gets its share of every step.

        loader = DistillationLoader("caches/r50", data=my_dataset, batch_size=256, device="cuda")
        for epoch in range(loader.epoch, 100):
            loader.set_epoch(epoch)
            for batch in loader:
                ...
    """

    @checked_arguments
    def __init__(
        self,
        cache: str | Path | Sequence[str | Path] | None = None,
        *,
        data: Any = None,
        batch_size: int = 256,
        num_workers: int | None = None,
        device: str = "auto",
        model: nn.Module | None = None,
        size: Size | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        run_seed: int = 0,
        seeds: str | Sequence[int] | None = None,
        epochs: int = 100,
        accumulate: int = 1,
        repeats: int = 1,
        samples: str | Sequence[int] | Rows | None = None,
        window: int | None = None,
        on_miss: OnMiss = "error",
        teacher: str | None = None,
        tail: Tail = "uniform",
        recipe: str | None = None,
        slab_dir: str | Path | None = None,
        slab_limit: float | None = None,
        wait_for_units: float | None = None,
        channels_last: bool = False,
    ) -> None:
        """Open a cache, and the data that it was made from.

        Args:
            cache: path or address of the cache; several for several teachers,
                `PATH[,weight=X][,classes=FILE.csv]` each.
            data: the data set, or its spec. A webdataset cache with images needs none.
            batch_size: views of a step, over all processes and accumulated parts.
            num_workers: processes that render views; by default one for each core, up to 8.
            device: where batches come to: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            model: the student, whose normalisation and input size are taken if it says them: timm's
                models say their size if they take no other; kdcache's normalise themselves.
            size: height and width of the views, or one number for both; by default the model's, or
                the teacher's.
            mean: of pixels scaled to 0 to 1, one number or one a channel; with `std` images come
                normalised.
            std: as `mean`.
            run_seed: decides the order of samples.
            seeds: augmentation seeds that epochs take in turn, such as `"0:90"` or `range(90)`; by
                default all complete ones of the cache.
            epochs: how many there are to be.
            accumulate: parts of a step, each a batch, whose gradients are added up.
            repeats: seeds under which a sample comes in one epoch.
            samples: samples to train on: `"A:B"`, a file of keys, or a list or an array of
                numbers in the order of the data.
            window: units whose rows are shuffled together, where memory or disk is too small for
                all.
            on_miss: what is done about views that the cache lacks: `error`, `skip` or `teacher`.
            teacher: spec of a teacher to run in the loop.
            tail: how the tail of a topk cache is spread over the classes that it dropped.
            recipe: of the views, if there is no cache.
            slab_dir: folder of local copies; by default KDCACHE_HOME/slabs.
            slab_limit: GB of them that are kept.
            wait_for_units: seconds to wait for the next unit of a dump that still runs.
            channels_last: whether images come in that memory format.

        Raises:
            UsageError: an argument that cannot be meant.
            MismatchError: data that the cache was not made from; the message says what differs.
            ViewMismatchError: views that are not those that the teacher saw.
            KdcacheError: anything that cannot be opened.
        """
        options = given(workers=num_workers, device=device, channels_last=channels_last)
        options["keep_memory"] = False  # the process is the user's own
        source = None
        if data is not None and not isinstance(data, str):
            source = as_source(data)
            data = source.spec
        settings = given(
            cache=_texts(cache),
            data=data,
            teacher=teacher,
            on_miss=on_miss,
            tail=tail,
            recipe=recipe,
            seeds=None if seeds is None else seeds_text(seeds),
            repeats=repeats,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            run_seed=run_seed,
            window=window,
            slab_dir=None if slab_dir is None else str(slab_dir),
            slab_limit=slab_limit,
            wait_for_units=wait_for_units,
            compute=build(ComputeConfig, options, "DistillationLoader:"),
        )
        config = build(LoaderConfig, settings, "DistillationLoader:")
        if not (config.caches or config.teacher):
            raise UsageError("there is no teacher: give a cache, or a teacher to run in the loop")
        replay = open_replay(config, _ANY_LOSS, source=source, samples=samples)
        preprocessing = GivenPreprocessing(size=size, mean=mean, std=std)
        view = _of_views(replay, completed(preprocessing, model))
        layout = model.layout if isinstance(model, VisionModel) else None
        super().__init__(
            config, replay, Compute(config.compute), _ANY_LOSS, sizes=[view.size], layout=layout
        )
        self._is_normalised = bool(view.std)
        self._mean = self._levels(view.mean)
        self._std = self._levels(view.std)

    def __repr__(self) -> str:
        """Return what it reads, and where it is, for a notebook or a prompt."""
        teachers = ", ".join(self.config.caches) or self.config.teacher
        return (
            f"<DistillationLoader of {teachers}: {len(self):,} batches of"
            f" {self.config.batch_size:,} views an epoch, {named(self.replay.seeds, 'seed')},"
            f" at step {self.step} of epoch {self.epoch}>"
        )

    def placed(self, batch: Batch) -> DistillationBatch:
        """Return a batch on the device, with its soft targets; normalised if it is known how."""
        placed = super().placed(batch)
        if not self._is_normalised:
            return placed
        images = torch.sub(placed.images, self._mean).div_(self._std)
        return replace(placed, images=images)

    def _levels(self, values: Sequence[float]) -> Tensor:
        """Return values of channels from 0 to 1 as levels to 255, shaped to meet images."""
        levels = torch.tensor(values, dtype=torch.float32, device=self.compute.device)
        return 255 * levels.view(1, -1, 1, 1)


def _texts(cache: str | Path | Sequence[str | Path] | None) -> tuple[str, ...] | None:
    if cache is None:
        return None
    if isinstance(cache, str | Path):
        return (str(cache),)
    return tuple(str(path) for path in cache)


def _of_views(replay: Replay, wanted: GivenPreprocessing) -> Preprocessing:
    """Return the size of the views, and how they are normalised: by an empty `std` not at all.

    Raises:
        UsageError: one of the three cannot be used, or nothing says the size.
    """
    size = wanted.size
    if size is None:
        size = _size_of(replay)
    try:
        if wanted.mean is None:
            return Preprocessing(checked_size(size), (), ())
        channels = replay.recipe.channels
        return Preprocessing(checked_size(size), *normalisation(wanted.mean, wanted.std, channels))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _size_of(replay: Replay) -> Size:
    """Return the size that the teacher's views have, or those of a recipe."""
    if replay.caches:
        return replay.caches[0].cache.manifest.input_size
    if replay.recipe.size is None:
        raise UsageError("the views have no size of their own; give size, or a model that says it")
    return replay.recipe.size
