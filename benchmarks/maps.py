"""What codecs cost on maps: bytes per view in several orders of the bytes, and the error of DIST's
gradient.

    python benchmarks/maps.py CACHE [--json]

CACHE is a cache of maps with the codec full:dtype=float32 (benchmarks/README.md says how to make
one). The bytes are those of a view's record, compressed by itself at the codec's own level of zstd.
The error is that of a batch of one view's pixels, the mean over views; the student is the teacher
on the next pixel.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numcodecs import Zstd
from torch import Tensor

from kdcache.cache import open_cache
from kdcache.codec_error.gradients import gradients
from kdcache.codecs import open_codec
from kdcache.losses import dist_loss
from kdcache.soft_targets import DenseTargets, SoftTargets

CODECS = [
    "full:dtype=float32",
    "full:dtype=float16",
    "full:dtype=uint8",
    "full:dtype=uint4",
    "topk:k=2",
    "topk:k=4",
]
STEPS = (0.25, 0.5, 1.0, 2.0)
TAUS = (1.0, 4.0)
Bytes = np.ndarray
"""Bytes of one view, `[height, width, bytes of a pixel]`."""

ORDERS: dict[str, Callable[[Bytes], Bytes]] = {
    "pixel by pixel": lambda view: view,
    "byte planes": lambda view: view.transpose(2, 0, 1),
    "planes, delta along width": lambda view: np.diff(
        view.transpose(2, 0, 1), axis=2, prepend=np.uint8(0)
    ),
    "bit planes": lambda view: np.packbits(
        np.unpackbits(view.transpose(2, 0, 1)[..., None], axis=3).transpose(0, 3, 1, 2)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cache = open_cache(options.cache)
    maps = cache.codec.decode(
        cache.read(cache.complete_seeds()[0], list(range(cache.manifest.rows)))
    ).logits()[:, 0]
    cases = {
        spec: measured(spec, maps)
        for spec in [*CODECS, *(f"lowrank:step={step}" for step in STEPS)]
    }
    cases["uint8, one scale per view"] = scaled(maps, (1, 2, 3))
    cases["uint8, one scale per class"] = scaled(maps, (1, 2))
    if options.json:
        print(
            json.dumps({"benchmark": "maps", "shape": list(maps.shape), "codecs": cases}, indent=1)
        )
        return
    print(f"maps {tuple(maps.shape)}")
    for spec, case in cases.items():
        sizes = ", ".join(f"{name} {size / 1024:.1f}" for name, size in case["bytes"].items())
        print(
            f"{spec:28} KiB per view: {sizes}; error"
            f" {', '.join(f'{error:.4f}' for error in case['error'])}"
        )


def measured(spec: str, maps: Tensor) -> dict[str, Any]:
    """Return bytes and errors of a codec of rows, lowrank fitted on half of the views and measured
    on the others."""
    codec = open_codec(spec, classes=maps.shape[-1])
    views = maps[len(maps) // 2 :]
    codec = codec.fit(maps[: len(maps) // 2].flatten(0, 2)[::7])
    records = [codec.encode(view.flatten(0, 1)) for view in views]
    raw = [one.view(np.uint8).reshape(*views.shape[1:3], -1) for one in records]
    return {
        "bytes": sizes(raw, codec.zstd_level),
        "error": errors(views, [codec.decode(one) for one in records]),
    }


def scaled(maps: Tensor, axes: tuple[int, ...]) -> dict[str, Any]:
    """Return bytes and errors of uint8 with one scale and offset per view, or per view and
    class."""
    views = maps[len(maps) // 2 :]
    low = views.amin(axes, keepdim=True)
    high = views.amax(axes, keepdim=True)
    step = (high - low) / 255
    stored = ((views - low) / step).round()
    rows = [
        DenseTargets((low[i : i + 1] + step[i : i + 1] * stored[i : i + 1]).flatten(0, 2))
        for i in range(len(views))
    ]
    return {
        "bytes": sizes([one.to(torch.uint8).numpy() for one in stored], 5),
        "error": errors(views, rows),
    }


def sizes(raw: list[Bytes], level: int) -> dict[str, float]:
    """Return the mean bytes of a view in each order."""
    zstd = Zstd(level=level)
    lengths = {
        name: [len(zstd.encode(np.ascontiguousarray(order(view)))) for view in raw]
        for name, order in ORDERS.items()
    }
    return {name: float(np.mean(of_views)) for name, of_views in lengths.items()}


def errors(views: Tensor, decoded: list[SoftTargets]) -> list[float]:
    """Return the error of DIST's gradient at each temperature."""
    found = []
    for tau in TAUS:
        ratios = []
        for view, rows in zip(views, decoded, strict=True):
            exact = view.flatten(0, 1)
            student = view.roll(-1, 1).flatten(0, 1)
            wanted, got = (
                gradients(student, teacher, lambda a, b, tau=tau: [dist_loss(a, b, tau=tau)])[0]
                for teacher in (exact, rows)
            )
            ratios.append(float((got - wanted).norm() / wanted.norm()))
        found.append(float(np.mean(ratios)))
    return found


if __name__ == "__main__":
    main()
