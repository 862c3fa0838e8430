"""What a recipe may ask for: told when it is read, or, where the image decides, before a transform
runs."""

import tracemalloc
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from kdcache.errors import RecipeError
from kdcache.shapes import MOST_PIXELS
from kdcache.views import Recipe
from kdcache.views.bounds import _GROWING, bounded

END = [{"name": "Resize", "size": ["input", "input"]}]


def recipe(*transforms: dict[str, Any], size: Any = 8) -> Recipe:
    return Recipe("own", {"size": size, "transforms": [*transforms, *END]})


GROWING: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"name": "Resize", "size": 20}, (30, 50)),
    ({"name": "Resize", "size": [70]}, (30, 50)),
    ({"name": "Resize", "size": [90, 10]}, (30, 50)),
    ({"name": "Resize", "size": 60, "max_size": 61}, (30, 50)),
    ({"name": "CenterCrop", "size": [60, 10]}, (30, 50)),
    ({"name": "Pad", "padding": 7}, (30, 50)),
    ({"name": "Pad", "padding": [7]}, (30, 50)),
    ({"name": "Pad", "padding": [3, 9]}, (30, 50)),
    ({"name": "Pad", "padding": [1, 2, 3, 40]}, (30, 50)),
    (
        {"name": "RandomCrop", "size": [40, 60], "padding": [1, 9, 3, 4], "pad_if_needed": True},
        (30, 50),
    ),
    ({"name": "RandomCrop", "size": 20, "padding": 5}, (30, 50)),
    ({"name": "RandomResize", "min_size": 40, "max_size": 70}, (30, 50)),
    ({"name": "RandomResizedCrop", "size": [70, 80]}, (30, 50)),
    ({"name": "RandomRotation", "degrees": 30, "expand": True}, (30, 90)),
    ({"name": "RandomRotation", "degrees": [80, 110], "expand": True}, (10, 90)),
    ({"name": "RandomShortestSize", "min_size": [30, 60], "max_size": 80}, (30, 50)),
    ({"name": "RandomZoomOut", "side_range": [1.0, 3.0], "p": 1.0}, (30, 50)),
    ({"name": "ScaleJitter", "target_size": [64, 64], "scale_range": [0.5, 2.0]}, (30, 50)),
    ({"name": "kdcache.RandomScale", "scales": [0.5, 1.7]}, (30, 50)),
    ({"name": "kdcache.Letterbox", "size": [64, 96]}, (30, 50)),
]


@pytest.mark.parametrize(
    ("entry", "size"),
    GROWING,
    ids=[f"{entry['name']}{at}" for at, (entry, _) in enumerate(GROWING)],
)
def test_no_image_becomes_larger_than_its_bound(
    entry: dict[str, Any], size: tuple[int, int]
) -> None:
    transform, _ = recipe(entry)._transforms
    high, wide = _GROWING[entry["name"]](transform, *size)
    areas = []
    for seed in range(30):
        torch.manual_seed(seed)
        height, width = functional.get_size(transform(Image.new("RGB", size[::-1])))
        areas.append(height * width)
    assert max(areas) <= high * wide + 2 * (high + wide), "rounding may add a line"
    assert high * wide < 9 * max(areas), "it is a bound of this transform, not just any"


def test_every_transform_that_makes_images_larger_has_a_bound() -> None:
    tried = {entry["name"] for entry, _ in GROWING}
    # which needs stored views, and gives the size that it is told
    assert tried | {"kdcache.StoredCrop", "kdcache.StoredDraw"} == set(_GROWING)
    others = {
        "FiveCrop",
        "TenCrop",
        "RandomIoUCrop",
        "UniformTemporalSubsample",
    }  # parts of what came in
    sizes = {
        name
        for name, kind in vars(v2).items()
        if isinstance(kind, type) and {"size", "padding"} & set(_parameters(kind))
    }
    assert sizes - others <= set(_GROWING)


def _parameters(kind: type) -> list[str]:
    import inspect

    return list(inspect.signature(kind).parameters)


@pytest.mark.parametrize(
    ("entry", "size", "message"),
    [
        ({"name": "Resize", "size": 256}, (1, 10_000), "Resize would make up to 2560000x256 pixels of"),
        ({"name": "Pad", "padding": 16_000}, (8, 8), "Pad would make up to 32008x32008 pixels of an image of 8x8; at most"),
        ({"name": "RandomApply", "p": 1, "transforms": [{"name": "Resize", "size": 16_000}]}, (8, 8), "Resize would make"),
        ({"name": "RandomZoomOut", "side_range": [3000, 3000.5], "p": 1.0}, (8, 8), "RandomZoomOut would make up to 24004x2"),
    ],
)  # fmt: skip
def test_pixels_without_end_are_refused_before_there_are_any(
    entry: dict[str, Any], size: tuple[int, int], message: str
) -> None:
    made, image = recipe(entry), Image.new("RGB", size)
    tracemalloc.start()
    with pytest.raises(RecipeError, match=message):
        made(image)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_an_ordinary_photograph_goes_through() -> None:
    photograph = Image.new("RGB", (6000, 4000))
    turn, _ = recipe({"name": "RandomRotation", "degrees": 10, "expand": True})._transforms
    assert functional.get_size(turn(photograph))[0] > 4000
    whole = Recipe("whole", {"size": "image", "transforms": []})
    assert whole(photograph).shape == (3, 4000, 6000)


def test_an_image_that_has_more_pixels_stays_as_large_as_it_is() -> None:
    strip = Image.new("L", (1, MOST_PIXELS + 100))
    crop = bounded(v2.RandomCrop(size=(MOST_PIXELS + 100, 1)), "RandomCrop")
    assert functional.get_size(crop(strip)) == [MOST_PIXELS + 100, 1]
    with pytest.raises(RecipeError, match="Pad would make"):
        bounded(v2.Pad(1), "Pad")(strip)


FLIP = {"name": "RandomHorizontalFlip"}


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([FLIP] * 65, "recipe own has more than 64 transforms, those inside of others counted"),
        ([{"name": "RandomOrder", "transforms": [FLIP] * 40}] * 2, "has more than 64 transforms"),
        (
            [{"name": "timm.AutoAugment", "policy": "rand-n17-m9"}],
            "policy 'rand-n17-m9' has a number after n that is past 16",
        ),
        (
            [{"name": "timm.AutoAugment", "policy": "augmix-m5-d17"}],
            "has a number after d that is past 16",
        ),
        (
            [{"name": "RandAugment", "num_ops": 17}],
            "RandAugment: num_ops is 17; it may be at most 16",
        ),
        (
            [{"name": "GaussianBlur", "kernel_size": [3, 257]}],
            "GaussianBlur: kernel_size is 257; it may be at most 255",
        ),
        ([{"name": "ColorJitter", "brightness": 1e40}], "it may be at most 1e"),
        (
            [{"name": "ColorJitter", "brightness": [1.0] * 257}],
            "brightness is a list of 257; it may be of 256",
        ),
        (
            [{"name": "RandomErasing", "value": "x" * 201}],
            "RandomErasing: value has 201 characters; it may have 200",
        ),
    ],
)
def test_what_asks_for_too_much_is_told_when_it_is_read(
    transforms: list[Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe("own", {"size": 8, "transforms": transforms})


def test_as_much_as_is_allowed_is_taken() -> None:
    Recipe("own", {"size": 8, "transforms": [FLIP] * 64})
    Recipe(
        "own",
        {
            "size": 8,
            "transforms": [{"name": "timm.AutoAugment", "policy": "rand-n16-m10-mstd0.5-inc1"}],
        },
    )


@pytest.mark.parametrize("size", [16_385, [16_384, 16_384], [2**25 + 1, 1]])
def test_a_view_is_no_larger_than_others_would_take(size: Any) -> None:
    with pytest.raises(RecipeError, match="a side may have 16384 pixels, a view 33554432"):
        recipe(size=size)
