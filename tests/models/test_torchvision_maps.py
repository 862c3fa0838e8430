"""torchvision's own models of segmentation through the commands, with weights from files of its own
state names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from map_caches import losses, made
from runs import train
from safetensors.torch import save_file
from torchvision import models
from torchvision.models.resnet import Bottleneck, ResNet

from kdcache.cache import open_cache
from kdcache.errors import ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.sources import open_source
from kdcache.tasks.map_sizes import upsampled
from kdcache.verify.cache import verify_cache
from kdcache.views import ViewDataset, load_recipe
from kdcache_cli.commands import main

DATA = "segmentation_files:Shapes,length=4,height=36,width=40"
RECIPE = """
size = [32, 32]
eval = "segmentation-eval"

[[transforms]]
name = "RandomCrop"
size = "input"
"""


def write_weights(name: str, path: Path) -> Any:
    """Write the state of torchvision's model with random weights, and return the model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=4, aux_loss=True
        ).eval()
    save: Callable[..., Any] = save_file if path.suffix == ".safetensors" else torch.save
    save(whole.state_dict(), path)
    return whole


@pytest.fixture
def shallow_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the models with a ResNet-50 have one of a single block at each stage."""

    def shallow(weights: None, **settings: Any) -> ResNet:
        return ResNet(Bottleneck, [1, 1, 1, 1], **settings)

    for module in ("deeplabv3", "fcn"):
        monkeypatch.setattr(f"torchvision.models.segmentation.{module}.resnet50", shallow)


@pytest.mark.usefixtures("shallow_backbones")
@pytest.mark.parametrize(
    ("name", "file"),
    [("deeplabv3_resnet50", "teacher.pth"), ("fcn_resnet50", "teacher.safetensors")],
)
def test_a_model_of_torchvision_teaches(name: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    whole = write_weights(name, tmp_path / file)
    spec = f"torchvision:{name},aux_loss=true,weights={tmp_path / file}"
    settings = {
        "data": DATA,
        "recipe": str(tmp_path / "recipe.toml"),
        "batch_size": 2,
        "unit_rows": None,
    }
    made(tmp_path / "cache", **settings, teacher=spec, codec="full:dtype=float32")
    lines = CliRunner().invoke(main, ["info", str(tmp_path / "cache")]).stdout
    assert (
        "segmentation, 4 classes, 4x4 maps of 2 heads at stride 8" in lines
        and f"torchvision:{name},aux_loss=true" in lines
    )

    cache = open_cache(tmp_path / "cache")
    views = (
        ViewDataset(open_source(DATA), cache.recipe, cache.order, sizes=[32])
        .batch([(row, 0) for row in range(4)])
        .views[0]
    )
    entry = cache.manifest.teacher
    mean, std = (torch.tensor(values)[:, None, None] for values in (entry.mean, entry.std))
    with torch.no_grad():
        wanted = whole((views / 255 - mean) / std)
    found = cache.codec.decode(cache.read(0, list(range(4)))).logits()
    assert found.shape == (4, 2, 4, 4, 4) and not torch.allclose(found[:, 0], found[:, 1])
    for head, key in enumerate(("out", "aux")):
        torch.testing.assert_close(
            upsampled(found[:, head], (32, 32)), wanted[key], rtol=0, atol=1e-4
        )

    for aux in ("true", "false"):
        student = f"tiny_models:segmenter,stride=8,aux={aux}"
        common = {
            "data": DATA,
            "student": student,
            "batch_size": 2,
            "epochs": 1,
            "loss": "dist:tau=1,beta=1,gamma=1",
        }
        train(tmp_path / f"cached-{aux}", cache=str(tmp_path / "cache"), **common)
        train(tmp_path / f"online-{aux}", teacher=spec, recipe=settings["recipe"], **common)
        cached, online = losses(tmp_path / f"cached-{aux}"), losses(tmp_path / f"online-{aux}")
        np.testing.assert_allclose(cached, online, rtol=0, atol=1e-5)
    assert losses(tmp_path / "cached-true") != losses(tmp_path / "cached-false"), (
        "the auxiliary head counts"
    )
    report = verify_cache(cache, views=4, data=DATA, teacher=spec)
    assert report["faults"] == [] and report["teacher"]["beyond"] == 0


def test_a_model_of_torchvision_learns(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    made(tmp_path / "cache", str(tmp_path / "recipe.toml"), data=DATA, batch_size=2, unit_rows=None)
    student = "torchvision:deeplabv3_mobilenet_v3_large"
    common = {
        "cache": str(tmp_path / "cache"),
        "data": DATA,
        "eval_data": DATA,
        "batch_size": 2,
        "epochs": 1,
    }
    result = train(tmp_path / "run", student=student, **common)
    assert np.isfinite(result["train_loss"]) and 0 <= result["miou"] <= 100
    with pytest.raises(
        ModelError,
        match=r"maps of \(4, 2, 2\), \(4, 4, 4\); .* one shape: leave heads out .*aux_loss=false",
    ):
        train(tmp_path / "none", student=f"{student},aux_loss=true", **common)
    with pytest.raises(
        ModelError, match="cannot train on one view at a time; use a larger batch_size"
    ):
        train(tmp_path / "one", student=student, **{**common, "batch_size": 1})


def test_an_auxiliary_head_in_a_file_is_left_out_if_the_spec_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    whole = write_weights("deeplabv3_mobilenet_v3_large", tmp_path / "teacher.pth")
    spec = f"torchvision:deeplabv3_mobilenet_v3_large,weights={tmp_path / 'teacher.pth'}"
    common: dict[str, Any] = {
        "classes": 4,
        "recipe": load_recipe(str(tmp_path / "recipe.toml")),
        "task": "segmentation",
    }
    model = open_model(f"{spec},aux_loss=false", trained=True, **common).eval()
    assert model.sites == (1, 2, 2)
    torch.testing.assert_close(
        model.module.state_dict()["classifier.4.weight"], whole.classifier[4].weight.detach()
    )
    with pytest.raises(ModelError, match=r"aux_classifier.* is unknown to the model"):
        open_model(spec, trained=True, **common)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deeplabv3_resnet50,output_stride=8", r"unknown option of model .* 'output_stride'"),
        ("lraspp_mobilenet_v3_large,aux_loss=true", r"unknown option of model .* 'aux_loss'"),
        ("fcos_resnet50_fpn", "is of detection, and one of segmentation is wanted"),
    ],
)
def test_what_torchvision_would_pass_over_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_model(f"torchvision:{text}", classes=3, recipe=load_recipe("voc"), task="segmentation")
