"""Scenes with exact boxes: scikit-learn's handwritten digits, dark and bright, of many sizes and
occluding one another, among scribbles, on the ground of scenes.py.

    python examples/boxed_scenes.py boxes   draws 3,000 scenes to train on and 400 to test on, into
    a folder
    kdcache train-student runs/teacher --data
    coco:boxes/train,annotations=boxes/train.json ...           (see benchmarks/detection_study.py)

`boxes/few.json` lists the first 400 of those to train on, and `imagefolder:boxes/crops` has 8,000
pictures of one object each, from which the bodies of detectors learn classes before.

Twenty classes: each digit in dark and in bright ink. A scribble is a digit whose quarters have
changed places; it is no object. Boxes are those of the pixels that are seen. As annotators would,
an object is left out of which little is seen; it is still in the image.
"""

import argparse
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scenes import draw_ground, lit

from kdcache.sources import Digits

INKS = ("dark", "bright")
SMALLEST, LARGEST = 20, 56
"""Pixels of the square that a digit is drawn in."""
_INK = 0.4
"""From which a pixel is the digit's, of 1."""
_SEEN_SHARE = 0.35
_SEEN_PIXELS = 30
"""An object with less than this share or number of its pixels in sight is left out."""
_SCRIBBLES = 0.2
"""Share of what is drawn that is no object."""


class BoxedScenes:
    """Scene i is drawn by a generator of its own; `split` decides which scenes and which
    handwriting."""

    task = "detection"
    classes = tuple(f"{ink} {digit}" for digit in range(10) for ink in INKS)

    def __init__(self, split: str = "train", length: int = 3000, side: int = 96) -> None:
        self.split, self.length, self.side = split, length, side

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Return a scene, and `boxes`, float64 `[objects, 4]` in pixels, and `labels`."""
        random = np.random.default_rng([index, self.split == "test"])
        image, _ = draw_ground(random, self.side, self.side)
        owners = np.full((self.side, self.side), -1)  # the thing that a pixel shows
        labels = []
        sizes = []
        for number in range(random.integers(4, 10)):
            label, shape = self._put_thing(random, image, owners, number)
            labels.append(label)
            sizes.append(shape)
        boxes, seen = _seen_boxes(owners, labels, sizes)
        return lit(random, image), {"boxes": boxes, "labels": np.array(labels)[seen]}

    def _put_thing(
        self, random: np.random.Generator, image: "np.ndarray", owners: "np.ndarray", number: int
    ) -> tuple[int, int]:
        """Draw a digit or a scribble over all before it, and return its class, -1 of a scribble,
        and its number of pixels."""
        chosen = random.integers(0, len(self._digits))
        ink = int(random.integers(0, len(INKS)))
        label = class_of(int(self._digits.targets[chosen]), ink)
        pixels = self._digits.data[chosen]
        if random.random() < _SCRIBBLES:
            label = -1
            pixels = np.roll(pixels, 4, axis=(0, 1))
        # many small ones and few large ones
        size = int(SMALLEST * (LARGEST / SMALLEST) ** random.random())
        place = _place(random, size, self.side)
        shape = _paint(random, image[place], pixels, ink)
        owners[place][shape] = number
        return label, int(shape.sum())

    @cached_property
    def _digits(self) -> Digits:
        return Digits(self.split)


class Crops:
    """Pictures of one object each, its class beside it: what a detector's body can learn classes
    from, as those of others do from ImageNet."""

    classes = BoxedScenes.classes

    def __init__(self, split: str = "train", length: int = 8000, side: int = 32) -> None:
        self.split, self.length, self.side = split, length, side

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return a picture and its class."""
        random = np.random.default_rng([index, self.split == "test", self.side])
        image, _ = draw_ground(random, self.side, self.side)
        chosen = random.integers(0, len(self._digits))
        ink = int(random.integers(0, len(INKS)))
        size = int(random.integers(SMALLEST, self.side))
        place = _place(random, size, self.side)
        _paint(random, image[place], self._digits.data[chosen], ink)
        return lit(random, image), class_of(int(self._digits.targets[chosen]), ink)

    @cached_property
    def _digits(self) -> Digits:
        return Digits(self.split)


def class_of(digit: int, ink: int) -> int:
    """Return the class of a digit in an ink, which is a place in INKS."""
    return digit * len(INKS) + ink


def _place(random: np.random.Generator, size: int, side: int) -> tuple[slice, slice]:
    """Return a square of `size` pixels within one of `side`."""
    top, left = random.integers(0, side - size, 2)
    return slice(top, top + size), slice(left, left + size)


def _paint(
    random: np.random.Generator, image: "np.ndarray", pixels: "np.ndarray", ink: int
) -> "np.ndarray":
    """Draw a digit over the whole of a square image, and return which pixels are the digit's,
    `[size, size]`."""
    strength = _resized(pixels, len(image))
    colour = random.integers(0, 110, 3) + 145 * ink
    cover = ((strength - _INK + 0.1) / 0.2).clip(0, 1)
    image += cover[:, :, None] * (colour - image)
    return strength > _INK


def _resized(pixels: "np.ndarray", size: int) -> "np.ndarray":
    """Return how strong a digit's ink is, 0 to 1, float32 `[size, size]`."""
    drawn = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(drawn, np.float32) / 255


def _seen_boxes(
    owners: "np.ndarray", labels: list[int], sizes: list[int]
) -> "tuple[np.ndarray, list[int]]":
    """Return the boxes, `[objects, 4]`, and the numbers of the things that are objects and seen."""
    boxes = []
    seen = []
    for number, (label, size) in enumerate(zip(labels, sizes, strict=True)):
        ys, xs = np.nonzero(owners == number)
        if label >= 0 and len(ys) >= max(_SEEN_PIXELS, _SEEN_SHARE * size):
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            seen.append(number)
    return np.array(boxes, np.float64).reshape(-1, 4), seen


def write(folder: Path, split: str, length: int) -> None:
    """Write scenes as FOLDER/SPLIT/0000.jpg, and at last their boxes as FOLDER/SPLIT.json, an
    instances file of COCO's. Where that is there, nothing is done."""
    annotation_path = folder / f"{split}.json"
    if annotation_path.exists():
        return
    (folder / split).mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(BoxedScenes.classes, 1):
        content["categories"].append({"id": number, "name": name})
    scenes = BoxedScenes(split, length)
    for index in range(length):
        image, objects = scenes[index]
        name = f"{index:04}.jpg"
        image.save(folder / split / name, quality=95)
        size = {"width": image.width, "height": image.height}
        content["images"].append({"id": index, "file_name": name, **size})
        content["annotations"] += _annotations(objects, index, len(content["annotations"]))
    annotation_path.write_text(json.dumps(content))


def write_crops(folder: Path, length: int) -> None:
    """Write pictures of one object each as FOLDER/crops/CLASS/0000.png, for the source imagefolder;
    where the folder is there, nothing is done."""
    if (folder / "crops").exists():
        return
    crops = Crops(length=length)
    for name in crops.classes:
        (folder / "crops" / name).mkdir(parents=True, exist_ok=True)
    for index in range(length):
        image, label = crops[index]
        image.save(folder / "crops" / crops.classes[label] / f"{index:04}.png")


def write_few(folder: Path, length: int) -> None:
    """Write FOLDER/few.json, which has the first images of FOLDER/train.json and their boxes."""
    content = json.loads((folder / "train.json").read_text())
    content["images"] = content["images"][:length]
    annotations = []
    for annotation in content["annotations"]:
        if annotation["image_id"] < length:
            annotations.append(annotation)
    content["annotations"] = annotations
    (folder / "few.json").write_text(json.dumps(content))


def _annotations(objects: dict[str, Any], image: int, first: int) -> list[dict[str, Any]]:
    """Return the objects of an image as COCO has them, numbered from `first`."""
    annotations = []
    pairs = zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True)
    for number, ((left, top, right, bottom), label) in enumerate(pairs, first):
        annotation = {
            "id": number,
            "image_id": image,
            "category_id": label + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        annotations.append(annotation)
    return annotations


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Draw scenes with boxes into a folder for the source coco."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--crops", type=int, default=8000)
    parser.add_argument("--few", type=int, default=400)
    parser.add_argument("--test", type=int, default=400)
    options = parser.parse_args()
    for split in ("train", "test"):
        write(options.folder, split, getattr(options, split))
    write_few(options.folder, options.few)
    write_crops(options.folder, options.crops)
