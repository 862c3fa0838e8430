"""Students side by side: each run is what it would be alone, from one pass over the views."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import box_caches
import map_caches
import pytest
import torch
from command_line import kdcache, kdcache_json, mistake
from processes import launch
from runs import CONV, MLP, Lines, dump, losses, train, train_config
from safetensors.torch import load_file

from kdcache.errors import KdcacheError, MismatchError, StoppedError, UsageError
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.distributed import StopLook
from kdcache.train import side_by_side
from kdcache.train.checkpoint import load_checkpoint
from kdcache.train.config import EmaConfig, TrainConfig
from kdcache.train.data import TrainingData
from kdcache.train.keeper import Keeper
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.one_pass import require_one_pass
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.outlook import Outlook
from kdcache.train.plan import plan_training
from kdcache.train.run import train_students
from kdcache.train.side_by_side import StudentRun, train_epochs
from kdcache.train.trainer import Trainer
from kdcache.views import ViewDataset

DATA = "tiny_models:few_digits,length=96"
SCORES = ("top1", "top5", "eval_loss", "train_loss", "best_epoch", "best_top1", "steps")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("side") / "cache"
    dump(path, data=DATA, codec="topk:k=3")
    return str(path)


def students(path: Path, cache: str, **shared: Any) -> list[TrainConfig]:
    """Return students that differ in all that may differ."""
    common: dict[str, Any] = {
        "data": DATA,
        "cache": cache,
        "eval_data": DATA,
        "student": f"{MLP},dropout=0.3",
        "accumulate": 2,
        **shared,
    }
    sgd = OptimizerConfig(lr=0.05)
    return [
        train_config(path / "labels", **common, loss="ce"),
        train_config(
            path / "dist", **common, loss="dist:tau=4", run_seed=3, order_seed=0, optimizer=sgd
        ),
        train_config(
            path / "kl",
            **{**common, "student": CONV},
            loss="kl:tau=4",
            optimizer=OptimizerConfig(name="adamw", lr=0.01),
            ema=EmaConfig(decay=0.9),
            schedule=ScheduleConfig(warmup_epochs=1),
            label_smoothing=0.1,
            clip_grad=1.0,
            log_steps=2,
        ),
    ]


def facts(run: str) -> dict[str, Any]:
    """Return all that a run has come to, but for times and memory."""
    folder = Path(run)
    result = json.loads((folder / "result.json").read_text())
    weights = {
        f"{file.name} {name}": value.tolist()
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }
    return {
        "losses": losses(folder),
        "files": sorted(path.name for path in folder.iterdir()),
        "epochs": [line["loss"] for line in read_metrics(folder / "metrics.jsonl")],
        **{name: result[name] for name in SCORES},
        **weights,
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, cache: str) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("alone")
    found = []
    for config in students(path, cache):
        train_students([config])
        found.append(facts(config.run))
    return found


def test_each_run_is_what_it_would_be_alone(
    tmp_path: Path, cache: str, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = []
    render = ViewDataset.batch

    def counted(self: ViewDataset, requests: Any) -> Any:
        rendered.append(len(requests))
        return render(self, requests)

    monkeypatch.setattr(ViewDataset, "batch", counted)
    configs = students(tmp_path, cache)
    results = train_students(configs)
    assert [facts(config.run) for config in configs] == alone
    assert [result["run"] for result in results] == [config.run for config in configs]
    num_views = sum(rendered)
    rendered.clear()
    train_students([replace(configs[0], run=str(tmp_path / "one"))])
    assert num_views == sum(rendered), "views of training and of evaluation are rendered once"


def of_task(task: str, path: Path, recipes: dict[str, str]) -> dict[str, Any]:
    """Return the settings of a student of a task, without a loss."""
    recipe = recipes[task]
    if task == "detection":
        cache = box_caches.box_cache(path / "cache", recipe)
        return {"cache": cache, "data": box_caches.DATA, "student": box_caches.STUDENT}
    if task == "in the loop":
        teacher = f"{CONV},seed=7"
        return {"teacher": teacher, "recipe": "digits", "data": DATA, "student": MLP}
    map_caches.made(path / "cache", recipe, seeds="0:2")
    cache = str(path / "cache")
    return {"cache": cache, "data": map_caches.DATA, "student": map_caches.STUDENT}


@pytest.mark.parametrize("task", ["segmentation", "detection", "in the loop"])
def test_so_is_each_run_of_another_task_and_with_the_teacher_in_the_loop(
    tmp_path: Path, recipe: str, box_recipe: str, task: str
) -> None:
    recipes = {"segmentation": recipe, "detection": box_recipe, "in the loop": "digits"}
    settings = of_task(task, tmp_path, recipes)
    optimizer = OptimizerConfig(lr=1e-3)
    settings |= {"batch_size": 8, "epochs": 1, "optimizer": optimizer}

    def configs(folder: Path) -> list[TrainConfig]:
        found = []
        for number, loss in enumerate(("ce", "dist:tau=1", "kl:tau=2")):
            config = train_config(
                folder / loss[:2], **settings, loss=loss, run_seed=number, order_seed=0
            )
            found.append(config)
        return found

    together = configs(tmp_path / "together")
    train_students(together)
    for config, alone_config in zip(together, configs(tmp_path / "alone"), strict=True):
        train_students([alone_config])
        found = losses(Path(config.run))
        assert found and found == losses(Path(alone_config.run))


def of_several_processes(path: str, cache: str) -> list[list[float]]:
    """Train students in one of several processes that are joined; return their losses."""
    configs = students(Path(path), cache, batch_size=16, student=MLP, accumulate=1)
    # batch norms are those of a process
    configs = [replace(config, log_steps=1, student=MLP) for config in configs]
    data = TrainingData(configs)
    all_lines = [Lines() for _ in configs]
    runs = []
    for config, lines in zip(configs, all_lines, strict=True):
        runs.append(StudentRun(Trainer(config, data), lines))
    train_epochs(runs, Outlook())
    return [lines.losses() for lines in all_lines]


def test_several_processes_train_them_as_one_does(tmp_path: Path, cache: str) -> None:
    expected = of_several_processes(str(tmp_path / "one"), cache)
    assert len(expected[0]) == 12
    for found in launch(of_several_processes, 2, str(tmp_path / "two"), cache):
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-3)


class Halt(Exception):  # noqa: N818
    """In the place of a kill."""


@pytest.mark.parametrize("kill", [("after_step", 1), ("after_step", 5), ("after_epoch", 3)])
def test_runs_go_on_from_checkpoints_at_different_steps(
    tmp_path: Path,
    cache: str,
    alone: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    kill: tuple[str, int],
) -> None:
    """A kill comes when two students have kept a step, or an epoch's scores, and the third has
    not."""
    configs = [replace(config, checkpoint_minutes=0.0) for config in students(tmp_path, cache)]
    moment, step = kill
    real = getattr(Keeper, moment)

    def halting(self: Any, *line: Any) -> None:
        if self._trainer.config.run == configs[2].run and self._trainer.step == step:
            raise Halt
        real(self, *line)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, moment, halting)
        with pytest.raises(Halt):
            train_students(configs)
    train_students(configs)
    assert [facts(config.run) for config in configs] == alone


def test_a_run_that_others_wait_for_is_kept_as_it_was(
    tmp_path: Path, cache: str, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first student is an epoch ahead when all are stopped once more."""
    configs = [replace(config, checkpoint_minutes=0.0) for config in students(tmp_path, cache)]
    for run, step in ((configs[:1], 5), (configs, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(side_by_side, "StopLook", lambda step=step: stopping_at(step))
            with pytest.raises(StoppedError):
                train_students(run)
    waiting = Trainer(configs[0])
    checkpoint = load_checkpoint(Path(configs[0].run) / "last.pt", tell=print)
    waiting.load_state(checkpoint)
    state = waiting.state()
    assert state["epoch_step"] == 2 and state["sums"] == checkpoint["sums"] != {}
    waiting.data.close()
    train_students(configs)
    assert [facts(config.run) for config in configs] == alone


def stopping_at(step: int) -> Callable[[], None]:
    """Return a look that is told to stop the `step`th time, of steps that are not an epoch's
    last."""
    looks = []
    look = StopLook()

    def looking() -> None:
        looks.append(1)
        if len(looks) == step - step // 3:
            os.kill(os.getpid(), signal.SIGTERM)
        look()

    return looking


def test_a_stop_keeps_the_last_step_of_all(
    tmp_path: Path, cache: str, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = students(tmp_path, cache)
    with monkeypatch.context() as patch:
        patch.setattr(side_by_side, "StopLook", lambda: stopping_at(5))
        with pytest.raises(StoppedError, match="stopped by SIGTERM after step 5, which is kept"):
            train_students(configs)
    train_students(configs)
    train_students(configs)
    assert [facts(config.run) for config in configs] == alone


def test_one_that_fails_leaves_the_others(
    tmp_path: Path,
    cache: str,
    alone: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = students(tmp_path, cache)
    configs[1] = replace(configs[1], optimizer=OptimizerConfig(lr=1e30))
    with pytest.raises(
        KdcacheError, match=r"1 of 3 runs failed, the others are finished; run .*di"
    ):
        train_students(configs)
    assert "/dist has failed: the loss of epoch 1 is" in capsys.readouterr().err
    assert facts(configs[0].run) == alone[0] and facts(configs[2].run) == alone[2]
    assert not (Path(configs[1].run) / "result.json").exists()


def test_where_all_fail_each_is_told(tmp_path: Path, cache: str) -> None:
    configs = []
    for config in students(tmp_path, cache)[:2]:
        configs.append(replace(config, optimizer=OptimizerConfig(lr=1e30)))
    with pytest.raises(KdcacheError, match=r"2 of 2 runs failed.*labels: .*dist: the loss of"):
        train_students(configs)


def test_a_student_too_many_for_the_memory_of_a_gpu_leaves_the_others(
    tmp_path: Path, cache: str, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = students(tmp_path, cache)
    real = Trainer.train_step

    def stepping(self: Trainer, parts: Any) -> Any:
        if self.config.run == configs[2].run:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, parts)

    monkeypatch.setattr(Trainer, "train_step", stepping)
    with pytest.raises(KdcacheError, match=r"kl: out of GPU memory; .* fewer students"):
        train_students(configs)
    assert facts(configs[0].run) == alone[0] and facts(configs[1].run) == alone[1]


def test_one_that_fails_in_the_evaluation_leaves_the_others(
    tmp_path: Path, cache: str, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = students(tmp_path, cache)
    real = side_by_side.scores_of

    def failing(trainers: Any) -> Any:
        if any(trainer.config.run == configs[0].run for trainer in trainers):
            raise KdcacheError("out of memory")
        return real(trainers)

    monkeypatch.setattr(side_by_side, "scores_of", failing)
    with pytest.raises(KdcacheError, match="labels: out of memory"):
        train_students(configs)
    assert facts(configs[1].run) == alone[1] and facts(configs[2].run) == alone[2]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 16}, "batch_size: 32 and 16"),
        ({"run_seed": 7}, "in other orders (run_seed 0 and 7); give all the same order_seed"),
        ({"eval_data": None}, "eval_data: "),
        ({"eval_every": 2}, "eval_every: 1 and 2"),
        ({"compute": ComputeConfig(workers=0, device="cpu", precision="bfloat16")}, "precision"),
        ({"seeds": "0:1"}, "seeds: None and '0:1'"),
        ({"run": "labels"}, "two runs have the folder labels"),
    ],
)
def test_what_cannot_be_one_pass_is_refused(
    tmp_path: Path, cache: str, changes: dict[str, Any], told: str
) -> None:
    first = replace(students(tmp_path, cache)[0], run="labels")
    with pytest.raises(UsageError) as error:
        train_students([first, replace(first, **{"run": "other", **changes})])
    assert told in str(error.value)
    with pytest.raises(UsageError, match="configs is an empty list"):
        train_students([])


def test_each_student_has_options_of_its_own(tmp_path: Path, cache: str) -> None:
    first = students(tmp_path, cache)[0]
    schedule = ScheduleConfig(options={"cycle_limit": 2})
    other = replace(first, run="other", schedule=schedule)
    for configs in ([first, other], [other, first]):
        require_one_pass(configs)


@pytest.mark.parametrize("has_cache", [True, False])
def test_students_of_several_input_sizes_are_those_trained_alone(
    tmp_path: Path, cache: str, has_cache: bool
) -> None:
    """Also beside a teacher in the loop, whose input size is that of the second."""
    common: dict[str, Any] = {"data": DATA, "eval_data": DATA, "loss": "dist:tau=4"}
    if has_cache:
        common["cache"] = cache
    else:
        common |= {"recipe": "digits", "teacher": f"{CONV},seed=7,input_size=12"}
    configs = []
    for size in (16, 12, 8):
        student = f"{MLP},size={size},input_size={size}"
        configs.append(train_config(tmp_path / f"{size}", **common, student=student))
    train_students(configs)
    for config in configs:
        alone = replace(config, run=f"{config.run}-alone")
        train_students([alone])
        assert facts(config.run) == facts(alone.run)
    plan = plan_training(configs)
    assert plan["sizes"] == [16, 12, 8]


def test_maps_are_of_one_input_size(tmp_path: Path, recipe: str) -> None:
    common: dict[str, Any] = {"data": map_caches.DATA, "recipe": recipe, "loss": "ce"}
    configs = []
    for size in (16, 24):
        student = f"{map_caches.STUDENT},input_size={size}"
        configs.append(train_config(tmp_path / f"{size}", **common, student=student))
    with pytest.raises(UsageError, match="side by side segmentation has one size; give both"):
        train_students(configs)


def test_runs_that_began_with_other_seeds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    dump(path, data=DATA, seeds="0:1")
    configs = students(tmp_path, str(path))
    train_students([replace(configs[0], epochs=1)])
    dump(path, data=DATA, seeds="0:2")
    with pytest.raises(MismatchError):
        train_students(configs)


COMMAND = ("--data", DATA, "--student", MLP, "--workers", "0", "--device", "cpu")


def test_a_command_varies_settings(tmp_path: Path, cache: str) -> None:
    run = str(tmp_path / "runs")
    words = ("train-student", run, "--cache", cache, *COMMAND, "--epochs", "1")
    vary = ("--vary", "loss=ce", "--vary", "loss=kl:tau=4", "--vary", "run_seed=0")
    vary += ("--vary", "run_seed=5")
    planned = kdcache_json(*words, *vary, "--plan")
    assert planned["runs"] == 4 and planned["epochs_done"] == 0
    found = kdcache_json(*words, *vary)["runs"]
    names = [f"loss={loss}+run_seed={seed}" for loss in ("ce", "kl-tau=4") for seed in (0, 5)]
    assert [result["run"] for result in found] == [f"{run}/{name}" for name in names]
    single = train(
        tmp_path / "single",
        **{"data": DATA, "cache": cache, "loss": "kl:tau=4", "run_seed": 5, "order_seed": 0},
        epochs=1,
        batch_size=256,
        optimizer=OptimizerConfig(),
    )
    assert found[3]["train_loss"] == single["train_loss"]
    text = kdcache(*words, *vary)
    assert [line.split()[0] for line in text.splitlines()] == [f"{run}/{name}" for name in names]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--vary", "loss"), "--vary 'loss' is not key=value"),
        (("--vary", "run=a"), "folders get their names"),
        (("--vary", "epochs=2", "--epochs", "3"), "epochs is given twice"),
        (("--vary", "run_seed=1", "--vary", "run_seed=1"), "is given twice; give each value once"),
        (("--vary", "batch_size=8", "--vary", "batch_size=16"), "batch_size: 8 and 16"),
        (("--vary", "los=ce"), "did you mean"),
        (tuple(w for n in range(65) for w in ("--vary", f"run_seed={n}")), "asks for 65 runs"),
    ],
)
def test_what_cannot_be_varied_is_told(
    tmp_path: Path, cache: str, words: tuple[str, ...], told: str
) -> None:
    line = mistake("train-student", str(tmp_path / "run"), "--cache", cache, *COMMAND, *words)
    assert told in line, line
    assert not (tmp_path / "run").exists()
