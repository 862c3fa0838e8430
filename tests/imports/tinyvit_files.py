"""Files of labels as TinyViT's program writes them, and views as it draws them: by timm's and
torchvision's own code, whose draws are turned to a generator of numpy."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm.data.auto_augment
import timm.data.transforms
import torch
from imports.fkd_files import CLASSES, PER_CLASS
from numpy.random import MT19937, PCG64, Generator
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import functional

NUM_SAMPLES = len(CLASSES) * PER_CLASS
EPOCHS = 3
K = 2
SIZE = 48
"""Of a view, in place of 224."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CONFIG = f"""
MODEL:
  TYPE: clip_vit_large14_224
DATA:
  MEAN_AND_STD_TYPE: clip
  IMG_SIZE: {SIZE}
AUG:
  MIXUP: 0.0
  CUTMIX: 0.0
"""
"""As that of its teacher, but for the size and the data set."""


def seed_of(epoch: int, index: int) -> int:
    return int(np.random.default_rng([epoch, index]).integers(0, 1 << 31))


def label_of(epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of a view, the likeliest first, and their probabilities."""
    generator = np.random.default_rng([7, epoch, index])
    own = index // PER_CLASS
    classes = (own + np.arange(K)) % len(CLASSES)
    shares = np.sort(generator.dirichlet(np.ones(K + 1)))[::-1][:K]
    return classes.astype(np.int16), shares.astype(np.float16)


def entry_of(epoch: int, index: int) -> bytes:
    classes, shares = label_of(epoch, index)
    return np.int32(seed_of(epoch, index)).tobytes() + classes.tobytes() + shares.tobytes()


def write_rank(folder: Path, rank: int, keys: Sequence[str], entries: Sequence[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{rank}-keys.txt").write_text("".join(f"{key}\n" for key in keys))
    (folder / f"rank{rank}-values.bin").write_bytes(b"".join(entries))


def write_epoch(
    root: Path, epoch: int, *, keys: Sequence[str] | None = None, left_out: Sequence[int] = ()
) -> Path:
    """Write what two processes store of an epoch, whose samples are shuffled; return the folder."""
    keys = keys or [str(index) for index in range(NUM_SAMPLES)]
    folder = root / f"logits_top{K}_epoch{epoch}"
    order = np.random.default_rng(epoch).permutation(NUM_SAMPLES)
    order = order[~np.isin(order, left_out)]
    for rank in range(2):
        own = order[rank::2].tolist()
        entries = [entry_of(epoch, index) for index in own]
        write_rank(folder, rank, [keys[index] for index in own], entries)
    return folder


def write_folder(root: Path, *, config: str = CONFIG, **options: Any) -> tuple[Path, Path]:
    """Write all epochs, and the configuration; return both paths."""
    for epoch in range(EPOCHS):
        write_epoch(root / "labels", epoch, **options)
    (root / "config.yaml").write_text(config)
    return root / "labels", root / "config.yaml"


class _Draws:
    """In the place of the modules `random` and `numpy.random`."""

    def __init__(self, seed: int) -> None:
        self._generator = Generator(PCG64(seed))
        self.random = self._generator.random
        self.gauss = self._generator.normal

    def uniform(self, low: float, high: float) -> float:
        return self.random() * (high - low) + low

    def randint(self, low: int, high: int) -> int:
        return min(int(self.random() * (high - low + 1)) + low, high)

    def choice(self, things: Any, *args: Any, **options: Any) -> Any:
        return self._generator.choice(things, *args, **options)


@contextmanager
def _drawing(seed: int) -> Iterator[_Draws]:
    draws = _Draws(seed)

    class Numpy:
        random = draws

    with (
        patch.object(timm.data.auto_augment, "random", draws),
        patch.object(timm.data.auto_augment, "np", Numpy),
        patch.object(timm.data.transforms, "random", draws),
    ):
        yield draws


def rendered(
    seed: int,
    image: Image.Image,
    *,
    size: int = SIZE,
    policy: str | None = "rand-m9-mstd0.5-inc1",
    erasing: float = 0.25,
    mode: str = "pixel",
    count: int = 1,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    interpolation: str = "bicubic",
) -> Tensor:
    """Return a view as TinyViT draws it, from 0 to 255 in floats, before it is rounded."""
    with _drawing(seed) as draws:
        crop = RandomResizedCropAndInterpolation(size, interpolation=interpolation)
        pixels = crop(image)
        if draws.random() < 0.5:
            pixels = functional.hflip(pixels)
        if policy is not None:
            hints = {
                "img_mean": tuple(round(255 * value) for value in mean),
                "interpolation": Image.Resampling[interpolation.upper()],
            }
            with patch.dict(timm.data.auto_augment.NAME_TO_OP, PosterizeIncreasing=_posterized):
                pixels = rand_augment_transform(policy, hints)(pixels)
        normed = functional.normalize(functional.to_tensor(pixels), mean, std)
        if erasing:
            _erase(normed, draws, erasing, mode, count)
    means = torch.tensor(mean, dtype=torch.float64)[:, None, None]
    deviations = torch.tensor(std, dtype=torch.float64)[:, None, None]
    return 255 * (normed.double() * deviations + means)


def _posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Return the image with so many bits: none are black, as in the Pillow of then."""
    mask = 256 - (1 << (8 - bits))
    return image.point([level & mask for level in range(256)] * 3)


def _erase(normed: Tensor, draws: _Draws, probability: float, mode: str, count: int) -> None:
    """Erase blocks, which are drawn in a square of 224 pixels."""
    if draws.random() > probability:
        return
    side = normed.shape[1]
    if count > 1:
        count = draws.randint(1, count)
    for _ in range(count):
        for _ in range(10):
            area = draws.uniform(0.02, 1 / 3) * 224 * 224 / count
            ratio = math.exp(draws.uniform(math.log(0.3), math.log(1 / 0.3)))
            high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if high < 224 and wide < 224:
                break
        else:
            continue
        top, left = draws.randint(0, 224 - high), draws.randint(0, 224 - wide)
        top, left = (min(round(start * side / 224), side - 1) for start in (top, left))
        high = min(round(high * side / 224), side - top)
        wide = min(round(wide * side / 224), side - left)
        content: Any = 0.0
        if mode != "const":
            shape = (3, high, wide) if mode == "pixel" else (3, 1, 1)
            noise = Generator(MT19937(draws.randint(0, 1 << 30))).normal(size=shape)
            content = torch.from_numpy(noise).float()
        normed[:, top : top + high, left : left + wide] = content
