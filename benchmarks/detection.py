"""What a detection cache costs at real sizes: bytes, encoding and decoding, the dump, an epoch, and
reading.

    python benchmarks/detection.py [PART ...] [--model SPEC --canvas 512x512] [--json]

The detector has drawn weights: time and memory do not depend on their values. Bytes do, and come
from a real detector with --logits; benchmarks/detection_codecs.py has errors as well. The data are
drawn photographs with boxes at random, or those of --data.

The parts, by default all:

codecs   of each codec: bytes of a record and as stored, milliseconds a view to encode, to compress
         and to decode, beside the teacher's forward pass and the student's step on labels; and the
         most bytes that each of these holds at once
dump     views a second of a dump against bare inference, as benchmarks/dump.py
epoch    seconds of an epoch from a cache against one on labels only, as benchmarks/map_epoch.py
reading  records from slabs and in windows of units, as benchmarks/map_epoch.py; the logits are
         smooth noise, and no detector is run
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w
import torch
from dump import measure as measure_dump
from dump import teacher_logits
from map_epoch import epochs, reading
from measure import interleave, make_parser, peak_bytes, report, spreads
from nanodet import canvas_of
from safetensors.torch import save_file
from torch import Tensor
from workload import compute_config, make_cache

from kdcache.cache import Cache, create_cache, open_cache, stored_bytes
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.formats.zarr import ZarrFormat
from kdcache.codecs import Codec, open_codec, with_layout
from kdcache.codecs.positions import encoded
from kdcache.dump.job import Job, prepare
from kdcache.dump.run import DumpConfig, run_dump
from kdcache.losses import open_loss
from kdcache.models.model import open_model
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import Layout, Pyramid
from kdcache.runtime.allocator import keep_freed_memory
from kdcache.tasks import open_task
from kdcache.views import Batch, RowsUnderSeeds, load_recipe

CODECS = ("full:dtype=float16", "full:dtype=uint8", "cosine")
DIST = "dist:tau=1,beta=1,gamma=1"
STRIDES = (8, 16, 32, 64, 128)
"""Of the levels of a pyramid."""
SAMPLE = 16_384
"""Rows that a codec is fitted to."""


def recipe_of(folder: Path, canvas: tuple[int, int]) -> str:
    """Return the file of the recipe `coco` on a canvas."""
    table = {**load_recipe("coco").to_dict()["table"], "size": list(canvas)}
    path = folder / "canvas.toml"
    path.write_text(tomli_w.dumps(table))
    return str(path)


def teacher_of(folder: Path, options: argparse.Namespace, recipe: str) -> str:
    """Return the spec of the detector with drawn weights, saved under `folder`."""
    torch.manual_seed(0)
    model = open_model(
        options.model, classes=options.classes, recipe=load_recipe(recipe), task="detection"
    )
    path = folder / "teacher.safetensors"
    save_file(model.module.state_dict(), path)
    return f"{options.model},weights={path}"


def dump_config(folder: Path, options: argparse.Namespace, **changes: Any) -> DumpConfig:
    """Return a dump of the detector's views."""
    recipe = recipe_of(folder, options.canvas)
    data = f"workload:BoxedPhotos,length={options.views},classes={options.classes}"
    settings: dict[str, Any] = {
        "cache": str(folder / "cache"),
        "data": options.data or data,
        "teacher": teacher_of(folder, options, recipe),
        "recipe": recipe,
        "codec": options.codec,
        "batch_size": options.batch,
        "compute": compute_config(options),
    }
    return DumpConfig(**{**settings, **changes})


class Logits(NamedTuple):
    """Logits to fit codecs to, and others to measure them on."""

    fitting: Tensor
    measured: TeacherLogits
    layout: Layout


def logits_of_file(path: str) -> Logits:
    """Return those that benchmarks/nanodet.py wrote, in halves."""
    with np.load(path, allow_pickle=False) as arrays:
        teacher = torch.from_numpy(arrays["teacher"].astype(np.float32))
        sizes = tuple((int(height), int(width)) for height, width in arrays["levels"])
    half = len(teacher) // 2
    layout = Pyramid(sizes, anchors=(1,) * len(sizes))
    return Logits(teacher[:half], TeacherLogits(teacher[half:]), layout)


def measure_codecs(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return bytes, times and memory of each codec, and times and memory of the models."""
    job = prepare(dump_config(folder, options, codec="full:dtype=uint8"))
    cache = create_cache(job.config.cache, job.manifest)
    batch = next(iter(job.loader(cache, [RowsUnderSeeds(range(options.batch), [0])])))
    calls: dict[str, Callable[[], object]] = {
        "teacher": partial(teacher_logits, job, batch),
        "step": step_on_labels(job, batch, options),
    }
    if options.logits:
        logits = logits_of_file(options.logits)
    else:
        drawn = teacher_logits(job, batch)
        logits = Logits(drawn.values, drawn, cache.manifest.layout)
    num_views = dict.fromkeys(calls, options.batch)
    sizes = {}
    for spec in codecs_for(logits.layout):
        codec = fitted(spec, logits.fitting, logits.layout)
        sizes[spec], of_codec = codec_calls(codec, logits)
        for name, call in of_codec.items():
            calls[f"{spec}, {name}"] = call
            num_views[f"{spec}, {name}"] = len(logits.measured.values)
    variants = {name: _ignoring_repetition(call) for name, call in calls.items()}
    times = interleave(variants, options.repetitions)
    return {
        "positions": logits.layout.num_positions,
        "sizes": sizes,
        "milliseconds_per_view": {
            name: spreads(1000 * each / num_views[name]) for name, each in times.items()
        },
        "peak_megabytes": {
            name: peak_bytes(call) / 1e6
            for name, call in calls.items()
            if "compress" not in name  # which holds no tensors
        },
    }


def codecs_for(layout: Layout) -> list[str]:
    """Return the codecs that are measured; `cosine` is for maps of sigmoids."""
    return [spec for spec in CODECS if spec != "cosine" or layout.activation == "sigmoid"]


def codec_calls(
    codec: Codec, logits: Logits
) -> tuple[dict[str, float], dict[str, Callable[[], object]]]:
    """Return what the records of a codec take, and what encodes, compresses and decodes them."""
    records = encoded(codec, logits.measured.values, logits.measured.boxes)
    stored = stored_bytes(codec, records)
    sizes = {
        "record_bytes": codec.record_dtype.itemsize,
        "stored_bytes": stored,
        "stored_bytes_per_position": stored / logits.layout.num_positions,
    }
    calls: dict[str, Callable[[], object]] = {
        "encode": partial(encoded, codec, logits.measured.values, logits.measured.boxes),
        "compress": partial(compress, codec, records),
        "decode": partial(codec.decode, records),
    }
    return sizes, calls


def _ignoring_repetition(call: Callable[[], object]) -> Callable[[int], object]:
    return lambda _: call()


def fitted(spec: str, logits: Tensor, layout: Layout) -> Codec:
    """Return a codec fitted to some positions of logits, if it needs that."""
    rows = logits.flatten(0, 1)
    places = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    codec = open_codec(spec, classes=rows.shape[1]).fit(rows[places])
    return with_layout(codec, layout)


def compress(codec: Codec, records: np.ndarray) -> int:
    """Return the bytes of a unit of these records; one of few takes longer a view than those of a
    large cache, since each chunk takes its time."""
    unit_format = ZarrFormat(
        rows=len(records),
        unit_rows=len(records),
        chunk_rows=len(records),
        dtype=records.dtype,
        chunk_bytes=codec.chunk_bytes or records.dtype.itemsize,
        zstd_level=codec.zstd_level,
    )
    return len(unit_format.encode(0, records))


def step_on_labels(job: Job, batch: Batch, options: argparse.Namespace) -> Callable[[], None]:
    """Return what takes a student's step on labels, but for the optimiser: forward and backward."""
    student: VisionModel = open_model(
        options.model, classes=options.classes, recipe=job.recipe, task="detection"
    )
    model = job.compute.place(student).train()
    task = open_task("detection")
    loss = open_loss("ce")

    def step() -> None:
        output = model(job.compute.move(batch.views[0]))
        terms = task.terms(loss, output, None, batch.labels, label_smoothing=0.0)
        torch.stack(list(terms.values())).sum().backward()
        model.zero_grad()

    return step


def smooth_logits(layout: Layout, classes: int, views: int, seed: int) -> Tensor:
    """Return logits of a view that change little from place to place."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for segment in layout.segments:
        height, width, *anchors = segment.shape
        num_maps = anchors[0] * classes
        coarse = torch.randn(views, num_maps, height // 4 + 2, width // 4 + 2, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        smooth += 0.1 * torch.randn(smooth.shape, generator=generator)
        levels.append(smooth.permute(0, 2, 3, 1).reshape(views, -1, classes))
    return torch.cat(levels, 1) - 4


def synthetic_cache(folder: Path, options: argparse.Namespace) -> Cache:
    """Return a cache of smooth noise at the positions of a detector's pyramid."""
    height, width = options.canvas
    sizes = tuple((-(-height // stride), -(-width // stride)) for stride in STRIDES)
    layout = Pyramid(sizes, (options.anchors,) * len(STRIDES))
    first = smooth_logits(layout, options.classes, 1, 0)
    codec = fitted(options.codec or "cosine", first, layout)
    unit_rows = max(options.views // 8, 1)
    cache = make_cache(folder / "cache", codec, options.views, unit_rows, layout)
    start_seed(cache, 0)
    for unit in range(cache.manifest.num_units):
        records = []
        for row in cache.manifest.unit_range(unit):
            records.append(codec.encode(smooth_logits(layout, options.classes, 1, row)))
        commit_unit(cache, 0, unit, np.concatenate(records))
    return cache


def measure_reading(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates of slabs and windows."""
    cache = synthetic_cache(folder, options)
    return {"unit_rows": cache.manifest.unit_rows, **reading(cache, folder, options)}


def measure_dumping(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates of the dump and of bare inference."""
    return measure_dump(dump_config(folder, options), options.views, options.repetitions)


def measure_epochs(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return times of epochs on labels, and with DIST from slabs and in windows."""
    config = dump_config(folder, options, seeds="0:2", unit_rows=max(options.views // 4, 1))
    run_dump(config)
    changes = {"student": options.model, "teacher": None, "window": 2}
    given = argparse.Namespace(**{**vars(options), **changes})
    return epochs(open_cache(config.cache), folder, given)


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "codecs": measure_codecs,
    "dump": measure_dumping,
    "epoch": measure_epochs,
    "reading": measure_reading,
}


def lines_of(result: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Return what a part gave, one number or spread a line."""
    lines = {}
    for key, value in result.items():
        full_name = f"{name}, {key}" if name else key
        is_spread = isinstance(value, dict) and {"median", "wall"} & set(value)
        if isinstance(value, dict) and not is_spread:
            lines |= lines_of(value, full_name)
        else:
            lines[full_name] = value
    return lines


def main() -> None:
    parser = make_parser(__doc__, repetitions=5)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--model", default="torchvision:fcos_resnet50_fpn")
    parser.add_argument("--canvas", type=canvas_of, default="512x512", help="height x width")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--anchors", type=int, default=1, help="of `reading`, at each place")
    parser.add_argument("--logits", help="of `codecs`: a file that benchmarks/nanodet.py wrote")
    parser.add_argument("--data", help="by default drawn photographs")
    parser.add_argument("--codec", help="of dump, epoch and reading; by default the default")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--views", type=int, default=8, help="views of a seed")
    parser.add_argument("--window", type=int, default=4, help="units of a window")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--workers", type=int, default=0, help="loader workers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    compute_config(options)
    keep_freed_memory()
    # the disk of the working folder: /tmp may be memory
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        os.environ["KDCACHE_HOME"] = name
        results = {}
        for part in options.parts or PARTS:
            folder = Path(name) / part
            folder.mkdir()
            results[part] = PARTS[part](folder, options)
    settings = {key: str(value) for key, value in vars(options).items()}
    named = {"benchmark": "detection", "settings": settings, **results}
    report(named, lines_of(results), as_json=options.json)


if __name__ == "__main__":
    main()
