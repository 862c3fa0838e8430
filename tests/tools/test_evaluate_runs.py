"""Students of several runs, scored side by side: each as it is scored alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from box_caches import DATA as BOXES
from box_caches import STUDENT as DETECTOR
from box_caches import trained as trained_detector
from command_line import kdcache_json
from map_caches import EVAL, STUDENT
from runs import DIGITS, IN_PROCESS, MLP, train

from kdcache.errors import KdcacheError
from kdcache.tools.evaluate_runs import evaluate_runs

PLACE = ("--workers", "0", "--device", "cpu")
RESNET = "timm:test_resnet,mean=0.4,std=0.3,input_size=32"
TURNED = """
mode = "L"
size = 8
[[transforms]]
name = "Resize"
size = "input"
[[transforms]]
name = "RandomVerticalFlip"
p = 1.0
"""
LOGGED = "tiny_models:logged_digits"


def scores_alone(folders: list[str]) -> dict[str, Any]:
    return {folder: kdcache_json("evaluate", folder, *PLACE)["scores"] for folder in folders}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of two input sizes, which are evaluated on data that counts how often it is
    read."""
    folder = tmp_path_factory.mktemp("runs")
    data = f"{LOGGED},log={folder}/log"
    students = {"a": MLP, "b": f"{MLP},dropout=0.1", "c": RESNET}
    for name, student in students.items():
        settings = {"data": DIGITS, "recipe": "digits", "loss": "ce", "student": student}
        train(folder / name, **settings, eval_data=data, epochs=1)
    return folder


def test_each_image_is_read_once_and_scores_are_those_of_each_alone(folder: Path) -> None:
    folders = [str(folder / name) for name in "abc"]
    log = folder / "log"
    log.write_bytes(b"")
    results = evaluate_runs(folders, IN_PROCESS)
    assert len(log.read_bytes()) == 64
    assert results == scores_alone(folders)


def test_a_run_that_sees_other_views_has_a_pass_of_its_own(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "a", tmp_path / "other")
    config = tmp_path / "other" / "config.toml"
    turned = tmp_path / "turned.toml"
    turned.write_text(TURNED)
    head = "[train-student]\n"
    config.write_text(config.read_text().replace(head, f'{head}eval_recipe = "{turned}"\n'))
    folders = [str(folder / "a"), str(tmp_path / "other")]
    results = evaluate_runs(folders, IN_PROCESS)
    assert results[folders[0]] != results[folders[1]]
    assert results == scores_alone(folders)


def test_a_run_that_fails_leaves_the_scores_of_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "a", tmp_path / "gone")
    for name in ("best.safetensors", "student.safetensors"):
        (tmp_path / "gone" / name).unlink(missing_ok=True)
    shutil.copytree(folder / "a", tmp_path / "broken")
    config = tmp_path / "broken" / "config.toml"
    config.write_text(config.read_text().replace("tiny_models:mlp", "tiny_models:failing_later"))
    folders = [str(folder / "a"), str(tmp_path / "gone"), str(tmp_path / "broken")]
    results = evaluate_runs(folders, IN_PROCESS)
    assert isinstance(results[folders[1]], KdcacheError)
    assert "has no weights yet" in str(results[folders[1]])
    assert isinstance(results[folders[2]], KdcacheError)
    assert "as on a full disk" in str(results[folders[2]])
    assert results[folders[0]] == scores_alone(folders[:1])[folders[0]]


def test_data_that_cannot_be_opened_is_told_of_each(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "a", tmp_path / "a")
    config = tmp_path / "a" / "config.toml"
    data = f"{LOGGED},log={folder}/log"
    config.write_text(config.read_text().replace(data, "imagefolder:/nowhere"))
    (error,) = evaluate_runs([str(tmp_path / "a")], IN_PROCESS).values()
    assert isinstance(error, KdcacheError) and "/nowhere" in str(error)


def test_maps_are_scored_side_by_side_as_alone(tmp_path: Path, recipe: str) -> None:
    settings: dict[str, Any] = {"data": EVAL, "recipe": recipe, "eval_data": EVAL, "loss": "ce"}
    for seed in (0, 1):
        train(
            tmp_path / str(seed),
            **settings,
            student=STUDENT,
            run_seed=seed,
            epochs=1,
            batch_size=8,
            eval_window=(12, 16),
            align_corners=True,
        )
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert evaluate_runs(folders, IN_PROCESS) == scores_alone(folders)


def test_detectors_of_two_sizes_are_scored_as_alone(tmp_path: Path, box_recipe: str) -> None:
    for name, size in {"a": 64, "b": 48, "c": 64}.items():
        trained_detector(
            tmp_path / name,
            student=f"{DETECTOR},input_size={size}",
            recipe=box_recipe,
            loss="ce",
            eval_data=f"{BOXES},length=6",
            epochs=1,
        )
    folders = [str(tmp_path / name) for name in "abc"]
    assert evaluate_runs(folders, IN_PROCESS) == scores_alone(folders)
