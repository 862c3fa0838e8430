"""Scenes with exact masks: scikit-learn's handwritten digits, many and occluding one another, on
ground of nine materials.

    python examples/scenes.py scenes        draws 1,000 scenes to train on and 200 to test on, into
    a folder kdcache train-student runs/teacher --data
    segfolder:scenes/train,classes=scenes/classes.txt ...       (see scenes.sh)

Nineteen classes, as many as Cityscapes has: the materials, told apart by grain and colour in
changing light, and the digits. Pixels at the edge of a digit have none. `scenes:Scenes`, the source
that draws, does without the folder, and takes longer.
"""

import argparse
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.sources import Digits

MATERIALS = ("sand", "gravel", "grass", "brick", "water", "plank", "cloth", "stone", "moss")
_COLOURS = np.array([
    [200, 180, 140], [150, 145, 140], [110, 150, 80], [170, 100, 80], [90, 130, 170],
    [160, 125, 85], [160, 120, 160], [130, 135, 145], [100, 125, 90],
])  # fmt: skip
_GRAIN = (2, 5, 3, 8, 12, 6, 4, 10, 7)
"""Pixels of a grain of each material."""


def draw_ground(
    random: np.random.Generator, height: int, width: int
) -> "tuple[np.ndarray, np.ndarray]":
    """Return ground of all materials, float `[height, width, 3]`, and which of them is where,
    `[height, width]`."""
    materials = np.argmax([smooth_field(random, 64, height, width) for _ in MATERIALS], axis=0)
    grain = np.stack([smooth_field(random, size, height, width) for size in _GRAIN])
    texture = np.take_along_axis(grain, materials[None], axis=0)[0]
    noise = random.normal(0, 8, (height, width, 3))
    return _COLOURS[materials] + 30 * texture[:, :, None] + noise, materials


def lit(random: np.random.Generator, image: "np.ndarray") -> Image.Image:
    """Return the image in uneven light of some colour."""
    height, width, _ = image.shape
    shade = 1 + 0.2 * smooth_field(random, 100, height, width)
    light = shade[:, :, None] * random.normal(1, 0.08, 3)
    return Image.fromarray((image * light).clip(0, 255).astype(np.uint8))


def smooth_field(random: np.random.Generator, size: int, height: int, width: int) -> "np.ndarray":
    """Return a field, float32 `[height, width]`, that varies over `size` pixels."""
    coarse = random.normal(0, 1, (height // size + 2, width // size + 2)).astype(np.float32)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


class Scenes:
    """Scene i is drawn by a generator of its own; `split` decides which scenes and which
    handwriting."""

    task = "segmentation"
    classes = (*MATERIALS, *map(str, range(10)))

    def __init__(
        self, split: str = "train", length: int = 2000, height: int = 160, width: int = 320
    ) -> None:
        self.split, self.length, self.height, self.width = split, length, height, width

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Return a scene and its mask."""
        random = np.random.default_rng([index, self.split == "test"])
        image, ground = draw_ground(random, self.height, self.width)
        mask = ground.astype(np.uint8)
        for _ in range(self.height * self.width // 5000):
            self._put_digit(random, image, mask)
        return lit(random, image), Image.fromarray(mask)

    def _put_digit(
        self, random: np.random.Generator, image: "np.ndarray", mask: "np.ndarray"
    ) -> None:
        chosen = random.integers(0, len(self._digits))
        size = int(random.integers(36, 80))
        drawn = Image.fromarray(self._digits.data[chosen]).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        ink = np.asarray(drawn, np.float32) / 255
        top, left = (int(random.integers(0, side - size)) for side in mask.shape)
        box = (slice(top, top + size), slice(left, left + size))
        cover = ((ink - 0.3) / 0.2).clip(0, 1)[:, :, None]
        image[box] += cover * (
            random.integers(0, 60, 3) + 196 * random.integers(0, 2) - image[box]
        )  # dark or bright
        mask[box] = np.where(ink > 0.5, len(MATERIALS) + self._digits.targets[chosen], mask[box])
        mask[box] = np.where((ink > 0.3) & (ink <= 0.5), 255, mask[box])

    @cached_property
    def _digits(self) -> Digits:
        return Digits(self.split)


def write(folder: Path, split: str, length: int) -> None:
    """Write scenes that are not there yet as FOLDER/SPLIT/images/0000.jpg and masks/0000.png, a
    mask first."""
    scenes = Scenes(split, length)
    for name in ("images", "masks"):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for index in range(length):
        image_path, mask_path = (
            folder / split / name for name in (f"images/{index:04}.jpg", f"masks/{index:04}.png")
        )
        if not image_path.exists():
            image, mask = scenes[index]
            mask.save(mask_path)
            image.save(image_path.with_suffix(".tmp"), "JPEG", quality=95)
            image_path.with_suffix(".tmp").replace(image_path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Draw scenes into a folder for the source segfolder; go on where it stopped."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    for split in ("train", "test"):
        write(options.folder, split, getattr(options, split))
    (options.folder / "classes.txt").write_text("\n".join(Scenes.classes) + "\n")
