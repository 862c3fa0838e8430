"""The study on street photographs of `examples/`: its data, its teacher, its commands."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from example_scripts import EXAMPLES, commands_of, package_of_weights, require_sound
from PIL import Image
from safetensors.torch import load_file
from segmentation_files import write_pair

from kdcache.config.files import load_config
from kdcache.sources import open_source
from kdcache.train.config import TrainConfig
from kdcache.train.run import train_student


@pytest.fixture
def camvid(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module("camvid")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return CamVid as the study takes it, of two photographs in each part; the upper half of a
    mask is sky, the lower half road, with a column of void."""
    root = tmp_path / "CamVid"
    ids = np.zeros((60, 80), np.uint8)
    ids[30:] = 3
    ids[:, 40:42] = 11
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            write_pair(root / part / f"{name}.png", root / f"{part}annot" / f"{name}.png", ids)
    return root


def source_of(photographs: Path, part: str) -> str:
    files = f"images=images/{{}}.png,ids={photographs}/ids.csv"
    return f"segfolder:{photographs}/{part},classes={photographs}/classes.txt,{files}"


def test_halves_are_a_source_of_eleven_classes(
    camvid: ModuleType, folder: Path, tmp_path: Path
) -> None:
    camvid.write_halves(folder, tmp_path / "out")
    for part in ("train", "val", "test"):
        source = open_source(source_of(tmp_path / "out", part))
        assert len(source) == 2 and source.classes == 11
        sample = source.sample(0)
        assert sample.image.size == (40, 30)
        ids = np.asarray(sample.target)
        assert np.unique(ids[:15]).tolist() == [0, 255]
        assert np.unique(ids[15:]).tolist() == [3, 255]


def test_a_pixel_of_half_a_photograph_is_the_mean_of_four(
    camvid: ModuleType, folder: Path, tmp_path: Path
) -> None:
    camvid.write_halves(folder, tmp_path / "out")
    whole = np.asarray(Image.open(folder / "train" / "a.png"), np.float64)
    half = np.asarray(Image.open(tmp_path / "out" / "train" / "images" / "a.png"), np.float64)
    means = whole.reshape(30, 2, 40, 2, 3).mean((1, 3))
    np.testing.assert_allclose(half, means, atol=1)


def test_a_backbone_has_the_weights_of_the_package(
    camvid: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    state = package_of_weights(tmp_path, "0")
    camvid.write_backbone("0", tmp_path / "lite0.safetensors")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_file(tmp_path / "lite0.safetensors"))
    for tensor, own in zip(model.state_dict().values(), state.values(), strict=True):
        assert torch.equal(tensor, own)


def test_the_commands_of_the_script_are_sound(folder: Path, tmp_path: Path) -> None:
    commands = commands_of("camvid.sh", folder, tmp_path / "out")
    names = {name for name, *_ in commands}
    assert names == {"train-student", "dump-teacher", "evaluate", "recode", "info", "report"}
    require_sound(commands)


@pytest.mark.parametrize("recipe", ["camvid.toml", "camvid_teacher.toml"])
def test_a_student_trains_with_the_settings_and_the_recipe(
    camvid: ModuleType, folder: Path, tmp_path: Path, recipe: str
) -> None:
    camvid.write_halves(folder, tmp_path / "out")
    flags = {
        "run": str(tmp_path / "run"),
        "data": source_of(tmp_path / "out", "train"),
        "eval_data": source_of(tmp_path / "out", "test"),
        "recipe": str(EXAMPLES / recipe),
        "loss": "ce",
        "epochs": 2,
        "batch_size": 2,
        "compute.device": "cpu",
    }
    file = str(EXAMPLES / "camvid_settings.toml")
    result = train_student(load_config(TrainConfig, "train-student", file=file, flags=flags))
    assert result["steps"] == 2 and result["miou"] >= 0
