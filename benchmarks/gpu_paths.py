"""Every path that a device takes, once, compared with the same on the CPU."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_counts import counted
from gpu_bench import Bench, Row, Rows
from gpu_speed import step_of
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from kdcache.cache import open_cache
from kdcache.codecs import Codec, encoded, open_codec, with_layout
from kdcache.dump.run import DumpConfig, run_dump
from kdcache.losses import open_loss
from kdcache.positions import Boxes, Heads, Layout, One, Proposals, Pyramid
from kdcache.runtime.device import ComputeConfig
from kdcache.shapes import Labels
from kdcache.soft_targets import DenseTargets
from kdcache.tasks import open_task
from kdcache.train.run import TrainConfig, Trainer
from kdcache.train.side_by_side import (
    batches_of_steps,
    own_parts,
    placed_parts,
    start_epoch,
)

CLASSES = 12
VIEWS = 4
CODECS = (
    *(f"full:dtype={dtype}" for dtype in ("float32", "float16", "bfloat16", "uint8", "uint4")),
    "topk:k=3",
    "topk:k=3,mantissa=10",
    "lowrank:step=0.5",
    "cosine",
)
LAYOUTS: Mapping[str, Layout] = {
    "one": One(),
    "maps": Heads(sizes=((4, 6),)),
    "pyramid": Pyramid(levels=((4, 6), (2, 3)), anchors=(2, 2)),
    "proposals": Proposals(count=5),
}
LOSSES = (
    "ce",
    "kl",
    "kl:standardize=true",
    "dist",
    "dist:tau=4,standardize=true",
    "dist+kl:tau=4",
    "dkd",
    "nkd",
    "mse",
    "mlkd",
    "dist:activation=sigmoid",
    "kl:activation=sigmoid",
)
MOST_BYTES = 0.02
"""Share of the bytes of records that may differ: a value near a quantiser's boundary may go to
either side."""
MOST_DECODED = 1e-4
MOST_GRADIENT = 1e-4
MOST_LOGITS = 0.02
MOST_TERM = 0.01
"""Differences relative to the CPU's; convolutions on a GPU may run in TF32."""


def codecs(bench: Bench) -> Rows:
    """Yield how far records that the device encodes are from the CPU's, and logits that it
    decodes; the worst over all layouts."""
    for spec in CODECS:
        rows = open_codec(spec, classes=CLASSES).fit(_logits(200, CLASSES, seed=1))
        bytes_off = []
        decoded_off = []
        for layout in LAYOUTS.values():
            codec = with_layout(rows, layout)
            in_bytes, in_logits = _codec_differences(codec, layout, bench.device)
            bytes_off.append(in_bytes)
            decoded_off.append(in_logits)
        row: dict[str, Any] = {"codec": spec, "bytes that differ": max(bytes_off)}
        row["decoded, relative"] = max(decoded_off)
        limits = {"bytes that differ": MOST_BYTES, "decoded, relative": MOST_DECODED}
        yield judged(row, limits)


def _codec_differences(codec: Codec, layout: Layout, device: torch.device) -> tuple[float, float]:
    """Return the share of bytes of records that differ, and how far decoded logits are apart."""
    logits = _logits(VIEWS, *layout.sites, CLASSES)
    expected = encoded(codec, logits, _boxes(layout, "cpu"))
    found = encoded(codec, logits.to(device), _boxes(layout, device))
    is_other = np.frombuffer(found.tobytes(), "u1") != np.frombuffer(expected.tobytes(), "u1")
    on_cpu = codec.decode(expected)
    on_device = codec.decode(expected, device)
    apart = [
        relative(on_device.logits(), on_cpu.logits()),
        relative(on_device.probs(4.0), on_cpu.probs(4.0)),
    ]
    return float(is_other.mean()), max(apart)


def losses(bench: Bench) -> Rows:
    """Yield how far the gradient of each loss on rows is from the CPU's."""
    student = _logits(32, CLASSES)
    teacher = student + _logits(32, CLASSES, seed=1)
    targets = torch.arange(32) % CLASSES
    for spec in LOSSES:
        gradients = []
        for device in (bench.device, torch.device("cpu")):
            leaf = student.to(device, copy=True).requires_grad_()
            terms = open_task("classification").terms(
                open_loss(spec),
                leaf,
                DenseTargets(teacher.to(device)),
                Labels(targets.to(device)),
                label_smoothing=0.0,
            )
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            gradients.append(leaf.grad)
        row = {"loss": spec, "gradient, relative": relative(*gradients)}
        yield judged(row, {"gradient, relative": MOST_GRADIENT})


TASKS: Mapping[str, dict[str, Any]] = {
    "classification": {
        "data": "gpu_paths:scenes",
        "model": "gpu_paths:classifier",
        "size": "[32, 32]",
        "losses": ("ce", "kl", "dist"),
    },
    "segmentation": {
        "data": "gpu_paths:masks",
        "model": "gpu_paths:segmenter",
        "size": "[32, 32]",
        "losses": ("kl", "dist", "cwd", "dist:ignore_masked=true"),
    },
    "detection": {
        "data": "gpu_paths:boxes",
        "model": "gpu_paths:detector",
        "size": "[64, 64]",
        "losses": ("kl", "dist", "dist:positions=0.3"),
    },
}


def tasks(bench: Bench) -> Rows:
    """Yield how far a dump's logits and the losses of a training step are from the CPU's, for each
    task."""
    for task, settings in TASKS.items():
        paths = {}
        for device in (str(bench.device), "cpu"):
            paths[device] = _dumped(bench.folder / f"{task}-{device}", device, settings)
        apart = relative(_cached(paths[str(bench.device)]), _cached(paths["cpu"]))
        row = {"what": f"{task}: dump", "relative": apart}
        yield judged(row, {"relative": MOST_LOGITS})
        for loss in settings["losses"]:
            terms = []
            for device in (str(bench.device), "cpu"):
                terms.append(_second_loss(paths["cpu"], device, loss, settings))
            row = {"what": f"{task}: step, {loss}", "relative": relative(*terms)}
            yield judged(row, {"relative": MOST_TERM})


def _dumped(path: Path, device: str, settings: Mapping[str, Any]) -> str:
    """Return the path of a cache that a device has made, if it is not there yet."""
    recipe = path.with_suffix(".toml")
    name = path.name.partition("-")[0]
    evaluated = "eval" if name == "classification" else f"{name}-eval"
    recipe.write_text(
        f'size = {settings["size"]}\neval = "{evaluated}"\n'
        '[[transforms]]\nname = "RandomHorizontalFlip"\n'
    )
    config = DumpConfig(
        cache=str(path),
        data=settings["data"],
        teacher=f"{settings['model']},mean=0.5,std=0.25",
        recipe=str(recipe),
        codec="full:dtype=float32",
        batch_size=VIEWS,
        compute=ComputeConfig(device=device, workers=0),
    )
    run_dump(config)
    return str(path)


def _cached(path: str) -> Tensor:
    cache = open_cache(path)
    rows = np.arange(cache.manifest.rows)
    return cache.codec.decode(cache.read(0, rows)).logits()


def task_steps(bench: Bench) -> Rows:
    """Yield what a training step of each task asks of the device, of networks that are next to
    nothing."""
    for task, settings in TASKS.items():
        cache = _dumped(bench.folder / f"{task}-cpu", "cpu", settings)
        for loss in settings["losses"]:
            with _trainer(cache, str(bench.device), loss, settings) as trainer:
                step = step_of(trainer)
                step()
                counts = counted(step, bench.device)
                yield {"step": f"{task}: {loss}", **counts.columns(1)}


def _second_loss(cache: str, device: str, loss: str, settings: Mapping[str, Any]) -> Tensor:
    """Return the terms of the loss of a student's second step, which the first has changed."""
    with _trainer(cache, device, loss, settings) as trainer:
        start_epoch([trainer])
        for parts in batches_of_steps([trainer]):
            terms = trainer.train_step(own_parts(trainer, placed_parts([trainer], parts)))
        return torch.stack(list(terms.values())).cpu()


@contextmanager
def _trainer(cache: str, device: str, loss: str, settings: Mapping[str, Any]) -> Iterator[Trainer]:
    """Give what trains a student from a cache, two steps an epoch."""
    config = TrainConfig(
        run="none",
        cache=cache,
        data=settings["data"],
        student=f"{settings['model']},seed=1,mean=0.5,std=0.25",
        loss=loss,
        epochs=1,
        batch_size=VIEWS,
        compute=ComputeConfig(device=device, workers=0),
    )
    trainer = Trainer(config)
    try:
        yield trainer
    finally:
        trainer.data.close()


def judged(row: dict[str, Any], limits: Mapping[str, float]) -> Row:
    """Return the row with what is wrong with it: values above their limits, or none at all."""
    faults = []
    for name, limit in limits.items():
        if not row[name] <= limit:  # which NaN is not either
            what = next(iter(row.values()))
            faults.append(f"{what}: {name} is {row[name]:.3g}, above {limit:g}")
    return {**row, "fault": "; ".join(faults)}


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of what is expected."""
    expected = expected.double()
    return float((found.cpu().double() - expected).norm() / expected.norm())


def _logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _boxes(layout: Layout, device: torch.device | str) -> Boxes | None:
    if not layout.has_boxes:
        return None
    corners = torch.arange(4.0).expand(VIEWS, layout.num_positions, 4)
    counts = torch.arange(VIEWS) + 1
    return Boxes(corners.to(device), counts.to(device))


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Draw weights in the block from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def classifier(classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """Return the network that `gpu_paths:classifier` names."""
    with _drawn(seed):
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes),
        )  # fmt: skip


def segmenter(classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """Return the network that `gpu_paths:segmenter` names; its maps have a stride of 4."""
    with _drawn(seed):
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(16, classes, 1),
        )  # fmt: skip


class _Levels(nn.Module):
    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1))
        self.coarse = nn.Conv2d(32, 32, 3, 2, 1)

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        fine = self.fine(images)
        return OrderedDict([("0", fine), ("1", self.coarse(fine))])


def detector(classes: int = CLASSES, seed: int = 0) -> nn.Module:
    """Return the FCOS that `gpu_paths:detector` names."""
    with _drawn(seed):
        anchors = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
        network = FCOS(_Levels(), classes, anchor_generator=anchors)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):  # torchvision's begin with the same logits for all
                nn.init.kaiming_normal_(layer.weight)
        return network


class _Scenes:
    """Pictures of noise, each with the target that its task asks for."""

    classes = CLASSES

    def __init__(self, task: str, side: int) -> None:
        self.task = task
        self.side = side

    def __len__(self) -> int:
        return 2 * VIEWS

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        if index >= len(self):
            raise IndexError(index)
        random = np.random.default_rng(index)
        pixels = random.integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return Image.fromarray(pixels), self._target(index, random)

    def _target(self, index: int, random: np.random.Generator) -> Any:
        if self.task == "classification":
            return index % CLASSES
        if self.task == "segmentation":
            mask = random.integers(0, CLASSES + 1, (self.side, self.side), dtype=np.uint8)
            return Image.fromarray(np.where(mask == CLASSES, 255, mask).astype(np.uint8))
        corners = random.integers(0, self.side // 2, (2, 2))
        boxes = np.concatenate([corners, corners + self.side // 3], axis=1)
        labels = random.integers(0, CLASSES, 2)
        return {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}


def scenes() -> _Scenes:
    """Return the data set that `gpu_paths:scenes` names."""
    return _Scenes("classification", 32)


def masks() -> _Scenes:
    """Return the data set that `gpu_paths:masks` names."""
    return _Scenes("segmentation", 32)


def boxes() -> _Scenes:
    """Return the data set that `gpu_paths:boxes` names."""
    return _Scenes("detection", 64)
