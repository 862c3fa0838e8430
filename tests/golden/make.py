"""Write the golden caches of the current format version, once. In this folder: PYTHONPATH=../..:..
python make.py.

A cache that stands here is never made again: it shows that what was written once can be read for
ever. A new format version gets new folders beside the old ones.
"""

import tempfile
from pathlib import Path

import numpy as np
from runs import dump

from kdcache.cache import FORMAT_VERSION, open_cache

DATA = "tiny_models:noise,length=20,classes=5,size=8"
TEACHER = "tiny_models:conv,classes=5,seed=7,mean=0.5,std=0.25"
CODECS = {"full": "full:dtype=float16", "topk": "topk:k=3", "lowrank": "lowrank:step=0.1"}
SETTINGS = {"data": DATA, "teacher": TEACHER, "unit_rows": 8, "batch_size": 8}

BOXES = """
size = 64
eval = "detection-eval"

[[transforms]]
name = "RandomHorizontalFlip"

[[transforms]]
name = "kdcache.Letterbox"
size = "input"
"""
DETECTOR = {
    "data": "tiny_detectors:rectangles,length=20",
    "teacher": "tiny_detectors:retinanet,mean=0.5,std=0.25,seed=7",
    "codec": "cosine:steps=12",
    "unit_rows": 8,
    "batch_size": 8,
}


def dump_detector(path: Path) -> None:
    """Make a cache of class scores at the anchors of two levels."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "boxes.toml"
        recipe.write_text(BOXES)
        dump(path, recipe=str(recipe), seeds="0,12", **DETECTOR)


if __name__ == "__main__":
    for name, codec in CODECS.items():
        path = Path(f"v{FORMAT_VERSION}-{name}")
        if path.exists():  # it is never made again
            continue
        dump(path, codec=codec, seeds="0,12", **SETTINGS)
    if not (detector := Path(f"v{FORMAT_VERSION}-cosine")).exists():
        dump_detector(detector)
    if not (tars := Path(f"v{FORMAT_VERSION}-webdataset")).exists():
        dump(tars, codec=CODECS["full"], seeds="12:14", store="webdataset", **SETTINGS)
    if not Path(f"v{FORMAT_VERSION}.npy").exists():
        cache = open_cache(f"v{FORMAT_VERSION}-full")
        logits = [
            cache.codec.decode(cache.read(seed, range(20))).logits().numpy() for seed in (0, 12)
        ]
        np.save(f"v{FORMAT_VERSION}.npy", np.stack(logits))
