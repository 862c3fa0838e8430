"""Weights out of checkpoints into a model: which part is taken, and what does not fit."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import train
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import conv
from torch import Tensor, nn

from kdcache.config.spec import parse_spec
from kdcache.errors import KdcacheError, ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.models.preprocessing import Preprocessing
from kdcache.models.weight_content import read_weight_file
from kdcache.models.weight_facts import weight_facts
from kdcache.models.weight_misfit import TEACHER_ADVICE
from kdcache.models.weight_record import cached_as, require_recorded, weight_record
from kdcache.models.weights import load_weights
from kdcache.train.config import EmaConfig
from kdcache.views import Recipe, load_recipe

State = dict[str, Tensor]


def state(seed: int = 5, **options: Any) -> State:
    return dict(conv(seed=seed, **options).state_dict())


def under(prefix: str, names: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in names.items()}


def loaded(
    path: Path, held: Any, key: str | None = None, advice: str | None = TEACHER_ADVICE
) -> nn.Module:
    """Return the model with the weights of a file that holds `held`."""
    torch.save(held, path / "w.pt")
    module = conv()
    spec = parse_spec("tiny_models:conv")
    load_weights(module, path / "w.pt", key=key, spec=spec, classes=10, advice=advice)
    return module


def is_seed(module: nn.Module, seed: int) -> bool:
    wanted = state(seed)
    return all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())


LOSS = {"criterion.centre": torch.ones(3), "metric.total": torch.ones(1)}
NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
WRAPPED = {name.replace(".", "._checkpoint_wrapped_module."): one for name, one in state().items()}


@pytest.mark.parametrize(
    "held",
    [
        under("module.", state()),
        under("_orig_mod.", state()),
        under("module._orig_mod.", state()),
        under("_orig_mod.module.", state()),
        under("model.module.", state()),
        under("module.module.", state()),
        under("student.", state()),
        under("net.", state()),
        under("backbone.", state()),
        under("_fsdp_wrapped_module.", WRAPPED),
        {"state_dict": under("model._orig_mod.", state()), "epoch": 3},
        {"epoch": 1, "model_state_dict": state(), "optimizer_state_dict": {"state": {}}},
        {"net": state(), "acc": 0.5, "rng": torch.ones(3)},
        {"checkpoint": {"model": {"weights": state()}}},
    ],
)
def test_what_frameworks_put_before_names_is_taken_off_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held: Any
) -> None:
    assert is_seed(loaded(tmp_path, held), 5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (
            {"state_dict": {**under("model.", state()), **LOSS}},
            "the tensors model.* are taken; 2 others are left out: criterion.centre, metric.total",
        ),
        ({"n_averaged": torch.ones(1), **under("module.", state())}, "1 others are left out"),
        (under("module.encoder_q.", state()), "the tensors module.encoder_q.* are taken"),
    ],
)
def test_what_is_left_out_of_a_file_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    held: Any,
    told: str,
) -> None:
    assert is_seed(loaded(tmp_path, held), 5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: of weights file") and told in line


AVERAGES: list[tuple[Any, str, str]] = [
    ({"state_dict": state(5), "state_dict_ema": state(6)}, "state_dict", "state_dict_ema"),
    ({"model_ema": state(6), "model": state(5)}, "model", "model_ema"),
    ({"teacher": under("module.", state(6)), "student": state(5)}, "student", "teacher.module"),
    (
        {"state_dict": {**under("teacher.", state(6)), **under("student.", state(5))}},
        "state_dict.student",
        "state_dict.teacher",
    ),
    ({**state(5), "ema": state(6)}, "what lies at the top", "ema"),
]


@pytest.mark.parametrize(("held", "taken", "other"), AVERAGES)
def test_of_several_parts_the_models_own_is_taken_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held: Any, taken: str, other: str
) -> None:
    assert is_seed(loaded(tmp_path, held), 5)
    told = capsys.readouterr().err
    assert f"the part {taken} is taken; it also has {other}; weights_key={other} would" in told


@pytest.mark.parametrize(("held", "taken", "other"), AVERAGES)
def test_the_other_part_is_taken_if_weights_key_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held: Any, taken: str, other: str
) -> None:
    assert is_seed(loaded(tmp_path, held, other), 6)
    assert capsys.readouterr().err == ""
    assert is_seed(loaded(tmp_path, held, "teacher" if "teacher" in other else other), 6)


def test_a_part_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    held = {"state_dict": state(), "state_dict_ema": state()}
    with pytest.raises(UsageError, match=r"is 'ema'; .* has state_dict, state_dict_ema"):
        loaded(tmp_path, held, "ema")
    with pytest.raises(UsageError, match="has one part only, which has no name"):
        loaded(tmp_path, state(), "ema")


OTHER = {name: one for name, one in state().items() if not name.startswith("5.")}
LAYERS = {"layers.a.weight": torch.ones(2), "layers.a.bias": torch.ones(2)}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (state(classes=7), r"has 7 classes, and 10 are asked for: add --teacher-classes 7"),
        ({"net": state(classes=7)}, r"w.pt \(part net\) has 7 classes"),
        (state(channels=3), 'is for images of 3 channels; use a recipe with mode = "RGB"'),
        (
            {**OTHER, "head.weight": torch.ones(10, 32), "head.bias": torch.ones(10)},
            r"5\.weight is missing in the file, which has head\.weight \(7 of the model's 9",
        ),
        ({**state(), "6.bias": torch.ones(3)}, r"6\.bias is unknown to the model \(9 of"),
        (under("module.", OTHER), r"\(part module\) does not .*: module\.5\.weight is missing in"),
        (LAYERS, r"holds none of the model's tensors: layers\.a\.weight, .*another architecture"),
        ({"state": {0: {"m": torch.ones(3)}}, "param_groups": []}, "holds the state of an optimis"),
        ({"optimizer": {"state": {}}, "epoch": 3}, "holds the state of an optimiser, not of the"),
        ({"epoch": 3}, r"holds no tensors with names \(epoch\)"),
        ({}, r"holds no tensors with names \(it is empty\)"),
        ([torch.ones(3)], "holds a list, not a state_dict"),
        (torch.ones(3), "holds a Tensor, not a state_dict"),
        ({**state(), "5.bias": torch.full((10,), torch.nan)}, r"has NaN in 5\.bias"),
        ({**state(), "5.bias": torch.ones(10, dtype=torch.int8)}, r"has int8 in 5\.bias: it is qu"),
        (
            {**state(), "5.bias": torch.ones(10).to_sparse()},
            r"has 5\.bias as a sparse tensor \(sparse_coo\); save its to_dense\(\)$",
        ),
        (
            {**state(), "5.weight": torch.ones(10, 16).to_sparse_csr()},
            r"has 5\.weight as a sparse tensor \(sparse_csr\); save its to_dense\(\)$",
        ),
        (
            under("module.", {**state(), "5.bias": torch.ones(10, device="meta")}),
            (
                r"has module\.5\.bias as a tensor of the meta device, without values; save a model"
                r" that"
            ),
        ),
        (
            {**state(), "5.bias": torch.ones(10, dtype=torch.complex64)},
            r"has 5\.bias as complex numbers \(complex64\); take weights in floats$",
        ),
        (
            {**state(), "5.bias": NESTED},
            # the second is of torch 2.15
            r"has 5\.bias as a nested tensor; save one tensor for each|_rebuild_nested_tensor, and",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_the_files_own_words(
    tmp_path: Path,
    held: Any,
    told: str,
) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        loaded(tmp_path, held)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_student_of_other_classes_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has 7 classes, and 10 are .* the student then starts"):
        loaded(tmp_path, state(classes=7), advice=None)


def test_names_in_a_file_send_nothing_to_a_terminal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded(tmp_path, {**under("\x1b[31m\n.", state()), "a\r" * 500: torch.ones(1)})
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "\x1b" not in told and "\r" not in told and len(told) < 500
    with pytest.raises(ModelError) as caught:
        loaded(tmp_path, {"\x1b" * 500: {"\n" * 500 + ".5.bias": torch.ones(3)}})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    held: dict[str, Any] = {"model": state()}
    held["itself"] = held
    assert is_seed(loaded(tmp_path, held), 5)


def test_a_file_that_holds_itself_often_is_read_at_once(tmp_path: Path) -> None:
    held: dict[str, Any] = {}
    for number in range(64):
        held[f"k{number}"] = held
    start = time.monotonic()
    with pytest.raises(ModelError, match="holds no tensors with names"):
        loaded(tmp_path, held)
    held = {"a": 1}
    for _ in range(4):  # mappings that hold each other, each of another identity
        held = {f"k{number}": {"one": held, "two": held} for number in range(64)}
    with pytest.raises(ModelError, match="holds no tensors with names"):
        loaded(tmp_path, held)
    assert time.monotonic() - start < 20


def test_one_state_under_two_names_has_both(tmp_path: Path) -> None:
    held = {"first": state(), "epoch": 3}
    held["second"] = held["first"]
    assert is_seed(loaded(tmp_path, held, "second"), 5)


def test_names_of_the_model_that_begin_like_a_prefix_stay(tmp_path: Path) -> None:
    module = nn.ModuleDict({"module": conv(), "model": conv()})
    wanted = nn.ModuleDict({"module": conv(seed=5), "model": conv(seed=6)})
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    spec = parse_spec("mine:build")
    load_weights(module, tmp_path / "w.pt", key=None, spec=spec, classes=10)
    assert is_seed(module["module"], 5) and is_seed(module["model"], 6)


def test_a_model_without_memory_takes_no_weights(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    spec = parse_spec("tiny_models:conv")
    settings: dict[str, Any] = {"key": None, "spec": spec, "classes": 10}
    with pytest.raises(ModelError, match=r"0\.weight of the model is on the meta device"):
        load_weights(conv().to("meta"), tmp_path / "w.pt", **settings)


def test_a_layer_without_a_shape_yet_is_told(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    file, spec = tmp_path / "w.safetensors", parse_spec("mine:build")
    with pytest.raises(ModelError, match=r"1\.weight of the model has no shape, and takes no"):
        load_weights(module, file, key=None, spec=spec, classes=10)


RGB = Recipe("rgb", {"size": 64, "transforms": []})
TRAINED = "timm:test_resnet,output_stride=8,std=0.3,drop_rate=0.2,pretrained=true"


def opened(spec: str) -> None:
    classes = {"classes": 4, "task": "segmentation"}
    open_model(spec, recipe=RGB, trained=True, **classes)  # type: ignore[arg-type]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Return weights as a run writes them, of a model of another stride than the usual."""
    spec, task = "timm:test_resnet,output_stride=8", "segmentation"
    model = open_model(spec, classes=4, recipe=RGB, task=task)
    save_file(model.module.state_dict(), tmp_path / "student.safetensors", weight_record(TRAINED))
    return tmp_path / "student.safetensors"


@pytest.mark.parametrize(
    ("spec", "forgotten"),
    [
        ("timm:test_resnet,std=0.3", "output_stride=8"),
        ("timm:test_resnet,output_stride=8", "std=0.3"),
        ("timm:test_resnet", "output_stride=8, std=0.3"),
    ],
)
def test_a_spec_that_forgets_what_weights_were_trained_with_is_refused(
    trained: Path,
    spec: str,
    forgotten: str,
) -> None:
    then = "was trained as timm:test_resnet,output_stride=8,std=0.3, and its spec here leaves out"
    with pytest.raises(ModelError, match=f"{then} {forgotten}, without which .* add it, or say"):
        opened(f"{spec},weights={trained}")


def test_a_spec_that_says_another_value_means_it_and_is_told(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = "timm:test_resnet,std=0.3,output_stride=8"
    for spec in (same, f"{same},drop_rate=0.1"):
        opened(f"{spec},weights={trained}")
    assert capsys.readouterr().err == ""
    opened(f"timm:test_resnet,std=0.3,output_stride=16,weights={trained}")
    told = capsys.readouterr().err
    assert "is opened as timm:test_resnet,output_stride=16,std=0.3: it may give other" in told


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("", ",score_thresh=0.05,nms_thresh=0.4,detections_per_img=10", ""),
        (",box_score_thresh=0.5", ",rpn_post_nms_top_n_test=100", ""),
        ("", ",input_size=32", ""),
        ("", ",input_size=32x32", ""),
        ("", ",input_size=64", "it sees images at another size than in training"),
        (",input_size=32", ",input_size=64", "it sees images at another size than in training"),
        ("", ",trainable=2,input_size=64", "it may give other logits than it did"),
    ],
)
def test_what_only_chooses_boxes_or_says_the_size_again_is_not_told(
    was: str, now: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    facts = weight_facts(preprocessing, task="detection", num_classes=3, label_names=None)
    record = weight_record(f"torchvision:fasterrcnn{was}", facts)
    spec = parse_spec(f"torchvision:fasterrcnn{now}")
    require_recorded(record, spec, Path("w.safetensors"))
    assert told in (note := capsys.readouterr().err)
    assert bool(note) == bool(told)


@pytest.mark.parametrize(
    ("idle", "decisive"),
    [
        ("timm:vit,drop_rate=0.1,pos_drop_rate=0.1", ""),
        ("timm:vit,score_thresh=0.1", ",score_thresh=0.1"),
        ("torchvision:retinanet,score_thresh=0.1,nms_thresh=0.4,min_size=100", ""),
        ("torchvision:fasterrcnn,box_score_thresh=0.1,rpn_batch_size_per_image=64", ""),
        ("torchvision:fasterrcnn,rpn_post_nms_top_n_train=9,rpn_fg_iou_thresh=0.6", ""),
        ("torchvision:fasterrcnn,rpn_nms_thresh=0.6", ",rpn_nms_thresh=0.6"),
        ("torchvision:fasterrcnn,rpn_post_nms_top_n_test=9", ",rpn_post_nms_top_n_test=9"),
        ("torchvision:fcos,anchor=3", ",anchor=3"),
        ("mine:net,min_size=100", ",min_size=100"),
    ],
)
def test_options_of_training_and_of_kept_boxes_decide_no_cached_logits(
    idle: str, decisive: str
) -> None:
    name = idle.partition(",")[0]
    assert cached_as(idle) == name + decisive
    assert cached_as(name) == name
    assert cached_as('a:"b') == 'a:"b', "no spec"


def test_weights_of_another_models_spec_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    record = weight_record("mine:old,width=2")
    require_recorded(record, parse_spec("mine:new,weights=w.safetensors"), Path("w.safetensors"))
    assert "was trained as mine:old,width=2, and is opened as mine:new" in capsys.readouterr().err
    with pytest.raises(ModelError, match=r"leaves out mean=0\.5"):
        record = weight_record("mine:old,mean=0.5")
        require_recorded(record, parse_spec("mine:new"), Path("w.safetensors"))


@pytest.mark.parametrize("text", ["", "x" * 3000, 'a:"b', "a:b,x=nan"])
def test_a_record_that_is_none_is_passed_over(text: str) -> None:
    require_recorded({"kdcache_spec": text}, parse_spec("mine:new"), Path("w.safetensors"))


GREY = load_recipe("digits")


def test_weights_of_a_run_say_what_they_were_trained_as(tmp_path: Path) -> None:
    data = "tiny_models:few_digits,length=64"
    student = "tiny_models:mlp,std=0.3,dropout=0.1"
    settings = {"data": data, "eval_data": data, "ema": EmaConfig(decay=0.5), "epochs": 1}
    train(tmp_path, recipe="digits", loss="ce", student=student, **settings)
    for name in ("student", "ema", "best"):
        file = tmp_path / f"{name}.safetensors"
        with safe_open(file, framework="pt") as opened_file:
            assert opened_file.metadata()["kdcache_spec"] == "tiny_models:mlp,dropout=0.1,std=0.3"
        open_model(f"tiny_models:mlp,std=0.3,weights={file}", classes=10, recipe=GREY)
        with pytest.raises(ModelError, match=r"leaves out std=0\.3"):
            open_model(f"tiny_models:mlp,weights={file}", classes=10, recipe=GREY)
    for name in ("student", "ema"):
        spec = f"tiny_models:mlp,std=0.3,weights={tmp_path}/last.pt,weights_key={name}"
        own = open_model(spec, classes=10, recipe=GREY).module.state_dict()
        held, _ = read_weight_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(held[key], value) for key, value in own.items())


def test_the_part_of_a_file_is_no_argument_of_the_model(tmp_path: Path) -> None:
    torch.save({"model": state(5), "model_ema": state(6)}, tmp_path / "w.pt")
    spec = f"tiny_models:conv,weights={tmp_path}/w.pt,weights_key=model_ema"
    model = open_model(spec, classes=10, recipe=GREY, trained=True)
    assert is_seed(model.module, 6) and model.architecture == "tiny_models:conv"


@pytest.mark.parametrize(
    ("spec", "error", "told"),
    [
        ("tiny_models:conv,weights_key=ema", UsageError, "give weights=FILE, too"),
        ("timm:test_resnet,weights=true", UsageError, "weights is True; write weights=FILE"),
        ("timm:test_resnet,weights=", UsageError, "weights is ''; write weights=FILE"),
        ("timm:test_resnet,weights=no", ModelError, "weights file no does not exist"),
        ("timm:test_resnet,weights=https://x/w.pt", ModelError, "are an address; download"),
        ("torchvision:resnet18,weights=runs/a", ModelError, "weights file runs/a does not"),
        ("timm:test_resnet,checkpoint_path=w.pt", UsageError, "write weights=FILE"),
        ("timm:test_resnet,pretrained=False", UsageError, "pretrained is 'False'; write"),
        ("timm:test_resnet,std=0", UsageError, "std is 0; it must be above 0"),
        ("timm:test_resnet,input_size=0", UsageError, "input_size is 0; it must be at least"),
        (
            "timm:test_resnet,input_size=2.5",
            UsageError,
            "input_size is 2.5; it must be a whole number of pixels, or height and width",
        ),
        ("timm:test_resnet,mean=nan", UsageError, "mean is nan; it must be a finite number"),
        ("timm:test_resnet,output_stride=7", UsageError, "AssertionError; check its options"),
        ("timm:test_resnet,layers=3", UsageError, "check its options"),
    ],
)
def test_a_spec_of_weights_that_cannot_be_meant_is_told(
    spec: str,
    error: type[KdcacheError],
    told: str,
) -> None:
    with pytest.raises(error, match=told) as caught:
        open_model(spec, classes=10, recipe=RGB, trained=False)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_record_of_a_torch_file_that_was_changed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    torch.save(state(), path)
    data = bytearray(path.read_bytes())
    pattern = state()["5.weight"].numpy().tobytes()
    at = bytes(data).index(pattern)
    data[at + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"teacher\.pth is damaged: .* differs from its CRC-32; copy"
    ):
        read_weight_file(path)


@pytest.mark.parametrize("weights", ["mymodel", "", "loop"])
def test_weights_of_a_function_that_are_no_file_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    text = f"tiny_models:anything,mean=0.5,std=0.25,weights={weights}"
    with pytest.raises(KdcacheError, match=r"weights"):
        open_model(text, classes=10, recipe=load_recipe("digits"))
