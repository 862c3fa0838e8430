"""Heads of segmentation on backbones of timm: DeepLabV3's and PSPNet's, with an auxiliary one."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from kdcache.errors import UsageError
from kdcache.models.map_heads import MAP_HEADS, plain_head
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.views import load_recipe

SMALL = load_recipe("cityscapes").at((64, 96))
BACKBONE = "timm:test_resnet,output_stride=8"


def opened(text: str) -> VisionModel:
    return open_model(text, classes=5, recipe=SMALL, task="segmentation")


@pytest.mark.parametrize(("decoder", "millions"), [("deeplabv3", 13.6), ("pspnet", 12.9)])
def test_the_students_of_cityscapes_have_as_many_parameters_as_is_published(
    decoder: str, millions: float
) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(
            "resnet18", stem_type="deep", stem_width=64, num_classes=0, global_pool=""
        )
        parts = [backbone, MAP_HEADS[decoder](512, 19), plain_head(256, 19)]
    num_parameters = sum(weight.numel() for part in parts for weight in part.parameters())
    assert round(num_parameters / 1e6, 1) == millions


@pytest.mark.parametrize("decoder", ["fcn", "deeplabv3", "pspnet"])
def test_both_heads_give_maps_of_one_size_and_learn(decoder: str) -> None:
    model = opened(f"{BACKBONE},decoder={decoder},aux_loss=true")
    assert model.sites == (2, 8, 12)
    model(torch.zeros(2, 3, 64, 96, dtype=torch.uint8)).square().sum().backward()
    heads = [weight for name, weight in model.named_parameters() if "classifier" in name]
    assert heads and all(weight.grad is not None for weight in heads)


def test_a_pyramid_sees_the_whole_map_and_its_parts() -> None:
    torch.manual_seed(0)
    head = MAP_HEADS["pspnet"](8, 3).eval()
    (pyramid, *_) = head.children()
    features = torch.randn(1, 8, 12, 12)
    maps = pyramid(features)
    assert maps.shape == (1, 16, 12, 12) and torch.equal(maps[:, :8], features)
    of_whole, of_quarters = maps[:, 8:10], maps[:, 10:12]
    assert of_whole.flatten(2).std(dim=-1).max() < 1e-6
    branch: Any = pyramid.get_submodule("branches.1")
    corner = branch(features)[0, :, 0, 0]
    torch.testing.assert_close(of_quarters[0, :, 0, 0], corner)


def test_weights_with_an_auxiliary_head_load_with_and_without_it(tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    spec = f"{BACKBONE},decoder=deeplabv3"
    save_file(opened(f"{spec},aux_loss=true").module.state_dict(), file)
    whole = opened(f"{spec},aux_loss=true,weights={file}").eval()
    single = opened(f"{spec},aux_loss=false,weights={file}").eval()
    views = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    assert single.sites == (1, 8, 12)
    torch.testing.assert_close(single(views)[:, 0], whole(views)[:, 0])


def test_the_plain_head_is_the_default() -> None:
    torch.manual_seed(0)
    default: nn.Module = opened(BACKBONE).module
    torch.manual_seed(0)
    named: nn.Module = opened(f"{BACKBONE},decoder=fcn").module
    states = [default.state_dict(), named.state_dict()]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_mistakes_in_a_spec_are_told() -> None:
    with pytest.raises(UsageError, match=r"unknown decoder of model .* did you mean 'deeplabv3'"):
        opened(f"{BACKBONE},decoder=deeplab")
    with pytest.raises(UsageError, match="aux_loss is 'yes'; write true or false"):
        opened(f"{BACKBONE},aux_loss=yes")
