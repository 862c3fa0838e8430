"""A mask goes where its image goes: pictures whose colour is their class are rendered, and read
back."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_files import Shapes
from torch import Tensor

from kdcache.config.spec import Spec
from kdcache.errors import RecipeError
from kdcache.sources import MaskSource
from kdcache.views import Recipe, ViewDataset, load_recipe, row_order

SOURCE = MaskSource(Shapes(), Spec("shapes"), classes=4)
NEAREST = {"interpolation": "nearest"}


def recipe_of(*transforms: dict[str, Any], size: Any = (16, 24), **table: Any) -> Recipe:
    return Recipe(
        "r",
        {
            "size": size if isinstance(size, (int, str)) else list(size),
            "transforms": list(transforms),
            **table,
        },
    )


def rendered(recipe: Recipe, seed: int = 0, rows: int = 12) -> tuple[Tensor, Tensor]:
    """Return views and masks of one batch."""
    dataset = ViewDataset(SOURCE, recipe, row_order(12, 0), sizes=[None])
    batch = dataset.batch([(row, seed) for row in range(rows)])
    assert batch.labels.mixed is None and batch.labels.first.dtype == torch.uint8
    return batch.views[0], batch.labels.first


def expected(views: Tensor) -> Tensor:
    """Return the masks that the views' red channel tells."""
    classes = views[:, 0] // 40
    return torch.where(classes == 4, 255, classes).to(torch.uint8)


CROP: dict[str, Any] = {
    "name": "RandomCrop",
    "size": "input",
    "pad_if_needed": True,
    "fill": [160, 0, 0],
}
"""What is padded looks as what is ignored."""


@pytest.mark.parametrize(
    "transforms",
    [
        [CROP],
        [{**CROP, "size": [16, 24]}, {"name": "RandomHorizontalFlip"}],
        [{"name": "kdcache.RandomScale", "scales": [0.5, 0.7, 1.0, 1.3, 2.0], **NEAREST}, CROP],
        [{"name": "Resize", "size": [33, 57], **NEAREST}, CROP],
        [{"name": "Resize", "size": ["input/0.5", "input"], **NEAREST}, CROP],
        [{"name": "RandomResizedCrop", "size": "input", **NEAREST}],
        [
            {
                "name": "RandomApply",
                "transforms": [{"name": "RandomVerticalFlip", "p": 1.0}],
                "p": 0.5,
            },
            CROP,
        ],
    ],
)
def test_geometry_moves_image_and_mask_alike(transforms: list[dict[str, Any]]) -> None:
    recipe = recipe_of(*transforms)
    for seed in range(8):
        views, masks = rendered(recipe, seed)
        assert views.shape[2:] == masks.shape[1:] == (16, 24)
        assert torch.equal(masks, expected(views))
    assert len(masks.unique()) == 5, "masks that say something"


def test_what_comes_in_from_outside_has_no_class() -> None:
    _, masks = rendered(
        recipe_of(
            {"name": "RandomCrop", "size": "input", "pad_if_needed": True, "fill": 0}, size=(30, 48)
        )
    )
    assert all(float((mask == 255).float().mean()) >= 1 - 24 * 40 / (30 * 48) for mask in masks)
    _, turned = rendered(
        recipe_of(
            {"name": "RandomRotation", "degrees": [40, 41]},
            {"name": "CenterCrop", "size": "input"},
            size=(24, 40),
        )
    )
    assert (turned[:, 0, 0] == 255).all() and (turned[:, -1, -1] == 255).all()


def test_colour_leaves_the_mask_alone() -> None:
    colour = [
        {"name": "ColorJitter", "brightness": 0.9, "hue": 0.4},
        {"name": "RandomGrayscale", "p": 0.5},
    ]
    for more in (
        [],
        [{"name": "timm.RandomErasing", "probability": 1.0}],
        [{"name": "GaussianBlur", "kernel_size": 3}],
    ):
        plain, changed = (rendered(recipe_of(CROP, *parts), 5) for parts in ([], [*colour, *more]))
        own = rendered(recipe_of(CROP, *colour, *more), 5)
        assert torch.equal(own[1], changed[1]) and not torch.equal(plain[0], changed[0])
        # other recipes have other draws, so the crop is not that of `plain`: what is there is what
        # the shapes hold
        assert set(own[1].unique().tolist()) <= {0, 1, 2, 3, 255}


@pytest.mark.parametrize("name", ["cityscapes", "voc"])
def test_shipped_recipes_scale_pad_and_crop(name: str) -> None:
    recipe = load_recipe(name)
    views, masks = rendered(recipe, rows=3)
    size = (512, 1024) if name == "cityscapes" else (512, 512)
    assert views.shape == (3, 3, *size) and masks.shape == (3, *size)
    shares = [float((mask == 255).float().mean()) for mask in masks]
    assert min(shares) > 0.95, "an image of 24x40 is nearly all padding, whatever its scale"
    inside = [mask[mask != 255] for mask in masks]
    assert all(len(part) for part in inside)


def test_an_evaluated_image_keeps_its_size() -> None:
    views, masks = rendered(load_recipe("segmentation-eval"))
    assert views.shape == (12, 3, 24, 40) and torch.equal(masks, expected(views))


def test_images_smaller_than_the_crop_are_refused_where_the_recipe_does_not_pad() -> None:
    recipe = recipe_of({"name": "RandomCrop", "size": "input"}, size=(32, 24))
    with pytest.raises(
        RecipeError,
        match=r"sample \d+ \(0000\d+\): recipe r fails on an image of size \(40, 24\): .*crop size",
    ):
        rendered(recipe)


def test_what_masks_cannot_follow_is_refused() -> None:
    for recipe, message in (
        (recipe_of(CROP, mixing={"mixup": 0.2}), "recipe r mixes views, which masks cannot follow"),
        (
            recipe_of({"name": "timm.AutoAugment", "policy": "rand"}, CROP),
            "timm.AutoAugment moves images without their masks",
        ),
        (recipe_of({"name": "RandAugment"}, CROP), "type Mask are not supported by RandAugment"),
    ):
        with pytest.raises(RecipeError, match=message):
            rendered(recipe)


def test_images_of_several_sizes_are_no_batch() -> None:
    images = [Image.new("RGB", (8 + index, 8)) for index in range(2)]
    pairs = [(image, Image.fromarray(np.zeros((8, image.width), np.uint8))) for image in images]
    dataset = ViewDataset(
        MaskSource(pairs, Spec("two"), classes=2),
        load_recipe("segmentation-eval"),
        np.arange(2),
        sizes=[None],
    )
    assert dataset.batch([(1, 0)]).views[0].shape == (1, 3, 8, 9)
    with pytest.raises(RecipeError, match="in one batch; use a recipe with a size"):
        dataset.batch([(0, 0), (1, 0)])


@pytest.mark.parametrize("size", [0, [3], [4, 0], [1, 2, 3], "whole"])
def test_a_wrong_size_is_told(size: Any) -> None:
    with pytest.raises(
        RecipeError,
        match=r"recipe r: size is .*; it must be a number of pixels, \[height, width\] or 'image'",
    ):
        recipe_of(size=size)


def test_a_size_of_equal_sides_is_one_number() -> None:
    assert recipe_of(size=[32, 32]).size == 32
    stored = recipe_of(CROP).to_dict()
    assert stored["table"]["size"] == [16, 24] and Recipe.from_dict(stored).size == (16, 24)
    assert load_recipe("segmentation-eval").to_dict()["table"]["size"] == "image"
    with pytest.raises(RecipeError, match='size = "image", which is for evaluation only'):
        _ = load_recipe("segmentation-eval").input_size
