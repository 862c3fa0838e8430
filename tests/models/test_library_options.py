"""An option that a library's model does not have is told with the nearest, and those that there
are."""

import pytest

from kdcache.errors import UsageError
from kdcache.models.model import open_model
from kdcache.views import load_recipe


def refusal(spec: str, task: str = "classification") -> str:
    with pytest.raises(UsageError) as error:
        open_model(spec, classes=10, recipe=load_recipe("cifar"), trained=False, task=task)
    return str(error.value)


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("timm:test_resnet,drop_raet=0.1", "drop_rate"),
        ("timm:test_resnet.r160_in1k,drop_raet=0.1", "drop_rate"),
        ("timm:test_vit,embed_dimm=3", "embed_dim"),
        ("timm:test_byobnet,stem_typ=3x3", "stem_type"),  # of a configuration
        ("timm:test_byobnet,drop_path_rat=0.1", "drop_path_rate"),  # of the model that it is of
        ("torchvision:resnet18,zero_init_residal=true", "zero_init_residual"),
        ("torchvision:mobilenet_v3_small,dropot=0.1", "dropout"),  # which would pass it over
    ],
)
def test_the_nearest_is_named(spec: str, nearest: str) -> None:
    line = refusal(spec)
    model, _, option = spec.partition(",")
    name = option.partition("=")[0]
    assert f"unknown option of model {model}, '{name}'; did you mean '{nearest}'?" in line
    if "known: " in line:
        known = line.partition("known: ")[2]
        assert "weights" in known and "num_classes" not in known and "in_chans" not in known


def test_a_backbone_for_maps_has_those_of_its_head_too() -> None:
    line = refusal("timm:test_efficientnet,drop_raet=0.1", "segmentation")
    assert "did you mean 'drop_rate'?" in line and "decoder" in line and "aux_loss" in line


def test_what_a_model_has_is_taken() -> None:
    for spec in ("timm:test_vit,drop_rate=0.1", "torchvision:mobilenet_v3_small,dropout=0.1"):
        assert open_model(spec, classes=10, recipe=load_recipe("cifar"), trained=False)


def test_a_value_that_a_model_cannot_take_is_told_as_it_says() -> None:
    assert "check its options" in refusal("timm:test_resnet,block=3")
