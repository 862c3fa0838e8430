"""Weights of other classes: all but what depends on them is taken."""

from pathlib import Path
from typing import Any

import pytest
import timm
import tiny_detectors
import torch
from command_line import kdcache_json
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from kdcache.errors import ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.views import load_recipe

RECIPE = load_recipe("imagenet-b1")


def saved(module: nn.Module, path: Path, prefix: str = "") -> str:
    save_file(
        {f"{prefix}{name}": value.clone() for name, value in module.state_dict().items()}, path
    )
    return str(path)


def state(spec: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(5)
    model = open_model(spec, **{"classes": 7, "recipe": RECIPE, **options})
    return model.module.state_dict()


def others(found: dict[str, Tensor], expected: dict[str, Tensor]) -> set[str]:
    """Return the names of tensors that are not those expected."""
    return {name for name, value in found.items() if not torch.equal(value, expected[name])}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, str]:
    torch.manual_seed(1)
    module = timm.create_model("test_resnet", num_classes=1000)
    return module, saved(module, tmp_path_factory.mktemp("head") / "resnet.safetensors")


@pytest.mark.parametrize("classes", [7, 1000])
def test_a_classifier_of_timm_gets_a_head_for_its_own_classes(
    resnet: tuple[nn.Module, str], classes: int
) -> None:
    module, file = resnet
    found = state(f"timm:test_resnet,weights={file},head=new", classes=classes)
    fresh = state("timm:test_resnet", classes=classes)
    assert (
        others(found, fresh | {n: v for n, v in module.state_dict().items() if "fc." not in n})
        == set()
    )
    assert (
        not torch.equal(found["fc.bias"], module.state_dict()["fc.bias"][:classes]) or classes == 7
    )
    assert found["fc.weight"].shape[0] == classes


def test_a_file_without_a_classifier_does_too(tmp_path: Path) -> None:
    body = timm.create_model("test_resnet", num_classes=0)
    found = state(f"timm:test_resnet,weights={saved(body, tmp_path / 'w.safetensors')},head=new")
    assert others({n: found[n] for n in body.state_dict()}, body.state_dict()) == set()


def test_a_model_of_ones_own_gets_a_new_last_layer(tmp_path: Path) -> None:
    from tiny_models import conv

    module = conv(channels=3, seed=9)
    spec = f"tiny_models:conv,channels=3,weights={saved(module, tmp_path / 'w.safetensors')}"
    assert others(state(spec, classes=10), module.state_dict()) == set()
    drawn = others(state(f"{spec},head=new", classes=10), module.state_dict())
    last = [name for name, _ in module.named_parameters()][-1].rpartition(".")[0]
    assert drawn and {name.rpartition(".")[0] for name in drawn} == {last}


def test_trained_weights_of_a_library_do_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    trained = models.mobilenet_v3_small()
    entry = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1

    def weights(self: Any, *_: Any, **__: Any) -> dict[str, Tensor]:
        return trained.state_dict()

    monkeypatch.setattr(type(entry), "get_state_dict", weights)
    found = state("torchvision:mobilenet_v3_small,weights=IMAGENET1K_V1,head=new")
    assert found["classifier.3.weight"].shape[0] == 7
    head = {"classifier.3.weight", "classifier.3.bias"}
    body = {name: value for name, value in found.items() if name not in head}
    assert others(body, trained.state_dict()) == set()


@pytest.mark.parametrize(
    ("spec", "prefix"),
    [
        ("torchvision:lraspp_mobilenet_v3_large,{}", ""),
        ("torchvision:lraspp_mobilenet_v3_large,{}", "module."),
    ],
)
def test_a_backbone_takes_the_weights_of_a_classifier(
    tmp_path: Path, spec: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = models.mobilenet_v3_large()
    file = saved(classifier, tmp_path / "w.safetensors", prefix)
    found = state(
        spec.format(f"weights_backbone={file}"),
        task="segmentation",
        recipe=load_recipe("cityscapes"),
    )
    fresh = state(
        spec.format("weights_backbone=none").replace(",weights_backbone=none", ""),
        task="segmentation",
        recipe=load_recipe("cityscapes"),
    )
    expected = {
        f"backbone.{n.removeprefix('features.')}": v for n, v in classifier.state_dict().items()
    }
    assert others(found, fresh | expected) == set() and "are left out" in capsys.readouterr().err


def test_so_do_those_of_timm_and_of_detectors(
    tmp_path: Path, resnet: tuple[nn.Module, str]
) -> None:
    module, file = resnet
    found = state(
        f"timm:test_resnet,output_stride=8,weights_backbone={file}",
        task="segmentation",
        recipe=load_recipe("cityscapes"),
    )
    taken = {f"backbone.{name}": value for name, value in module.state_dict().items()}
    assert others({n: v for n, v in found.items() if n in taken}, taken) == set()
    torch.manual_seed(3)
    body = models.resnet18()
    file = saved(body, tmp_path / "w.safetensors")
    detector = state(
        f"tiny_detectors:of_resnet18,weights_backbone={file},mean=0.5,std=0.25",
        task="detection",
        classes=3,
        recipe=load_recipe("detection-small"),
    )
    taken = {f"backbone.body.{name}": value for name, value in body.state_dict().items()}
    assert others({n: v for n, v in detector.items() if "backbone.body" in n}, taken) == set()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("timm:test_resnet,weights={file},head=old", "head is 'old'; write head=new"),
        ("timm:test_resnet,head=new", "head=new is about weights, and there are none"),
        ("tiny_models:conv,channels=3,head=new", "give weights=FILE"),
        ("timm:test_vit,weights={file},head=new", "another architecture"),
        ("timm:test_resnet,weights={file}", "add head=new"),
        ("timm:test_resnet,weights_backbone={file}", "no part that is called backbone"),
        ("timm:test_resnet,weights={file},weights_backbone={file}", "are both files"),
    ],
)
def test_what_cannot_be_is_told(resnet: tuple[nn.Module, str], spec: str, told: str) -> None:
    with pytest.raises((UsageError, ModelError), match=told):
        state(spec.format(file=resnet[1]))


def test_a_teacher_is_refused(resnet: tuple[nn.Module, str]) -> None:
    with pytest.raises(ModelError, match="has a new head, which is not trained"):
        state(f"timm:test_resnet,weights={resnet[1]},head=new", trained=True)


def test_a_student_is_fine_tuned_and_its_weights_are_opened(tmp_path: Path) -> None:
    grey = timm.create_model("test_resnet", num_classes=1000, in_chans=1)
    trained = saved(grey, tmp_path / "grey.safetensors")
    words = ("--data", "tiny_models:few_digits,length=32", "--workers", "0", "--epochs", "1")
    words += ("--recipe", "digits", "--loss", "ce", "--lr", "1e-9")
    student = f"timm:test_resnet,weights={trained},head=new"
    run = tmp_path / "run"
    kdcache_json("train-student", run, *words, "--student", student)
    file = run / "student.safetensors"
    opened = open_model(
        f"timm:test_resnet,weights={file}", classes=10, recipe=load_recipe("digits"), trained=True
    )
    found = opened.module.state_dict()
    assert found["fc.bias"].shape == (10,)
    name = next(iter(found))
    torch.testing.assert_close(found[name], grey.state_dict()[name])


@pytest.mark.parametrize("kind", ["retinanet", "ssd", "faster_rcnn"])
def test_a_detector_of_other_classes_says_how_many_it_has(tmp_path: Path, kind: str) -> None:
    file = saved(getattr(tiny_detectors, kind)(classes=5), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="has 5 classes, and 3 are asked for: add head=new"):
        open_model(
            f"tiny_detectors:{kind},weights={file},mean=0.5,std=0.25",
            classes=3,
            recipe=load_recipe("detection-small"),
            task="detection",
        )
