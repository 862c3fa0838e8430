"""Hostile recipes, in caches that hold images, so that their views are rendered without any other
data."""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from caches import manifest
from hostile.forge import STORE
from PIL import Image

from kdcache.cache import Cache, create_cache
from kdcache.cache.committing import commit_unit
from kdcache.cache.documents.parts import Probe
from kdcache.cache.formats.protocol import StoredSample

SOURCE = {"spec": "noise", "fingerprint": "0" * 64, "classes": 5}
FLIP = {"name": "RandomHorizontalFlip"}
NESTED: dict[str, Any] = FLIP
for _ in range(20):
    NESTED = {"name": "RandomApply", "transforms": [NESTED]}

RECIPES: dict[str, list[Any]] = {
    "resize_huge": [{"name": "Resize", "size": 30_000}],
    "resize_to_more_pixels_than_memory": [{"name": "Resize", "size": [16_000, 16_000]}],
    "resize_of_a_strip": [{"name": "Resize", "size": [1, 9000]}, {"name": "Resize", "size": 9000}],
    "resize_inside": [
        {"name": "RandomApply", "p": 1.0, "transforms": [{"name": "Resize", "size": 16_000}]}
    ],
    "resize_of_the_input": [{"name": "Resize", "size": "input/1e-7"}],
    "resize_of_the_input_in_digits": [{"name": "Resize", "size": ["input/0.0000001", "input"]}],
    "resize_at_random": [{"name": "RandomResize", "min_size": 16_000, "max_size": 16_001}],
    "resize_of_the_shorter_side": [{"name": "RandomShortestSize", "min_size": 16_000}],
    "resize_with_jitter": [{"name": "ScaleJitter", "target_size": [16_000, 16_000]}],
    "scale_again_and_again": [{"name": "kdcache.RandomScale", "scales": [16.0]}] * 5,
    "pad_huge": [{"name": "Pad", "padding": 20_000}],
    "pad": [{"name": "Pad", "padding": [16_000, 16_000]}],
    "pad_one_by_one": [{"name": "Pad", "padding": [9000, 1, 9000, 16_000]}],
    "crop_with_padding": [{"name": "RandomCrop", "size": 8, "padding": 16_000}],
    "crop_that_pads": [{"name": "RandomCrop", "size": 16_000, "pad_if_needed": True}],
    "crop_of_the_centre": [{"name": "CenterCrop", "size": 16_000}],
    "crop_resized": [{"name": "RandomResizedCrop", "size": 16_000}],
    "zoom_out": [{"name": "RandomZoomOut", "side_range": [3000, 3001], "p": 1.0}],
    "turn_of_a_strip": [
        {"name": "Resize", "size": [1, 16_000]},
        {"name": "RandomRotation", "degrees": [45, 45], "expand": True},
    ],
    "steps_of_timm": [{"name": "timm.AutoAugment", "policy": "rand-n300000"}],
    "width_of_timm": [{"name": "timm.AutoAugment", "policy": "augmix-w300000"}],
    "magnitude_of_timm": [{"name": "timm.AutoAugment", "policy": "rand-m" + "9" * 60}],
    "canvas_of_timm": [{"name": "timm.RandomErasing", "canvas": 100_000}],
    "blocks_of_timm": [{"name": "timm.RandomErasing", "max_count": 10**9}],
    "steps_of_torchvision": [{"name": "RandAugment", "num_ops": 10**9}],
    "bins_of_torchvision": [{"name": "TrivialAugmentWide", "num_magnitude_bins": 10**12}],
    "mixture": [{"name": "AugMix", "mixture_width": 10**9}],
    "chain": [{"name": "AugMix", "chain_depth": 10**9}],
    "trials": [{"name": "RandomIoUCrop", "trials": 10**12}],
    "kernel": [{"name": "GaussianBlur", "kernel_size": 30_001}],
    "kernel_that_follows": [{"name": "ElasticTransform", "sigma": 1e5}],
    "samples_of_time": [{"name": "UniformTemporalSubsample", "num_samples": 10**9}],
    "many": [FLIP] * 3000,
    "many_inside": [{"name": "RandomOrder", "transforms": [FLIP] * 1000}],
    "nested": [NESTED],
    "text": [{"name": "RandomErasing", "value": "x" * 500_000}],
    "list": [{"name": "ColorJitter", "brightness": [1.0] * 10_000}],
    "lists_in_lists": [{"name": "Pad", "padding": [[[[[[[[1]]]]]]]]}],
    "number_huge": [{"name": "ColorJitter", "brightness": 10**300}],
    "several_images": [{"name": "FiveCrop", "size": 4}],
    "nothing_at_all": [{"name": "Transform"}],
    "null": [{"name": "Resize", "size": None}],
    "code": [{"name": "Lambda", "lambd": "os.system"}],
}
"""Transforms by name of the attack."""


def stored(transforms: list[Any], **table: Any) -> dict[str, Any]:
    """Return a recipe as a manifest keeps it, with a right fingerprint, whatever it asks for."""
    whole = {"mode": "L", "size": 8, "eval": "eval", "transforms": transforms, **table}
    hashed = [1, whole["mode"], transforms, *([whole["mixing"]] if "mixing" in whole else [])]
    fingerprint = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    return {"name": "theirs", "fingerprint": fingerprint, "table": whole}


def pictures(path: Path, transforms: list[Any], **table: Any) -> Cache:
    """Make a webdataset cache with images, whose units name views to be rendered again."""
    changes = {
        **STORE,
        "seeds_per_unit": 1,
        "source": SOURCE,
        "recipe": stored(transforms, **table),
    }
    cache = create_cache(path, manifest(**changes))
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(out, "PNG")
    thumbnail = base64.b64encode(bytes([7]) * 64).decode()
    for unit in range(cache.manifest.num_units):
        rows = cache.manifest.unit_range(unit)
        samples = [StoredSample(f"a/{row}", "png", out.getvalue(), b"1") for row in rows]
        probes = [Probe(row=rows.start, crc32=0, thumbnail=thumbnail)]
        commit_unit(
            cache, 0, unit, np.zeros((1, len(rows)), cache.manifest.dtype), samples, probes=probes
        )
    return cache
