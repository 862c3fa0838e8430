"""What is wrong with a command is told before anything is opened, by its plan, too."""

import os
from pathlib import Path
from typing import Any

import pytest
from command_line import mistake
from runs import CONV, MLP, train_config
from safetensors.torch import save_file
from tiny_models import conv

from kdcache.errors import KdcacheError, UsageError
from kdcache.runtime.files import require_writable_folder
from kdcache.train import metrics_log
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.plan import plan_training
from kdcache.train.run import train_student

NOT_OPENED = "tiny_models:no_such_data"
"""A source that tells if it is looked for."""
DUMP = ("dump-teacher", "CACHE", "--data", NOT_OPENED, "--recipe", "digits", "--workers", "0")
TRAIN = ("train-student", "RUN", "--data", NOT_OPENED, "--recipe", "digits", "--loss", "ce")
CODEC_ERROR = ("codec-error", "--data", NOT_OPENED, "--recipe", "digits")
COMMANDS = {
    "dump": (*DUMP, "--teacher", f"{CONV},seed=7"),
    "dump plan": (*DUMP, "--teacher", f"{CONV},seed=7", "--plan"),
    "train": (*TRAIN, "--student", MLP),
    "train plan": (*TRAIN, "--student", MLP, "--plan"),
    "codec-error": (*CODEC_ERROR, "--teacher", f"{CONV},seed=7"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("device", ["mps", "xpu:0", "meta", "cuda:99"])
def test_a_device_is_looked_at_before_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, device: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"device '{device}' is " in mistake(*COMMANDS[command], "--device", device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lr", "nan"], "train-student optimizer.lr is nan; it must be a finite number"),
        (["--lr", "inf"], "train-student optimizer.lr is inf"),
        (["--lr", "0"], "optimizer.lr is 0.0; it must be above 0"),
        (["--slab-limit", "inf"], "train-student slab_limit is inf"),
        (["--slab-limit", "1e300"], "slab_limit is 1e+300; it must be above 0, and in GB"),
        (["--wait-for-units", "nan"], "train-student wait_for_units is nan"),
        (["--set", "ema.decay=nan"], "train-student ema.decay is nan"),
        (["--set", "clip_grad=inf"], "train-student clip_grad is inf"),
        (["--set", "checkpoint_minutes=-inf"], "train-student checkpoint_minutes is -inf"),
        (["--set", "optimizer.options={betas=[0.9,nan]}"], "optimizer.options.betas is nan"),
        (["--set", "epochs=100000000000000000000"], "train-student epochs has 21 digits"),
        (["--set", f"epochs=1{'0' * 5000}"], "train-student epochs is '1000"),
        (["--set", "repeats=1000000000"], "repeats is 1000000000; it must be at most 1000"),
        (["--loss", "kl:tau=nan"], "tau is nan; it must be a finite number"),
        (["--student", f"{MLP},size=nan"], "size is nan; it must be a finite number"),
        (["--set", "optimizer.name=adamww"], "did you mean 'adamw'"),
        (["--set", "optimizer.options={betta=1}"], "unknown option of optimizer sgd, 'betta'"),
        (["--set", "optimizer=3"], "optimizer is 3, but has keys of its own; write name=..."),
        (["--set", "schedule.name=cosin"], "did you mean 'cosine'"),
        (["--set", "schedule.options={noice=1}"], "schedule cosine, 'noice'; did you mean 'noise'"),
        (["--set", "sync_batch_norm=true"], "sync_batch_norm is for CUDA only; leave it out"),
        (["--set", "eval_window=[16]"], "eval_window is [16]; it must be [height, width]"),
        (["--set", "eval_recipe=evel"], "did you mean 'eval'"),
        (["--set", "eval_every=0"], "eval_every is 0; it must be at least 1"),
        (["--set", "eval_every=5"], "eval_every is 5, and there is nothing to evaluate on; give"),
        (["--recipe", "digitz"], "did you mean 'digits'"),
        (["--seeds", "4:2"], "0:4 means"),
        (["--student", "timm:resnet81"], "did you mean 'resnet"),
        (["--student", "torchvision:resnet81"], "did you mean 'resnet18'"),
        (["--student", "tiny_models:cnov"], "did you mean 'conv'"),
        (["--student", "tiny_models:conv,wdith=3"], "unknown option of model tiny_models:conv"),
        (["--student", "broken_models:needs"], "needs a value of width, depth"),
        (["--student", "timm:resnet18,weights=no.pt"], "weights file no.pt does not exist"),
        (["--slab-dir", "file/slabs"], "slab_dir file/slabs: "),
    ],
)
@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_settings_of_a_training_are_looked_at_before_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str, plan: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    common = ("--student", MLP, "--device", "cpu", "--workers", "0")
    line = mistake(*TRAIN, *common, *words, *plan)
    assert told in line
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_run_that_cannot_be_written_is_told_before_data_are_looked_at(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": NOT_OPENED, "recipe": "digits", "loss": "ce"}
    (tmp_path / "file").touch()
    for call in (lambda config: plan_training([config]), train_student):
        with pytest.raises(UsageError, match=r"run .*/file/run: .*/file is no folder; choose"):
            call(train_config(tmp_path / "file" / "run", **settings))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="locked cannot be written; choose another place"):
        require_writable_folder(tmp_path / "locked" / "a" / "b", "run")


def test_a_read_only_file_system_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=f"run {tmp_path}/a: {tmp_path} cannot be written"):
        require_writable_folder(tmp_path / "a", "run")


def test_tensorboard_that_is_not_there_is_told_before_data_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    settings: dict[str, Any] = {"data": NOT_OPENED, "recipe": "digits", "loss": "ce"}
    config = train_config(tmp_path / "run", **settings, tensorboard=True)
    for call in (
        lambda config: plan_training([config]),
        train_student,
        lambda config: metrics_log.summary_writer(),
    ):
        with pytest.raises(KdcacheError, match=r"pip install 'kdcache\[tensorboard\]'"):
            call(config)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--teacher", "timm:resnet18,weights=no.pt"], "weights file no.pt does not exist"),
        (["--teacher", "timm:resnet18,weights=lfs.pt"], "is a git-lfs pointer, not the weights"),
        (["--recipe", "imagenet-b3", "--unit-rows", "100"], "it must be a multiple of 512"),
        (["--codec", "full:dtype=float8"], "did you mean"),
        (["--codec", "topk:k=0"], "k must be at least 1"),
        (["--set", "ray.gpus=nan"], "dump-teacher ray.gpus is nan"),
    ],
)
def test_settings_of_a_dump_are_looked_at_before_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    for plan in ([], ["--plan"]):
        assert told in mistake(*DUMP, "--teacher", f"{CONV},seed=7", *words, *plan)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--codec", "topk:k=11"], "k must be from 1 to 10"),
        (["--set", "images=true"], "are for webdataset stores"),
    ],
)
def test_settings_that_need_the_classes_are_looked_at_before_the_teacher_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(conv(channels=3).state_dict(), "w.safetensors")
    counted = f"tiny_models:counted,log={tmp_path}/log"
    data = ("--data", "tiny_models:few_digits,length=64", "--teacher", counted)
    line = mistake(*DUMP, *data, "--codec", "lowrank:step=1", *words)
    assert told in line
    batches = (tmp_path / "log").read_bytes() if (tmp_path / "log").exists() else b""
    assert len(batches) <= 1, "the empty view that it is tried on"


def test_a_warm_up_that_is_all_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = ScheduleConfig(warmup_epochs=2)
    config = train_config(
        tmp_path, recipe="digits", loss="ce", data=NOT_OPENED, epochs=2, schedule=schedule
    )
    with pytest.raises(UsageError, match="unknown function of module"):
        plan_training([config])
    assert (
        "note: schedule.warmup_epochs is 2, and the run ends after 2 epochs: the learning rate"
        in capsys.readouterr().err
    )


def test_defaults_pass(tmp_path: Path) -> None:
    config = train_config(
        tmp_path, recipe="digits", loss="ce", data=NOT_OPENED, optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
    )  # fmt: skip
    with pytest.raises(UsageError, match="unknown function of module"):
        plan_training([config])
