"""Small data sets of images with masks, in memory and in the folder layouts of Cityscapes, VOC and
`segfolder`."""

from pathlib import Path

import numpy as np
from PIL import Image

CITIES = {"zurich": 2, "aachen": 3}


class Shapes:
    """Pictures whose pixels say their class: the red channel is 40 times the class, the others are
    noise.

    The mask of sample i has blocks of 5 classes; those of class 4 are ignored.
    """

    task, classes = "segmentation", 4

    def __init__(self, length: int = 12, height: int = 24, width: int = 40) -> None:
        self.length, self.height, self.width = length, height, width

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        random = np.random.default_rng(index)
        blocks = random.integers(0, 5, (-(-self.height // 8), -(-self.width // 8))).astype(np.uint8)
        mask = blocks.repeat(8, 0).repeat(8, 1)[: self.height, : self.width]
        noise = random.integers(0, 256, (self.height, self.width, 2), dtype=np.uint8)
        image = np.concatenate([40 * mask[:, :, None], noise], axis=2)
        return Image.fromarray(image), Image.fromarray(
            np.where(mask == 4, 255, mask).astype(np.uint8)
        )


def write_pair(
    image: Path, mask: Path, ids: "np.ndarray | list[list[int]]", mode: str = "L"
) -> None:
    """Write a noise image and a mask of these ids."""
    array = np.array(ids, np.uint8)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(array.sum()).integers(0, 256, (*array.shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    drawn = Image.fromarray(array)
    if mode == "P":
        drawn.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    drawn.save(mask)


def write_cityscapes(root: Path, height: int = 6, width: int = 8) -> Path:
    """Write two cities of Cityscapes' layout; the ids of a mask are those from 0 to 33, in
    order."""
    for city, count in CITIES.items():
        for index in range(count):
            name = f"{city}_{index:06d}_000019"
            ids = (np.arange(height * width) % 34).reshape(height, width)
            for split in ("train", "val"):
                folder = root / "gtFine" / split / city
                image = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
                write_pair(image, folder / f"{name}_gtFine_labelIds.png", ids)
    return root


def write_voc(root: Path, count: int = 3, height: int = 5, width: int = 7) -> Path:
    """Write VOC 2012's layout; masks are palette images of ids 0, 1, 20 and 255."""
    folder = root / "VOCdevkit" / "VOC2012"
    names = [f"2007_{index:06d}" for index in range(count)]
    ids = np.resize([0, 1, 20, 255], (height, width))
    for name in names:
        write_pair(
            folder / "JPEGImages" / f"{name}.jpg",
            folder / "SegmentationClass" / f"{name}.png",
            ids,
            "P",
        )
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(names))
    return root


class Unsaid(Shapes):
    """Masks of which the data set does not say that they are."""

    task = "classification"


def unsaid() -> Shapes:
    return Unsaid(1)
