"""Models and data sets that tests name as `tiny_models:function`."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import get_worker_info

from kdcache.sources import Digits


def mlp(classes: int = 10, size: int = 8, channels: int = 1, dropout: float = 0.0) -> nn.Module:
    width = channels * size * size
    return nn.Sequential(
        nn.Flatten(), nn.Linear(width, 24), nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, classes)
    )


def by_rank(classes: int = 10) -> nn.Module:
    """Give other weights in each process of a run."""
    model = mlp(classes)
    with torch.no_grad():
        model[1].weight.mul_(1 + int(os.environ.get("RANK", "0")) / 100)
    return model


def perceptron(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, classes))


def conv(classes: int = 10, channels: int = 1, seed: int = 0, scale: float = 3.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))
        model = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *pool
        )
        with torch.no_grad():
            model[-1].weight.mul_(scale * 4)
    return model


def scaled(
    factor: float = 1.0, seed: int = 0, offset: float = 0.0, first: float = 0.0
) -> nn.Module:
    """Change `conv`'s logits by numbers that are not in its state, as other code does with the same
    weights."""
    model, change = conv(seed=seed), torch.full((10,), float(offset))
    change[0] += first
    model.register_forward_hook(lambda module, images, logits: logits * factor + change)
    return model


def poisoned(classes: int = 10, value: float = torch.nan) -> nn.Module:
    """Give NaN, or another value, for every image whose first pixel is not black."""

    class Poisoned(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = images.flatten(1)[:, :classes] * 1.0
            return torch.where(images[:, 0, 3, 3, None] > 0.9, value, logits)

    return Poisoned()


class Noise:
    """`length` noise images, sample i drawn from generator i."""

    def __init__(self, length: int = 40, classes: int = 5, size: int = 16) -> None:
        self.length, self.classes, self.size = length, classes, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = np.random.default_rng(index).integers(
            0, 256, (self.size, self.size, 3), dtype=np.uint8
        )
        return Image.fromarray(pixels), index % self.classes


def noise(length: int = 40, classes: int = 5, size: int = 16) -> Noise:
    return Noise(length, classes, size)


FEW = 64


class FewDigits:
    """Some of scikit-learn's digits, which train in no time."""

    classes = 10

    def __init__(self, length: int) -> None:
        digits = Digits()
        self.data, self.targets = digits.data[:length], digits.targets[:length]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), int(self.targets[index])


def few_digits(length: int = FEW) -> FewDigits:
    return FewDigits(length)


class SlowDigits(FewDigits):
    """Digits of which each takes a while to read, in loader workers and elsewhere."""

    def __init__(self, length: int, seconds: float) -> None:
        super().__init__(length)
        self.seconds = seconds

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        time.sleep(self.seconds)
        return super().__getitem__(index)


def slow_digits(length: int = FEW, seconds: float = 0.0) -> FewDigits:
    return SlowDigits(length, seconds)


class LoggedDigits(FewDigits):
    """Digits that leave a byte in a file for each that is read."""

    def __init__(self, length: int, log: str) -> None:
        super().__init__(length)
        self.log = log

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with open(self.log, "ab", buffering=0) as file:  # noqa: PTH123
            file.write(b".")
        return super().__getitem__(index)


def logged_digits(length: int = FEW, log: str = "") -> FewDigits:
    return LoggedDigits(length, log)


class Parity(FewDigits):
    """Give digits as even and odd ones."""

    classes = 2

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.targets = self.targets % 2


def parity(length: int = FEW) -> FewDigits:
    return Parity(length)


class NamedDigits(FewDigits):
    classes = tuple(f"digit {number}" for number in range(10))


def named_digits(length: int = FEW) -> FewDigits:
    return NamedDigits(length)


class ReversedDigits(FewDigits):
    """Give the names of `NamedDigits` from the last to the first."""

    classes = NamedDigits.classes[::-1]


def reversed_digits(length: int = FEW) -> FewDigits:
    return ReversedDigits(length)


def wobbly(classes: int = 10, channels: int = 1) -> nn.Module:
    """Give `conv`'s logits plus a number that is each process's own."""

    class Wobbly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv(classes, channels)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images) + os.getpid() % 997

    return Wobbly()


def counted(
    log: str, classes: int = 10, channels: int = 1, seconds: float = 0.0, gate: str = ""
) -> nn.Module:
    """Give `conv`'s logits; each batch takes `seconds` at least, and leaves a byte in the file
    `log`. In a unit of a worker on Ray it waits for the file `gate`."""
    model = conv(classes, channels)

    def count(module: nn.Module, images: torch.Tensor) -> None:
        time.sleep(seconds)
        if gate and Path("/proc/self/cmdline").read_bytes().startswith(b"ray::Maker.make"):
            while not Path(gate).exists():
                time.sleep(0.02)
        with open(log, "ab", buffering=0) as file:  # noqa: PTH123
            file.write(b".")

    model.register_forward_pre_hook(count)
    return model


def batchwise(classes: int = 10) -> nn.Module:
    """Give the size of the batch as every logit."""

    class Batchwise(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), classes), float(len(images)))

    return Batchwise()


def by_value(classes: int = 10) -> nn.Module:
    """Look at the pixels to decide what to do, which no exporter can follow."""

    class ByValue(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = images.flatten(1)[:, :classes]
            if images.max() > 3:
                return logits * 2
            return logits

    return ByValue()


def by_darkest(classes: int = 10) -> nn.Module:
    """Add a number that is read from the pixels, of which `torch.jit.trace` makes a constant."""

    class ByDarkest(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = images.flatten(1)[:, :classes]
            return torch.cat([logits[:, 1:], logits[:, :1] + images.min().item()], 1)

    return ByDarkest()


def metrics_to(path: str) -> Any:
    """Give a function that appends lines of metrics to a file, as loggers of users do."""

    def write(line: dict[str, Any]) -> None:
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")

    return write


def tied(classes: int = 10) -> nn.Module:
    """Use one weight twice."""
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, classes))


def auxiliary(classes: int = 10) -> nn.Module:
    """Give a tuple in training, as networks with auxiliary heads do."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp(classes)

        def forward(self, images: torch.Tensor) -> Any:
            logits = self.inner(images)
            return (logits, logits) if self.training else logits

    return Auxiliary()


class Drawing(Noise):
    """Draws in `__getitem__`, from the global generators."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return (
            Image.fromarray(torch.randint(256, (8, 8), dtype=torch.uint8).numpy()),
            index % self.classes,
        )


class Deadly(Noise):
    """Ends the loader worker that reads sample 7, as the kernel does when memory is short."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 7 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def deadly(classes: int = 10, channels: int = 1) -> nn.Module:
    """Give `conv`, which ends an actor of Ray in the first batch of four or more, as the kernel
    does when memory is short."""
    model = conv(classes, channels)

    def end(module: nn.Module, images: torch.Tensor) -> None:
        is_actor = (
            Path("/proc/self/cmdline").read_bytes().startswith(b"ray::")
        )  # the driver looks at the teacher too
        if len(images[0]) >= 4 and is_actor:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(end)
    return model


def terminated(classes: int = 10, channels: int = 1) -> nn.Module:
    """Give `conv`, whose process is told to stop in each batch of four or more, as by a
    scheduler."""
    model = conv(classes, channels)

    def end(module: nn.Module, images: torch.Tensor) -> None:
        if len(images[0]) >= 4:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(end)
    return model


class Segmenter(nn.Module):
    """Maps at stride 4, or of another `stride`, main and, if wanted, auxiliary."""

    def __init__(self, classes: int, stride: int, aux: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=stride, padding=2), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.body = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head, self.aux = nn.Conv2d(12, classes, 1), nn.Conv2d(12, classes, 1) if aux else None

    def forward(self, images: torch.Tensor) -> Any:
        early = self.stem(images)
        late = self.body(early)
        pooled = late + late.mean(
            (2, 3), keepdim=True
        )  # so that a crop's map is no crop of the map
        main = self.head(pooled)
        return main if self.aux is None else {"out": main, "aux": self.aux(early)}


def segmenter(
    classes: int = 4, stride: int = 4, aux: bool = True, seed: int = 0, scale: float = 6.0
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmenter(classes, stride, aux)
        with torch.no_grad():
            for head in filter(None, (model.head, model.aux)):
                head.weight.mul_(scale)
    return model


def batch_of_one(classes: int = 10) -> nn.Module:
    """Give `conv`'s logits of a single view, and fail on more."""
    model = conv(classes)

    def fail(module: nn.Module, images: torch.Tensor) -> None:
        if len(images[0]) > 1:
            raise KeyError("rows")

    model.register_forward_pre_hook(fail)
    return model


def anything(**options: Any) -> nn.Module:
    """Take any option, as functions of users do."""
    return conv(seed=7)


class Strongest(nn.Module):
    """Give each pixel the class of its strongest colour, at stride 1 or another."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * nn.functional.avg_pool2d(images, self.stride)


def strongest(stride: int = 1) -> nn.Module:
    return Strongest(stride)


def positioned(size: tuple[int, int] = (16, 24)) -> nn.Module:
    """Add something to each pixel of images of one size, as models with embedded positions do."""

    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.linspace(0, 1, size[0] * size[1]).reshape(size))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + self.places

    return Positioned()


def failing_later(classes: int = 10, size: int = 8, channels: int = 1) -> nn.Module:
    """Give `mlp`'s logits of a view or two, and fail on more."""
    model = mlp(classes, size, channels)

    def fail(module: nn.Module, images: Any) -> None:
        if len(images[0]) > 2:
            raise OSError("no space, as on a full disk")

    model.register_forward_pre_hook(fail)
    return model


def fragile_segmenter(classes: int = 4, seed: int = 0, scale: float = 6.0) -> nn.Module:
    """Give `segmenter`'s maps of views that are black, and fail on others."""
    model = segmenter(classes, seed=seed, scale=scale)

    def fail(module: nn.Module, images: Any) -> None:
        if images[0].std() > 0.9:
            raise RuntimeError("it has seen something")

    model.register_forward_pre_hook(fail)
    return model
