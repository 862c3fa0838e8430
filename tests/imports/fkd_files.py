"""Small images, and files of labels as FKD's program writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CLASSES = ("ant", "bee", "cat")
PER_CLASS = 6
CROPS = 3
Content = list[Any]


def key(index: int) -> str:
    return f"{CLASSES[index // PER_CLASS]}/{index % PER_CLASS}"


def write_images(root: Path) -> str:
    """Write noise of several shapes; return the spec of the source."""
    generator = np.random.default_rng(0)
    for index in range(len(CLASSES) * PER_CLASS):
        path = root / f"{key(index)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40 + index, 64 - index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return f"imagefolder:{root}"


def content(index: int, *, crops: int = CROPS, k: int = 2) -> Content:
    """Return what FKD's program would write of a sample: boxes of whole pixels, in shares, flips,
    and `[crops, 2, k]` labels."""
    generator = np.random.default_rng(100 + index)
    height = 40 + index
    width = 64 - index
    top = generator.integers(0, 10, crops) / height
    left = generator.integers(0, 10, crops) / width
    high = generator.integers(5, 30, crops) / height
    wide = generator.integers(5, 30, crops) / width
    boxes = np.stack([top, left, high, wide], axis=1).astype(np.float32)
    flips = generator.random(crops) < 0.5
    own = index // PER_CLASS
    classes = np.tile((own + np.arange(k)) % len(CLASSES), (crops, 1))
    shares = np.sort(generator.dirichlet(np.ones(k + 1), crops), axis=1)[:, ::-1][:, :k]
    return [boxes, flips, np.stack([classes, shares], axis=1).astype(np.float32)]


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def write_labels(root: Path, **options: Any) -> Path:
    """Write the labels of all images; return the folder."""
    for index in range(len(CLASSES) * PER_CLASS):
        write(root / f"{key(index)}.tar", content(index, **options))
    return root


def recovered(labels: np.ndarray, *, is_normed: bool) -> torch.Tensor:
    """Return what FKD's student is trained on: the probabilities of all classes, the rest spread
    evenly over those that have no label, or left out and the others scaled to 1."""
    classes = torch.from_numpy(labels[:, 0]).long()
    shares = torch.from_numpy(labels[:, 1])
    if is_normed:
        whole = torch.zeros(len(labels), len(CLASSES)).scatter(1, classes, shares)
        return whole / whole.sum(1, keepdim=True)
    rest = (1 - shares.sum(1, keepdim=True)) / (len(CLASSES) - classes.shape[1])
    return rest.repeat(1, len(CLASSES)).scatter(1, classes, shares)
