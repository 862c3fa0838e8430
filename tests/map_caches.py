"""Small caches of maps that several tests share."""

from pathlib import Path
from typing import Any

from runs import dump

from kdcache.train.metrics_reading import read_metrics

TEACHER, STUDENT = "tiny_models:segmenter", "tiny_models:segmenter,seed=3,scale=1"
DATA, EVAL = "segmentation_files:Shapes,length=48", "segmentation_files:Shapes,length=8"
RECIPE = """
size = [16, 24]
eval = "segmentation-eval"

[[transforms]]
name = "kdcache.RandomScale"
scales = [0.6, 1.0, 1.5]

[[transforms]]
name = "RandomCrop"
size = "input"
pad_if_needed = true

[[transforms]]
name = "RandomHorizontalFlip"

[[transforms]]
name = "ColorJitter"
brightness = 0.3
"""


def made(path: Path, recipe: str, **changes: Any) -> dict[str, Any]:
    settings = {
        "data": DATA,
        "teacher": TEACHER,
        "recipe": recipe,
        "seeds": "0:1",
        "batch_size": 16,
        "unit_rows": 16,
    }
    return dump(path, **{**settings, **changes})


def losses(run: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
