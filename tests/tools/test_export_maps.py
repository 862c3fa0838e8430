"""Models of segmentation and detection as one file that runs without kdcache."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from box_caches import STUDENT as DETECTOR
from command_line import invoke, kdcache, kdcache_json, mistake
from map_caches import EVAL, STUDENT
from nursery import commands
from onnx.reference import ReferenceEvaluator
from runs import train

from kdcache.models.model import open_model
from kdcache.models.weight_facts import facts_of
from kdcache.tasks.map_sizes import upsampled
from kdcache.tools.program_files import METADATA_FILE
from kdcache.views import load_recipe

pytestmark = pytest.mark.usefixtures("unchecked")

ENDINGS = (".onnx", ".pt2", ".pt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    settings = {"data": EVAL, "recipe": recipe, "eval_data": EVAL, "student": STUDENT}
    train(folder / "run", **settings, loss="ce", epochs=1, batch_size=8, align_corners=True)
    return folder / "run"


def results(path: Path, images: torch.Tensor) -> Any:
    """Run a file on images; none of it is kdcache's."""
    if path.suffix == ".onnx":
        evaluator = ReferenceEvaluator(onnx.load(path))
        return torch.from_numpy(evaluator.run(None, {"images": images.numpy()})[0])
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    return torch.jit.load(path)(images)


def noise(*shape: int) -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))


def logits_of(run: Path, recipe: str, images: torch.Tensor) -> torch.Tensor:
    """Return what kdcache itself makes of pixels, as its evaluation upsamples it."""
    spec = f"{STUDENT},weights={run}/student.safetensors"
    model = open_model(
        spec, classes=4, recipe=load_recipe(recipe), trained=True, task="segmentation"
    ).eval()
    height, width = images.shape[2:]
    with torch.no_grad():
        return upsampled(model(images)[:, 0], (height, width), align_corners=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_gives_maps_as_large_as_images_of_any_size(
    ending: str, run: Path, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / f"student{ending}"
    done = invoke("export-model", run, out)
    assert done.exit_code == 0, done.output
    assert "uint8 [any number, 3, any height, any width]" in done.stdout
    assert "probabilities, float32 [as many, 4, height, width]" in done.stdout
    for shape in ((1, 3, 24, 40), (3, 3, 31, 57), (2, 3, 90, 33)):
        images = noise(*shape)
        expected = torch.softmax(logits_of(run, recipe, images), dim=1)
        torch.testing.assert_close(results(out, images), expected, atol=1e-5, rtol=0)


def test_logits_of_maps_are_given_where_they_are_wanted(
    run: Path, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / "student.pt2"
    result = kdcache_json("export-model", run, out, "--logits")
    assert (result["output"], result["input_size"]) == ("logits", [3, None, None])
    images = noise(2, 3, 24, 40)
    expected = logits_of(run, recipe, images)
    torch.testing.assert_close(results(out, images), expected, atol=1e-4, rtol=0)
    files = {METADATA_FILE: ""}
    torch.export.load(out, extra_files=files)
    facts = facts_of(json.loads(files[METADATA_FILE]))
    assert facts is not None and (facts.task, facts.num_classes) == ("segmentation", 4)


def test_code_that_allows_one_size_only_is_exported_for_that_size(tmp_path: Path) -> None:
    out = tmp_path / "student.pt2"
    recipe = tmp_path / "fixed.toml"
    recipe.write_text(
        'size = [16, 24]\n[[transforms]]\nname = "Resize"\nsize = ["input", "input"]\n'
    )
    words = ("--task", "segmentation", "--recipe", recipe)
    done = invoke("export-model", "tiny_models:positioned,mean=0.5,std=0.5", out, *words)
    assert done.exit_code == 0, done.output
    assert "note: not for images of any size: export of model" in done.stderr
    assert "uint8 [any number, 3, 16, 24]" in done.stdout
    assert results(out, noise(5, 3, 16, 24)).shape == (5, 3, 16, 24)


def test_windows_of_a_run_are_said_to_be_left_out(recipe: str, tmp_path: Path) -> None:
    settings = {"data": EVAL, "recipe": recipe, "eval_data": EVAL, "student": STUDENT}
    train(tmp_path / "run", **settings, loss="ce", epochs=1, batch_size=8, eval_window=(12, 16))
    done = invoke("export-model", tmp_path / "run", tmp_path / "a.pt2")
    assert done.exit_code == 0, done.output
    assert "windows of 12x16; the file sees them whole" in done.stderr


FAMILIES = ("retinanet", "ssd", "faster_rcnn")


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an exported detector of each family. A process of its own makes them:
    TorchScript reads the code of functions, which the checks of these tests wrap."""
    folder = tmp_path_factory.mktemp("detectors")
    options = ("--task", "detection", "--recipe", "detection-eval", "--json")
    lines = []
    for family in FAMILIES:
        spec = DETECTOR.replace("retinanet", family)
        lines.append(("export-model", spec, str(folder / f"{family}.pt"), *options))
    code, printed, told = commands(lines, folder=folder).end(600)
    assert code == 0, told
    assert "deprecated" not in told, "what is advised in its place is not for detectors"
    assert re.findall(r'"output": "(\w+)"', printed) == ["boxes"] * len(FAMILIES)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_gives_the_boxes_that_an_evaluation_scores(family: str, detectors: Path) -> None:
    spec = DETECTOR.replace("retinanet", family)
    model = open_model(
        spec, classes=3, recipe=load_recipe("detection-eval"), trained=True, task="detection"
    ).eval()
    for shape in ((2, 3, 320, 320), (1, 3, 96, 130)):
        images = noise(*shape)
        given = results(detectors / f"{family}.pt", images)
        with torch.no_grad():
            expected = model(images).detections()
        assert len(given) == len(expected) and sum(len(found.boxes) for found in expected)
        for table, found in zip(given, expected, strict=True):
            for name in ("boxes", "scores", "classes"):
                torch.testing.assert_close(table[name], getattr(found, name))


def test_what_cannot_be_exported_of_a_detector_is_told(tmp_path: Path) -> None:
    words = ("--task", "detection", "--recipe", "detection-eval")
    for ending in (".onnx", ".pt2"):
        line = mistake("export-model", DETECTOR, tmp_path / f"a{ending}", *words)
        assert f"is not exported to {ending}: how many boxes there are" in line
        assert "name a file that ends in .pt" in line
    line = mistake("export-model", DETECTOR, tmp_path / "a.pt", *words, "--logits")
    assert "logits is not for detection; leave it out" in line
    own = "tiny_detectors:plain,mean=0.5,std=0.5"
    assert "is a detector of one's own" in mistake("export-model", own, tmp_path / "a.pt", *words)
    assert not [*tmp_path.iterdir()]


def test_a_model_of_another_task_says_so(tmp_path: Path) -> None:
    spec = "torchvision:ssdlite320_mobilenet_v3_large,weights=DEFAULT"
    line = mistake("export-model", spec, tmp_path / "a.pt")
    assert "is of detection, and one of classification is wanted" in line
    assert "(--task detection)" in line


def test_a_task_is_what_weights_say(run: Path, tmp_path: Path) -> None:
    line = mistake("export-model", run, tmp_path / "a.pt2", "--task", "classification")
    assert "task is classification, and model" in line and "is of segmentation" in line
    kdcache("export-model", run, tmp_path / "a.pt2", "--task", "segmentation")
