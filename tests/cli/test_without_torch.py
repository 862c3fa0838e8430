"""What needs no tensor does not import torch: looking at caches, copying them, and the line that says
what is wrong with a command."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from caches import manifest
from forged_runs import compared_runs, forged_run, rising
from hub_server import hub_server
from layouts import LAYOUTS, manifest_fields, row_codec_of

from kdcache.cache import create_cache
from kdcache.codecs import with_layout
from kdcache.errors import KdcacheError, MismatchError
from kdcache.train.config import TrainConfig
from kdcache.train.optim import ScheduleConfig
from kdcache.train.specs import check_specs

GOLDEN = Path(__file__).parent.parent / "golden"
FULL = str(GOLDEN / "v1-full")
TOPK = str(GOLDEN / "v1-topk")
RUN_ALL = """
import json, sys
for name in ("torch", "torchvision", "timm", "transformers"):
    sys.modules[name] = None  # to import it is an ImportError
from click.testing import CliRunner
from kdcache_cli import main
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    lines = (done.output or repr(done.exception)).splitlines()
    print(json.dumps([done.exit_code, lines[-1]]))
"""
DUMP = ("dump-teacher", "NEW", "--data", "digits:train", "--recipe", "digits")
TEACHER = ("--teacher", "timm:test_resnet,pretrained=true")
TRAIN = ("train-student", "RUN", "--data", "digits:train", "--student", "timm:test_resnet")
REPLAY = ("train-student", "RUN", "--data", "tiny_models:noise", "--student", "timm:test_resnet")
"""Of data whose classes only its function tells."""
IMPORT = ("--data", "digits:train", "--teacher-name", "net")
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    ((*DUMP, *TEACHER, "--codec", "topq:k=2"), "did you mean 'topk'"),
    ((*DUMP, *TEACHER, "--codec", "topk:kk=2"), "did you mean 'k'"),
    ((*DUMP, *TEACHER, "--codec", "topk:k=0"), "k must be at least 1"),
    ((*DUMP, *TEACHER, "--codec", "lowrank:step=0"), "must be above 0"),
    ((*DUMP, *TEACHER, "--store", "zar"), "did you mean 'zarr'"),
    ((*DUMP, *TEACHER, "--seeds", "4:2"), "0:4 means"),
    ((*DUMP, *TEACHER, "--data", "dgits"), "did you mean 'digits'"),
    ((*DUMP, *TEACHER, "--data", "digits:tain"), "did you mean 'train'"),
    ((*DUMP, *TEACHER, "--data", "torchvision:CIFAR1O"), "did you mean 'CIFAR10'"),
    ((*DUMP, *TEACHER, "--data", "/nowhere"), "there is no such file or folder"),
    ((*DUMP, *TEACHER, "--data", "csv:/nowhere.csv"), "is not a file"),
    ((*DUMP, *TEACHER, "--data", "digits:train,fold=5/5"), "it must be K/N"),
    ((*DUMP, *TEACHER, "--data", "imagefolder:/nowhere"), "is not a folder"),
    ((*DUMP, *TEACHER, "--data", "imagefolder:EMPTY"), "holds no class folder"),
    ((*DUMP, *TEACHER, "--data", "imagefolder:EMPTY,a=1"), "no options"),
    ((*DUMP, *TEACHER, "--data", "segfolder:EMPTY"), "needs classes"),
    ((*DUMP, *TEACHER, "--data", "coco:EMPTY"), "needs annotations"),
    ((*DUMP, *TEACHER, "--data", "yolo:EMPTY,classes=3"), "no folder with images in it"),
    ((*DUMP, *TEACHER, "--data", "voc:EMPTY"), "no ImageSets/Main"),
    ((*DUMP, *TEACHER, "--data", "tars:EMPTY"), "EMPTY"),
    ((*DUMP, *TEACHER, "--recipe", "digit"), "did you mean 'digits'"),
    ((*DUMP, *TEACHER, "--recipe", "none.toml"), "does not exist"),
    ((*DUMP, *TEACHER, "--config", "none.toml"), "No such file"),
    ((*DUMP, *TEACHER, "--set", "compute.wrokers=3"), "did you mean 'workers'"),
    ((*DUMP, "--teacher", "tim:test_resnet"), "did you mean 'timm'"),
    ((*DUMP, "--teacher", "timm:resnet5O,pretrained=true"), "did you mean 'resnet50'"),
    ((*DUMP, "--teacher", "timm:resnet5O.a1_in1k"), "did you mean 'resnet50'"),
    ((*DUMP, "--teacher", "torchvision:resnet5O"), "did you mean 'resnet50'"),
    ((*DUMP, "--teacher", "timm:test_resnet,weights=none.pt"), "does not exist"),
    ((*DUMP, "--teacher", "runs/none"), "there is no folder runs/none"),
    ((*DUMP, "--teacher", "EMPTY"), "EMPTY is no run: it has no config.toml"),
    ((*DUMP, "--teacher", "timm:test_resnet,pretrained=yes"), "write pretrained=true"),
    ((*DUMP, "--teacher", "timm:test_resnet"), "has no weights"),
    ((*DUMP, *TEACHER[:1], TEACHER[1] + ",head=new"), "has a new head"),
    ((*TRAIN, "--cache", "/nowhere"), "is not a cache"),
    ((*TRAIN, "--cache", f"{FULL},wieght=2"), "did you mean 'weight'"),
    ((*TRAIN, "--cache", FULL, "--loss", "dits"), "did you mean 'dist'"),
    ((*TRAIN, "--cache", FULL, "--loss", "dist:taw=2"), "did you mean 'tau'"),
    ((*TRAIN, "--cache", FULL, "--loss", "kl:tau=0"), "must be above 0"),
    ((*TRAIN, "--cache", FULL, "--tail", "gohst"), "did you mean 'ghost'"),
    ((*TRAIN, "--cache", FULL, "--eval-data", "tars:EMPTY/*.tar"), "EMPTY"),
    ((*TRAIN, "--cache", FULL, "--set", "schedule.name=cosin"), "did you mean 'cosine'"),
    ((*TRAIN, "--cache", FULL, "--set", "optimizer.name=adamww"), "did you mean 'adamw'"),
    ((*TRAIN, "--cache", FULL, "--student", "timm:resnet5O"), "did you mean 'resnet50'"),
    ((*TRAIN, "--cache", FULL, "--vary", "loss=dits"), "did you mean 'dist'"),
    ((*TRAIN, "--recipe", "digits", "--teacher", "timm:test_resnet"), "has no weights"),
    ((*TRAIN, "--cache", FULL), "say which are which: --cache PATH,classes=FILE.csv"),
    ((*TRAIN, "--cache", f"{FULL},classes=none.csv"), "class map none.csv cannot be read"),
    ((*TRAIN, "--cache", f"{FULL},classes=bird.csv"), "unknown class of the student"),
    ((*TRAIN, "--cache", f"{FULL},classes=far.csv"), "'1,7' is out of range"),
    ((*TRAIN, "--cache", f"{FULL},classes=map.csv,names=none"), "is no text file with a name on"),
    ((*TRAIN, "--cache", f"{FULL},classes=map.csv,names=map.csv"), "and the teacher has 5"),
    ((*REPLAY, "--cache", FULL, "--seeds", "3"), "does not hold seed 3 (it holds: 0, 12)"),
    ((*REPLAY, "--cache", FULL, "--set", "repeats=3"), "and there are 2 seeds"),
    ((*REPLAY, "--cache", FULL, "--samples", "20:30"), "past the last of 20"),
    ((*REPLAY, "--cache", FULL, "--samples", "none.txt"), "neither A:B nor a text file"),
    ((*REPLAY, "--cache", FULL, "--tail", "ghost"), "leaves no tail that could be spread"),
    ((*REPLAY, "--cache", TOPK, "--loss", "dkd"), "loss dkd needs the label's logit"),
    ((*TRAIN[:2], *TRAIN[4:], "--cache", FULL), "holds no images"),
    ((*REPLAY, "--cache", FULL, "--vary", "epochs=1", "--vary", "epochs=2"), "side by side"),
    (("evaluate", "EMPTY"), "is no run"),
    (("evaluate", "timm:test_resnet", "--data", "digits:test"), "has no weights"),
    (("evaluate", "timm:test_resnet,pretrained=true"), "give --data"),
    (("evaluate", "tim:test_resnet", "--data", "digits:test"), "did you mean 'timm'"),
    (("evaluate", "timm:test_resnet", "--data", "dgits"), "did you mean 'digits'"),
    (
        ("evaluate", *TEACHER[1:], "--data", "digits:test", "--recipe", "digit"),
        "did you mean",
    ),
    (
        ("evaluate", "timm:test_resnet", "--data", "digits:test", "--class-map", "none.csv"),
        "class map none.csv cannot be read",
    ),
    (
        ("evaluate", *TEACHER[1:], "--data", "digits", "--class-map", "bird.csv", "--classes", "5"),
        "unknown class of the student",
    ),
    (("predict", "timm:test_resnet,pretrained=true", "-o", "a.csv"), "give --data"),
    (
        ("predict", "timm:test_resnet,pretrained=true", "-o", "a.xls", "--data", "EMPTY"),
        "known: .csv",
    ),
    (("predict", "tim:test_resnet", "-o", "a.csv", "--data", "EMPTY"), "did you mean 'timm'"),
    (("export-model", "timm:test_resnet,pretrained=true", "a.tflite"), "known: .onnx"),
    (("export-model", "tim:test_resnet", "a.pt2"), "did you mean 'timm'"),
    (("export-model", "EMPTY", "a.pt2"), "is no run"),
    (("codec-error", "none.npz", "--codec", "ful"), "did you mean 'full'"),
    (("import", "fdk", "EMPTY", "NEW", *IMPORT), "did you mean 'fkd'"),
    (("import", "tinyvit", "EMPTY", "NEW", *IMPORT), "give --program-config FILE"),
    (
        ("import", "tinyvit", "EMPTY", "NEW", *IMPORT, "--program-config", "none.yaml"),
        "holds no folder such as logits_top100_epoch0",
    ),
    (
        ("import", "tinyvit", "EPOCHS", "NEW", *IMPORT, "--program-config", "none.yaml"),
        "configuration none.yaml cannot be read",
    ),
    (("import", "ml-dr", "EMPTY", "NEW", *IMPORT), "which says how views were made"),
    (("import", "fkd", "/nowhere", "NEW", *IMPORT), "is not a folder"),
    (("import", "fkd", "EMPTY", "NEW", *IMPORT, "--crops", "2:1"), "crops '2:1' are none"),
    (("import", "fkd", "EMPTY", "NEW", *IMPORT, "--data", "dgits"), "did you mean 'digits'"),
    (("codec-error", "none.npz"), "cannot be read as an .npz"),
    (("codec-error", "none.npz", "--views", "9"), "an .npz file is measured whole"),
    (("codec-error", TOPK), "codecs are measured against exact logits"),
    (("codec-error", FULL, "--codec", "topk:k=9"), "k must be from 1 to 5"),
    ((*DUMP[:1], FULL, *DUMP[2:], *TEACHER, "--codec", "topk:k=2"), "codec.name"),
    ((*DUMP[:1], FULL, *DUMP[2:], *TEACHER, "--skip-unreadable"), "the same setting"),
    ((*DUMP[:1], FULL, *DUMP[2:], *TEACHER, "--set", "order_seed=9"), "order_seed"),
    (("recode", FULL, "NEW", "--codec", "ful"), "did you mean 'full'"),
    (("recode", FULL, "NEW", "--codec", "topk:k=9"), "k must be from 1 to 5"),
    (("recode", FULL, "NEW", "--codec", "topk:k=2", "--seeds", "3:4"), "does not hold seed 3"),
    (("recode", FULL, FULL, "--codec", "topk:k=2"), "is the cache itself"),
    (("recode", TOPK, "NEW", "--codec", "full"), "cannot become full"),
    (("recode", "/nowhere", "NEW", "--codec", "full"), "is not a cache"),
    (("convert", "/nowhere", "NEW", "--store", "zarr"), "is not a cache"),
    (("convert", FULL, "NEW", "--store", "zarr"), "is a zarr store already"),
    (("convert", FULL, "NEW", "--store", "webdataset"), "holds no images"),
    (("convert", FULL, "NEW", "--store", "webdataset", "--data", "dgits"), "did you mean 'digits'"),
    (("show", FULL, "--view", "20:0", "--out", "x.png"), "the cache has samples 0 to 19"),
    (("show", FULL, "--view", "0:3", "--out", "x.png"), "does not hold seed 3"),
    (("show", FULL, "--view", "0:0", "--out", "x.png"), "holds no images"),
    (("show", "/nowhere", "--view", "0:0", "--out", "x.png"), "is not a cache"),
    (("show", FULL, "--view", "0:0", "--out", "x.gif"), "has no known format"),
    (("verify", "/nowhere"), "is not a cache"),
    (("verify", FULL, "--views", "3"), "holds no images"),
    (("verify", FULL, "--views", "3", "--data", "dgits"), "did you mean 'digits'"),
    (("verify", FULL, "--device", "cpu"), "give --teacher SPEC too"),
    (("verify", FULL, "--data", "digits", "--teacher", "tim:x"), "did you mean 'timm'"),
    (("verify", FULL, *TEACHER, "--precision", "half"), "unknown compute precision 'half'"),
    (("info", "/nowhere"), "is not a cache"),
    (("report", "EMPTY", "-o", "r.html"), "is no run and holds none"),
    (("report", "/nowhere", "-o", "r.html"), "is not a folder"),
    (("report", "EMPTY", "-o", "r.pdf"), "end it in .html"),
]


def last_lines(folder: Path, lines: list[tuple[str, ...]], **environment: str) -> list[Any]:
    """Return the exit code and the last line of each command, run in one process that has no
    torch."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(lines),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def made_cosine_cache(folder: Path) -> str:
    """Make a cache whose records are laid out by a fit, of maps of two sizes."""
    layout = LAYOUTS["heads of unlike sizes"]
    codec = with_layout(row_codec_of("cosine:steps=8"), layout)
    create_cache(folder, manifest(codec, **manifest_fields(layout)), codec.fit_arrays())
    return str(folder)


def test_caches_are_looked_at_and_copied_without_torch(tmp_path: Path) -> None:
    commands: list[tuple[str, ...]] = []
    for cache in sorted(map(str, GOLDEN.glob("v1-*"))):
        name = Path(cache).name
        commands += [
            ("info", cache),
            ("info", cache, "--complete", "--json"),
            ("merge", f"{name}-merged", cache),
            ("export", cache, f"{name}-units", "--units", "0:1"),
            ("export", cache, f"{name}-samples", "--samples", "0:10"),
            ("gc", f"{name}-merged", "--delete"),
        ]
    commands += [
        ("push", "v1-full-merged", "hf://datasets/me/cache"),
        ("pull", "hf://datasets/me/cache", "pulled"),
        ("info", "pulled"),
        ("info", made_cosine_cache(tmp_path / "maps")),
        ("report", str(compared_runs(tmp_path / "runs")), "-o", "r.html", "--no-evaluate"),
    ]
    with hub_server() as server:
        lines = last_lines(
            tmp_path, commands, HF_ENDPOINT=server.url, HF_TOKEN="hf_x", HF_HOME=str(tmp_path)
        )
    for words, (code, line) in zip(commands, lines, strict=True):
        assert code == 0, (words, line)


def test_mistakes_are_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EPOCHS" / "logits_top5_epoch0").mkdir(parents=True)
    for name, line in (("map", "3,0"), ("bird", "bird,0"), ("far", "1,7")):
        (tmp_path / f"{name}.csv").write_text(f"student,teacher\n{line}\n")
    lines = last_lines(tmp_path, [words for words, _ in MISTAKES])
    for (words, message), (code, line) in zip(MISTAKES, lines, strict=True):
        assert code in (1, 2) and message in line, (words, line)


def test_a_report_on_runs_of_unlike_recipes_takes_no_torch(tmp_path: Path) -> None:
    for recipe in ("digits", "cifar"):
        forged_run(tmp_path / "runs" / recipe, rising(50), recipe=recipe)
    words = ("report", "runs", "-o", "r.html", "--no-evaluate")
    ((code, line),) = last_lines(tmp_path, [words])
    assert code == 0 and "against cifar" in line, line


def test_the_process_has_no_torch(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    ((code, line),) = last_lines(tmp_path, [(*DUMP, *TEACHER)])
    assert code == 1 and "torch" in line


def test_what_a_finished_run_was_made_from_may_be_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings: dict[str, Any] = {"student": "timm:x", "cache": "/nowhere", "data": "digits"}
    config = TrainConfig(run=str(run), epochs=5, **settings)
    with pytest.raises(KdcacheError, match="/nowhere"):
        check_specs([config])
    forged_run(run, rising(50), **settings, recipe=None, loss=config.loss)
    check_specs([config])
    with pytest.raises(MismatchError, match="run_seed: 0 there, 3 now"):
        check_specs([dataclasses.replace(config, run_seed=3)])


def test_a_folder_with_something_else_in_it_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").touch()
    train = ("train-student", "notes", *TRAIN[2:], "--recipe", "digits", "--loss", "ce")
    commands = [("dump-teacher", "notes", *DUMP[2:], *TEACHER), train]
    for words, (code, line) in zip(commands, last_lines(tmp_path, commands), strict=True):
        assert code in (1, 2) and "notes is not empty and not a" in line, (words, line)


def test_other_settings_of_a_run_are_told_without_torch(tmp_path: Path) -> None:
    for is_finished in (True, False):
        settings = {"student": "timm:test_resnet", "is_finished": is_finished}
        forged_run(tmp_path / f"run-{is_finished}", rising(50), **settings)
    options = ("--recipe", "digits", "--loss", "ce", "--epochs", "5", "--run-seed", "1")
    commands = [("train-student", f"run-{end}", *TRAIN[2:], *options) for end in (True, False)]
    commands.append((*commands[0], "--batch-size", "auto"))
    for code, line in last_lines(tmp_path, commands):
        assert code == 1 and "was started otherwise (run_seed: 0 there, 1 now" in line, line


def test_a_run_that_cannot_be_extended_is_told_without_torch(tmp_path: Path) -> None:
    common = ("--recipe", "digits", "--loss", "ce", "--epochs", "9")
    commands = []
    messages = []
    for name, message in (("cosine", "rates of schedule cosine depend"), ("step", "run_seed: 0")):
        schedule = ScheduleConfig(name=name)
        settings = {"student": "timm:test_resnet", "schedule": schedule, "is_finished": False}
        forged_run(tmp_path / name, rising(50), **settings)
        changes = ("--set", f"schedule.name={name}", "--run-seed", str(int(name == "step")))
        commands.append(("train-student", name, *TRAIN[2:], *common, *changes))
        messages.append(message)
    lines = last_lines(tmp_path, commands)
    for message, (code, line) in zip(messages, lines, strict=True):
        assert code == 1 and "was started otherwise" in line and message in line, line
