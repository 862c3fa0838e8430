"""A model as one file that runs without kdcache, and gives what it gives with it."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from click.testing import Result
from command_line import invoke, kdcache, mistake
from nursery import command
from onnx.reference import ReferenceEvaluator
from runs import train

from kdcache.models.model import open_model
from kdcache.models.weight_facts import facts_of
from kdcache.tools.program_files import METADATA_FILE, difference_of
from kdcache.views import load_recipe

pytestmark = pytest.mark.usefixtures("unchecked")

NAMED = "tiny_models:named_digits"
STUDENT = "timm:test_resnet,mean=0.4,std=0.3,input_size=32"
ENDINGS = (".onnx", ".pt2", ".pt")
Run = Callable[[np.ndarray], np.ndarray]
Export = Callable[[str], tuple[Path, Result]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    settings = {"data": NAMED, "recipe": "digits", "loss": "ce", "student": STUDENT}
    train(folder / "run", **settings, epochs=1)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return what exports that run, once for each ending: the file, and what the command prints."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(ending: str) -> tuple[Path, Result]:
        out = folder / f"student{ending}"
        return out, invoke("export-model", run, out, "--json")

    return export


def opened(path: Path) -> tuple[Run, dict[str, str]]:
    """Return a file as something to be called, and its metadata; none of it is kdcache's."""
    if path.suffix == ".onnx":
        model = onnx.load(path)
        evaluator = ReferenceEvaluator(model)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        return lambda images: evaluator.run(None, {"images": images})[0], metadata
    files = {METADATA_FILE: ""}
    if path.suffix == ".pt2":
        module = torch.export.load(path, extra_files=files).module()
    else:
        module = torch.jit.load(path, _extra_files=files)
    return lambda images: module(torch.from_numpy(images)).numpy(), json.loads(files[METADATA_FILE])


@pytest.fixture
def images() -> np.ndarray:
    """More of them than the example that was traced."""
    return np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8)


def logits_of(run: Path, images: np.ndarray) -> torch.Tensor:
    """Return what kdcache itself makes of pixels."""
    spec = f"{STUDENT},weights={run}/student.safetensors"
    model = open_model(spec, classes=10, recipe=load_recipe("digits"), trained=True).eval()
    with torch.no_grad():
        return model(torch.from_numpy(images))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_gives_the_probabilities_of_pixels_and_the_names_of_classes(
    ending: str, run: Path, images: np.ndarray, exported: Export
) -> None:
    out, done = exported(ending)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["input_size"] == [1, 32, 32] and result["output"] == "probabilities"
    assert result["bytes"] == out.stat().st_size
    call, metadata = opened(out)
    expected = torch.softmax(logits_of(run, images), 1).numpy()
    np.testing.assert_allclose(call(images), expected, atol=1e-5)
    np.testing.assert_allclose(call(images[:1]), expected[:1], atol=1e-5)
    facts = facts_of(metadata)
    assert facts is not None
    assert facts.label_names == tuple(f"digit {number}" for number in range(10))
    assert (facts.mean, facts.std, facts.input_size) == ((0.4,), (0.3,), (1, 32, 32))
    assert metadata["output"] == "probabilities" and "transforms" in json.loads(metadata["recipe"])


def test_logits_are_given_where_they_are_wanted(
    run: Path, images: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "student.pt2"
    done = invoke("export-model", run, out, "--logits")
    assert done.exit_code == 0 and "uint8 [any number, 1, 32, 32]" in done.stdout
    call, metadata = opened(out)
    np.testing.assert_allclose(call(images), logits_of(run, images).numpy(), atol=1e-4)
    assert metadata["output"] == "logits"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_said_to_be_deprecated(exported: Export) -> None:
    _, done = exported(".pt")
    assert done.exit_code == 0 and "TorchScript deprecated" in done.stderr


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_passes_its_own_checker(exported: Export) -> None:
    out, _ = exported(".onnx")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.graph.input
    shape = [side.dim_value or side.dim_param for side in entry.type.tensor_type.shape.dim]
    assert entry.name == "images" and entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert shape == ["batch", 1, 32, 32]


def test_what_cannot_be_exported_is_told(run: Path, tmp_path: Path) -> None:
    assert "known: .onnx, .pt, .pt2" in mistake("export-model", run, tmp_path / "a.tflite")
    assert "does not exist; make it first" in mistake("export-model", run, tmp_path / "x" / "a.pt2")
    (tmp_path / "folder.pt2").mkdir()
    assert "it is a folder" in mistake("export-model", "tim:x", tmp_path / "folder.pt2")
    assert "is no run" in mistake("export-model", tmp_path, tmp_path / "a.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.pt2"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("model", "ending"),
    [
        ("by_value", ".pt"),
        ("by_value", ".pt2"),
        ("by_value", ".onnx"),
        ("batchwise", ".pt"),
        ("batchwise", ".pt2"),
        ("batchwise", ".onnx"),
        ("by_darkest", ".pt"),
    ],
)
def test_a_file_that_would_give_something_else_than_the_model_is_refused_in_one_line(
    model: str, ending: str, tmp_path: Path
) -> None:
    spec = f"tiny_models:{model},mean=0.5,std=0.5"
    done = invoke("export-model", spec, tmp_path / f"a{ending}", "--recipe", "digits")
    *notes, line = done.stderr.splitlines()
    assert done.exit_code == 1 and line.startswith(f"kdcache: error: export of model {spec} fails")
    assert "may depend on pixels or on the size of a batch; mend it, or write another" in line
    assert all("TorchScript deprecated" in note for note in notes)
    assert not [*tmp_path.iterdir()]


def test_a_number_in_another_place_is_a_difference_and_rounding_is_none() -> None:
    expected = torch.tensor([[0.2, 0.8]])
    assert difference_of([expected + 1e-6], [expected]) is None
    assert difference_of([expected.flip(1)], [expected]) == (
        "numbers that are off by up to 0.6 from those of the model"
    )
    assert difference_of([expected * torch.nan], [expected]) is not None
    assert difference_of([expected[:0]], [expected]) is not None
    assert difference_of([expected[:0]], [expected[:0]]) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_code_that_compares_sizes_is_no_obstacle_to_torchscript(tmp_path: Path) -> None:
    """As vision transformers have it, of which `torch.jit.trace` warns too."""
    weights = tmp_path / "vit.pt"
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), weights)
    spec = f"timm:test_vit,weights={weights}"
    kdcache("export-model", spec, tmp_path / "a.pt", "--classes", 3)
    call, _ = opened(tmp_path / "a.pt")
    assert call(np.zeros((4, 3, 160, 160), np.uint8)).shape == (4, 3)


@pytest.mark.parametrize(("model", "ending"), [("by_value", ".pt2"), ("batchwise", ".onnx")])
def test_libraries_say_nothing_beside_that_line(model: str, ending: str, tmp_path: Path) -> None:
    """In a process of its own: pytest takes hold of loggers."""
    spec = f"tiny_models:{model},mean=0.5,std=0.5"
    words = ("export-model", spec, str(tmp_path / f"a{ending}"), "--recipe", "digits")
    code, _, told = command(*words, folder=tmp_path).end()
    assert code == 1 and len(told.splitlines()) == 1, told


def test_onnx_that_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.tools import export_model_config

    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr(export_model_config.importlib.util, "find_spec", find_nothing)
    line = mistake("export-model", "timm:test_resnet,pretrained=true", tmp_path / "a.onnx")
    assert "pip install 'kdcache[onnx]'" in line
