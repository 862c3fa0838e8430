"""Models: weights that are read and never executed, an identity by content, preprocessing as
documented."""

import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import conv, mlp
from torch import nn

from kdcache.errors import ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.models.modules import state_sha256
from kdcache.models.vision_model import VisionModel
from kdcache.models.wrapping import wrapped
from kdcache.shapes import Size
from kdcache.views import Recipe, load_recipe

RGB = Recipe("rgb", {"size": 32, "transforms": []})
GREY = load_recipe("digits")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def opened(
    text: str, *, classes: int = 10, recipe: Recipe = GREY, trained: bool = False
) -> VisionModel:
    return open_model(text, classes=classes, recipe=recipe, trained=trained)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in mine.items()
    )


@pytest.mark.parametrize("recipe", [RGB, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit,img_size=32"])
def test_timm_models_take_views_of_the_recipe(name: str, recipe: Recipe) -> None:
    model = opened(f"timm:{name}", classes=7, recipe=recipe)
    size = model.preprocessing.size
    assert size == (32 if "vit" in name else recipe.size)
    assert model(torch.zeros(2, recipe.channels, size, size, dtype=torch.uint8)).shape == (2, 7)
    assert model.training, "a student starts in training mode"


def test_a_model_of_fixed_input_size_keeps_it() -> None:
    model = opened("timm:test_vit", recipe=RGB)
    assert model.preprocessing.size == 160 and model.preprocessing.mean == (0.5, 0.5, 0.5)


def test_preprocessing_is_timms() -> None:
    import timm

    config = timm.data.resolve_model_data_config(timm.create_model("test_resnet"))
    model = opened("timm:test_resnet", recipe=RGB)
    assert (model.preprocessing.mean, model.preprocessing.std) == (config["mean"], config["std"])


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_resnet", {}, None),
        ("test_vit", {}, 160),
        ("test_vit", {"img_size": 32}, 32),
        ("test_vit", {"img_size": (32, 48)}, (32, 48)),
        ("test_mambaout", {}, None),
    ],
    ids=str,
)
def test_a_model_that_is_made_already_gets_the_size_that_its_spec_gets(
    name: str, options: dict[str, Any], size: Size | None
) -> None:
    """Not that of its configuration, 160: the views of a recipe would silently be others."""
    import timm

    module = timm.create_model(name, num_classes=7, **options)
    model = wrapped(module, RGB)
    assert model.preprocessing.size == (size or RGB.size)
    if not isinstance(size, tuple):
        settings = "".join(f",{key}={value}" for key, value in options.items())
        spec = opened(f"timm:{name}{settings}", recipe=RGB)
        assert model.preprocessing == spec.preprocessing


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_models_are_drawn_at_random_with_the_sources_classes(name: str) -> None:
    model = opened(f"torchvision:{name}", classes=6, recipe=RGB)
    assert model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(2, -1, -1, -1)).shape == (2, 6)
    assert (model.preprocessing.mean, model.preprocessing.std) == IMAGENET


def test_your_own_function_gives_a_model() -> None:
    torch.manual_seed(3)
    model = opened("tiny_models:mlp,classes=4,mean=0.5,std=0.25", classes=4)
    torch.manual_seed(3)
    assert same(model.module, mlp(classes=4))
    assert (model.preprocessing.mean, model.preprocessing.std, model.preprocessing.size) == (
        (0.5,),
        (0.25,),
        8,
    )


def test_forward_normalises_as_documented() -> None:
    model = opened("tiny_models:conv,channels=3,mean=0.4,std=0.2,input_size=12", recipe=RGB).eval()
    views = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8)
    by_hand = (views.double() / 255 - 0.4) / 0.2
    expected = model.module.double()(by_hand).float()
    model.module.float()
    np.testing.assert_allclose(model(views).detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    colour = opened("tiny_models:conv,channels=3", recipe=RGB)
    for name, values in zip(("mean", "std"), IMAGENET, strict=True):
        np.testing.assert_allclose(getattr(colour, name).flatten() / 255, values, rtol=1e-6)


def test_grey_images_get_the_mean_of_colour_statistics() -> None:
    for text, colour in (
        ("tiny_models:conv", IMAGENET),
        ("timm:test_resnet", ((0.5,) * 3, (0.5,) * 3)),
    ):
        model = opened(text)
        np.testing.assert_allclose(model.preprocessing.mean, [np.mean(colour[0])])
        np.testing.assert_allclose(model.preprocessing.std, [np.mean(colour[1])])


def test_normalisation_is_no_weight() -> None:
    model = opened("tiny_models:mlp")
    assert set(model.state_dict()) == {f"module.{name}" for name in mlp().state_dict()}


def write(path: Path, kind: str) -> nn.Module:
    """Write the weights of a known model in one of the ways in which they are found, and return the
    model."""
    model = conv(seed=5)
    state: Any = model.state_dict()
    prefixed = {f"module.{name}": value for name, value in state.items()}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"state_dict": {"state_dict": state, "epoch": 3}, "model": {"model": prefixed}}.get(
                kind, state
            ),
            path,
        )
    return model


KINDS = [("safetensors", "w.safetensors"), ("plain", "w.pt"), ("plain", "w.bin"), ("plain", "w")]
KINDS += [("state_dict", "w.ckpt"), ("model", "w.pth")]


@pytest.mark.parametrize(("kind", "name"), KINDS)
@pytest.mark.parametrize("trained", [False, True])
def test_weights_are_loaded_from(tmp_path: Path, kind: str, name: str, trained: bool) -> None:
    expected = write(tmp_path / name, kind)
    model = opened(f"tiny_models:conv,seed=9,weights={tmp_path / name}", trained=trained)
    assert same(model.module, expected)


def test_timm_and_torchvision_load_weights_too(tmp_path: Path) -> None:
    for spec in ("timm:test_resnet", "torchvision:mobilenet_v3_small"):
        model = opened(spec, classes=4, recipe=RGB)
        save_file(model.module.state_dict(), tmp_path / "w.safetensors")
        again = opened(
            f"{spec},weights={tmp_path}/w.safetensors", classes=4, recipe=RGB, trained=True
        )
        assert same(again.module, model.module)


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.pkl"])
@pytest.mark.parametrize("plain", [False, True])
def test_nothing_in_a_weights_file_is_executed(tmp_path: Path, name: str, plain: bool) -> None:
    state = {**conv().state_dict(), "extra": Attack(str(tmp_path / "attacked"))}
    if plain:
        (tmp_path / name).write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, tmp_path / name)
    pickled, plain_pickle = "holds an object of posix.mkdir", "is a pickle that torch.save did not"
    told = f"{plain_pickle if plain else pickled}.* save the model's state_dict as safetensors"
    with pytest.raises(ModelError, match=told):
        opened(f"tiny_models:conv,weights={tmp_path / name}")
    assert not (tmp_path / "attacked").exists()
    if plain:
        pickle.loads((tmp_path / name).read_bytes())  # noqa: S301 (our own, to show that it would have been)
        assert (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_damaged_weights_file_is_told(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, name.removeprefix("w."))
    content = (tmp_path / name).read_bytes()
    for size in (0, 7, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:size])
        told = r"cut off|empty \(0 bytes\)|neither safetensors nor"
        with pytest.raises(ModelError, match=told) as caught:
            opened(f"tiny_models:conv,weights={tmp_path / name}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"5.weight": torch.zeros(10, 31)}),
            r"5\.weight is \(10, 31\) in the file, \(10, 32\) in",
        ),
        (lambda state: state.pop("5.bias"), r"5\.bias is missing in the file \(8 of the model's 9"),
        (
            lambda state: state.update({"7.bias": torch.zeros(3)}),
            r"7\.bias is unknown to the model",
        ),
    ],
)
def test_weights_of_another_shape_name_the_tensor(
    tmp_path: Path, change: Any, message: str
) -> None:
    state = conv().state_dict()
    assert "5.weight" in state
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=rf"does not fit the model for 10 classes: {message}"):
        opened(f"tiny_models:conv,weights={tmp_path}/w.safetensors")


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds a list, not a state_dict"):
        opened(f"tiny_models:conv,weights={tmp_path}/w.pt")


def test_the_identity_is_that_of_the_content(tmp_path: Path) -> None:
    identities = set()
    for kind, name in KINDS:
        write(tmp_path / name, kind)
        identities.add(state_sha256(opened(f"tiny_models:conv,weights={tmp_path / name}").module))
    assert identities == {state_sha256(conv(seed=5))}
    model = conv(seed=5)
    model.train()
    assert state_sha256(model.to(memory_format=torch.channels_last)) in identities


def test_any_one_weight_or_buffer_changes_the_identity() -> None:
    identities = [state_sha256(conv())]
    for name in conv().state_dict():
        model = conv()
        model.state_dict()[name].view(-1)[-1] += 1
        identities.append(state_sha256(model))
    identities += [state_sha256(conv().half()), state_sha256(nn.Sequential(conv()))]
    assert len(set(identities)) == len(conv().state_dict()) + 3
    shapes = [nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)]
    assert (
        len(
            {
                state_sha256(module.requires_grad_(False).apply(lambda m: m.weight.zero_()))
                for module in shapes
            }
        )
        == 2
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("timn:resnet18", UsageError, "did you mean 'timm'"),
        (
            "timm:test_resnett",
            UsageError,
            "unknown timm model 'test_resnett'; did you mean 'test_resnet'",
        ),
        ("timm", UsageError, "unknown timm model ''"),
        ("timm:test_resnet,widht=3", UsageError, "unknown option .*'widht'"),
        ("torchvision:resnet81", UsageError, "did you mean 'resnet18'"),
        ("torchvision:resnet18,widht=3", UsageError, "unknown option .*'widht'"),
        ("torchvision:resnet18,weights=DEFUALT", UsageError, "did you mean 'DEFAULT'"),
        ("tiny_models:conf", UsageError, "did you mean 'conv'"),
        ("tiny_models:conv,clases=4", UsageError, "did you mean 'classes'"),
        (
            "tiny_models:noise",
            ModelError,
            "gave an object of class Noise; the function must return a torch.nn.Module",
        ),
        (
            "tiny_models:conv,channels=3,mean=grey",
            UsageError,
            "mean is 'grey'; it must be of finite numbers",
        ),
        (
            "tiny_models:conv,channels=3,weights=none.pt",
            ModelError,
            "weights file none.pt does not exist",
        ),
        (
            "tiny_models:conv,channels=3,classes=9",
            ModelError,
            "gives 9 classes, and 10 are asked for",
        ),
        ("tiny_models:conv,channels=1", ModelError, "on a view of 3x32x32 fails: .*recipe's mode"),
        ("tiny_models:mlp", ModelError, "on a view of 3x32x32 fails: RuntimeError"),
    ],
)
def test_a_wrong_spec_is_told_in_one_line(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        opened(text, recipe=RGB)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["timm:test_resnet", "torchvision:resnet18", "timm:test_resnet,pretrained=false"]
)
def test_a_teacher_without_weights_is_refused(text: str) -> None:
    with pytest.raises(
        ModelError,
        match=r"has no weights; add weights=FILE or (pretrained=true|weights=DEFAULT), or give",
    ):
        opened(text, recipe=RGB, trained=True)


def test_torchvision_takes_colour_only() -> None:
    with pytest.raises(
        ModelError, match='takes colour images only; use a recipe with mode = "RGB"'
    ):
        opened("torchvision:resnet18")


def test_pretrained_weights_that_cannot_be_reached_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(
        ModelError,
        match=r"weights cannot be downloaded: .*offline mode is enabled.*; check the net",
    ) as caught:
        opened("timm:test_resnet,pretrained=true", recipe=RGB, trained=True)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 10


def test_the_number_of_classes_is_no_option() -> None:
    with pytest.raises(
        UsageError, match=r"the number of classes comes from the data \(10\); leave num_classes out"
    ):
        open_model(
            "timm:test_resnet,num_classes=10,pretrained=true", classes=10, recipe=GREY, trained=True
        )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_prefixes_of_wrapped_models_are_taken_off(tmp_path: Path, prefix: str) -> None:
    state = mlp().state_dict()
    save_file(
        {f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "a.safetensors"
    )
    model = open_model(
        f"tiny_models:mlp,mean=0,std=1,weights={tmp_path}/a.safetensors", classes=10, recipe=GREY
    )
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())


def test_the_architecture_leaves_out_weights_and_preprocessing() -> None:
    model = open_model(
        "tiny_models:mlp,std=1,channels=1,mean=0,classes=10", classes=10, recipe=GREY
    )
    assert model.architecture == "tiny_models:mlp,channels=1,classes=10"


def test_a_mean_of_0_to_255_is_told() -> None:
    for wrong in ("mean=123.675,std=58.395", "mean=0.5,std=58.395"):
        with pytest.raises(
            UsageError, match="it is of pixels from 0 to 1: divide what is of 0 to 255"
        ):
            open_model(f"tiny_models:conv,{wrong}", classes=10, recipe=load_recipe("digits"))


def test_mean_and_std_may_be_lists_of_a_spec() -> None:
    recipe = load_recipe("imagenet-b1")
    spec = "timm:test_resnet,mean=[0.1,0.2,0.3],std=[1,0.5,0.25]"
    model = open_model(spec, classes=5, recipe=recipe)
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.std == (1.0, 0.5, 0.25)
    with pytest.raises(UsageError, match="2 numbers, and the views have 3"):
        open_model("timm:test_resnet,mean=[0.1,0.2],std=0.5", classes=5, recipe=recipe)
