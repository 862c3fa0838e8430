"""What the parts of gpu.py share: a device, how much is done on it, and how it is timed."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from measure import peak_bytes, spread
from workload import teacher_spec

from kdcache.dump.run import DumpConfig, run_dump
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.train.run import TrainConfig, Trainer

RECIPE = '[[transforms]]\nname = "RandomHorizontalFlip"\n'
"""Views that cost next to nothing, so that a device need not wait for them."""
RUNS = 5
"""Runs of which the median, the least and the most are told."""
Row = Mapping[str, Any]
Rows = Iterator[Row]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done."""

    shapes: tuple[tuple[int, int], ...]
    """Rows and classes that losses are computed on."""
    classes: int
    """Of teachers and students."""
    pixels: int
    batch: int
    views: int
    """Views of an epoch."""
    student: str
    teacher: str
    dumped: tuple[str, ...]
    """Models of timm that are dumped, the lightest first."""
    dumped_views: int
    workers: int
    repetitions: int
    run_seconds: float
    """Of a run of calls in a row, at least."""
    most_seconds: float
    """That are kept for a part."""
    compiles: bool


SIZES = {
    "full": Sizes(
        shapes=((256, 1000), (1024, 21_841), (131_072, 19)),
        classes=1000,
        pixels=224,
        batch=256,
        views=8192,
        student="resnet18",
        teacher="resnet50",
        dumped=("mobilenetv3_small_050", "resnet50"),
        dumped_views=8192,
        workers=8,
        repetitions=3,
        run_seconds=0.1,
        most_seconds=420,
        compiles=True,
    ),
    "small": Sizes(
        shapes=((64, 100), (256, 1000), (4096, 19)),
        classes=1000,
        pixels=64,
        batch=16,
        views=64,
        student="test_resnet",
        teacher="resnet10t",
        dumped=("test_resnet", "resnet10t"),
        dumped_views=128,
        workers=1,
        repetitions=3,
        run_seconds=0.02,
        most_seconds=20,
        compiles=False,
    ),
    "tiny": Sizes(
        shapes=((6, 70),),
        classes=50,
        pixels=32,
        batch=4,
        views=8,
        student="test_resnet",
        teacher="test_resnet",
        dumped=("test_resnet",),
        dumped_views=8,
        workers=0,
        repetitions=1,
        run_seconds=0.0,
        most_seconds=0,
        compiles=False,
    ),
}
"""For a GPU, for a CPU, and for a test."""


class Bench:
    """What the parts share: a device, sizes, and a folder in which caches are made once."""

    def __init__(self, folder: Path, device: str, sizes: Sizes) -> None:
        self.folder = folder
        self.sizes = sizes
        self.compute = Compute(ComputeConfig(device=device, workers=sizes.workers))
        self.device = self.compute.device
        self._caches: dict[str, str] = {}
        # of a CPU, which others may share, only what this process uses counts
        self._clock = time.process_time if self.device.type == "cpu" else time.perf_counter

    def wait(self) -> None:
        """Block until the device has done all that is queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def tidy(self) -> None:
        """Let go of what a part has left."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def recipe(self) -> str:
        """The file of a recipe whose views cost next to nothing."""
        path = self.folder / "flip.toml"
        path.write_text(f'size = {self.sizes.pixels}\neval = "eval"\n{RECIPE}')
        return str(path)

    @property
    def common(self) -> dict[str, Any]:
        """The settings that dumps and trainings have in common."""
        return {
            "data": self.data(self.sizes.views),
            "batch_size": self.sizes.batch,
            "compute": self.compute.config,
        }

    @property
    def best(self) -> dict[str, Any]:
        """The settings with which one would run models on a GPU; nothing for a CPU."""
        if self.device.type == "cpu":
            return {}
        return {"compute": replace(self.compute.config, precision="bfloat16", channels_last=True)}

    def data(self, length: int) -> str:
        """Return the spec of so many pictures."""
        sizes = self.sizes
        return f"workload:pictures,length={length},classes={sizes.classes},side={sizes.pixels}"

    def teacher(self, model: str) -> str:
        """Return the spec of a teacher with random weights."""
        return teacher_spec(model, self.sizes.pixels, self.folder, self.sizes.classes)

    def cache(self, codec: str) -> str:
        """Return the path of a cache of a light teacher's logits."""
        if codec not in self._caches:
            path = str(self.folder / f"cache-{len(self._caches)}")
            teacher = self.teacher(self.sizes.dumped[0])
            settings = {"recipe": self.recipe, "seeds": f"0:{self.sizes.repetitions + 1}"}
            run_dump(
                DumpConfig(cache=path, teacher=teacher, codec=codec, **settings, **self.common)
            )
            self._caches[codec] = path
        return self._caches[codec]

    @contextmanager
    def trainer(self, **changes: Any) -> Iterator[Trainer]:
        """Give a trainer of the student; without a cache and a teacher it has labels only."""
        student = f"timm:{self.sizes.student},input_size={self.sizes.pixels}"
        settings: dict[str, Any] = {"run": "none", "student": student, "log_steps": 10**9}
        settings |= {"epochs": 10**4, **self.common, **changes}
        if "cache" not in settings:
            settings |= {"recipe": self.recipe, "seeds": f"0:{self.sizes.repetitions + 1}"}
        trainer = Trainer(TrainConfig(**settings))
        try:
            yield trainer
        finally:
            trainer.data.close()

    def milliseconds(self, call: Callable[[], object]) -> dict[str, float]:
        """Return the spread of the time of a call, over runs of calls in a row: on a CPU processor
        time."""

        def run(count: int) -> float:
            start = self._clock()
            for _ in range(count):
                call()
            self.wait()
            return (self._clock() - start) / count

        run(1)
        count = max(int(self.sizes.run_seconds / run(1)), 1)
        return spread([1000 * run(count) for _ in range(RUNS)])

    def peak_megabytes(self, call: Callable[[], object]) -> float:
        """Return how much more memory of the device a call holds at most than there was before."""
        if self.device.type != "cuda":
            return peak_bytes(call) / 1e6
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
