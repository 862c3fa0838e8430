"""The folder of a run in the place of a model's spec."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import kdcache_json
from runs import DIGITS, MLP, dump, train, train_config
from safetensors.torch import load_file
from tiny_models import FEW

from kdcache.cache import open_cache
from kdcache.config.spec import parse_spec
from kdcache.errors import KdcacheError, UsageError
from kdcache.models.model import open_model
from kdcache.models.run_folders import model_spec
from kdcache.models.weight_record import require_recorded, weight_record
from kdcache.train.optim import OptimizerConfig
from kdcache.train.plan import plan_training
from kdcache.views import load_recipe

PLACE = ("--workers", "0", "--device", "cpu")
LABELS: dict[str, Any] = {"recipe": "digits", "loss": "ce", "epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "run"
    train(folder, **LABELS, student=f"{MLP},dropout=0.1", eval_data=DIGITS)
    return folder


def test_a_folder_means_the_student_with_its_best_weights(run: Path, tmp_path: Path) -> None:
    spec = f"tiny_models:mlp,dropout=0.1,mean=0.5,std=0.25,weights={run}/best.safetensors"
    assert model_spec(str(run)) == spec
    assert model_spec(f"{run},head=new") == f"{spec},head=new"
    for text in ("timm:resnet18", "timm:resnet18,weights=runs/a/b.pth", "digits", ""):
        assert model_spec(text) == text
    for text in (f"{tmp_path}/none", "runs/none,head=new"):
        with pytest.raises(UsageError, match=r"there is no folder .*none; give that of a run, or"):
            model_spec(text)
    with pytest.raises(UsageError, match=r"is no run: it has no config\.toml"):
        model_spec(str(tmp_path))
    (tmp_path / "config.toml").write_text("[dump-teacher]\n")
    with pytest.raises(UsageError, match=r"config\.toml names no student of a run"):
        model_spec(str(tmp_path))
    (tmp_path / "config.toml").write_text('[train-student]\nstudent = "timm:resnet18"\n')
    with pytest.raises(KdcacheError, match="has no weights yet"):
        model_spec(str(tmp_path))


def test_a_run_recorded_with_a_detectors_own_resizing_opens_without_it(tmp_path: Path) -> None:
    """These options never did anything, and are refused in a new spec."""
    detector = "torchvision:ssdlite320_mobilenet_v3_large"
    student = f"{detector},max_size=64,min_size=32,topk_candidates=50"
    (tmp_path / "config.toml").write_text(f'[train-student]\nstudent = "{student}"\n')
    (tmp_path / "best.safetensors").touch()
    spec = parse_spec(model_spec(str(tmp_path)))
    assert dict(spec.options) == {
        "topk_candidates": 50,
        "weights": f"{tmp_path}/best.safetensors",
    }
    record = weight_record(student)
    require_recorded(record, spec, tmp_path / "best.safetensors")
    (tmp_path / "config.toml").write_text('[train-student]\nstudent = "mine:net,min_size=32"\n')
    assert "min_size=32" in model_spec(str(tmp_path)), "it may mean anything in another's model"


@pytest.mark.parametrize("name", ["14:30", "a=b", "a,b", " a"])
def test_a_run_that_is_there_may_have_any_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(run)
    weights = parse_spec(model_spec(name)).options["weights"]
    assert weights == f"{name}/best.safetensors"
    assert kdcache_json("evaluate", name, *PLACE)["samples"] == FEW


def test_a_run_is_a_teacher(run: Path, tmp_path: Path) -> None:
    dump(tmp_path / "cache", teacher=str(run))
    dump(tmp_path / "same", teacher=model_spec(str(run)))
    cache = open_cache(tmp_path / "cache")
    assert cache.manifest.teacher == open_cache(tmp_path / "same").manifest.teacher
    words = ("verify", tmp_path / "cache", "--teacher", run, "--views", 4, "--data", DIGITS)
    assert kdcache_json(*words, *PLACE)["views"] == {"checked": 4, "other_pixels": 0}


def test_a_run_begins_with_the_weights_of_another_and_outlives_it(
    run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.symlink_to(run)
    settings: dict[str, Any] = {**LABELS, "optimizer": OptimizerConfig(lr=1e-12)}
    train(tmp_path / "run", **settings, student=str(other))
    first = load_file(tmp_path / "run" / "student.safetensors")
    for name, tensor in load_file(run / "best.safetensors").items():
        torch.testing.assert_close(first[name], tensor)
    again = train_config(tmp_path / "run", **settings, student=str(other))
    assert plan_training([again])["epochs_done"] == 1
    other.unlink()
    found = kdcache_json("evaluate", tmp_path / "run", "--data", DIGITS, *PLACE)["scores"]
    assert found["top1"] == kdcache_json("evaluate", run, *PLACE)["scores"]["top1"]
    settings = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["train-student"]
    assert settings["student"] == model_spec(str(run)).replace(str(run), str(other))


def test_of_a_folder_of_runs_these_are_named(tmp_path: Path) -> None:
    for name in ("loss=ce", "loss=kl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text("")
    with pytest.raises(UsageError, match=r"give one of the runs in it: .*/loss=ce, .*/loss=kl$"):
        model_spec(str(tmp_path))


def test_weights_of_another_task_are_no_teacher(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="is of classification, as its weights say, and one of seg"
    ):
        open_model(
            str(run), classes=10, recipe=load_recipe("digits"), trained=True, task="segmentation"
        )
