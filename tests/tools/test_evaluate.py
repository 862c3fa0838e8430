"""Scores of saved models, of runs and of any weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import invoke, kdcache, kdcache_json, mistake
from map_caches import DATA as MASKS
from map_caches import EVAL as EVAL_MASKS
from map_caches import STUDENT as SEGMENTER
from runs import DIGITS, IN_PROCESS, MLP, dump, train
from torch import Tensor

from kdcache.models.model import open_model
from kdcache.shapes import Labels
from kdcache.sources import open_source
from kdcache.tasks.class_report import ClassReport
from kdcache.tools.evaluate import evaluate_saved
from kdcache.tools.evaluate_config import EvaluateConfig
from kdcache.tools.saved_model import find_model
from kdcache.tools.saved_views import saved_recipes

PLACE = ("--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    dump(folder / "cache")
    train(folder / "run", cache=str(folder / "cache"), eval_data=DIGITS, epochs=3)
    return folder / "run"


def test_a_run_is_evaluated_as_it_was_trained(run: Path) -> None:
    found = kdcache_json("evaluate", run, *PLACE)
    result = json_of(run / "result.json")
    assert found["scores"]["top1"] == pytest.approx(result["best_top1"])
    assert found["model"].endswith("best.safetensors") and found["data"] == DIGITS
    (run / "best.safetensors").rename(run / "kept")
    last = kdcache_json("evaluate", run, *PLACE)["scores"]
    (run / "kept").rename(run / "best.safetensors")
    assert {name: last[name] for name in ("top1", "top5")} == pytest.approx(
        {name: result[name] for name in ("top1", "top5")}
    )
    weights = f"{MLP},weights={run}/student.safetensors"
    recipe = run.parent / "grey.toml"
    recipe.write_text('mode = "L"\nsize = 8\n[[transforms]]\nname = "Resize"\nsize = "input"\n')
    other = kdcache_json("evaluate", weights, "--data", DIGITS, "--recipe", recipe, *PLACE)
    assert other["scores"] == last
    text = kdcache("evaluate", run, *PLACE)
    for word in ("top-1", "calibration error", "classes, lowest", "taken for others"):
        assert word in text


def json_of(path: Path) -> dict:
    parsed: dict = json.loads(path.read_text())
    return parsed


def test_what_cannot_be_evaluated_is_told(run: Path, tmp_path: Path) -> None:
    assert "is no run: it has no config.toml" in mistake("evaluate", tmp_path, *PLACE)
    spec = f"{MLP},weights={run}/student.safetensors"
    assert "give --data" in mistake("evaluate", spec, *PLACE)
    assert "no weights" in mistake("evaluate", "timm:resnet18", "--data", DIGITS, *PLACE)
    assert "HEIGHTxWIDTH" in mistake("evaluate", run, "--window", "wide", *PLACE)
    assert "eval_window is not for classification" in mistake(
        "evaluate", run, "--window", "8x8", *PLACE
    )
    assert "align_corners is not for classification" in mistake(
        "evaluate", run, "--align-corners", *PLACE
    )


def labels(targets: list[int]) -> Labels:
    return Labels(first=torch.tensor(targets))


def test_a_report_by_class_is_what_is_counted_by_hand() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 4, 200)
    values = generator.normal(size=(200, 5)) + 2 * np.eye(5)[targets]
    report = ClassReport(["a", "b", "c", "d", "e"])
    for start in (0, 50):
        stop = 50 if start == 0 else 200
        rows: Tensor = torch.from_numpy(values[start:stop]).float()
        report.add(rows, labels(targets[start:stop].tolist()))
    found = report.result()
    probabilities = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    for number, name in enumerate("abcd"):
        right = (predicted == number)[targets == number]
        assert found[f"accuracy/{name}"] == pytest.approx(100 * right.mean())
    assert "accuracy/e" not in found, "no sample is of it"
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap = abs((predicted == targets)[inside].mean() - confidence[inside].mean())
            error += gap * inside.mean()
    assert found["calibration_error"] == pytest.approx(100 * error)
    share = np.mean((predicted == 1)[targets == 0])
    assert found["taken/a as b"] == pytest.approx(100 * share)
    taken = [name for name in found if name.startswith("taken/")]
    assert 0 < len(taken) <= 20 and "taken/a as a" not in taken


def test_a_report_keeps_nothing_of_classes_that_it_does_not_see() -> None:
    """Counts of all pairs of 200,000 classes would take 320 GB."""
    names = [str(number) for number in range(200_000)]
    report = ClassReport(names)
    logits = torch.zeros(3, len(names))
    for row, answer in enumerate([7, 199_999, 199_999]):
        logits[row, answer] = 20
    report.add(logits, labels([7, 7, 5]))
    found = report.result()
    del found["calibration_error"]
    expected = {"accuracy/5": 0.0, "accuracy/7": 50.0}
    assert found == expected | {"taken/5 as 199999": 100.0, "taken/7 as 199999": 50.0}


def test_weights_bring_their_size_their_mode_and_the_names_of_their_classes(
    tmp_path: Path,
) -> None:
    named = "tiny_models:named_digits"
    train(tmp_path / "run", data=named, recipe="digits", loss="ce", epochs=1)
    weights = f"{MLP},weights={tmp_path}/run/student.safetensors"
    found = kdcache_json("evaluate", weights, "--data", DIGITS, *PLACE)
    assert "accuracy/digit 3" in found["scores"], "the names are those of the weights"
    done = invoke("evaluate", tmp_path / "run", "--data", "digits:test", *PLACE)
    assert "calls class 0 '0', which the model calls 'digit 0'" in done.stderr
    reversed_names = "tiny_models:reversed_digits"
    line = mistake("evaluate", tmp_path / "run", "--data", reversed_names, *PLACE)
    assert "in another order: it calls class 0 'digit 9'" in line
    line = mistake("evaluate", tmp_path / "run", "--data", "tiny_models:parity", *PLACE)
    assert "give data of 10 classes, those of the model, or --class-map FILE" in line


@pytest.fixture
def parity_map(tmp_path: Path) -> Path:
    """Return a map of nine digits to even and odd ones: no line names the digit 9."""
    file = tmp_path / "parity.csv"
    file.write_text("".join(f"{digit % 2},{digit}\n" for digit in range(9)))
    return file


def test_a_classifier_of_other_classes_is_scored_through_a_map(run: Path, parity_map: Path) -> None:
    data = ("--data", "tiny_models:parity")
    found = kdcache_json("evaluate", run, *data, "--class-map", parity_map, *PLACE)
    logits, targets = logits_and_targets(run)
    probabilities = torch.softmax(logits, dim=1)
    of_parity = torch.stack([probabilities[:, 0:9:2].sum(1), probabilities[:, 1:9:2].sum(1)], dim=1)
    of_parity /= of_parity.sum(1, keepdim=True)
    is_right = of_parity.argmax(1) == targets
    right_share = of_parity.gather(1, targets[:, None])
    assert found["scores"]["top1"] == pytest.approx(100 * float(is_right.float().mean()))
    assert found["scores"]["eval_loss"] == pytest.approx(-float(right_share.log().mean()), rel=1e-4)
    assert found["classes"] == 2 and found["class_map"] == str(parity_map)


def logits_and_targets(run: Path) -> tuple[Tensor, Tensor]:
    """Return what the best student of a run says of digits, and whether each is odd."""
    saved = find_model(str(run))
    training, recipe = saved_recipes(saved, None, "classification")
    model = open_model(saved.spec, classes=10, recipe=training, trained=True).eval()
    source = open_source("tiny_models:parity")
    recipe = recipe.at(model.preprocessing.size)
    views = [recipe(source.sample(index).image) for index in range(len(source))]
    targets = [source.sample(index).target for index in range(len(source))]
    with torch.no_grad():
        return model(torch.stack(views)), torch.tensor(targets)


def test_what_a_class_map_lacks_is_told(run: Path, parity_map: Path, tmp_path: Path) -> None:
    weights = tmp_path / "old.pth"
    torch.save(torch.nn.Linear(1, 1).state_dict(), weights)
    old = ("evaluate", f"{MLP},weights={weights}", "--data", "tiny_models:parity")
    assert "give --classes, a number or a text" in mistake(*old, "--class-map", parity_map, *PLACE)
    assert "give --class-map, too, or leave --classes out" in mistake(
        *old, "--classes", "10", *PLACE
    )
    own = ("evaluate", run, "--data", "tiny_models:parity")
    assert "or --class-map FILE, which says which are which" in mistake(*own, *PLACE)
    parity_map.write_text("0,11\n")
    line = mistake(*own, "--class-map", parity_map, *PLACE)
    assert "line 1: '0,11' is out of range; the student has 2 classes, the teacher 10" in line
    maps = ("evaluate", run, "--data", "segmentation_files:Shapes", "--class-map", parity_map)
    assert "is for classification, and data segmentation_files:Shapes" in mistake(*maps, *PLACE)


def test_a_folder_that_is_not_there_is_no_model() -> None:
    line = mistake("evaluate", "runs/nowhere", "--data", DIGITS)
    assert "there is no folder runs/nowhere; give that of a run, or a model's spec" in line


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student runs out of memory with more than 16 views."""
    run = tmp_path_factory.mktemp("limited") / "run"
    student = "broken_models:few_at_once,mean=0.5,std=0.25,most=16,most_trained=8"
    train(run, student=student, recipe="digits", loss="ce", epochs=1, batch_size=8)
    return run


def test_memory_that_runs_out_is_told_with_the_batch_and_auto_finds_one_that_fits(
    limited: Path, run: Path
) -> None:
    words = ("evaluate", limited, "--data", DIGITS, *PLACE)
    line = mistake(*words)
    assert "out of GPU memory on a batch of 64 views; use a smaller --batch-size, or auto" in line
    few = kdcache_json(*words, "--batch-size", 16)["scores"]
    done = invoke(*words, "--batch-size", "auto", "--json")
    assert done.exit_code == 0 and "note: batch_size auto is " in done.stderr
    assert json.loads(done.stdout)["scores"] == pytest.approx(few, abs=1e-4)
    whole = kdcache_json("evaluate", run, *PLACE)["scores"]
    found = kdcache_json("evaluate", run, *PLACE, "--batch-size", "auto")["scores"]
    assert found == pytest.approx(whole, abs=1e-4)


def test_images_of_their_own_size_come_one_by_one_whatever_the_batch(
    tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"recipe": recipe, "loss": "ce", "epochs": 1, "batch_size": 8}
    train(tmp_path / "run", student=SEGMENTER, data=MASKS, eval_data=EVAL_MASKS, **settings)
    config = EvaluateConfig(model=str(tmp_path / "run"), compute=IN_PROCESS)
    sizes = ("auto", 1, None)
    scores = [evaluate_saved(replace(config, batch_size=size))["scores"] for size in sizes]
    assert scores[0] == scores[1] == scores[2]
