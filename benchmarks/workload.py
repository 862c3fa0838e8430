"""What the benchmarks run on: photo-like JPEG images, teachers with random weights, caches of given
records."""

import argparse
import io
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from kdcache.cache import Cache, Manifest, create_cache, record_layout, tar_layout
from kdcache.cache.documents.parts import MadeBy, RecipeEntry, SourceEntry, TeacherEntry
from kdcache.codecs import Codec
from kdcache.positions import Layout, One
from kdcache.runtime.device import ComputeConfig
from kdcache.views import load_recipe

DISTINCT = 64
SIDE = 160


class Photos:
    """`length` samples of `DISTINCT` JPEG files held in memory, decoded at each access; of 160x160
    pixels one has about 11 kB."""

    def __init__(self, length: int, classes: int, width: int, height: int) -> None:
        self.length = length
        self.num_classes = classes
        self.files = [jpeg(seed, width, height) for seed in range(min(length, DISTINCT))]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(self.files[index % len(self.files)])), index % self.num_classes


def photos(length: int = 512, classes: int = 1000, width: int = SIDE, height: int = SIDE) -> Photos:
    """Return the data set that the spec `workload:photos,length=N` names."""
    return Photos(length, classes, width, height)


class Pictures:
    """`length` samples of `DISTINCT` square pictures in memory, decoded: reading one costs next to
    nothing."""

    def __init__(self, length: int, classes: int, side: int) -> None:
        self.length = length
        self.num_classes = classes
        self.images = []
        for seed in range(min(length, DISTINCT)):
            self.images.append(Image.open(io.BytesIO(jpeg(seed, side, side))).convert("RGB"))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index % len(self.images)], index % self.num_classes


def pictures(length: int = 512, classes: int = 1000, side: int = SIDE) -> Pictures:
    """Return the data set that the spec `workload:pictures,length=N,side=N` names."""
    return Pictures(length, classes, side)


def perceptron(classes: int = 1000, size: int = 64, width: int = 64) -> nn.Module:
    """Return the smallest of students, `workload:perceptron,size=N`."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * size * size, width), nn.ReLU(), nn.Linear(width, classes)
    )


class BoxedPhotos:
    """`length` samples of `DISTINCT` JPEG files of 640x480 pixels, each with a few boxes at random:
    for time and memory, which do not depend on what they show."""

    task = "detection"

    def __init__(self, length: int = 64, classes: int = 80) -> None:
        self.length = length
        self.classes = tuple(f"class {number}" for number in range(classes))
        self.files = [jpeg(seed, 640, 480) for seed in range(min(length, DISTINCT))]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, np.ndarray]]:
        random = np.random.default_rng(index)
        count = int(random.integers(1, 8))
        corners = random.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(20, 180, (count, 2))], 1)
        labels = random.integers(0, len(self.classes), count)
        image = Image.open(io.BytesIO(self.files[index % len(self.files)]))
        return image, {"boxes": boxes, "labels": labels}


def teacher_spec(name: str, size: int, folder: Path, classes: int = 1000) -> str:
    """Return the spec of a timm model with random weights, saved under `folder`; time does not
    depend on their values."""
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=classes).state_dict(), path)
    return f"timm:{name},weights={path},input_size={size}"


def add_compute_options(parser: argparse.ArgumentParser, *, size: int, batch: int) -> None:
    """Add the options that `compute_config` reads, and `--size`, `--batch` and `--views`."""
    parser.add_argument("--size", type=int, default=size, help="input pixels of the models")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--views", type=int, default=256, help="views of a repetition")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--workers", type=int, default=0, help="loader workers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")


def compute_config(options: argparse.Namespace) -> ComputeConfig:
    """Return how models run, and set the number of torch threads."""
    torch.set_num_threads(options.threads)
    return ComputeConfig(
        workers=options.workers, device=options.device, precision=options.precision
    )


def make_cache(
    path: Path,
    codec: Codec,
    rows: int,
    unit_rows: int | None = None,
    layout: Layout | None = None,
    *,
    tar_seeds: int = 0,
) -> Cache:
    """Return a new, empty cache for records of `codec`, without teacher or images; with `tar_seeds`
    one of tars that so many seeds share."""
    layout = layout or One()
    task = "classification" if isinstance(layout, One) else "detection"
    if tar_seeds:
        sizes = tar_layout(codec, rows, unit_rows, seeds=tar_seeds, image_bytes=None)
    else:
        sizes = record_layout(codec, rows, unit_rows)
    manifest = Manifest(
        task=task,
        classes=codec.classes - int(layout.has_background),
        layout=layout,
        rows=rows,
        source=SourceEntry(spec="none", fingerprint="none"),
        order_seed=0,
        recipe=RecipeEntry.from_json(load_recipe("eval").to_dict()),
        teacher=TeacherEntry(
            spec="none",
            sha256="none",
            size=224,
            mean=(0.0,),
            std=(1.0,),
            precision="float32",
        ),
        **sizes,
        skip_unreadable=False,
        made_by=MadeBy(),
    )
    return create_cache(path, manifest, codec.fit_arrays())


def jpeg(
    seed: int, width: int = SIDE, height: int = SIDE, mode: str = "RGB", grain: float = 4
) -> bytes:
    """Return an image with a photograph's falling spectrum: noise at several scales, the coarser
    the stronger, `grain` last."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for cells, strength in (((3, 3), 60), ((10, 10), 30), ((40, 40), 12), ((height, width), grain)):
        coarse = random.integers(0, 256, (*cells, 3), dtype=np.uint8)
        layer = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
        pixels += strength * (layer / 128.0 - 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()
