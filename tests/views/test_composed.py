"""Recipes from transforms that somebody has already."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.models import ResNet50_Weights
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import transforms as v1
from torchvision.transforms.autoaugment import AutoAugmentPolicy

from kdcache import (
    DistillationLoader,
    KdcacheError,
    dump_teacher,
    evaluate,
    load_recipe,
    open_cache,
    recipe_of,
)
from kdcache.errors import RecipeError, SourceError, UsageError
from kdcache.views import Recipe, check_recipe

SIZE = 24
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
FLIP = {"name": "RandomHorizontalFlip"}

ONE_BY_ONE: list[Any] = [
    v2.AugMix(severity=2, all_ops=False),
    v2.AutoAugment(AutoAugmentPolicy.CIFAR10),
    v2.CenterCrop(20),
    v2.ColorJitter(0.4, (0.5, 1.2), 0.3, 0.1),
    v2.ElasticTransform(30.0),
    v2.GaussianBlur(3, 0.7),
    v2.Grayscale(3),
    v2.JPEG((40, 60)),
    v2.Pad([2, 3], fill=9, padding_mode="constant"),
    v2.RandAugment(magnitude=5, interpolation=InterpolationMode.BILINEAR),
    v2.RandomAdjustSharpness(2, p=1.0),
    v2.RandomAffine(20, translate=(0.1, 0.2), scale=(0.8, 1.1), shear=5, fill=[1, 2, 3]),
    v2.RandomApply([v2.RandomInvert(), v2.RandomSolarize(100, p=1.0)], p=0.7),
    v2.RandomChoice([v2.RandomEqualize(), v2.RandomAutocontrast(p=1.0)], p=[0.2, 0.8]),
    v2.RandomChoice([v2.RandomVerticalFlip(), v2.RandomPosterize(3)]),
    v2.RandomCrop(SIZE, padding=4, padding_mode="reflect"),
    v2.RandomErasing(p=1.0, value=17),
    v2.RandomGrayscale(p=0.5),
    v2.RandomOrder([v2.RandomHorizontalFlip(), v2.RandomChannelPermutation()]),
    v2.RandomPerspective(0.4, p=1.0),
    v2.RandomPhotometricDistort(p=0.9),
    v2.RandomResizedCrop(SIZE, scale=(0.3, 0.9), interpolation=InterpolationMode.BICUBIC),
    v2.RandomResizedCrop((SIZE, 20), ratio=(1.0, 1.5)),
    v2.RandomRotation((5, 30), expand=False, fill=3),
    v2.RandomShortestSize([10, 20]),
    v2.RandomZoomOut(side_range=(1.0, 2.0)),
    v2.Resize(30),
    v2.Resize((SIZE, 20)),
    v2.ScaleJitter((20, 20)),
    v2.TrivialAugmentWide(num_magnitude_bins=11),
]


def tables(transforms: Any, **options: Any) -> list[Any]:
    found: list[Any] = recipe_of(transforms, **options).transforms
    return found


def pixels(image: Any) -> Any:
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("transform", ONE_BY_ONE, ids=lambda transform: type(transform).__name__)
def test_a_transform_does_in_a_recipe_what_it_did(transform: Any) -> None:
    recipe = recipe_of([transform, v2.CenterCrop(16)], size=16)
    again = Recipe("again", recipe.to_dict()["table"])
    for seed in range(5):
        torch.manual_seed(seed)
        before = v2.functional.center_crop(transform(IMAGE), [16])
        for read in (recipe, again):
            torch.manual_seed(seed)
            assert torch.equal(read(IMAGE).permute(1, 2, 0), pixels(before))


def test_the_loop_of_most_people() -> None:
    normalize = v1.Normalize(MEAN, STD)
    first = v1.Compose(
        [v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(), normalize]
    )
    second = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.ToPureTensor(),
        ]
    )
    crop = {"name": "RandomResizedCrop", "size": "input"}
    for transforms in (first, second, [first.transforms[:2], [normalize]]):
        recipe = recipe_of(transforms)
        assert (recipe.mode, recipe.size, recipe.transforms) == ("RGB", 224, [crop, FLIP])


def test_what_a_model_still_needs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    crop = v2.RandomCrop(8)
    recipe_of([crop])
    assert capsys.readouterr().err == ""
    recipe_of([crop, v1.ToTensor()])
    assert "takes mean=0, std=1\n" in capsys.readouterr().err
    recipe_of([crop, v1.ToTensor(), v1.Normalize(torch.tensor(MEAN), STD)])
    assert f"takes mean={MEAN}, std={STD}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("transforms", "size", "expected"),
    [
        ([v1.Resize(256), v1.CenterCrop(224)], 224, [("Resize", "input/0.875"), "CenterCrop"]),
        ([v1.Resize(224), v1.CenterCrop(224)], 224, [("Resize", "input"), "CenterCrop"]),
        ([v1.CenterCrop(20)], 20, [("CenterCrop", 20), "Resize"]),
        ([v2.RandomCrop(32, padding=4)], 32, [("RandomCrop", 32), "Resize"]),
        ([v2.Resize((24, 32))], (24, 32), [("Resize", ["input", "input"])]),
        ([v2.RandomResizedCrop((24, 32))], (24, 32), [("RandomResizedCrop", ["input", "input"])]),
        (
            ResNet50_Weights.IMAGENET1K_V1.transforms(),
            224,
            [("Resize", "input/0.875"), "CenterCrop"],
        ),
        (create_transform(224, crop_pct=1.0), 224, [("Resize", "input"), "CenterCrop"]),
    ],
)
def test_views_follow_the_input_size_of_each_model(
    transforms: Any, size: Any, expected: list[Any]
) -> None:
    recipe = recipe_of(transforms)
    assert recipe.size == size
    for table, entry in zip(recipe.transforms, expected, strict=True):
        name, side = entry if isinstance(entry, tuple) else (entry, "input")
        assert (table["name"], table["size"]) == (name, side)
    assert [*recipe.at(16)(IMAGE).shape] == [3, 16, 16]


def test_the_first_version_of_a_choice_is_as_likely() -> None:
    choice = v1.RandomChoice([v1.RandomResizedCrop(8), v1.RandomResizedCrop(8, (0.5, 1.0))])
    crop = {"name": "RandomResizedCrop", "size": "input"}
    crops = [crop, {**crop, "scale": [0.5, 1.0]}]
    assert tables(choice) == [{"name": "RandomChoice", "transforms": crops}]


def test_gray_images() -> None:
    recipe = recipe_of([v2.Grayscale(), v2.Resize((8, 8)), v1.ToTensor(), v1.Normalize(0.5, 0.5)])
    assert recipe.mode == "L" and recipe(IMAGE.convert("L")).shape == (1, 8, 8)


def test_an_erasing_behind_a_normalisation_keeps_its_colour() -> None:
    crop, erasing = v2.RandomCrop(8), v2.RandomErasing(p=1.0)
    to_floats, normalize = v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)
    assert tables([crop, to_floats, normalize, erasing])[1]["value"] == [124, 116, 104]
    assert tables([crop, v1.ToTensor(), v1.RandomErasing(value=0.5)])[1]["value"] == 128
    assert "value" not in tables([crop, erasing])[1]
    noise = create_transform(8, is_training=True, re_prob=0.3, re_mode="pixel", mean=[0.5] * 3)
    assert tables(noise)[-1] == {
        "name": "timm.RandomErasing",
        "probability": 0.3,
        "mode": "pixel",
        "max_count": 1,
        "pixel_mean": [0.5] * 3,
        "pixel_std": STD,
    }


def test_a_drawn_interpolation_of_timms_is_a_choice_of_crops() -> None:
    choice, flip = tables(
        create_transform(24, is_training=True, interpolation="random", color_jitter=None)
    )
    assert flip == FLIP and choice["name"] == "RandomChoice"
    assert [(crop["size"], crop.get("interpolation")) for crop in choice["transforms"]] == [
        ("input", None),
        ("input", "bicubic"),
    ]


def test_a_table_may_stand_among_transforms() -> None:
    policy = {"name": "timm.AutoAugment", "policy": "rand-m5-n1"}
    recipe = recipe_of([v2.RandomCrop(8), policy], mixing={"mixup": 0.2}, eval="eval-whole")
    assert recipe.transforms[1] == policy and recipe.eval == "eval-whole"
    assert recipe.mixing is not None and recipe.mixing.mixup == 0.2


def test_a_recipe_is_saved_as_the_file_that_commands_take(tmp_path: Path) -> None:
    recipe = recipe_of([v2.RandomCrop(8), v2.ColorJitter(0.3)], mixing={"cutmix": 1.0})
    recipe.save(tmp_path / "mine.toml")
    again = load_recipe(tmp_path / "mine.toml")
    assert again.fingerprint == recipe.fingerprint and again.name == "mine"
    assert json.dumps(again.to_dict()["table"]) == json.dumps(recipe.to_dict()["table"])
    with pytest.raises(KdcacheError, match=r"cannot write \S+/none/mine\.toml: No such file"):
        recipe.save(tmp_path / "none" / "mine.toml")
    with pytest.raises(UsageError, match=r"mine must end in \.toml, as --recipe takes it$"):
        recipe.save(tmp_path / "mine")


class Normalize(torch.nn.Module):
    """Of the same name as torchvision's, which is left out."""


def test_levels_are_those_of_pixels_from_0_to_1(capsys: pytest.CaptureFixture[str]) -> None:
    crop, erasing = v2.RandomCrop(8), v2.RandomErasing(p=1.0, value=51)
    to_floats = v2.ToDtype(torch.float32)  # of 0 to 255
    assert tables([crop, to_floats, erasing])[1]["value"] == 51
    recipe_of([crop, to_floats, v2.Normalize([127.5] * 3, [51.0] * 3)])
    assert "takes mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2]\n" in capsys.readouterr().err
    recipe_of([v2.ToDtype(torch.uint8, scale=True), crop])
    assert capsys.readouterr().err == ""


def test_images_are_gray_from_the_beginning_where_that_is_the_same() -> None:
    gray, crop = v2.Grayscale(), v2.RandomCrop(8)
    assert recipe_of([crop, gray, v2.ColorJitter(0.2)]).mode == "L"
    recipe = recipe_of([v2.ColorJitter(hue=0.2), gray, crop])
    assert recipe.mode == "RGB"
    with pytest.raises(RecipeError, match=r"\(1, 8, 8\) where uint8 \(3, 8, 8\)"):
        recipe(IMAGE)


def test_a_choice_among_other_crops_than_of_one_kind_says_no_size() -> None:
    crop = v2.RandomResizedCrop(8)
    for other in (v2.RandomHorizontalFlip(), v2.RandomResizedCrop(6), v2.RandomCrop(8)):
        choice = v2.RandomChoice([crop, other])
        drawn, resize = tables(choice, size=8)
        assert drawn["transforms"][0]["size"] == 8 and resize["name"] == "Resize"
        with pytest.raises(RecipeError, match="no transform says how large"):
            recipe_of(choice)


class OwnResize(v2.Resize):
    """A subclass may do anything."""


def own_views(image: Image.Image) -> Image.Image:
    return image


NORMALIZE = v2.Normalize([0.5], [0.5])
MISTAKES: list[tuple[Any, str]] = [
    (own_views, r"transform \S*test_composed\.own_views is code, which a cache cannot keep: "),
    ([v2.RandomCrop(8), Normalize()], r"Normalize is code"),
    (OwnResize(8), r"OwnResize is code, .* call it in the __getitem__ of your data set"),
    (v1.Lambda(own_views), "Lambda is code"),
    (v2.Lambda(own_views), "Lambda is code"),
    (v2.Resize, "Resize is code"),
    (None, "^None is no transform; give one of torchvision's, or a table"),
    ([v2.RandomCrop(8), 3], "^3 is no transform"),
    ([], "recipe own: no transform says how large a view is; give size, such as size=224"),
    (v2.RandomHorizontalFlip(), "no transform says how large a view is"),
    ([v2.RandomCrop(8), NORMALIZE, v2.ColorJitter(0.2)], "ColorJitter stands after what makes"),
    ([v2.RandomCrop(8), v1.ToTensor(), v2.RandomSolarize(0.5)], "RandomSolarize stands after"),
    ([v2.RandomCrop(8), v1.ToTensor(), v2.RandomRotation(5, fill=0.5)], "RandomRotation stands"),
    (
        [v2.RandomCrop(8), v1.ToTensor(), v2.RandomApply([v2.RandomSolarize(0.5)])],
        "RandomApply stands after",
    ),
    ([v2.RandomCrop(8), NORMALIZE, v2.RandomErasing(value="random")], "with noise has no meaning"),
    (
        v2.Pad(2, fill={Image.Image: 3}),
        r"cannot be read \(.* put its table in its place, .*\"Pad\"",
    ),
    (create_transform(8, is_training=True, auto_augment="rand-m9"), "keep the text of its policy"),
    ([{"name": "RandomCrop", "size": 8, "paddin": 2}], "did you mean 'padding'"),
]


@pytest.mark.parametrize(("transforms", "message"), MISTAKES)
def test_mistakes_are_told(transforms: Any, message: str) -> None:
    with pytest.raises(KdcacheError, match=message):
        recipe_of(transforms)


def test_an_unusual_aspect_of_timms_erasing_is_refused() -> None:
    from timm.data.random_erasing import RandomErasing

    with pytest.raises(
        RecipeError, match=r"aspects from 0\.3 to 2; .* inverse of the lowest, 3\.33"
    ):
        recipe_of([v2.RandomCrop(8), RandomErasing(max_aspect=2.0, device="cpu")])


class Augmented:
    """A data set that makes its views itself, from images of one color each."""

    classes = ("dark", "light")

    def __init__(self, augment: Any) -> None:
        self._augment = augment

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._augment(np.full((8, 8, 3), 10 * index, np.uint8)), int(index > 12)


def drawn_from_all(image: Any) -> Any:
    level = random.randrange(5) + np.random.randint(5) + int(torch.randint(5, ()))
    return image + np.uint8(level)


def views(path: Path, data: Any) -> dict[tuple[int, int], Any]:
    """Return the first pixel of each view of two epochs."""
    loader = DistillationLoader(path, data=data, batch_size=8, num_workers=0, epochs=2)
    found = {}
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            pairs = zip(batch.rows.tolist(), batch.seeds.tolist(), strict=True)
            found.update(zip(pairs, batch.images[:, 0, 0, 0].tolist(), strict=True))
    return found


def test_a_data_set_may_make_its_views_itself(tmp_path: Path) -> None:
    data = Augmented(drawn_from_all)
    options: dict[str, Any] = {"mean": 0.5, "std": 0.25, "num_workers": 0}
    seen: list[Any] = []

    class Teacher(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.extend((images[:, 0, 0, 0] * 0.25 + 0.5).mul(255).round().int().tolist())
            return images.flatten(1)[:, :2]

    recipe = recipe_of([], size=8)
    dump_teacher(
        tmp_path / "cache", data=data, teacher=Teacher(), recipe=recipe, seeds=range(2), **options
    )
    first = views(tmp_path / "cache", data)
    assert first == views(tmp_path / "cache", data) and len(first) == 48
    assert {*first.values()} <= {*seen}
    drawn = {seed: [first[row, seed] for row in range(24)] for seed in (0, 1)}
    assert drawn[0] != drawn[1]


def test_a_data_set_with_a_generator_of_its_own_is_noticed(tmp_path: Path) -> None:
    own = np.random.default_rng(0)
    data = Augmented(lambda image: image + own.integers(9, dtype=np.uint8))
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    options: dict[str, Any] = {"mean": 0.5, "std": 0.25, "num_workers": 0}
    recipe = recipe_of([], size=8)
    with pytest.raises(
        SourceError, match=r"sample 0 .* is another one when it is read again: draw"
    ):
        dump_teacher(tmp_path / "cache", data=data, teacher=teacher, recipe=recipe, **options)
    assert not (tmp_path / "cache").exists()


def test_transforms_are_the_recipe_of_a_dump_and_of_an_evaluation(tmp_path: Path) -> None:
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 2))
    options: dict[str, Any] = {"mean": 0.5, "std": 0.25, "num_workers": 0}
    train = v1.Compose([v1.RandomCrop(6), v1.ToTensor(), v1.Normalize([0.5] * 3, [0.25] * 3)])
    data = Augmented(lambda image: image)
    dump_teacher(tmp_path / "cache", data=data, teacher=teacher, recipe=train, **options)
    assert (
        open_cache(tmp_path / "cache").manifest.recipe.fingerprint == recipe_of(train).fingerprint
    )
    scores = evaluate(teacher, data, recipe=v2.CenterCrop(6), **options)
    assert 0 <= scores["top1"] <= 100


OWN_MODULE = """
from torchvision.transforms import v2
from kdcache import load_recipe

def train(side=8):
    return v2.Compose([v2.RandomCrop(side), v2.ToImage()])

def loaded():
    return load_recipe("digits")

def broken():
    raise ValueError("no views today")

def nothing():
    pass
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_function_may_give_transforms_or_a_recipe(own_module: str) -> None:
    recipe = load_recipe(f"{own_module}:train,side=6")
    crop = {"name": "RandomCrop", "size": 6}
    assert recipe.name == "train" and recipe.size == 6 and recipe.transforms[0] == crop
    assert load_recipe(f"{own_module}:loaded").fingerprint == load_recipe("digits").fingerprint
    check_recipe(f"{own_module}:train")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("trian", "did you mean"),
        ("train,sides=6", "did you mean 'side'"),
        ("broken", "ValueError: no views today"),
        ("nothing", "None is no transform"),
    ],
)
def test_what_is_wrong_with_a_function_is_told(
    own_module: str, function: str, message: str
) -> None:
    with pytest.raises(KdcacheError, match=message):
        load_recipe(f"{own_module}:{function}")


def test_a_module_that_is_not_there_is_told_before_torch() -> None:
    for text in ("nowhere.views:train", "digit:"):
        with pytest.raises(UsageError):
            check_recipe(text)
