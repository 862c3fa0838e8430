"""Settings are compared by what they mean."""

from pathlib import Path
from typing import Any

import pytest

from kdcache.train.config import TrainConfig
from kdcache.train.differences import differing_settings

RECIPE = """
size = 32

[[transforms]]
name = "RandomCrop"
size = 32
padding = 4
"""
SETTINGS: dict[str, Any] = {"run": "r", "student": "timm:x", "data": "digits", "loss": "ce"}


@pytest.mark.parametrize(
    ("text", "is_same"),
    [
        ('# what decides the draws\nmode = "RGB"\n' + RECIPE, True),
        ('eval = "eval-whole"\n' + RECIPE.replace("size = 32\n", "size = 64\n", 1), True),
        ('mode = "L"\n' + RECIPE, False),
        (RECIPE.replace("padding = 4", "padding = 5"), False),
        (RECIPE + "[mixing]\nmixup = 0.8\n", False),
    ],
)
def test_recipes_are_the_same_that_decide_the_same_draws(
    tmp_path: Path, text: str, is_same: bool
) -> None:
    configs = []
    for name, content in (("a", RECIPE), ("b", text)):
        file = tmp_path / f"{name}.toml"
        file.write_text(content)
        configs.append(TrainConfig(**SETTINGS, recipe=str(file)))
    assert bool(differing_settings(configs[0], configs[1], free=())) != is_same


def test_a_recipe_that_is_gone_is_another(tmp_path: Path) -> None:
    gone = TrainConfig(**SETTINGS, recipe=str(tmp_path / "gone.toml"))
    shipped = TrainConfig(**SETTINGS, recipe="digits")
    assert "recipe" in differing_settings(gone, shipped, free=())


def test_recipes_of_functions_are_compared_as_they_are_written() -> None:
    first, second = "mine:train,size=8,fill=0", "mine:train,size=9"
    configs = [TrainConfig(**SETTINGS, recipe=text) for text in (first, second)]
    assert "recipe" in differing_settings(*configs, free=())
    assert not differing_settings(configs[0], configs[0], free=())


def test_options_that_never_did_anything_set_no_runs_apart() -> None:
    student = "torchvision:retinanet_resnet50_fpn"
    old = TrainConfig(**{**SETTINGS, "student": f"{student},min_size=100"}, recipe="digits")
    new = TrainConfig(**{**SETTINGS, "student": student}, recipe="digits")
    other = TrainConfig(**{**SETTINGS, "student": f"{student},nms_thresh=0.4"}, recipe="digits")
    assert not differing_settings(old, new, free=())
    assert "student" in differing_settings(old, other, free=())
