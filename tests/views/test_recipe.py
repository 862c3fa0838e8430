"""Recipes: what they render, what their fingerprint covers, and one clear line for each mistake."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from kdcache.errors import RecipeError, UsageError
from kdcache.shapes import sides
from kdcache.views import Recipe, load_recipe, shipped_recipes

TABLE: dict[str, Any] = {
    "mode": "RGB",
    "size": 16,
    "transforms": [
        {
            "name": "RandomResizedCrop",
            "size": "input",
            "scale": [0.2, 1.0],
            "interpolation": "bicubic",
        },
        {
            "name": "RandomApply",
            "transforms": [{"name": "ColorJitter", "brightness": 0.4}],
            "p": 0.5,
        },
    ],
}


def changed(**changes: Any) -> Recipe:
    return Recipe("r", {**TABLE, **changes})


def test_the_shipped_recipes_are_there_and_render() -> None:
    assert shipped_recipes() == [
        *(
            "cifar",
            "cityscapes",
            *("coco", "coco-ssd", "detection-eval", "detection-small"),
            "digits",
            "eval",
            "eval-bicubic",
            "eval-whole",
            "imagenet-b1",
            "imagenet-b2",
            "imagenet-b3",
        ),
        *("segmentation-eval", "voc"),
    ]
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.eval in shipped_recipes()
        height, width = sides(recipe.size or (30, 40))
        if name == "coco-ssd":
            continue  # it crops around boxes, see test_boxes.py
        view = recipe(Image.new(recipe.mode, (width, height)))
        assert view.shape == (recipe.channels, height, width)


@pytest.mark.parametrize("name", ["eval", "eval-whole"])
def test_evaluation_draws_nothing(name: str) -> None:
    recipe = load_recipe(name)
    image = Image.effect_noise((60, 40), 90)
    torch.manual_seed(0)
    first, state = recipe(image), torch.get_rng_state()
    assert torch.equal(first, recipe(image)) and torch.equal(state, torch.get_rng_state())


def test_eval_is_the_centre_and_eval_whole_is_the_whole() -> None:
    image = Image.new("RGB", (400, 200), "red")
    image.paste((0, 0, 255), (200, 0, 400, 200))
    image.paste((0, 255, 0), (0, 0, 40, 200))
    view = load_recipe("eval").at(175)(
        image
    )  # to 400x200, then the centre 175: the green edge is cut off
    assert view.shape == (3, 175, 175) and int(view[1].max()) == 0
    assert view[0, 0, 0] == 255 and view[2, -1, -1] == 255
    whole = load_recipe("eval-whole")(image)
    assert whole.shape == (3, 32, 32) and whole[1, 0, 0] > 200 and whole[2, -1, -1] > 200


def test_input_stands_for_the_models_size() -> None:
    entry = {"name": "Resize", "size": ["input", "input/0.5"]}
    recipe = Recipe(
        "r", {"size": 10, "transforms": [entry, {"name": "CenterCrop", "size": "input"}]}
    )
    assert recipe(Image.new("RGB", (5, 5))).shape == (3, 10, 10)
    assert recipe.at(20)(Image.new("RGB", (5, 5))).shape == (3, 20, 20)
    assert recipe.at(10) is recipe


def test_the_fingerprint_covers_what_decides_the_draws() -> None:
    one = changed().fingerprint
    crop, apply = TABLE["transforms"]
    others = [
        changed(mode="L"),
        changed(transforms=[crop]),
        changed(transforms=[apply, crop]),
        changed(transforms=[{**crop, "scale": [0.2, 0.9]}, apply]),
        changed(transforms=[{**crop, "interpolation": "bilinear"}, apply]),
        changed(transforms=[{**crop, "size": "input/0.9"}, apply]),
        changed(transforms=[crop, {**apply, "p": 0.6}]),
        changed(
            transforms=[crop, {**apply, "transforms": [{"name": "ColorJitter", "brightness": 0.5}]}]
        ),
    ]
    fingerprints = [one, *(recipe.fingerprint for recipe in others)]
    assert len(set(fingerprints)) == len(fingerprints)
    assert len({recipe.key for recipe in others}) == len(others)
    assert all(0 <= word < 2**32 for word in changed().key)


def test_the_fingerprint_leaves_out_size_name_and_evaluation() -> None:
    one = changed()
    reordered = [dict(reversed(entry.items())) for entry in TABLE["transforms"]]
    same = [
        changed(size=8),
        changed(eval="eval-whole"),
        one.at(99),
        Recipe("q", TABLE),
        changed(transforms=reordered),
    ]
    assert {recipe.fingerprint for recipe in same} == {one.fingerprint}
    assert one.with_mode("L").fingerprint != one.fingerprint and one.with_mode("L").channels == 1


def test_a_manifests_recipe_comes_back() -> None:
    stored = changed().to_dict()
    again = Recipe.from_dict(stored)
    assert again.to_dict() == stored and again.fingerprint == stored["fingerprint"]


def test_another_fingerprint_is_refused() -> None:
    stored = changed().to_dict()
    with pytest.raises(
        RecipeError,
        match=r"recipe r of this cache has fingerprint 0{12}, here .* use the kdcache version",
    ):
        Recipe.from_dict({**stored, "fingerprint": "0" * 64})
    with pytest.raises(RecipeError, match="fingerprint"):
        Recipe.from_dict({**stored, "table": {**stored["table"], "mode": "L"}})


RESIZE = '[[transforms]]\nname = "Resize"\nsize = ["input", "input"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size = ", r"mine\.toml is not TOML: Invalid value"),
        (f"colour = 1\nsize = 8\n{RESIZE}", "unknown recipe mine key 'colour'"),
        (RESIZE, "recipe mine needs size"),
        ("size = 8", "recipe mine needs transforms"),
        (f'size = "8"\n{RESIZE}', "recipe mine: size is '8'; it must be a number of pixels"),
        (f'size = 8\nmode = "RBG"\n{RESIZE}', "unknown recipe mine mode 'RBG'; did you mean 'RGB'"),
        ('size = 8\ntransforms = ["Resize"]', "a transform is a table with a name, not 'Resize'"),
        ("size = 8\n[[transforms]]\nsize = 3", "a transform is a table with a name"),
        ('size = 8\n[[transforms]]\nname = "RandomResizeCrop"', "did you mean 'RandomResizedCrop'"),
        ('size = 8\n[[transforms]]\nname = "Resize"\nsizes = 8', "parameter of Resize in .* 'sizes'; did you mean 'size'"),
        ('size = 8\n[[transforms]]\nname = "Resize"', "Resize: .*missing 1 required positional argument: 'size'"),
        ('size = 8\n[[transforms]]\nname = "RandomResizedCrop"\nsize = [1, 2, 3]', "RandomResizedCrop.*size"),
        ('size = 8\n[[transforms]]\nname = "Resize"\nsize = 8\ninterpolation = "bilinar"', "did you mean 'bilinear'"),
        ('size = 8\n[[transforms]]\nname = "AutoAugment"\npolicy = "imagnet"', "policy 'imagnet'; did you mean 'imagenet'"),
        ('size = 8\n[[transforms]]\nname = "RandomErasing"\nscale = []', "RandomErasing: .*index out of range"),
        ('size = 8\n[[transforms]]\nname = "RandomApply"\ntransforms = ["Resize"]', "is a table with a name, not 'Resize'"),
        ('size = 8\n[[transforms]]\nname = "RandomApply"\ntransforms = "Resize"', "is a table with a name, not 'Resize'"),
        ('size = 8\n[[transforms]]\nname = "Normalize"\nmean = [0]\nstd = [1]', "Normalize cannot .*belongs to the model"),
        ('size = 8\n[[transforms]]\nname = "ToDtype"', "ToDtype cannot .*uint8 pixels"),
        ('size = 8\n[[transforms]]\nname = "Lambda"', "Lambda cannot .*plain parameters"),
        ('size = 8\n[[transforms]]\nname = "MixUp"', "MixUp cannot .*mixing needs a partner"),
        ('size = 8\n[[transforms]]\nname = "Mosaic"', "Mosaic cannot .*joins several images.*RandomZoomOut"),
        ('size = 8\n[[transforms]]\nname = "mmdet.Simple_Copy_Paste"', "Copy_Paste cannot .*several"),
        ('size = 8\n[[transforms]]\nname = "Resize"\nsize = "inputs"', "Resize"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_file_is_told_before_any_work(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(str(file))


def test_a_recipe_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"none\.toml does not exist; shipped recipes: cifar, cityscapes, coco, "
    ):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(
        UsageError, match=r"unknown recipe \(and no \.toml file\) 'cifra'; did you mean 'cifar'"
    ):
        load_recipe("cifra")


def test_a_file_is_loaded_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"size = 8\n{RESIZE}")
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.size, recipe.mode, recipe.eval) == ("mine", 8, "RGB", "eval")
    assert recipe(Image.new("L", (3, 9))).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (
            [{"name": "Resize", "size": 8}],
            r"gives torch.uint8 \(3, 8, 16\) where uint8 \(3, 16, 16\) is declared; end it with",
        ),
        ([{"name": "Resize", "size": "input"}], r"\(3, 16, 32\)"),
        ([], r"\(3, 40, 80\)"),
        ([{"name": "Resize", "size": "input"}, {"name": "Grayscale"}], r"\(1, 16, 32\)"),
        (
            [{"name": "ToImage"}, {"name": "timm.AutoAugment", "policy": "v0"}],
            r"fails on an image of size \(80, 40\)",
        ),
        (
            [{"name": "ToImage"}, {"name": "RandomCrop", "size": 100}],
            r"fails on an image of size \(80, 40\)",
        ),
    ],
)
def test_a_result_of_another_size_is_told(transforms: list[Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(transforms=transforms)(Image.new("RGB", (80, 40)))


def test_an_empty_list_of_transforms_keeps_the_image() -> None:
    image = Image.effect_noise((16, 16), 80)
    view = changed(mode="L", transforms=[])(image)
    assert view.flatten().tolist() == list(image.tobytes())


@pytest.mark.parametrize(
    "size",
    ["input/0", "input/1.2.3", "input/1e-7", "input/nan", "input/-2", "input/inf", "input/x"],
)
def test_a_part_of_the_input_that_is_no_number_is_told(tmp_path: Path, size: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'size = 8\n[[transforms]]\nname = "Resize"\nsize = "{size}"\n')
    with pytest.raises(
        RecipeError,
        match=rf"size = '{size}' is no side of 1 to 16384 pixels; write for example input",
    ):
        load_recipe(str(file))


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_draw_the_same_at_every_size_but_those_that_crop_to_it(name: str) -> None:
    if name not in ("cityscapes", "detection-small", "voc"):
        load_recipe(name).require_one_draw(32, (48, 64))
        return
    message = (
        "draws other views at 32 than at 48x64 pixels: RandomCrop comes after .* use a model with"
        " input_size=48x64"
    )
    with pytest.raises(RecipeError, match=message):
        load_recipe(name).require_one_draw(32, (48, 64))


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_an_enumeration_is_given_as_text(policy: str) -> None:
    recipe = changed(transforms=[{"name": "AutoAugment", "policy": policy}])
    original, image = (
        v2.AutoAugment(v2.AutoAugmentPolicy(policy)),
        Image.effect_noise((16, 16), 80).convert("RGB"),
    )
    for seed in range(20):
        torch.manual_seed(seed)
        view = recipe(image)
        torch.manual_seed(seed)
        assert torch.equal(view, v2.functional.pil_to_tensor(original(image)))
    assert Recipe.from_dict(recipe.to_dict()).to_dict() == recipe.to_dict()


RESIZED = {"name": "Resize", "size": ["input", "input"]}
CROPPED = {"name": "RandomResizedCrop", "size": "input"}


@pytest.mark.parametrize(
    "transforms",
    [
        [RESIZED, {"name": "RandomCrop", "size": "input", "padding": 4}],
        [{"name": "RandomCrop", "size": "input"}],
        [RESIZED, CROPPED],
        [CROPPED, {"name": "RandomErasing"}],
        [RESIZED, {"name": "RandomPerspective"}],
        [RESIZED, {"name": "TrivialAugmentWide"}],
        [RESIZED, {"name": "RandomApply", "transforms": [{"name": "RandomErasing"}]}],
        [{"name": "RandomApply", "transforms": [CROPPED, {"name": "RandomErasing"}]}],
        [{"name": "Compose", "transforms": [RESIZED, {"name": "RandomOrder", "transforms": [{"name": "RandomErasing"}]}]}],
    ],
)  # fmt: skip
def test_a_recipe_that_draws_by_the_inputs_size_is_refused_at_two_sizes(
    transforms: list[Any],
) -> None:
    recipe = changed(transforms=transforms)
    recipe.require_one_draw(16, 16)
    with pytest.raises(
        RecipeError,
        match=r"recipe r draws other views at 16 than at 24 pixels: .*, or put it first$",
    ):
        recipe.require_one_draw(16, 24)


SAME_AT_ANY_SIZE: list[list[dict[str, Any]]] = [
    *(
        [RESIZED, {"name": name, "interpolation": "bilinear"}]
        for name in ("RandAugment", "AutoAugment", "AugMix")
    ),
    *(
        [RESIZED, {"name": "timm.AutoAugment", "policy": policy}]
        for policy in ("rand-m9-mstd0.5", "augmix-m5", "original")
    ),
    [
        RESIZED,
        {
            "name": "RandomAffine",
            "degrees": 20,
            "translate": [0.3, 0.3],
            "interpolation": "bilinear",
        },
    ],
    [{"name": "RandomApply", "transforms": [CROPPED]}, RESIZED],
    [{"name": "RandomCrop", "size": 64}, RESIZED],
    [{"name": "ToImage"}, {"name": "RandomErasing", "value": 9}, RESIZED],
]


@pytest.mark.parametrize(
    "transforms", SAME_AT_ANY_SIZE, ids=lambda transforms: transforms[-1]["name"]
)
def test_the_others_see_the_same_draw_at_every_size(transforms: list[Any]) -> None:
    """Those that draw from a range that depends on the size are in a list by hand: this looks at
    the pixels."""
    recipe = changed(size=64, transforms=transforms)
    recipe.require_one_draw(64, 128)
    y, x = np.mgrid[0:96, 0:96] / 96
    waves = [np.sin(5 * x + 2 * y), np.cos(7 * y * x + x), np.sin(9 * (x - 0.3) ** 2 + 4 * y)]
    image = Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8))

    def thumbnail(size: int, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return torch.nn.functional.adaptive_avg_pool2d(recipe.at(size)(image).float(), 8)

    same = [float((thumbnail(64, seed) - thumbnail(128, seed)).abs().mean()) for seed in range(20)]
    others = [
        float((thumbnail(64, seed) - thumbnail(128, seed + 50)).abs().mean()) for seed in range(20)
    ]
    assert max(same) < 8 and np.mean(others) > 3 * max(same)
