"""Small caches of detectors that several tests share."""

from pathlib import Path
from typing import Any

from runs import dump, train

from kdcache.train.optim import OptimizerConfig

DATA = "tiny_detectors:rectangles"
TEACHER = "tiny_detectors:retinanet,mean=0.5,std=0.25,seed=7"
STUDENT = "tiny_detectors:retinanet,mean=0.5,std=0.25,seed=1"
RECIPE = """
size = 64
eval = "detection-eval"

[[transforms]]
name = "RandomPhotometricDistort"

[[transforms]]
name = "RandomIoUCrop"
trials = 4

[[transforms]]
name = "RandomHorizontalFlip"

[[transforms]]
name = "kdcache.RandomScale"
scales = [0.75, 1.0, 1.25]

[[transforms]]
name = "kdcache.Letterbox"
size = "input"
fill = [114, 114, 114]
"""


def box_settings(recipe: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of a dump, exact."""
    settings: dict[str, Any] = {
        "data": DATA,
        "teacher": TEACHER,
        "recipe": recipe,
        "codec": "full:dtype=float32",
        "batch_size": 8,
    }
    return {**settings, **changes}


def box_cache(path: Path | str, recipe: str, **changes: Any) -> str:
    """Make a cache, and return its path."""
    dump(path, **box_settings(recipe, **changes))
    return str(path)


def trained(run: Path, **changes: Any) -> dict[str, Any]:
    """Train a student, and return its result."""
    settings: dict[str, Any] = {
        "data": DATA,
        "student": STUDENT,
        "loss": "dist:tau=1,beta=1,gamma=1",
        "batch_size": 8,
        "optimizer": OptimizerConfig(lr=0.002),
    }
    return train(run, **{**settings, **changes})
