"""timm's policies and erasing, and torchvision's policies by name: every spelling builds, and what
is drawn is the view's."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from drawn_views import draw
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from kdcache.errors import RecipeError
from kdcache.runtime.generators import seed_generators
from kdcache.views import Recipe
from kdcache.views.timm_transforms import RandomErasing

POLICIES = (
    *(
        "rand",
        "rand-m9-mstd0.5-inc1",
        "rand-m9-mstd0.5",
        "rand-m10-inc1-n3-p1",
        "rand-m15-mmax20-inc1",
        "rand-m2-mstd101",
    ),
    *("rand-m9-n1-tweights", "rand-m9-t3a", "rand-m9-n2-t3aw-inc1"),
    *("augmix", "augmix-m3-w3", "augmix-m5-w4-d2", "augmix-m3-a0.5-b1-mstd1"),
    *("v0", "v0-mstd0.5", "v0r", "original", "original-mstd0.5", "originalr", "3a"),
)
SIZE = 40


def photo(mode: str = "RGB", side: int = SIZE) -> Image.Image:
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(5 * x + 2 * y), np.cos(7 * y * x + x), np.sin(9 * (x - 0.3) ** 2 + 4 * y)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8)).convert(mode)


def recipe_of(
    name: str, image_mode: str = "RGB", input_size: int = SIZE, **parameters: Any
) -> Recipe:
    resize = {"name": "Resize", "size": ["input", "input"]}
    return Recipe(
        "r",
        {
            "mode": image_mode,
            "size": input_size,
            "transforms": [resize, {"name": name, **parameters}],
        },
    )


def views(recipe: Recipe, count: int, image: Image.Image | None = None) -> list[Tensor]:
    return [draw(image or photo(recipe.mode), recipe, 0, seed) for seed in range(count)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_policy_of_timm_is_drawn_from_the_views_generators(policy: str, mode: str) -> None:
    recipe = recipe_of("timm.AutoAugment", mode, policy=policy)
    first = views(recipe, 40)
    random.seed(5)
    np.random.seed(5)
    again = views(recipe_of("timm.AutoAugment", mode, policy=policy), 40)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({view.numpy().tobytes() for view in first}) > 3, "seeds see other draws"


@pytest.mark.parametrize(
    "policy",
    [
        *(
            "",
            "random",
            "rand-m9-mstd0.5-inc",
            "rand-m9.5",
            "rand-x3",
            "rand m9",
            "rand-m9-tweight",
            "rand-m9-",
            "rand-mstdinf",
        ),
        *("augmix-n3", "augmix-tweights", "v1", "v0-m9", "originals", "3aw", "RAND-m9"),
    ],
)
def test_a_policy_that_timm_would_not_follow_is_told(policy: Any) -> None:
    """timm itself passes over some of these in silence."""
    with pytest.raises(
        RecipeError,
        match=r"recipe r: timm.AutoAugment: policy .* is not one of timm's; .*rand-m9-mstd0.5-inc1",
    ):
        recipe_of("timm.AutoAugment", policy=policy)


def test_posterizing_to_no_bits_is_black() -> None:
    """Magnitude 10 of the increasing kind asks for it, and Pillow does it or refuses it, depending
    on its version."""
    grey = Image.new("RGB", (8, 8), (100, 100, 100))  # which no other operation makes black
    found = views(recipe_of("timm.AutoAugment", policy="rand-m10-inc1-n1-p1"), 300, grey)
    assert 8 < sum(not view.any() for view in found) < 36, "one operation of fifteen"


def test_a_policy_takes_interpolation_and_fill() -> None:
    rotations = {"name": "timm.AutoAugment", "policy": "rand-m10-n4-p1"}
    found = [
        views(recipe_of(**rotations, **more), 12)
        for more in (
            {},
            {"interpolation": "nearest"},
            {"interpolation": "bilinear"},
            {"interpolation": "bicubic"},
        )
    ]
    found += [
        views(recipe_of(**rotations, fill=[255, 0, 0]), 12),
        views(recipe_of(**rotations, fill=[0, 0, 0]), 12),
    ]
    assert len({b"".join(view.numpy().tobytes() for view in each) for each in found}) == len(found)
    green = Image.new("RGB", (SIZE, SIZE), (0, 255, 0))
    shifted = recipe_of("timm.AutoAugment", policy="rand-m10-n1-p1", fill=[255, 0, 9])
    assert any(
        tuple(view[:, row, column].tolist()) == (255, 0, 9)
        for view in views(shifted, 40, green)
        for row in (0, -1)
        for column in (0, -1)
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"interpolation": "nearest-exact"},
            "interpolation 'nearest-exact' cannot shift an image; known: nearest, bilinear",
        ),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos' cannot shift an image"),
        ({"fill": []}, r"fill is \[\]; it must be a list of three levels from 0 to 255"),
        ({"fill": [0, 0]}, r"fill is \[0, 0\]; it must be a list of three levels"),
        ({"fill": [0, 0, 256]}, r"fill is \[0, 0, 256\]; it must be"),
        ({"fill": 0}, ""),
        ({"policy": 9}, ""),
    ],
)
def test_a_wrong_parameter_of_a_policy_is_told_before_any_work(
    parameters: Any, message: str
) -> None:
    with pytest.raises(
        RecipeError, match=f"recipe r: timm.AutoAugment( does not take .*)?: {message}"
    ):
        recipe_of("timm.AutoAugment", **{"policy": "rand-m9", **parameters})


def erased_parts(
    mode: str, count: int = 400, image_mode: str = "RGB", size: int = 64, **parameters: Any
) -> list[Tensor]:
    """Return for each view the mask of its erased pixels; the image is white, which neither the
    mean nor noise often is."""
    recipe = recipe_of("timm.RandomErasing", image_mode, size, mode=mode, **parameters)
    return [
        (view != 255).any(0)
        for view in views(recipe, count, Image.new(image_mode, (8, 8), "white"))
    ]


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
@pytest.mark.parametrize("image_mode", ["RGB", "L"])
def test_as_much_is_erased_as_was_asked_for_and_as_often(mode: str, image_mode: str) -> None:
    masks = erased_parts(
        mode, image_mode=image_mode, probability=0.7, min_area=0.1, max_area=0.3, min_aspect=0.9
    )
    areas = np.array([float(mask.float().mean()) for mask in masks])
    assert abs((areas > 0).mean() - 0.7) < 0.07
    if (mode, image_mode) == ("const", "RGB"):  # noise is white now and then
        erased = areas[areas > 0]
        assert (
            abs(erased.mean() - 0.2) < 0.01
            and 0.09 < erased.min() < 0.12
            and 0.28 < erased.max() < 0.31
        )


def test_probability_0_and_1_are_never_and_always() -> None:
    assert not any(mask.any() for mask in erased_parts("pixel", 50, probability=0.0))
    assert all(mask.any() for mask in erased_parts("pixel", 50, probability=1.0, min_area=0.1))


def erased_colours(mode: str, count: int) -> list[Tensor]:
    """Return for each view the colours of its erased pixels, `[3, pixels]`; the image is black,
    which they hardly ever are."""
    recipe = recipe_of(
        "timm.RandomErasing", input_size=64, mode=mode, probability=1.0, min_area=0.1
    )
    return [view[:, (view > 0).any(0)] for view in views(recipe, count, Image.new("RGB", (8, 8)))]


def test_blocks_are_of_one_colour_or_of_noise() -> None:
    assert all(
        found.unique(dim=1).tolist() == [[124], [116], [104]]
        for found in erased_colours("const", 10)
    ), "ImageNet's mean"
    plain = [found.unique(dim=1) for found in erased_colours("rand", 30)]
    assert all(found.shape[1] == 1 for found in plain)
    assert len({tuple(found.flatten().tolist()) for found in plain}) == 30
    noise = torch.cat(erased_colours("pixel", 30), 1).float()
    assert (noise.mean(1) - torch.tensor([124.0, 116.0, 104.0])).abs().max() < 2
    assert (noise.std(1) - 255 * torch.tensor([0.229, 0.224, 0.225])).abs().max() < 4, (
        "normal noise, cut off at black and white"
    )


def test_colours_are_brought_to_levels_by_the_mean_and_deviation_given() -> None:
    recipe = recipe_of(
        "timm.RandomErasing",
        input_size=64,
        probability=1.0,
        min_area=0.1,
        pixel_mean=[0.2, 0.4, 1.0],
        pixel_std=[0.0, 0.1, 0.0],
        mode="pixel",
    )
    for view in views(recipe, 10, Image.new("RGB", (8, 8), (1, 2, 3))):
        erased = view[:, view[0] != 1]
        assert (erased[0] == 51).all() and (erased[2] == 255).all()
        assert (
            abs(float(erased[1].float().mean()) - 102) < 5
            and 15 < float(erased[1].float().std()) < 35
        )


def test_several_blocks_share_the_area() -> None:
    masks = erased_parts(
        "const", 200, probability=1.0, min_area=0.2, max_area=0.2, min_count=4, min_aspect=1.0
    )
    areas = [float(mask.float().mean()) for mask in masks]
    assert max(areas) < 0.21 and np.mean(areas) < 0.2, "they overlap now and then"
    spread = [int(mask.any(0).sum() * mask.any(1).sum()) / mask.numel() for mask in masks]
    assert np.mean(spread) > 0.3, "one block of that area would span 0.2"


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
@pytest.mark.parametrize("size", [112, 448])
def test_blocks_are_at_the_same_place_in_views_of_two_sizes(mode: str, size: int) -> None:
    def found(side: int, seed: int) -> Tensor:
        recipe = recipe_of(
            "timm.RandomErasing", input_size=side, mode=mode, probability=1.0, min_area=0.1
        )
        view = draw(Image.new("RGB", (8, 8), "white"), recipe, 0, seed)
        return torch.nn.functional.adaptive_avg_pool2d(view.float(), 28)

    for seed in range(6):
        assert (found(224, seed) - found(size, seed)).abs().mean() < 12
        assert (found(224, seed) - found(size, seed + 100)).abs().mean() > 20, (
            "another seed's blocks are told apart"
        )


def test_at_the_size_of_the_canvas_it_is_timms_own() -> None:
    from timm.data.random_erasing import RandomErasing as Original

    image = torch.randint(256, (3, 224, 224), dtype=torch.uint8)
    mean, std = (
        255 * torch.tensor(values)[:, None, None]
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    ours, original = (
        RandomErasing(probability=1.0, mode="pixel"),
        Original(1.0, mode="pixel", device="cpu"),
    )
    for seed in range(5):
        seed_generators(seed)
        found = ours(image)
        seed_generators(seed)
        expected = (original((image - mean) / std) * std + mean).round().clamp(0, 255)
        assert found.dtype == torch.uint8 and not torch.equal(found, image)
        assert (found - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_is_drawn_from_the_views_generators(mode: str) -> None:
    recipe = recipe_of("timm.RandomErasing", mode=mode, probability=1.0)
    first = views(recipe, 8)
    torch.manual_seed(5)
    random.seed(5)
    assert all(torch.equal(one, other) for one, other in zip(first, views(recipe, 8), strict=True))
    assert len({view.numpy().tobytes() for view in first}) == 8


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "noise"}, ""),
        ({"probability": 1.2}, r"probability is 1\.2; it must be from 0 to 1"),
        ({"min_area": 0.5, "max_area": 0.2}, r"min_area is 0\.5; it must be from 0 to 0\.2"),
        ({"max_area": 1.5}, r"max_area is 1\.5; it must be from 0\.02 to 1"),
        ({"min_aspect": 0}, r"min_aspect is 0; it must be from 0\.001 to 1"),
        ({"min_count": 0}, "min_count is 0; it must be from 1 to inf"),
        ({"min_count": 3, "max_count": 2}, "max_count is 2; it must be from 3 to inf"),
        ({"canvas": 0}, "canvas is 0; it must be from 1 to inf"),
        ({"pixel_mean": 0.5}, ""),
        (
            {"pixel_std": [0.2, 0.2]},
            r"pixel_std is \[0.2, 0.2\]; it must be a list of three numbers",
        ),
    ],
)
def test_a_wrong_parameter_of_erasing_is_told_before_any_work(
    parameters: Any, message: str
) -> None:
    with pytest.raises(
        RecipeError, match=f"recipe r: timm.RandomErasing( does not take .*)?: {message}"
    ):
        recipe_of("timm.RandomErasing", **parameters)


TORCHVISION: list[tuple[str, dict[str, Any]]] = [
    *(
        ("RandAugment", {"interpolation": mode, "magnitude": 20})
        for mode in ("nearest", "bilinear", "bicubic")
    ),
    *(("AutoAugment", {"policy": policy}) for policy in ("imagenet", "cifar10", "svhn")),
    *(
        ("AutoAugment", {"policy": "svhn", "interpolation": mode})
        for mode in ("bilinear", "bicubic")
    ),
    *(
        ("TrivialAugmentWide", {"interpolation": mode})
        for mode in ("nearest", "bilinear", "bicubic")
    ),
    *(("AugMix", {"severity": 10, "interpolation": mode}) for mode in ("nearest", "bilinear")),
    ("ColorJitter", {"brightness": 0.4, "contrast": [0.6, 1.4], "saturation": 0.4, "hue": 0.1}),
    ("RandomErasing", {"p": 0.9, "value": "random"}),
    ("RandomErasing", {"p": 0.9, "value": [1, 2, 3], "scale": [0.1, 0.2]}),
]


@pytest.mark.parametrize(("name", "parameters"), TORCHVISION)
def test_transforms_of_torchvision_are_drawn_from_the_views_generators(
    name: str, parameters: dict[str, Any]
) -> None:
    def build() -> Recipe:
        table = recipe_of(name, **parameters).to_dict()["table"]
        resize, step = table["transforms"]
        steps = [resize, {"name": "ToImage"}, step] if name == "RandomErasing" else [resize, step]
        return Recipe("r", table | {"transforms": steps})

    first = views(build(), 40)
    torch.manual_seed(5)
    again = views(build(), 40)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({view.numpy().tobytes() for view in first}) > 12, "seeds see other draws"


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugmentWide", "AutoAugment", "AugMix"])
def test_the_interpolation_that_is_named_is_the_one_that_is_used(name: str) -> None:
    original = getattr(v2, name)(interpolation=v2.InterpolationMode.BILINEAR)
    recipes = {mode: recipe_of(name, interpolation=mode) for mode in ("nearest", "bilinear")}
    differ = 0
    for seed in range(40):
        nearest, bilinear = (draw(photo(), recipe, 0, seed) for recipe in recipes.values())
        seed_generators(*recipes["bilinear"].key, seed, 0)
        assert torch.equal(bilinear, v2.functional.pil_to_tensor(original(photo())))
        differ += not torch.equal(nearest, bilinear)
    assert differ > 0
