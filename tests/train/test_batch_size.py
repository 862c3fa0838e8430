"""`batch_size auto` of a training: the step that is tried, the number that the run keeps."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from box_caches import STUDENT as DETECTOR
from box_caches import box_cache
from command_line import mistake
from map_caches import DATA as MASKS
from map_caches import STUDENT as SEGMENTER
from map_caches import made
from processes import launch
from runs import CONV, MLP, dump, train, train_config
from safetensors.torch import load_file

from kdcache.errors import KdcacheError, UsageError
from kdcache.models.modules import state_sha256
from kdcache.runtime.batch_size import chosen
from kdcache.train.batch_size import largest_part, part_that_fits, tried_step, with_batch_size
from kdcache.train.config import EmaConfig, TrainConfig
from kdcache.train.data import TrainingData
from kdcache.train.optim import ScheduleConfig
from kdcache.views import ViewDataset
from kdcache.views.repeated import few_views

SETTINGS: dict[str, Any] = {
    "data": "digits:train",
    "recipe": "digits",
    "loss": "ce",
    "epochs": 1,
    "batch_size": "auto",
}
LIMITED = "broken_models:few_at_once,mean=0.5,std=0.25"


MIXED = """
mode = "L"
size = 8
eval = "eval-whole"

[[transforms]]
name = "RandomHorizontalFlip"

[mixing]
mixup = 0.8
block = 16
"""


def mixed_recipe(folder: Path) -> str:
    file = folder / "mixed.toml"
    file.write_text(MIXED)
    return str(file)


def auto_config(run: Path, **changes: Any) -> TrainConfig:
    return train_config(run, **{**SETTINGS, **changes})


@pytest.mark.parametrize(("most", "part"), [(2, 2), (8, 8), (15, 8), (999, 32)])
def test_the_largest_part_whose_step_fits_is_found(tmp_path: Path, most: int, part: int) -> None:
    """Of 1,197 digits a part has no more than 32, so that an epoch has as many steps."""
    student = f"{LIMITED},most=999,most_trained={most}"
    assert largest_part([auto_config(tmp_path, student=student)]) == part


def test_parts_of_a_batch_and_students_side_by_side_share_the_device(tmp_path: Path) -> None:
    small = auto_config(tmp_path / "a", student=f"{LIMITED},most_trained=4")
    large = auto_config(tmp_path / "b", student=MLP)
    assert largest_part([large, small]) == largest_part([small, large]) == 4
    assert largest_part([auto_config(tmp_path, student=MLP, accumulate=4)]) == 8


def test_parts_of_mixed_views_can_be_tried(tmp_path: Path) -> None:
    student = f"{LIMITED},most_trained=4"
    dump(tmp_path / "cache", data="digits:train", recipe=mixed_recipe(tmp_path), seeds="0:1")
    cached = {"cache": str(tmp_path / "cache"), "recipe": None, "loss": "kl"}
    assert largest_part([auto_config(tmp_path / "run", student=student, **cached)]) == 4


def test_a_student_that_never_fits_is_told(tmp_path: Path) -> None:
    config = auto_config(tmp_path, student=f"{LIMITED},most_trained=1")
    with pytest.raises(KdcacheError, match="not even a step on 2 views fits into the memory of"):
        largest_part([config])


def test_nothing_is_said_while_a_step_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    largest_part([auto_config(tmp_path, student=MLP)])
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_a_step_of_each_task_can_be_tried(
    tmp_path: Path, recipe: str, box_recipe: str, task: str
) -> None:
    """Soft targets are as those of a cache: the step runs, and changes the weights."""
    cache = str(tmp_path / "cache")
    settings: dict[str, Any] = {"batch_size": 2, "cache": cache, "ema": EmaConfig(decay=0.9)}
    if task == "classification":
        dump(cache, seeds="0:1")
        settings |= {"student": f"{MLP},dropout=0.3", "loss": "dist"}
    elif task == "segmentation":
        made(Path(cache), recipe, seeds="0:1")
        settings |= {"student": SEGMENTER, "data": MASKS, "loss": "dist"}
    else:
        box_cache(cache, box_recipe, seeds="0:1")
        settings |= {"student": DETECTOR, "data": "tiny_detectors:rectangles", "loss": "kl"}
    config = train_config(tmp_path / "run", **settings)
    data = TrainingData([config])
    opened = data.students[config.run]
    replay = data.loader.replay
    size = opened.student.preprocessing.size
    dataset = ViewDataset(replay.source, replay.recipe, replay.order, sizes=[size])
    few = few_views(dataset, replay.order[:3])
    before = state_sha256(opened.student.module)
    step = tried_step(config, opened, data.task, data.compute, few)
    step(2)
    step(5)
    data.close()
    assert state_sha256(opened.student.module) != before
    gradients = [parameter.grad for parameter in opened.student.parameters()]
    assert gradients == [None] * len(gradients)


def test_the_run_keeps_the_number_and_is_the_one_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump(tmp_path / "cache", data="digits:train")
    settings = {
        "data": "digits:train",
        "cache": str(tmp_path / "cache"),
        "loss": "dist",
        "epochs": 1,
        "student": f"{MLP},dropout=0.3",
    }
    config = train_config(tmp_path / "auto", **settings, batch_size="auto")
    part = largest_part([config])
    (numbered,) = with_batch_size([config], part)
    told = capsys.readouterr().err
    assert "note: batch_size auto is 32 here, and is kept with the run" in told
    assert "learning rates stay as they are" in told
    assert "DIST compares classes over the views of a batch" in told
    train(tmp_path / "auto", **settings, batch_size=chosen(numbered.batch_size))
    train(tmp_path / "number", **settings, batch_size=32)
    weights = load_file(tmp_path / "auto" / "student.safetensors")
    for name, value in load_file(tmp_path / "number" / "student.safetensors").items():
        assert torch.equal(weights[name], value)


def test_a_run_that_is_there_goes_on_with_its_own_number(tmp_path: Path) -> None:
    """On another device, too: here a CPU, on which `auto` begins none."""
    run = tmp_path / "run"
    constant = ScheduleConfig(name="none")
    first = train(run, **{**SETTINGS, "batch_size": 96}, schedule=constant)
    assert first["steps"] == 12
    assert train(run, **SETTINGS, schedule=constant) == first
    more = train(run, **{**SETTINGS, "epochs": 2}, schedule=constant)
    assert more["steps"] == 24
    settings = tomllib.loads((run / "config.toml").read_text())["train-student"]
    assert settings["batch_size"] == 96


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_processes_take_the_number_of_the_smallest(tmp_path: Path, accumulate: int) -> None:
    sizes = launch(_sizes_of_processes, 2, str(tmp_path / "run"), accumulate)
    assert sizes == [2 * accumulate * 8] * 2


def _sizes_of_processes(run: str, accumulate: int) -> int:
    from kdcache.runtime.distributed import rank

    config = auto_config(Path(run), student=MLP, accumulate=accumulate)
    (numbered,) = with_batch_size([config], (16, 8)[rank()])
    return chosen(numbered.batch_size)


def test_a_training_on_a_cpu_is_given_a_number(tmp_path: Path) -> None:
    config = auto_config(tmp_path / "run")
    with pytest.raises(UsageError, match="is for trainings on a GPU"):
        part_that_fits([config])
    assert part_that_fits([train_config(tmp_path / "run", **{**SETTINGS, "batch_size": 8})]) is None
    words = ["--data", "digits:train", "--recipe", "digits", "--student", MLP, "--loss", "ce"]
    line = mistake(
        "train-student", tmp_path / "run", *words, "--device", "cpu", "--batch-size", "auto"
    )
    assert line.endswith("give a number, such as 64")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": f"{CONV},seed=7", "loss": "kl"}, "a teacher in the loop needs memory"),
        ({"sync_batch_norm": True}, "sync_batch_norm needs all of them"),
    ],
)
def test_what_one_process_cannot_try_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        auto_config(tmp_path, **changes)


def test_a_word_that_is_no_batch_size_is_told(tmp_path: Path) -> None:
    words = ["--data", "digits:train", "--recipe", "digits", "--student", MLP, "--loss", "ce"]
    line = mistake("train-student", tmp_path, *words, "--batch-size", "most")
    assert "train-student batch_size is 'most'; it must be a whole number or auto" in line
    line = mistake("train-student", tmp_path, *words, "--set", 'batch_size="64"')
    assert "batch_size is '64'; it must be a whole number or auto" in line
