"""Small data sets of images with boxes: in memory, and in the layouts of COCO, VOC and YOLO."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

Box = tuple[float, float, float, float]


class Things:
    """Noise images, with boxes as torchvision's detectors take them; sample i has i of them."""

    task, classes = "detection", ("cup", "bowl", "spoon")

    def __init__(self, length: int = 6, side: int = 32) -> None:
        self.length, self.side = length, side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        random = np.random.default_rng(index)
        corners = random.uniform(0, self.side, (index, 2, 2)).astype(np.float32)
        boxes = np.sort(corners, axis=1).reshape(index, 4)
        labels = torch.arange(index) % 3
        return noise(self.side, self.side, index), {"boxes": boxes, "labels": labels}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_noise(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(width, height, seed).save(path)


def coco_content(**changes: Any) -> dict[str, Any]:
    """Return the content of a file of COCO's: three images, in no order, of which one is empty."""
    content = {
        "info": {"year": 2026},
        "images": [
            {"id": 40, "file_name": "b/two.png", "width": 20, "height": 10},
            {"id": 7, "file_name": "a.png", "width": 8, "height": 6},
            {"id": 11, "file_name": "c.png"},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 40,
                "category_id": 90,
                "bbox": [1, 2, 3.5, 4],
                "area": 9,
                "iscrowd": 1,
                "segmentation": [[1, 2, 4, 2, 4, 6]],
            },
            {"id": 2, "image_id": 11, "category_id": 3, "bbox": [0, 0, 2, 2]},
            {"id": 3, "image_id": 40, "category_id": 3, "bbox": [15, 5, 10, 2], "iscrowd": 0},
            {"id": 4, "image_id": 40, "category_id": 3, "bbox": [15, 5, 0, 2]},
        ],
    }
    return content | changes


def write_coco(root: Path, content: Any = None) -> str:
    """Write images and a file of annotations; return the spec."""
    for number, name in enumerate(("b/two.png", "a.png", "c.png")):
        width, height = ((20, 10), (8, 6), (5, 5))[number]
        write_noise(root / "images" / name, width, height, number)
    (root / "boxes.json").write_text(json.dumps(content or coco_content()))
    return f"coco:{root}/images,annotations={root}/boxes.json"


def voc_object(name: str, box: Sequence[float], more: str = "") -> str:
    left, upper, right, lower = box
    return (
        f"<object><name>{name}</name>{more}<bndbox><xmax>{right}</xmax><xmin>{left}</xmin>"
        f"<ymin>{upper}</ymin><ymax>{lower}</ymax></bndbox></object>"
    )


def write_voc_boxes(root: Path, objects: dict[str, str], split: str = "trainval") -> Path:
    """Write images of 20x10 pixels with these objects, in VOC's layout."""
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (root / "Annotations").mkdir(exist_ok=True)
    for number, (name, text) in enumerate(objects.items()):
        write_noise(root / "JPEGImages" / f"{name}.jpg", 20, 10, number)
        (root / "Annotations" / f"{name}.xml").write_text(
            f'<?xml version="1.0"?><annotation><filename>{name}.jpg</filename>{text}</annotation>'
        )
    (lists / f"{split}.txt").write_text("\n".join(objects) + "\n")
    return root


def write_yolo(root: Path, labels: dict[str, str | None], split: str = "train") -> Path:
    """Write images of 20x10 pixels and their labels; None for no file."""
    for number, (name, text) in enumerate(labels.items()):
        write_noise(root / "images" / split / f"{name}.png", 20, 10, number)
        if text is not None:
            file = root / "labels" / split / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return root
