"""Files of reinforced data as ml-dr's program writes them, and what that program renders again."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from imports.fkd_files import CLASSES, PER_CLASS
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandAugment, functional
from torchvision.transforms.autoaugment import _apply_op

SIZE = 24
"""Of a view, in place of 224."""
NUM_VIEWS = 4
NUM_SAMPLES = len(CLASSES) * PER_CLASS
CROPFLIP: dict[str, Any] = {
    "uint8": {"enable": True},
    "random_resized_crop": {"enable": True, "size": SIZE},
    "random_horizontal_flip": {"enable": True, "p": 0.5},
    "to_tensor": {"enable": True},
    "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
MIXING: dict[str, Any] = {
    "mixup": {"enable": True, "alpha": 1.0, "div_by": 2.0, "p": 0.5},
    "cutmix": {"enable": True, "alpha": 1.0, "p": 0.5},
}
RANDAUG: dict[str, Any] = {
    "rand_augment": {"enable": True, "p": 1.0},
    "random_erase": {"enable": True, "p": 0.25},
}
KINDS: dict[str, dict[str, Any]] = {
    "cropflip": CROPFLIP,
    "mixing": CROPFLIP | MIXING,
    "randaug": CROPFLIP | RANDAUG,
    "randaug_mixing": CROPFLIP | RANDAUG | MIXING,
}
"""The augmentations that are published."""
Parameters = dict[str, Any]


def sides(index: int) -> tuple[int, int]:
    """Return the height and width of an image of `write_images`."""
    return 40 + index, 64 - index


def _drawn_view(generator: np.random.Generator, index: int, kind: str) -> Parameters:
    """Return the parameters of a view before it is mixed."""
    height, width = sides(index)
    top = int(generator.integers(0, height - 8))
    left = int(generator.integers(0, width - 8))
    high = int(generator.integers(5, height - top + 1))
    wide = int(generator.integers(5, width - left + 1))
    view: Parameters = {"crop": (top, left, high, wide), "flip": bool(generator.random() < 0.5)}
    if "randaug" in kind:
        view["operations"] = [_drawn_operation(generator) for _ in range(2)]
        view["block"] = _drawn_block(generator)
    return view


def _drawn_operation(generator: np.random.Generator) -> tuple[int, float]:
    space = RandAugment()._augmentation_space(31, (SIZE, SIZE))
    number = int(generator.integers(len(space)))
    magnitudes, is_signed = list(space.values())[number]
    magnitude = float(magnitudes[9]) if magnitudes.ndim else 0.0
    if is_signed and generator.random() < 0.5:
        magnitude = -magnitude
    return number, magnitude


def _drawn_block(generator: np.random.Generator) -> tuple[int, int, int, int] | None:
    if generator.random() < 0.4:
        return None
    top, left = map(int, generator.integers(0, SIZE - 8, 2))
    high, wide = map(int, generator.integers(3, 8, 2))
    return top, left, high, wide


def drawn(index: int, kind: str) -> list[Parameters]:
    """Return the parameters of all views of a sample: `own`, and where it is mixed `partner`,
    `other`, `mixup` and `cutmix`."""
    generator = np.random.default_rng([index, *kind.encode()])
    views = []
    for _ in range(NUM_VIEWS):
        view: Parameters = {"own": _drawn_view(generator, index, kind), "partner": None}
        share = float(generator.beta(1, 1) / 2) if generator.random() < 0.5 else None
        cut = _drawn_cut(generator) if generator.random() < 0.5 else None
        if "mixing" in kind and (share is not None or cut is not None):
            partner = int(generator.integers(NUM_SAMPLES))
            view |= {"partner": partner, "other": _drawn_view(generator, partner, kind)}
            view |= {"mixup": share, "cutmix": cut}
        views.append(view)
    return views


def _drawn_cut(generator: np.random.Generator) -> list[Any]:
    top, left = map(int, generator.integers(0, SIZE // 2, 2))
    bottom, right = (np.int64(end) for end in generator.integers(SIZE // 2, SIZE + 1, 2))
    return [0.5, top, left, bottom, right]


def compressed(view: Parameters, kind: str) -> list[Any]:
    """Return the list that ml-dr writes of the parameters of a view."""
    names = ["crop", "flip"]
    if "randaug" in kind:
        names += ["operations", "block"]
    is_mixed = view["partner"] is not None
    values: list[Any] = []
    if "mixing" in kind:
        values.append(view["partner"])
    for name in names:
        own = view["own"][name]
        values.append([own, view["other"][name]] if is_mixed else own)
    if "mixing" in kind:
        values += [view.get("mixup"), view.get("cutmix")]
    return values


def probabilities(index: int) -> list[tuple[list[float], list[int]]]:
    """Return the labels of each view: two classes, the likeliest last."""
    generator = np.random.default_rng(200 + index)
    own = index // PER_CLASS
    labels = []
    for _ in range(NUM_VIEWS):
        shares = np.sort(generator.dirichlet(np.ones(3)).astype(np.float32))[1:]
        labels.append((shares.tolist(), [(own + 1) % len(CLASSES), own]))
    return labels


def content(index: int, kind: str) -> tuple[int, list[Any]]:
    """Return what the file of a sample holds."""
    views = [
        {"params": compressed(view, kind), "prob": label}
        for view, label in zip(drawn(index, kind), probabilities(index), strict=True)
    ]
    return index, views


def config(kind: str) -> dict[str, Any]:
    reinforce = {"num_samples": NUM_VIEWS, "topk": 2, "compress": True, "joblib": False}
    return {
        "dataset": "imagenet",
        "gpu": None,
        "reinforce": {**reinforce, "image_augmentation": KINDS[kind]},
    }


def write_folder(root: Path, kind: str) -> Path:
    """Write the files of all samples; return the folder."""
    root.mkdir(parents=True, exist_ok=True)
    torch.save(config(kind), root / "config.pth.tar")
    for index in range(NUM_SAMPLES):
        torch.save(content(index, kind), root / f"{index}.pth.tar", pickle_protocol=4)
    return root


def rendered(view: Parameters, images: list[Image.Image], index: int) -> Tensor:
    """Return what ml-dr renders again, from 0 to 255, in floats where views are mixed."""
    own = _unmixed(images[index], view["own"])
    if view["partner"] is None:
        return own
    other = _unmixed(images[view["partner"]], view["other"])
    if view["mixup"] is not None:
        own = view["mixup"] * own + (1 - view["mixup"]) * other
    if view["cutmix"] is not None:
        _, top, left, bottom, right = view["cutmix"]
        own = own.clone()
        own[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return own


def _unmixed(image: Image.Image, view: Parameters) -> Tensor:
    pixels = functional.resized_crop(image, *view["crop"], [SIZE, SIZE])
    if view["flip"]:
        pixels = functional.hflip(pixels)
    names = list(RandAugment()._augmentation_space(31, (SIZE, SIZE)))
    for number, magnitude in view.get("operations", []):
        pixels = _apply_op(pixels, names[number], magnitude, InterpolationMode.NEAREST, fill=None)
    tensor = functional.pil_to_tensor(pixels).float()
    if view.get("block") is not None:
        top, left, high, wide = view["block"]
        tensor[:, top : top + high, left : left + wide] = 0
    return tensor


def densified(label: tuple[list[float], list[int]]) -> Tensor:
    """Return what ml-dr trains on: what the labels leave is shared by all other classes."""
    shares, classes = label
    rest = 1 - sum(shares)
    whole = torch.full((len(CLASSES),), rest / (len(CLASSES) - len(shares)))
    whole[classes] = torch.tensor(shares)
    return whole
