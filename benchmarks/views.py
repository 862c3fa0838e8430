"""Views per second of each shipped recipe, against the same transforms of torchvision and timm
without kdcache.

    python benchmarks/views.py [--json]

One process, one thread; both sides decode JPEG files in memory and end with a batch of pixels.
"""

import argparse
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import interleave, make_parser, report, spread, spreads
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from workload import DISTINCT, jpeg

from kdcache.config.spec import Spec
from kdcache.shapes import Rows
from kdcache.sources import DatasetSource
from kdcache.views import Recipe, ViewDataset, in_pairs, load_recipe, partners, row_order

CLASSES = 1000
BILINEAR = InterpolationMode.BILINEAR
BICUBIC = InterpolationMode.BICUBIC


class Images(NamedTuple):
    """What a recipe is made for."""

    width: int
    height: int
    mode: str = "RGB"
    grain: float = 4


PHOTOGRAPH = Images(500, 375, grain=28)  # 88 kB
GREY = PHOTOGRAPH._replace(mode="L")
CASES = {
    **{
        name: (name, PHOTOGRAPH)
        for name in ("imagenet-b1", "imagenet-b2", "imagenet-b3", "eval", "cifar", "eval-whole")
    },
    "digits": ("digits", GREY),
    "cifar, files of 32x32": ("cifar", Images(32, 32)),
    "eval-whole, files of 32x32": ("eval-whole", Images(32, 32)),
    "digits, files of 8x8": ("digits", Images(8, 8, "L")),
}
"""Recipe and images. Small files show what kdcache adds to a view, which is the same whatever it
takes to decode."""
MIXED = "imagenet-b3"
SEEDS = 4
"""Under which a row is rendered together, as in a dump."""


class Files:
    """`length` samples of `DISTINCT` JPEG files held in memory, decoded at each access; accesses
    are counted."""

    def __init__(self, images: Images, length: int) -> None:
        self.length = length
        self.num_classes = CLASSES
        self.mode = images.mode
        self.decoded = 0
        self.files = [jpeg(seed, *images) for seed in range(min(length, DISTINCT))]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.decoded += 1
        return Image.open(io.BytesIO(self.files[index % len(self.files)])), index % CLASSES


def plain_transforms() -> dict[str, list[Callable[[Any], Any]]]:
    """Return the transforms of each shipped recipe as one writes them without kdcache.

    Normalisation is left out, as it is in kdcache. timm erases in floats, so those recipes end in
    floats.
    """
    eval_whole = [v2.Resize((32, 32)), v2.PILToTensor()]
    evaluation = [v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()]
    small = [
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.Resize(32),
        v2.PILToTensor(),
    ]
    digits = [
        v2.RandomAffine(12, scale=(0.9, 1.1), shear=8, interpolation=BILINEAR),
        v2.RandomCrop(8, padding=1),
    ]
    b1 = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    return {
        "cifar": small,
        "digits": [*digits, v2.Resize(8), v2.PILToTensor()],
        "eval": evaluation,
        "eval-whole": eval_whole,
        "imagenet-b1": b1,
        "imagenet-b2": strong(BILINEAR, 0.2),
        "imagenet-b3": strong(BICUBIC, 0.25),
    }


def strong(crop: InterpolationMode, erasing: float) -> list[Callable[[Any], Any]]:
    hints = {
        "translate_const": 100,
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BILINEAR,
    }
    policy = rand_augment_transform("rand-m9-mstd0.5", hints)
    floats = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32),
        RandomErasing(erasing, mode="pixel", device="cpu"),
    ]
    return [
        v2.RandomResizedCrop(224, interpolation=crop),
        v2.RandomHorizontalFlip(),
        policy,
        *floats,
    ]


def plain(name: str, files: Files, options: argparse.Namespace) -> Callable[[int], None]:
    """Return one repetition without kdcache: an image folder's loader, Compose, a stacked batch,
    and timm's Mixup."""
    compose = v2.Compose(plain_transforms()[name])
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="pair", num_classes=CLASSES)

    def batch(indices: range) -> Tensor:
        samples = [
            (compose(image.convert(files.mode)), target)
            for image, target in (files[index] for index in indices)
        ]
        views = torch.stack([view for view, _ in samples])
        targets = torch.tensor([target for _, target in samples])
        return mixup(views, targets)[0] if name == MIXED else views

    return lambda _: (
        [
            batch(range(start, start + options.batch))
            for start in range(0, options.views, options.batch)
        ]
        and None
    )


def rendered(
    recipe: Recipe, files: Files, options: argparse.Namespace, *, may_draw: bool = True
) -> Callable[[int], None]:
    """Return one repetition of kdcache, whose number is the seed; as in a dump, the two of a pair
    are side by side. A source of kdcache's own is known not to draw its samples."""
    source = DatasetSource(files, Spec("files"))
    source.may_draw = may_draw
    dataset = ViewDataset(source, recipe, row_order(len(files), 0), sizes=[recipe.size])

    def run(seed: int) -> None:
        rows = ordered(recipe, len(files), seed).tolist()
        for start in range(0, options.views, options.batch):
            dataset.batch([(row, seed) for row in rows[start : start + options.batch]])

    return run


def under_seeds(
    recipe: Recipe, files: Files, options: argparse.Namespace, *, together: bool
) -> Callable[[int], None]:
    """Return one repetition of kdcache that renders a quarter of the rows under four seeds: as a
    dump does it, those of a row side by side, or seed by seed."""
    dataset = ViewDataset(
        DatasetSource(files, Spec("files")), recipe, row_order(len(files), 0), sizes=[recipe.size]
    )

    def run(repetition: int) -> None:
        seeds = range(SEEDS * repetition, SEEDS * (repetition + 1))
        rows = range(options.views // SEEDS)
        if together:
            views = [(row, seed) for row in rows for seed in seeds]
        else:
            views = [(row, seed) for seed in seeds for row in rows]
        size = min(options.batch, len(rows))
        for start in range(0, options.views, size):
            dataset.batch(views[start : start + size])

    return run


def ordered(recipe: Recipe, rows: int, seed: int) -> Rows:
    if recipe.mixing is None:
        return np.arange(rows)
    return in_pairs(np.arange(rows), partners(rows, recipe.mixing, recipe.key, seed))


def measure(name: str, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """Return rates of one recipe and their ratio; of one that mixes, also the decodes per view and
    what mixing costs."""
    recipe = load_recipe(name)
    files = Files(images, options.views)
    variants = {"plain": plain(name, files, options), "kdcache": rendered(recipe, files, options)}
    result: dict[str, Any] = {}
    if recipe.mixing is not None:
        table = {key: value for key, value in recipe.to_dict()["table"].items() if key != "mixing"}
        variants["unmixed"] = rendered(Recipe(name, table), files, options)
        files.decoded = 0
        variants["kdcache"](0)
        result["decodes_per_view"] = files.decoded / options.views
    else:
        variants["known"] = rendered(recipe, files, options, may_draw=False)
        for variant, together in (("together", True), ("seed by seed", False)):
            variants[variant] = under_seeds(recipe, files, options, together=together)
    times = interleave(variants, options.repetitions)
    result |= {
        f"{variant}_views_per_second": spread(options.views / each[:, 0])
        for variant, each in times.items()
    }
    result["rate_over_plain"] = spreads(times["plain"] / times["kdcache"])
    result["added_microseconds"] = spreads(
        1e6 * (times["kdcache"] - times["plain"]) / options.views
    )
    if recipe.mixing is not None:
        result["time_over_unmixed"] = spreads(times["kdcache"] / times["unmixed"])
    else:
        result["known_rate_over_plain"] = spreads(times["plain"] / times["known"])
        result["together_over_seed_by_seed"] = spreads(times["seed by seed"] / times["together"])
    return result


def main() -> None:
    parser = make_parser(__doc__, repetitions=25)
    parser.add_argument(
        "--views", type=int, default=128, help="views of a repetition, a multiple of the batch"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--case", choices=CASES, action="append", help="by default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {case: measure(*CASES[case], options) for case in options.case or CASES}
    labels = {
        "rate_over_plain": "views/s, kdcache / plain (goal 0.9)",
        "known_rate_over_plain": "the same of a source of kdcache's own",
        "kdcache_views_per_second": "kdcache, views/s",
        "plain_views_per_second": "plain, views/s",
        "added_microseconds": "added, microseconds per view",
        "decodes_per_view": "images decoded per view",
        "time_over_unmixed": "time, mixed / not mixed",
        "together_over_seed_by_seed": "views/s, 4 seeds from one decode / 4 decodes (goal 1.6)",
    }
    lines = {
        f"{case}: {label}": result[key]
        for case, result in results.items()
        for key, label in labels.items()
        if key in result
    }
    report(
        {"benchmark": "views", "settings": vars(options), "cases": results},
        lines,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
