"""The networks of CIFAR-100 are the published ones: their sizes, and the names in their files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdcache.errors import ModelError, UsageError
from kdcache.models.cifar import MEAN, NETWORKS, STD
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.views import load_recipe

CIFAR = load_recipe("cifar")


def opened(text: str, **settings: Any) -> VisionModel:
    return open_model(text, **{"classes": 100, "recipe": CIFAR, **settings})


MILLIONS = {
    "resnet8": 0.08,
    "resnet14": 0.18,
    "resnet20": 0.28,
    "resnet32": 0.47,
    "resnet44": 0.67,
    "resnet56": 0.86,
    "resnet110": 1.74,
    "resnet8x4": 1.23,
    "resnet32x4": 7.43,
    "resnet50": 23.71,
    "wrn_16_1": 0.18,
    "wrn_16_2": 0.70,
    "wrn_40_1": 0.57,
    "wrn_40_2": 2.26,
    "vgg8": 3.97,
    "vgg11": 9.28,
    "vgg13": 9.46,
    "vgg16": 14.77,
    "vgg19": 20.09,
    "mobilenetv2_half": 0.81,
    "shufflenetv1": 0.95,
    "shufflenetv2": 1.36,
}
"""Parameters with 100 classes, as papers give them."""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_as_many_parameters_as_is_published(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[name](100, 3)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert round(num_parameters / 1e6, 2) == MILLIONS[name]


NAMES = {
    "resnet32x4": {
        "conv1.weight": (32, 3, 3, 3),
        "bn1.running_mean": (32,),
        "layer1.0.downsample.0.weight": (64, 32, 1, 1),
        "layer1.0.downsample.1.bias": (64,),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer3.4.bn2.num_batches_tracked": (),
        "fc.weight": (100, 256),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 3, 3),
        "layer1.0.shortcut.0.weight": (256, 64, 1, 1),
        "layer4.0.conv2.weight": (512, 512, 3, 3),
        "layer4.2.bn3.weight": (2048,),
        "linear.weight": (100, 2048),
    },
    "wrn_40_2": {
        "conv1.weight": (16, 3, 3, 3),
        "block1.layer.0.convShortcut.weight": (32, 16, 1, 1),
        "block1.layer.0.bn1.weight": (16,),
        "block3.layer.5.conv2.weight": (128, 128, 3, 3),
        "bn1.weight": (128,),
        "fc.bias": (100,),
    },
    "vgg13": {
        "block0.0.bias": (64,),
        "block0.3.weight": (64, 64, 3, 3),
        "block4.4.running_var": (512,),
        "classifier.weight": (100, 512),
    },
    "mobilenetv2_half": {
        "conv1.0.weight": (16, 3, 3, 3),
        "blocks.0.0.conv.3.weight": (16, 1, 3, 3),
        "blocks.1.0.conv.0.weight": (48, 8, 1, 1),
        "blocks.6.0.conv.7.weight": (160,),
        "conv2.1.weight": (1280,),
        "classifier.0.weight": (100, 1280),
    },
    "shufflenetv1": {
        "conv1.weight": (24, 3, 1, 1),
        "layer1.0.conv1.weight": (54, 24, 1, 1),
        "layer1.0.conv3.weight": (216, 18, 1, 1),
        "layer2.7.conv1.weight": (120, 160, 1, 1),
        "layer3.3.bn3.weight": (960,),
        "linear.weight": (100, 960),
    },
    "shufflenetv2": {
        "layer1.0.conv1.weight": (24, 1, 3, 3),
        "layer1.0.conv5.weight": (58, 58, 1, 1),
        "layer2.7.conv3.weight": (116, 116, 1, 1),
        "conv2.weight": (1024, 464, 1, 1),
        "bn2.weight": (1024,),
        "linear.weight": (100, 1024),
    },
}
"""Some names and shapes of the published files."""


@pytest.mark.parametrize("name", NAMES)
def test_states_have_the_names_of_the_published_files(name: str) -> None:
    with torch.device("meta"):
        state = NETWORKS[name](100, 3).state_dict()
    shapes = {key: tuple(state[key].shape) for key in NAMES[name] if key in state}
    assert shapes == NAMES[name]


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8", "mobilenetv2_half"])
def test_features_keep_as_many_pixels_as_in_the_papers(name: str) -> None:
    sizes = {"resnet8x4": 8, "wrn_16_2": 8, "vgg8": 4, "mobilenetv2_half": 2}
    seen: list[int] = []
    network = NETWORKS[name](10, 3).eval()
    pool = network.get_submodule("pool")
    pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    network(torch.zeros(1, 3, 32, 32))
    assert seen == [sizes[name]]


@pytest.mark.parametrize("name", ["shufflenetv1", "shufflenetv2", "wrn_16_1", "resnet8"])
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name](10, 3)
    logits = network(torch.randn(4, 3, 32, 32))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    idle = [name for name, weight in network.named_parameters() if not weight.grad.any()]  # type: ignore[union-attr]
    assert idle == []


def test_weights_are_drawn_as_in_the_published_code() -> None:
    torch.manual_seed(0)
    network = NETWORKS["mobilenetv2_half"](100, 3)
    state = network.state_dict()
    assert float(state["classifier.0.weight"].std()) == pytest.approx(0.01, rel=0.02)
    assert not state["classifier.0.bias"].any()
    depthwise = state["blocks.5.1.conv.3.weight"]
    assert float(depthwise.std()) == pytest.approx((2 / (9 * 480)) ** 0.5, rel=0.05)


def test_a_published_teacher_loads_with_the_normalisation_that_it_was_trained_with(
    tmp_path: Path,
) -> None:
    state = NETWORKS["wrn_16_1"](100, 3).state_dict()
    file = tmp_path / "ckpt_epoch_240.pth"
    torch.save({"epoch": 240, "model": state, "accuracy": torch.tensor(73.0)}, file)
    teacher = opened(f"cifar:wrn_16_1,weights={file}", trained=True)
    assert torch.equal(teacher.module.state_dict()["fc.weight"], state["fc.weight"])
    assert (teacher.preprocessing.mean, teacher.preprocessing.std) == (MEAN, STD)


def test_grey_views_and_other_classes_are_taken() -> None:
    model = opened("cifar:resnet8,mean=0.286,std=0.353", classes=7, recipe=load_recipe("digits"))
    assert model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 7)


def test_mistakes_in_a_spec_are_told() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet32x4'"):
        opened("cifar:resnet32x5")
    with pytest.raises(UsageError, match="has no option depth; say weights=FILE"):
        opened("cifar:resnet20,depth=20")
    with pytest.raises(UsageError, match="has no option pretrained"):
        opened("cifar:resnet20,pretrained=true", trained=True)
    with pytest.raises(ModelError, match="has no weights; add weights=FILE"):
        opened("cifar:resnet20", trained=True)
