"""Write the golden caches of the current format version, once. In this folder: PYTHONPATH=../..:..
python make.py.

A cache that stands here is never made again: it shows that what was written once can be read for
ever. A new format version gets new folders beside the old ones.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from imports import fkd_files, ml_dr_files, tinyvit_files
from runs import dump

from kdcache import import_cache
from kdcache.cache import FORMAT_VERSION, open_cache
from kdcache.sources import open_source

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

IMPORTED = "tiny_models:noise,length=18,classes=3,size=64"
"""As large as the images that the files below are of."""


def import_fkd(path: Path) -> None:
    """Make a cache of boxes in shares of the image, and flips."""
    source = open_source(IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(len(source)):
            file = Path(folder) / f"{source.key(index)}.tar"
            torch.save(fkd_files.content(index), file)
        import_cache(
            "fkd", folder, path, data=IMPORTED, teacher_name="theirs", size=24, crops="0:2"
        )


def import_ml_dr(path: Path) -> None:
    """Make a cache of boxes in pixels, flips, operations, blocks and partners."""
    with tempfile.TemporaryDirectory() as folder:
        ml_dr_files.write_folder(Path(folder), "randaug_mixing")
        import_cache("ml-dr", folder, path, data=IMPORTED, teacher_name="theirs", crops="0:2")


def import_tinyvit(path: Path) -> None:
    """Make a cache of seeds."""
    with tempfile.TemporaryDirectory() as folder:
        labels, config = tinyvit_files.write_folder(Path(folder))
        import_cache(
            "tinyvit",
            labels,
            path,
            data=IMPORTED,
            teacher_name="theirs",
            program_config=config,
            crops="0:2",
        )


IMPORTS = {"fkd": import_fkd, "ml-dr": import_ml_dr, "tinyvit": import_tinyvit}


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
    for name, make in IMPORTS.items():
        path = Path(f"v{FORMAT_VERSION}-{name}")
        if not path.exists():
            make(path)
    if not Path(f"v{FORMAT_VERSION}.npy").exists():
        cache = open_cache(f"v{FORMAT_VERSION}-full")
        logits = [
            cache.codec.decode(cache.read(seed, range(20))).logits().numpy() for seed in (0, 12)
        ]
        np.save(f"v{FORMAT_VERSION}.npy", np.stack(logits))
