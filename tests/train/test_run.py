import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from runs import (
    CONV,
    DIGITS,
    LONG,
    MLP,
    dump,
    largest_file,
    losses,
    run_epoch,
    steps,
    train,
    train_config,
)
from safetensors.torch import load_file
from tiny_models import FEW
from torch import nn

from kdcache.cache import open_cache
from kdcache.config.files import dump_config
from kdcache.errors import (
    KdcacheError,
    MismatchError,
    MissingUnitError,
    ModelError,
    RecipeError,
    UsageError,
    ViewMismatchError,
)
from kdcache.models.model import open_model
from kdcache.runtime.device import ComputeConfig
from kdcache.train.checkpoint import held_folder, save_checkpoint
from kdcache.train.config import EmaConfig
from kdcache.train.data import TrainingData
from kdcache.train.metrics_log import BoardMetrics, MetricsFile, NoMetrics
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.plan import plan_training
from kdcache.train.run import Trainer
from kdcache.train.side_by_side import scores_of
from kdcache.views import load_recipe


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a cache of two seeds that tests only read."""
    path = tmp_path_factory.mktemp("exact") / "cache"
    dump(path, codec="full:dtype=float32")
    return str(path)


@pytest.mark.parametrize("loss", ["dist:tau=4", "dist:tau=1,beta=1,gamma=0.5", "kl:tau=4"])
def test_cached_equals_online(tmp_path: Path, cache: str, loss: str) -> None:
    common = {"loss": loss, "epochs": 2, "label_smoothing": 0.1, "batch_size": 16}
    train(tmp_path / "cached", cache=cache, **common)
    train(tmp_path / "online", teacher=f"{CONV},seed=7", recipe="digits", seeds="0:2", **common)
    cached, online = losses(tmp_path / "cached"), losses(tmp_path / "online")
    assert len(cached) == len(online) == 2 * FEW // 16
    np.testing.assert_allclose(cached, online, rtol=0, atol=1e-6)
    assert max(cached) - min(cached) > 0.1, "a loss that does not move would prove nothing"


def test_online_teacher_of_another_input_size_sees_the_same_draws(tmp_path: Path) -> None:
    teacher = f"{CONV},seed=7,input_size=16"
    dump(tmp_path / "cache", teacher=teacher, codec="full:dtype=float32", seeds="0:1")
    common = {"loss": "dist:tau=4", "epochs": 1}
    train(tmp_path / "cached", cache=str(tmp_path / "cache"), **common)
    train(tmp_path / "online", teacher=teacher, recipe="digits", seeds="0:1", **common)
    np.testing.assert_allclose(
        losses(tmp_path / "cached"), losses(tmp_path / "online"), rtol=0, atol=1e-6
    )


def test_all_classes_of_topk_train_as_full(tmp_path: Path) -> None:
    for name, codec in (("full", "full:dtype=float16"), ("topk", "topk:k=10,mantissa=10")):
        dump(tmp_path / name, codec=codec, seeds="0:1")
        train(tmp_path / f"run-{name}", cache=str(tmp_path / name), loss="dist:tau=4", epochs=1)
    np.testing.assert_allclose(
        losses(tmp_path / "run-full"), losses(tmp_path / "run-topk"), rtol=0, atol=1e-5
    )


def test_order_and_losses_do_not_depend_on_workers(tmp_path: Path, cache: str) -> None:
    for workers in (0, 2):
        compute = ComputeConfig(workers=workers, device="cpu")
        train(tmp_path / f"run{workers}", cache=cache, compute=compute)
    assert losses(tmp_path / "run0") == losses(tmp_path / "run2")


def test_a_run_writes_what_it_says(tmp_path: Path, cache: str) -> None:
    result = train(tmp_path / "run", cache=cache, eval_data=DIGITS)
    run = tmp_path / "run"
    epochs = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "epoch"]
    assert [line["seed"] for line in epochs] == [0, 1]
    assert result == json.loads((run / "result.json").read_text())
    assert result["top1"] == epochs[-1]["top1"] and result["steps"] == 2 * (FEW // 32)
    for line in steps(run):
        assert math.isclose(
            line["loss"], line["task"] + line["inter"] + line["intra"], rel_tol=1e-5
        )
    student = open_model(
        f"{MLP},weights={run}/student.safetensors", classes=10, recipe=load_recipe("digits")
    )
    state = torch.load(run / "last.pt", weights_only=True)["student"]
    assert all(
        torch.equal(value, state[name]) for name, value in student.module.state_dict().items()
    )


def test_training_lowers_the_loss_and_learns(tmp_path: Path) -> None:
    result = train(
        tmp_path / "run",
        recipe="digits",
        loss="ce",
        eval_data="digits:test",
        data=f"{DIGITS},length=512",
        epochs=4,
        batch_size=16,
        optimizer=OptimizerConfig(name="adamw", lr=0.005),
    )
    assert result["top1"] > 60, "six times chance on digits after four epochs"


def test_a_finished_run_is_not_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "recipe": "digits",
        "loss": "ce",
        "seeds": "0:2",
        "epochs": 1,
        "data": "digits:test",
        "eval_data": "digits:train",
    }
    first = train(tmp_path / "run", **settings)
    before = (tmp_path / "run" / "last.pt").stat().st_mtime_ns
    capsys.readouterr()
    assert train(tmp_path / "run", **settings) == first
    told = (
        f"note: run {tmp_path}/run is finished since {first['finished']}: this is its result,"
        " nothing was trained"
    )
    assert told in capsys.readouterr().err
    otherwise = {
        "loss": "ce:ce=1",
        "data": "digits:split=test",
        "eval_data": "digits",
        "seeds": "0,1",
        "student": "tiny_models:mlp,std=0.250,mean=0.5",
    }
    assert train(tmp_path / "run", **{**settings, **otherwise}) == first, (
        "the same, written otherwise"
    )
    assert (tmp_path / "run" / "last.pt").stat().st_mtime_ns == before
    old = {name: value for name, value in first.items() if name != "finished"} | {
        "best_epoch": first["best_epoch"] - 1
    }
    (tmp_path / "run" / "result.json").write_text(json.dumps(old))
    again = train(tmp_path / "run", **settings)
    assert again["best_epoch"] == first["best_epoch"], "results of old count from 0"


def test_files_of_a_finished_run_that_were_lost_or_damaged_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, settings = (
        tmp_path / "run",
        {"recipe": "digits", "loss": "ce"},
    )
    before = train(run, **settings)
    (run / "result.json").write_text('{"run": ')
    again = train(run, **settings)
    assert "result.json is damaged, and is written again" in capsys.readouterr().err
    assert (
        json.loads((run / "result.json").read_text()) == again
        and again["train_loss"] == before["train_loss"]
    )
    for name in ("result.json", "metrics.jsonl"):
        (run / name).unlink()
    assert train(run, **settings)["train_loss"] is None


def test_a_users_own_configuration_is_not_overwritten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("[train-student]\nepochs = 1\n")
    with pytest.raises(UsageError, match="is not empty and not a run; choose a new folder"):
        train(run, recipe="digits", loss="ce")
    assert (run / "config.toml").read_text() == "[train-student]\nepochs = 1\n"
    (run / "config.toml").unlink()
    (
        run / "metrics.jsonl"
    ).touch()  # as a run leaves it that is killed before it has written its configuration
    assert train(run, recipe="digits", loss="ce")["epochs"] == 2


def test_a_student_whose_code_has_changed_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "recipe": "digits",
        "loss": "ce",
        "student": "tiny_models:changing",
    }
    monkeypatch.setattr(tiny_models, "changing", tiny_models.perceptron, raising=False)
    train(tmp_path / "run", **settings)
    (tmp_path / "run" / "result.json").unlink()
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    monkeypatch.setattr(tiny_models, "changing", lambda classes=10: other)
    with pytest.raises(
        MismatchError,
        match=r"the weights of its checkpoint do not fit: RuntimeError: .* go back to it, or",
    ):
        train(tmp_path / "run", **settings)


def test_best_weights_are_those_of_the_best_score(tmp_path: Path) -> None:
    settings = {
        **LONG,
        "data": f"{DIGITS},length=64",
        "eval_data": f"{DIGITS},length=64",
        "epochs": 5,
        "ema": EmaConfig(decay=0.5),
        "optimizer": OptimizerConfig(lr=0.3),
    }
    result = train(tmp_path / "run", **settings)
    epochs = [
        line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "epoch"
    ]
    scores = {
        (line["epoch"], which): line[key]
        for line in epochs
        for which, key in (("student", "top1"), ("ema", "ema_top1"))
    }
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5], "as the messages count them"
    assert (
        result["best_top1"]
        == max(scores.values())
        == scores[result["best_epoch"], result["best_weights"]]
    )
    best = f"{MLP},weights={tmp_path}/run/best.safetensors"
    evaluation = Trainer(
        train_config(tmp_path / "again", **{**settings, "student": best, "ema": EmaConfig()})
    )
    assert scores_of([evaluation])[0]["top1"] == result["best_top1"]


def test_every_second_epoch_and_the_last_are_evaluated_as_they_would_be_anyway(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"recipe": "digits", "loss": "ce", "eval_data": DIGITS, "epochs": 5}
    every = train(tmp_path / "1", **settings)
    second = train(tmp_path / "2", **settings, eval_every=2)
    scores: list[dict[int, float]] = []
    for run in ("1", "2"):
        lines = read_metrics(tmp_path / run / "metrics.jsonl")
        scores.append({line["epoch"]: line["top1"] for line in lines if "top1" in line})
    assert list(scores[1]) == [2, 4, 5]
    assert scores[1] == {epoch: scores[0][epoch] for epoch in scores[1]}
    assert second["top1"] == every["top1"]
    assert second["best_top1"] == max(scores[1].values()) == scores[1][second["best_epoch"]]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_at_the_files_for_tensorboard_is_told_with_the_way_out(tmp_path: Path) -> None:
    told = r"cannot write .*/tensorboard: .*; no checkpoint was written yet: make room and run"
    place = tmp_path / "tensorboard"
    with largest_file(10), pytest.raises(KdcacheError, match=told):
        BoardMetrics(place, step=0, others=NoMetrics())
    board = BoardMetrics(place, step=0, others=NoMetrics())
    with largest_file(10), pytest.raises(KdcacheError, match=told):
        board.write({"kind": "step", "step": 1, "loss": 2.5})


def test_metrics_also_go_to_tensorboard(tmp_path: Path, cache: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", tensorboard=True, eval_data=DIGITS, cache=cache)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    shown = [(event.step, pytest.approx(event.value)) for event in board.Scalars("step/loss")]
    assert shown == [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]
    for name in (
        "step/inter",
        "step/intra",
        "step/task",
        "step/lr",
        "epoch/top1",
        "epoch/views_per_second",
    ):
        assert board.Scalars(name), name
    for name in ("epoch/data_seconds", "epoch/cache_seconds"):
        assert all(event.value > 0 for event in board.Scalars(name)), name


def test_a_plan_of_a_training_writes_nothing(tmp_path: Path, cache: str) -> None:
    config = train_config(tmp_path / "run", cache=cache)
    plan = plan_training([config])
    assert not (tmp_path / "run").exists()
    assert (
        plan["steps_per_epoch"] == FEW // 32
        and plan["seeds"] == [0, 1]
        and plan["slab_bytes"] == FEW * 40
    )
    assert (plan["samples"], plan["classes"], plan["samples_trained"], plan["eval_samples"]) == (
        FEW,
        10,
        FEW,
        None,
    )
    assert plan["parameters"] == sum(
        value.numel() for value in Trainer(config).student.parameters()
    )
    assert plan["seconds"] == pytest.approx(2 * plan["epoch_seconds"])
    with pytest.raises(MissingUnitError, match="does not hold seed 7"):
        plan_training([replace(config, seeds="7")])


CLIPPED: dict[str, Any] = {"epochs": 3, "clip_grad": 5.0}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, cache: str) -> list[float]:
    """Return the losses of a training in float32."""
    run = tmp_path_factory.mktemp("float32") / "run"
    train(run, cache=cache, **CLIPPED)
    return losses(run)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains(
    tmp_path: Path, cache: str, exact: list[float], precision: Any
) -> None:
    compute = ComputeConfig(workers=0, device="cpu", precision=precision, channels_last=True)
    train(tmp_path / "mixed", cache=cache, compute=compute, **CLIPPED)
    mixed = losses(tmp_path / "mixed")
    assert mixed != exact
    assert mixed[0] == pytest.approx(
        exact[0], rel=0.02
    )  # float16's scaler skips steps until its scale fits
    assert mixed[-1] == pytest.approx(exact[-1], rel=0.1) and mixed[-1] < mixed[0]


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    plain = OptimizerConfig(name="momentum", momentum=0.0, lr=1.0, weight_decay=0.0)
    settings: dict[str, Any] = {
        "recipe": "digits",
        "loss": "ce",
        "epochs": 1,
        "batch_size": FEW,
        "optimizer": plain,
    }
    settings["schedule"] = ScheduleConfig(name="none")
    train(tmp_path / "run", clip_grad=1e-3, **settings)
    from kdcache.runtime.generators import seed_generators

    seed_generators(0, 0)
    start = open_model(MLP, classes=10, recipe=load_recipe("digits")).module.state_dict()
    end = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["student"]
    moved = math.sqrt(sum(float((end[name] - start[name]).square().sum()) for name in start))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_absent_rows_are_left_out_for_every_loss(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for index in range(24):
        path = folder / f"class{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), index * 10, np.uint8)).save(path)
    (folder / "class1" / "10.png").write_bytes(b"not an image")
    data = f"imagefolder:{folder}"
    teacher = f"{CONV},classes=3"
    dump(tmp_path / "cache", data=data, teacher=teacher, seeds="0:1", skip_unreadable=True)
    absent = open_cache(tmp_path / "cache").slab(0).absent
    assert len(absent) == 1
    for loss in ("ce", "dist"):
        common = {"data": data, "student": f"{MLP},classes=3", "loss": loss, "epochs": 1}
        result = train(
            tmp_path / f"run-{loss}", cache=str(tmp_path / "cache"), batch_size=23, **common
        )
        assert result["steps"] == 1
    with pytest.raises(KdcacheError, match=r"class1/10\.png"):
        train(
            tmp_path / "plain",
            recipe="digits",
            data=data,
            student=f"{MLP},classes=3",
            loss="ce",
            batch_size=24,
        )


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        KdcacheError, match=r"epoch 1 is (nan|inf).*optimizer\.lr.*; no checkpoint was written yet"
    ):
        train(tmp_path / "run", recipe="digits", loss="ce", optimizer=OptimizerConfig(lr=1e30))
    assert not (tmp_path / "run" / "last.pt").exists()


THREE_EPOCHS: dict[str, Any] = {"recipe": "digits", "loss": "ce", "epochs": 3}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of a run to which nothing happens."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(run, **THREE_EPOCHS)
    return losses(run)


@pytest.mark.parametrize("limit", [100, 1_500, 8_000])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, unbroken: list[float], limit: int
) -> None:
    with (
        largest_file(limit),
        pytest.raises(KdcacheError, match=r"cannot write .*/run/.*too large") as raised,
    ):
        train(tmp_path / "run", **THREE_EPOCHS)
    kept = (
        "the last checkpoint is kept"
        if (tmp_path / "run" / "last.pt").exists()
        else "no checkpoint was written yet"
    )
    assert f"; {kept}: make room and run again" in str(raised.value)
    assert not list((tmp_path / "run").glob(".*.tmp"))
    train(tmp_path / "run", **THREE_EPOCHS)
    assert losses(tmp_path / "run") == unbroken


def test_another_configuration_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", recipe="digits", loss="ce")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(MismatchError, match=r"batch_size: 32 there, 64 now"):
        train(tmp_path / "run", recipe="digits", loss="ce", batch_size=64)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_what_moved_is_known_by_its_content(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "loss": "dist:tau=4",
        "eval_data": f"{DIGITS},length=100",
    }
    dump(tmp_path / "cache", seeds="0:1")
    first = train(tmp_path / "run", cache=str(tmp_path / "cache"), **settings)
    (tmp_path / "cache").rename(tmp_path / "moved")
    same = f"{DIGITS},length={FEW}"
    settings |= {"data": same, "cache": str(tmp_path / "moved")}
    assert train(tmp_path / "run", **settings)["top1"] == first["top1"]
    assert f'data = "{same}"' in (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(MismatchError, match="another evaluation source"):
        train(tmp_path / "run", **{**settings, "eval_data": DIGITS})
    dump(tmp_path / "cache", seeds="0:1", order_seed=1)
    with pytest.raises(MismatchError, match="another cache"):
        train(tmp_path / "run", **{**settings, "cache": str(tmp_path / "cache")})


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"recipe": "digits", "loss": "ce", "epochs": 1}
    (tmp_path / "run").mkdir()
    left = tmp_path / "run" / f".last.pt.{0:016x}.tmp"
    left.touch()
    with held_folder(tmp_path / "run"):
        assert not left.exists(), "a killed process left it"
        with pytest.raises(KdcacheError, match=r"another process is at work in .*run"):
            train(tmp_path / "run", **settings)
    assert train(tmp_path / "run", **settings)["epochs"] == 1


def test_other_data_than_the_cache_was_made_from_is_refused(tmp_path: Path, cache: str) -> None:
    with pytest.raises(MismatchError, match=r"digits:test.*is not what cache"):
        train(tmp_path / "run", cache=cache, data="digits:test")
    assert not (tmp_path / "run").exists()


def test_seeds_that_the_cache_lacks_are_told_before_the_first_epoch(
    tmp_path: Path, cache: str
) -> None:
    with pytest.raises(MissingUnitError, match=r"does not hold seed 2 \(it holds: 0, 1\)"):
        train(tmp_path / "run", cache=cache, seeds="0:3")
    assert not (tmp_path / "run").exists()


def test_views_that_moved_stop_the_run(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny_models.FewDigits.__getitem__
    monkeypatch.setattr(
        tiny_models.FewDigits,
        "__getitem__",
        lambda self, i: (original(self, i)[0].rotate(90), original(self, i)[1]),
    )
    with pytest.raises(ViewMismatchError, match="not what the teacher saw"):
        train(tmp_path / "run", cache=cache)


def test_evaluation_data_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="5 classes"):
        train(tmp_path / "run", recipe="digits", loss="ce", eval_data="tiny_models:noise")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"loss": "dist", "recipe": "digits"}, "needs a teacher"),
        ({"loss": "dits", "recipe": "digits"}, "did you mean 'dist'"),
        ({"loss": "ce"}, "need a recipe"),
        ({"cache": "a", "teacher": "b"}, "not both"),
        ({"cache": "a", "recipe": "digits"}, "brings its own recipe"),
        ({"run_seed": -1, "recipe": "digits", "loss": "ce"}, "run_seed is -1"),
        (
            {"clip_grad": 0.0, "recipe": "digits", "loss": "ce"},
            "clip_grad is 0.0; it must be above 0",
        ),
        ({"loss": "dist:beta=-2", "recipe": "digits"}, "beta=-2.0 must be 0 or more"),
        ({"loss": "kl:weight=nan", "recipe": "digits"}, "weight is nan; it must be a finite"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_config(tmp_path / "run", **changes)


def test_a_teacher_in_the_loop_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no weights"):
        train(tmp_path / "run", recipe="digits", teacher="timm:test_resnet", loss="dist")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"
)
@pytest.mark.usefixtures("unchecked")
def test_a_compiled_student_trains_the_same_and_saves_plain_names(tmp_path: Path) -> None:
    for name, compiled in (("plain", False), ("compiled", True)):
        compute = ComputeConfig(workers=0, device="cpu", compile=compiled)
        train(tmp_path / name, recipe="digits", loss="ce", compute=compute, epochs=1)
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), rtol=1e-4)
    state = torch.load(tmp_path / "compiled" / "last.pt", weights_only=True)["student"]
    assert set(state) == {"1.weight", "1.bias", "4.weight", "4.bias"}


def test_a_resumed_run_keeps_its_seeds_when_the_cache_has_grown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"{DIGITS},length=64"
    settings: dict[str, Any] = {
        "cache": str(tmp_path / "cache"),
        "loss": "dist:tau=4",
        "epochs": 4,
        "data": data,
    }
    dump(tmp_path / "cache", seeds="0:2", data=data)
    train(tmp_path / "unbroken", **settings)
    trainer = Trainer(train_config(tmp_path / "run", **settings))
    (tmp_path / "run").mkdir()
    metrics = MetricsFile(tmp_path / "run" / "metrics.jsonl", step=0)
    run_epoch(trainer, metrics)
    save_checkpoint(tmp_path / "run" / "last.pt", {**trainer.state(), "best": {"top1": -1.0}})
    (tmp_path / "run" / "config.toml").write_text(dump_config(trainer.config, "train-student"))
    dump(tmp_path / "cache", seeds="0:4", data=data)
    train(tmp_path / "run", **settings)
    grown = (
        "note: the run goes on with seeds 0 to 1, which it began with; the cache holds seeds 0 to 3"
        " by now"
    )
    assert grown in capsys.readouterr().err
    seeds = [
        line["seed"]
        for line in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if line["kind"] == "epoch"
    ]
    assert seeds == [0, 1, 0, 1] and losses(tmp_path / "run") == losses(tmp_path / "unbroken")


@pytest.mark.parametrize("changes", [{"run_seed": 5}, {"epochs": 4}, {"loss": "ce:ce=2"}])
def test_a_finished_run_is_not_given_for_another(tmp_path: Path, changes: dict[str, Any]) -> None:
    train(tmp_path / "run", **{"recipe": "digits", "loss": "ce"})
    with pytest.raises(MismatchError, match=f"{next(iter(changes))}: .* there, .* now"):
        train(tmp_path / "run", **{"recipe": "digits", "loss": "ce", **changes})


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    train(
        tmp_path / "run",
        recipe="digits",
        loss="ce",
        epochs=1,
        student="tiny_models:tied,mean=0.5,std=0.25",
    )
    weights = load_file(tmp_path / "run" / "student.safetensors")
    assert torch.equal(weights["1.weight"], weights["3.weight"])


def test_auxiliary_heads_are_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gives a tuple of 2.*not logits.*aux_logits=false"):
        train(
            tmp_path / "run",
            recipe="digits",
            loss="ce",
            student="tiny_models:auxiliary,mean=0.5,std=0.25",
        )


def test_a_cache_of_absent_samples_only_is_told(tmp_path: Path) -> None:
    for index in range(6):
        path = tmp_path / "images" / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * index).save(path)
    for index in (0, 3):
        (tmp_path / "images" / "class0" / f"{index}.png").write_bytes(b"not an image")
    common = {"data": f"imagefolder:{tmp_path}/images"}
    dump(
        tmp_path / "cache", teacher=f"{CONV},classes=3", seeds="0:1", skip_unreadable=True, **common
    )
    with pytest.raises(
        KdcacheError,
        match=(
            r"nothing to train on: of the samples of imagefolder.*, seed 0 holds none that could be"
            r" read"
        ),
    ):
        train(
            tmp_path / "run",
            cache=str(tmp_path / "cache"),
            student=f"{MLP},classes=3",
            samples="0:2",
            **common,
        )


def test_a_recipe_that_would_draw_otherwise_for_the_student_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "erase.toml"
    resize, erase = (
        '[[transforms]]\nname = "Resize"\nsize = "input"\n',
        '[[transforms]]\nname = "RandomErasing"\np = 1.0\n',
    )
    recipe.write_text(f'mode = "L"\nsize = 8\n{resize}{erase}')
    dump(tmp_path / "cache", recipe=str(recipe), seeds="0:1", teacher=f"{CONV},input_size=16")
    train(
        tmp_path / "same", cache=str(tmp_path / "cache"), student=f"{CONV},input_size=16", epochs=1
    )
    with pytest.raises(
        RecipeError, match=r"draws other views at 8 than at 16 pixels: RandomErasing.*input_size=16"
    ):
        train(tmp_path / "run", cache=str(tmp_path / "cache"))


def test_evaluation_data_of_other_class_names_is_refused(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("val", "ac")):
        for name in names:
            path = tmp_path / split / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (8, 8)).save(path)
    data = {"data": f"imagefolder:{tmp_path}/train", "eval_data": f"imagefolder:{tmp_path}/val"}
    with pytest.raises(MismatchError, match=r"calls a class 'c' that data .* calls 'b'"):
        train(tmp_path / "run", recipe="digits", loss="ce", student=f"{MLP},classes=2", **data)


def test_a_run_of_a_kdcache_without_digests_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "last.pt"
    train(tmp_path / "run", recipe="digits", loss="ce", epochs=1)
    state = torch.load(path, weights_only=True)
    del state["digest"], state["order"], state["settings"]  # which it did not write
    torch.save(state, path)
    (tmp_path / "run" / "result.json").unlink()
    train(tmp_path / "run", recipe="digits", loss="ce", epochs=1)
    assert f"note: {path} is of an older kdcache and has no digest" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"recipe": "digits", "epochs": 2, "batch_size": 64}
    one, other = tmp_path / "one", tmp_path / "other"
    train(one, loss="ce", **shared)
    train(other, loss="ce:ce=2", **shared)
    (one / "result.json").unlink()
    shutil.copy(other / "last.pt", one / "last.pt")
    with pytest.raises(
        MismatchError, match=r"last\.pt is that of another run \(loss: 'ce:ce=2' the"
    ):
        train(one, loss="ce", **shared)


def test_a_run_without_its_checkpoints_is_not_begun_anew_in_silence(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"recipe": "digits", "epochs": 2, "batch_size": 64, "loss": "ce"}
    train(tmp_path / "run", **shared)
    for name in ("result.json", "last.pt", "previous.pt"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    with pytest.raises(MismatchError, match=r"has metrics of 2 epochs, and no checkpoint"):
        train(tmp_path / "run", **shared)


def test_weights_of_a_finished_run_that_are_gone_are_written_again(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"recipe": "digits", "epochs": 1, "batch_size": 64, "loss": "ce"}
    train(tmp_path / "run", **shared)
    weights = tmp_path / "run" / "student.safetensors"
    before = load_file(weights)
    weights.unlink()
    train(tmp_path / "run", **shared)
    after = load_file(weights)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert train(moved, **shared)["run"] == str(moved)


@pytest.mark.parametrize("is_gone", [True, False])
def test_weights_of_the_best_epoch_that_are_lost_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_gone: bool
) -> None:
    shared: dict[str, Any] = {"recipe": "digits", "epochs": 1, "batch_size": 64, "loss": "ce"}
    train(tmp_path / "run", **shared, eval_data="tiny_models:few_digits")
    assert "note" not in capsys.readouterr().err
    best = tmp_path / "run" / "best.safetensors"
    if is_gone:
        best.unlink()
        fault = "is gone"
    else:
        data = bytearray(best.read_bytes())
        data[-1] ^= 1
        best.write_bytes(data)
        fault = "has other bytes than were written"
    (tmp_path / "run" / "result.json").unlink()
    train(tmp_path / "run", **shared, eval_data="tiny_models:few_digits")
    assert f"note: {best} {fault}: the weights of epoch 1 are lost" in capsys.readouterr().err


def test_the_rate_counts_views_that_there_are(tmp_path: Path) -> None:
    result = train(tmp_path / "run", recipe="digits", loss="ce", epochs=1, batch_size=10**6)
    (epoch,) = (
        line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "epoch"
    )
    assert epoch["views_per_second"] * epoch["seconds"] == pytest.approx(
        len(tiny_models.few_digits())
    )
    assert result["steps"] == 1


@pytest.mark.parametrize(("seeds", "epochs"), [("0:2", 18), ("1:2", 9)])
def test_few_seeds_for_many_epochs_are_told(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: str, epochs: int
) -> None:
    TrainingData([train_config(tmp_path, cache=cache, seeds=seeds, epochs=epochs)])
    told = "show the student each view 9 times; it usually learns more from about "
    err = capsys.readouterr().err
    assert f"note: {epochs} epochs of " in err and f"{told}{-(-epochs // 4)} seeds" in err


def test_enough_seeds_are_not_told(
    cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TrainingData([train_config(tmp_path, cache=cache, epochs=17)])
    assert "each view" not in capsys.readouterr().err


def test_more_seeds_of_a_recipe_that_draws_nothing_are_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "still.toml"
    recipe.write_text('mode = "L"\nsize = 8\neval = "digits"\ntransforms = []\n')
    TrainingData([train_config(tmp_path, loss="ce", recipe=str(recipe), seeds="0:1", epochs=100)])
    assert "each view" not in capsys.readouterr().err
