"""Small images on disk: in folders and in tars."""

import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LONG_AGO = 1_700_000_000


def write_images(root: Path, names: Mapping[str, int]) -> Path:
    """Write a grey 6x6 image of the given level under each name."""
    for name, level in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), level).save(root / name)
    return root


def encode(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(level: int) -> bytes:
    return encode(Image.new("RGB", (5, 4), (level, 255 - level, 7)))


def write_tar(path: Path, members: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of these members, with an old modification time: its index is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return age(path)


def write_shards(root: Path, *counts: int, classes: int = 3) -> Path:
    """Write 00.tar, 01.tar, ... of that many samples each; sample i of all has level i and class i
    mod `classes`."""
    index = 0
    for shard, count in enumerate(counts):
        members = {}
        for _ in range(count):
            members |= {
                f"{index:04d}.png": picture(index),
                f"{index:04d}.cls": str(index % classes).encode(),
            }
            index += 1
        write_tar(root / f"{shard:02d}.tar", members)
    return root


def age(path: Path, seconds: int = LONG_AGO) -> Path:
    """Make `path` look as if it was last changed at that time."""
    os.utime(path, (seconds, seconds))
    return path


def write_noise(root: Path, kinds: Mapping[str, int], classes: Sequence[str], name: str) -> None:
    """Write folders of noisy photographs: so many of each kind (`train`, `val`), by class."""
    generator = np.random.default_rng(0)
    for kind, count in kinds.items():
        for index in range(count):
            folder = root / kind / classes[index % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (260, 300, 3), dtype=np.uint8)
            file = name.format(folder=folder.name, index=index)
            Image.fromarray(pixels).save(folder / file, "JPEG")


def write_imagenet(root: Path, images: int = 12) -> None:
    """Write a folder of ImageNet's layout, with a few images of three classes."""
    classes = [f"n0144000{number}" for number in range(3)]
    kinds = {"train": images, "val": images // 2}
    write_noise(root, kinds, classes, "{folder}_{index}.JPEG")
