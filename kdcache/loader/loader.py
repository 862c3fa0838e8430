"""`DistillationLoader`: the views, targets and soft targets of each step, for any training loop."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from kdcache.cache import Cache
from kdcache.codecs import Tail
from kdcache.errors import KdcacheError, MismatchError, UsageError
from kdcache.loader.config import LoaderConfig, OnMiss
from kdcache.loader.opening import Replay, open_replay
from kdcache.loader.order import EpochSampler, Split, epoch_views, num_steps
from kdcache.loader.teachers import Teacher, open_teacher
from kdcache.losses import Need
from kdcache.models.model import Preprocessing, VisionModel, per_channel, preprocessing_of
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.runtime.distributed import rank, world_size
from kdcache.runtime.wording import named
from kdcache.shapes import Labels, Rows, Size
from kdcache.soft_targets import SoftTargets
from kdcache.sources import Source, as_source
from kdcache.views import Batch, ViewDataset, ViewLoader

_NO_ROWS: Rows = np.empty(0, np.int64)
_ANY_LOSS: frozenset[Need] = frozenset({"teacher"})


@dataclass(frozen=True)
class DistillationBatch:
    """One batch of this process, on the device of the loader."""

    images: Tensor
    """Views, uint8 `[views, channels, height, width]`; floats, normalised, where the loader knows
    how."""
    labels: Labels
    """Classes of the views, or of their pixels; of mixed views with a second class and a share."""
    teacher: SoftTargets
    """Soft targets: `logits()` are the teacher's, `probs(tau)` their softmax at a temperature."""
    rows: Tensor
    """Which sample each view is of: its place in the cache's order, int64 `[views]`, on the CPU."""
    seeds: Tensor
    """The augmentation seed of each view, int64 `[views]`, on the CPU."""
    num_classes: int

    @property
    def targets(self) -> Tensor:
        """Class indices; of mixed views probabilities, float32 `[views, classes]`. Cross-entropy
        takes both."""
        if self.labels.mixed is None:
            return self.labels.first
        second, share = self.labels.mixed
        first = one_hot(self.labels.first.long(), self.num_classes).float()
        return torch.lerp(one_hot(second.long(), self.num_classes).float(), first, share[:, None])


class DistillationLoader:
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
        samples: str | None = None,
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
            device: where batches come to: `auto`, `cpu`, `cuda` or `cuda:N`.
            model: the student, whose input size and normalisation are taken if it says them (timm's
                models do, and kdcache's, which normalise themselves).
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
            samples: samples to train on: `"A:B"`, or a file of keys.
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
            DriftError: views that are not those that the teacher saw.
            KdcacheError: anything that cannot be opened.
        """
        options: dict[str, Any] = {} if num_workers is None else {"workers": num_workers}
        compute = ComputeConfig(device=device, channels_last=channels_last, **options)
        limits = {} if slab_limit is None else {"slab_limit": slab_limit}
        source = None if data is None or isinstance(data, str) else as_source(data)
        config = LoaderConfig(
            cache=_texts(cache),
            data=data if source is None else source.spec,
            teacher=teacher,
            on_miss=on_miss,
            tail=tail,
            recipe=recipe,
            seeds=_seeds_text(seeds),
            samples=samples,
            repeats=repeats,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            run_seed=run_seed,
            window=window,
            slab_dir=None if slab_dir is None else str(slab_dir),
            wait_for_units=wait_for_units,
            compute=compute,
            **limits,
        )
        if not (config.caches or config.teacher):
            raise UsageError("there is no teacher: give a cache, or a teacher to run in the loop")
        replay = open_replay(config, _ANY_LOSS, source=source)
        wanted = _preprocessing(replay, model, size, mean, std)
        self._begin(
            config, replay, Compute(config.compute), _ANY_LOSS, size=wanted.size, sites=None
        )
        if wanted.std:
            self._normalise(wanted)

    @classmethod
    def of_run(
        cls,
        config: LoaderConfig,
        replay: Replay,
        compute: Compute,
        needs: frozenset[Need],
        student: VisionModel,
    ) -> "DistillationLoader":
        """Return the loader of a run whose views are opened already.

        Args:
            config: the run's settings.
            replay: its views.
            compute: where batches come to.
            needs: what its loss requires.
            student: whose input size counts, and the size of whose maps.
        """
        loader = cls.__new__(cls)
        size = student.preprocessing.size
        loader._begin(config, replay, compute, needs, size=size, sites=student.sites)
        return loader

    def _begin(
        self,
        config: LoaderConfig,
        replay: Replay,
        compute: Compute,
        needs: frozenset[Need],
        *,
        size: Size,
        sites: Sequence[int] | None,
    ) -> None:
        self.config = config
        self.replay = replay
        self.compute = compute
        self.teacher: Teacher
        self._mean: Tensor | None = None
        self._std: Tensor | None = None
        self._needs = needs
        self._size = size
        self._sites = sites
        sizes = self._open_teacher()
        self._sampler = EpochSampler(
            Split(
                batch_size=config.batch_size,
                parts=config.accumulate,
                process=rank(),
                processes=world_size(),
            )
        )
        self._views = ViewLoader(
            ViewDataset(replay.source, replay.recipe, replay.order, sizes=sizes),
            self._sampler,
            workers=config.compute.workers,
            pin_memory=compute.pin_memory,
        )
        self.epoch = 0
        """The epoch that is to come, or that is at work."""
        self.step = 0
        """Steps of it that are done."""
        self._left_out = _NO_ROWS

    @property
    def source(self) -> Source:
        """The data."""
        return self.replay.source

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return self.replay.source.classes

    @property
    def num_channels(self) -> int:
        """Channels of the views: 3, or 1 of grey ones."""
        return self.replay.recipe.channels

    @property
    def num_steps(self) -> int:
        """Steps of the epoch that is at work; rows that its seed lacks are not in it."""
        return self._sampler.num_steps

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch that lacks no row, for a schedule."""
        return num_steps(len(self.replay.rows(_NO_ROWS)), self.config.batch_size)

    def __len__(self) -> int:
        """Return the batches of a whole epoch that lacks no row, in this process."""
        return self.steps_per_epoch * self.config.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the one that is begun goes on where it was.

        Raises:
            UsageError: a number that is none of an epoch.
        """
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}; it must be 0 or more")
        if epoch != self.epoch:
            self.epoch = epoch
            self.step = 0

    def __iter__(self) -> Iterator[DistillationBatch]:
        """Yield the batches that are left of the epoch, and go to the next one.

        A batch counts as done as soon as the loop has it: take `state_dict` after its step.

        Raises:
            KdcacheError: units that are missing or damaged, samples that cannot be read.
        """
        self.start_epoch()
        parts = self.config.accumulate
        for number, batch in enumerate(self.rendered(), start=1):
            if number % parts == 0:
                self.step += 1
            yield self.placed(batch)
        self.end_epoch()

    def start_epoch(self) -> list[int]:
        """Make ready for what is left of the epoch, and return its seeds.

        Raises:
            KdcacheError: units that are missing or damaged; no row that could be read.
        """
        seeds = self._seeds_of(self.epoch)
        is_last = self.epoch + 1 >= self.config.epochs
        following = [] if is_last else self._seeds_of(self.epoch + 1)
        self._left_out = self._start_teacher(seeds, following)
        for use in self.replay.caches:
            use.check_images(seeds)
        rows = self.replay.rows(self._left_out)
        length = len(self.replay.source)
        if not len(rows):
            raise KdcacheError(
                f"nothing to train on: of the samples of {self.replay.source.spec} that are asked"
                f" for, seed {seeds[0]} holds none that could be read when it was dumped"
            )
        views = epoch_views(
            rows,
            length,
            seeds,
            self.replay.recipe,
            run_seed=self.config.run_seed,
            epoch=self.epoch,
            blocks=self.replay.blocks,
        )
        self._sampler.set_epoch(views, first_step=self.step, before=self._streams(views))
        return seeds

    def rendered(self) -> Iterator[Batch]:
        """Yield the views of this process that are left of the epoch, as they come from the
        workers."""
        return iter(self._views)

    def placed(self, batch: Batch) -> DistillationBatch:
        """Return a batch on the device, with the teacher's soft targets."""
        labels = batch.labels.to(self.compute.move)
        teacher = self.teacher.rows(batch)
        images = self.compute.move(batch.views[0])
        if self._mean is not None and self._std is not None:
            images = torch.sub(images, self._mean).div_(self._std)
        return DistillationBatch(images, labels, teacher, batch.rows, batch.seeds, self.num_classes)

    def end_epoch(self) -> None:
        """Go to the next epoch."""
        self.epoch += 1
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on after the batch that the loop had last, as plain
        values and tensors.

        It is the same in all processes.
        """
        return {
            "epoch": self.epoch,
            "epoch_step": self.step,
            "seeds": self.replay.seeds,
            "left_out": torch.from_numpy(self._left_out),
            "identity": self.identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, also with another number of processes or workers.

        Raises:
            MismatchError: it is of other data, another cache or another teacher.
        """
        for name, value in self.identity().items():
            if state["identity"].get(name) != value:
                raise MismatchError(
                    f"the state is of another {name} ({state['identity'].get(name)} there, {value}"
                    " now); give the one that it is of"
                )
        # the cache has more by now: their turns would change
        if state["seeds"] != self.replay.seeds:
            begun = named(state["seeds"], "seed")
            more = named(self.replay.seeds, "seed")
            say(
                f"note: the run goes on with {begun}, which it began with; the cache holds {more}"
                " by now"
            )
            self.replay = replace(self.replay, seeds=state["seeds"])
            self._open_teacher()
        self.epoch = state["epoch"]
        self.step = state["epoch_step"]
        self._left_out = state["left_out"].numpy()

    def identity(self) -> dict[str, str]:
        """Return what the order and the soft targets depend on: fingerprints by name."""
        digests = [use.cache.manifest.digest for use in self.replay.caches]
        return {
            "source": self.replay.source.fingerprint,
            "recipe": self.replay.recipe.fingerprint,
            "teacher": self.teacher.identity,
            "cache": ", ".join(digests) or "none",
        }

    def samples_digest(self) -> str:
        """Return what tells the samples to train on from others."""
        samples = self.replay.samples
        return "all" if samples is None else hashlib.sha256(samples.tobytes()).hexdigest()

    def close(self) -> None:
        """End loader workers, and what is fetched ahead."""
        self._views.close()
        for use in self.replay.caches:
            if use.stream is not None:
                use.stream.close()

    def __enter__(self) -> "DistillationLoader":
        """Return the loader, which is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the loader."""
        self.close()

    def _open_teacher(self) -> list[Size]:
        """Open where soft targets come from; return the input sizes to render."""
        self.teacher, sizes = open_teacher(
            self.config,
            self.replay,
            self._needs,
            self.compute,
            size=self._size,
            sites=self._sites,
        )
        return sizes

    def _seeds_of(self, epoch: int) -> list[int]:
        seeds = self.replay.seeds
        count = self.config.repeats
        return [seeds[turn % len(seeds)] for turn in range(epoch * count, (epoch + 1) * count)]

    def _start_teacher(self, seeds: list[int], following: list[int]) -> Rows:
        """Make the teacher ready for the epoch, and return the rows that it leaves out.

        Of an epoch that was begun these are those of then.

        It sees the units that rank 0 sees: a cache that is still written to may hold more by the
        time that another process, or a resumed run, looks, but never less.
        """
        left_out = np.unique(np.concatenate([*self.teacher.start(seeds, following).values()]))
        return self._left_out if self.step else left_out

    def _streams(self, views: Rows) -> Callable[[Rows], None]:
        """Have what is read window by window make ready for the epoch; return what must know of
        each step's views."""
        streams = [use.stream for use in self.replay.caches if use.stream is not None]
        if streams and self.replay.blocks is not None:
            windows = self.replay.blocks.windows(self.config.run_seed, self.epoch)
            following = views[self.step * self.config.batch_size :]
            for stream in streams if len(following) else ():
                stream.open_epoch(windows, int(following[0, 0]))

        def before(step: Rows) -> None:
            for stream in streams:
                stream.before(step)

        return before

    def _normalise(self, wanted: Preprocessing) -> None:
        """Have images come as floats, by these means and deviations."""
        mean = per_channel(wanted.mean, self.num_channels)
        std = per_channel(wanted.std, self.num_channels)
        if min(std) <= 0:
            raise UsageError(f"std is {std}; it must be above 0, of pixels from 0 to 1")
        self._mean = 255 * torch.tensor(mean, device=self.compute.device).view(1, -1, 1, 1)
        self._std = 255 * torch.tensor(std, device=self.compute.device).view(1, -1, 1, 1)


def _texts(cache: str | Path | Sequence[str | Path] | None) -> tuple[str, ...] | None:
    if cache is None:
        return None
    if isinstance(cache, str | Path):
        return (str(cache),)
    if isinstance(cache, Cache):
        raise UsageError("give the path of the cache, not the cache itself")
    return tuple(str(one) for one in cache)


def _seeds_text(seeds: str | Sequence[int] | None) -> str | None:
    """Return seeds as settings have them."""
    if seeds is None or isinstance(seeds, str):
        return seeds
    if not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(f"seeds is {seeds!r}; it must be text such as '0:90', or whole numbers")
    return ",".join(map(str, seeds))


def _preprocessing(
    replay: Replay,
    model: nn.Module | None,
    size: Size | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> Preprocessing:
    """Return the size of the views, and how they are normalised: by an empty `std` not at all.

    Raises:
        UsageError: one of mean and std without the other.
    """
    if (mean is None) != (std is None):
        raise UsageError("mean and std belong together; give both, or neither")
    of_model = None if model is None else preprocessing_of(model)
    if size is None and of_model is not None:
        size = of_model.size
    if size is None and replay.caches:
        size = replay.caches[0].cache.manifest.input_size
    if size is None:
        size = replay.recipe.size
    if size is None:
        raise UsageError("the views have no size of their own; give size, or a model that says it")
    if mean is not None and std is not None:
        return Preprocessing(size, _numbers(mean), _numbers(std))
    if of_model is not None:
        return Preprocessing(size, of_model.mean, of_model.std)
    return Preprocessing(size, (), ())


def _numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values))
