"""The command line as a user meets it: help, results, and one line for each mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from runs import CONV, DIGITS, MLP
from safetensors.torch import save_file
from tiny_models import FEW, conv

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.train.metrics_reading import read_metrics
from kdcache_cli import processes, quickstart
from kdcache_cli.commands import main
from kdcache_cli.processes import run_command

DUMP = (
    "--data",
    DIGITS,
    "--teacher",
    f"{CONV},seed=7",
    "--recipe",
    "digits",
    "--workers",
    "0",
)


def kdcache(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def result_of(*words: object) -> dict[str, Any]:
    done = kdcache(*words, "--json")
    assert done.exit_code == 0, done.output
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def mistake(*words: object) -> tuple[int, str]:
    """Return exit code and message of a command that must fail in exactly one line."""
    done = kdcache(*words)
    lines = [line for line in done.stderr.splitlines() if line.startswith("kdcache: error: ")]
    assert len(lines) == 1 and "Traceback" not in done.output, done.output
    assert done.stdout == ""
    return done.exit_code, lines[0]


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dumped") / "cache"
    assert kdcache("dump-teacher", path, *DUMP, "--seeds", "0:2").exit_code == 0
    return path


@pytest.fixture
def cache(dumped: Path, tmp_path: Path) -> Path:
    """Return a cache that the test may change."""
    return Path(shutil.copytree(dumped, tmp_path / "cache"))


HELP = """
import contextlib, io, json, sys
from kdcache_cli import main
told = {}
for words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main([*words, "--help"], prog_name="kdcache", standalone_mode=False)
    heavy = {"torch", "numpy", "zarr", "timm", "torchvision"} & set(sys.modules)
    told[" ".join(words)] = [out.getvalue(), sorted(heavy)]
print(json.dumps(told))
"""
HELPED = [[], *[[name] for name in main.commands]]


@pytest.fixture(scope="module")
def helps() -> dict[str, list[Any]]:
    """Return by command its help, and which heavy modules the process then had imported."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        input=json.dumps(HELPED),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, list[Any]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("words", HELPED, ids=lambda words: " ".join(words) or "kdcache")
def test_help_answers_without_torch(helps: dict[str, list[Any]], words: list[str]) -> None:
    text, heavy = helps[" ".join(words)]
    assert text.startswith(" ".join(["Usage: kdcache", *words])) and heavy == []


def test_every_command_and_option_has_help() -> None:
    for name, command in main.commands.items():
        assert command.help, name
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, (name, option.name)  # type: ignore[attr-defined]


def test_dump_train_info_verify(cache: Path, tmp_path: Path) -> None:
    done = kdcache("dump-teacher", cache, *DUMP, "--seeds", "0:3")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith(
        f"kdcache train-student RUN --cache {cache} --data {DIGITS}"
    )
    info = result_of("info", cache)
    assert info["complete_seeds"] == [0, 1, 2] and info["manifest"]["classes"] == 10
    report = result_of("verify", cache, "--views", 6, "--data", DIGITS)
    assert report["faults"] == [] and report["views"]["checked"] == 6
    words = (
        "--cache",
        cache,
        "--data",
        DIGITS,
        "--student",
        MLP,
        "--epochs",
        1,
        "--workers",
        0,
    )
    trained = result_of(
        "train-student", tmp_path / "run", *words, "--eval-data", DIGITS, "--lr", 0.05
    )
    assert 0 <= trained["top1"] <= 100
    again = ("train-student", tmp_path / "run", *words, "--eval-data", DIGITS, "--lr", 0.05)
    for command in (("info", cache), ("verify", cache), again):
        assert kdcache(*command).exit_code == 0


def test_the_printed_command_is_one_that_runs(cache: Path, tmp_path: Path) -> None:
    command = result_of("dump-teacher", cache, *DUMP, "--seeds", "0:2")["next"].split()
    words = [str(tmp_path / "run") if word == "RUN" else word for word in command[1:]]
    words[words.index("--epochs") + 1] = "1"
    words[words.index("--student") + 1] = "timm:test_resnet"
    assert kdcache(*words, "--workers", 0).exit_code == 0


def test_cached_equals_online_through_the_commands(cache: Path, tmp_path: Path) -> None:
    exact = tmp_path / "exact"
    result_of("dump-teacher", exact, *DUMP, "--seeds", "0:2", "--codec", "full:dtype=float32")
    common = (
        "--data",
        DIGITS,
        "--student",
        MLP,
        "--loss",
        "dist:tau=4",
        "--epochs",
        5,
        "--batch-size",
        5,
    )
    common += ("--lr", 0.05, "--workers", 0, "--set", "log_steps=1")
    result_of("train-student", tmp_path / "cached", "--cache", exact, *common)
    online = ("--teacher", f"{CONV},seed=7", "--recipe", "digits", "--seeds", "0:2")
    result_of("train-student", tmp_path / "online", *online, *common)
    losses = [
        [
            line["loss"]
            for line in read_metrics(tmp_path / run / "metrics.jsonl")
            if line["kind"] == "step"
        ]
        for run in ("cached", "online")
    ]
    assert len(losses[0]) >= 50
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-6)


def test_a_config_file_says_all_and_flags_override_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"""
        [dump-teacher]
        cache = "{tmp_path}/cache"
        data = "{DIGITS}"
        teacher = "{CONV},seed=7"
        recipe = "digits"
        seeds = "0:2"
        compute.workers = 0
        [train-student]
        run = "{tmp_path}/run"
        cache = "{tmp_path}/cache"
        data = "{DIGITS}"
        student = "{MLP}"
        epochs = 5
        optimizer = {{ name = "adamw", lr = 0.01 }}
        compute.workers = 0
        """)
    assert result_of("dump-teacher", "--config", file, "--seeds", "0:1")["seeds"] == [0]
    assert (
        result_of("train-student", "--config", file, "--epochs", 1, "--set", "optimizer.lr=0.02")[
            "epochs"
        ]
        == 1
    )
    saved = (tmp_path / "run" / "config.toml").read_text()
    assert "epochs = 1" in saved and "lr = 0.02" in saved and 'name = "adamw"' in saved
    again = result_of("train-student", "--config", tmp_path / "run" / "config.toml")
    assert again["epochs"] == 1


def test_plan_says_what_the_dump_takes_and_writes_nothing(tmp_path: Path) -> None:
    words = ("dump-teacher", tmp_path / "cache", *DUMP, "--seeds", "0:4")
    plan = result_of(*words, "--plan")
    assert not (tmp_path / "cache").exists()
    written = result_of(*words)
    files = sum(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    assert plan["files"] == files and plan["views"] == 4 * FEW
    assert plan["bytes"] == pytest.approx(written["bytes"], rel=0.2)
    shown = dict(
        line.split("  ", 1)
        for line in kdcache(*words, "--plan", "--world-size", 3).stdout.splitlines()
    )
    assert shown["data"].strip() == f"{FEW} samples of 10 classes"
    assert shown["recipe"].strip() == "digits, views of 8x8 pixels"
    assert "views/s and " in shown["speed"] and "a unit, each process" in shown["speed"]
    assert shown["time left"].strip() == "0.0 s with 3 processes"
    assert "0 device-hours; " in shown["cost"] and "per million views" in shown["cost"]


def test_a_plan_counts_the_processes_that_are_to_share_the_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "dump-teacher",
        tmp_path / "cache",
        *DUMP,
        "--seeds",
        "0:4",
        "--unit-rows",
        13,
        "--plan",
    )
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}.items():
        monkeypatch.setenv(name, value)
    plan = result_of(*words)
    assert plan["world_size"] == 16 and plan["units"] == 20
    assert plan["seconds"] == pytest.approx(2 * plan["seconds_per_unit"]), "some have two units"
    assert plan["device_hours"] == pytest.approx(16 * plan["seconds"] / 3600)
    assert plan["device_hours_per_million_views"] == pytest.approx(
        1e6 / plan["views_per_second"] / 3600
    )
    assert plan["seconds_per_unit"] == pytest.approx(13 / plan["views_per_second"])
    assert (
        plan["bytes_per_seed"] == pytest.approx(plan["bytes"] / 4, abs=1)
        and plan["files_per_seed"] == 12
    )
    alone = result_of(*words, "--world-size", 1)
    assert alone["seconds"] == pytest.approx(4 * FEW / alone["views_per_second"], rel=0.1)


@pytest.mark.parametrize("codec", ["topk:k=2", "full:dtype=bfloat16"])
def test_a_plan_shows_what_codec_error_shows_and_later_what_the_manifest_holds(
    tmp_path: Path, codec: str
) -> None:
    words = ("dump-teacher", tmp_path / "cache", *DUMP, "--codec", codec)
    lines = dict(line.split("  ", 1) for line in kdcache(*words, "--plan").stdout.splitlines())
    measured = (
        r"DIST [\d.]+ % [01]\.\d{3}, inter [\d.]+ % [01]\.\d{3}, intra [\d.]+ % [01]\.\d{3}, KL"
        r" [\d.]+ % [01]\.\d{3}"
    )
    for tau in ("at tau 1", "at tau 4"):
        assert re.fullmatch(measured, lines[tau].strip())
    assert lines["at tau 1"].strip().startswith("DIST 0.") is (codec != "topk:k=2")
    kdcache(*words)
    again = dict(line.split("  ", 1) for line in kdcache(*words[:-2], "--plan").stdout.splitlines())
    errors = open_cache(tmp_path / "cache").manifest.gradient_error
    held = (
        f" (turns DIST's gradient by {100 * errors[1.0]:.0f} % at tau 1, {100 * errors[4.0]:.0f} %"
        " at tau 4)"
        if errors
        else ""
    )
    assert again["codec"].strip() == codec + held and "at tau 1" not in again


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["dump-teacher", "x", "--recipe", "digits"], 2, "dump-teacher needs --data and --teacher"),
        (
            ["dump-teacher", "x", *DUMP, "--data", "imagefolder:/nowhere"],
            1,
            "'/nowhere' is not a folder",
        ),
        (
            ["dump-teacher", "x", *DUMP, "--data", "torchvision:FashionMNIST,root=/nowhere"],
            1,
            "download=true",
        ),
        (
            ["dump-teacher", "x", *DUMP, "--data", "torchvision:FashonMNIST,root=."],
            2,
            "did you mean 'FashionMNIST'",
        ),
        (["dump-teacher", "x", *DUMP, "--data", "digits:tain"], 2, "did you mean 'train'"),
        (["dump-teacher", "x", *DUMP, "--data", "dgits"], 2, "did you mean 'digits'"),
        (["dump-teacher", "x", *DUMP, "--recipe", "cifra"], 2, "did you mean 'cifar'"),
        (["dump-teacher", "x", *DUMP, "--recipe", "none.toml"], 2, "does not exist"),
        (["dump-teacher", "x", *DUMP, "--codec", "topk:k=11"], 2, "k must be from 1 to 10"),
        (["dump-teacher", "x", *DUMP, "--codec", "topk"], 2, "codec topk needs k"),
        (["dump-teacher", "x", *DUMP, "--codec", "topk:kk=3"], 2, "did you mean 'k'"),
        (["dump-teacher", "x", *DUMP, "--codec", "full:dtype=float8"], 2, "did you mean"),
        (["dump-teacher", "x", *DUMP, "--seeds", "4:2"], 2, "0:4 means"),
        (["dump-teacher", "x", *DUMP, "--seeds", "all"], 2, "0:4 means"),
        (["dump-teacher", "x", *DUMP, "--batch-size", "0"], 2, "at least 1"),
        (["dump-teacher", "x", *DUMP, "--device", "tpu9"], 2, "use auto, cpu"),
        (["dump-teacher", "x", *DUMP, "--precision", "int4"], 2, "bfloat16"),
        (["dump-teacher", "x", *DUMP, "--teacher", "timm:test_resnet"], 1, "has no weights"),
        (
            ["dump-teacher", "x", *DUMP, "--teacher", "timm:test_resnet,weights=no.safetensors"],
            1,
            "does not exist",
        ),
        (
            ["dump-teacher", "x", *DUMP, "--teacher", "timm:tset_resnet,pretrained=true"],
            2,
            "did you mean 'test_resnet'",
        ),
        (["dump-teacher", "x", *DUMP, "--teacher", "tiny_models:cnov"], 2, "did you mean 'conv'"),
        (
            ["dump-teacher", "x", *DUMP, "--teacher", "tiny_models:conv,wdith=3"],
            2,
            "unknown option",
        ),
        (["dump-teacher", "x", *DUMP, "--teacher", "tiny_models:conv,classes=7"], 1, "-classes 7"),
        (["dump-teacher", "x", *DUMP, "--set", "compute.wrokers=3"], 2, "did you mean 'workers'"),
        (["dump-teacher", "x", *DUMP, "--set", "seeds"], 2, "not key=value"),
        (["dump-teacher", "x", *DUMP, "--config", "no.toml"], 2, "No such file"),
        (["dump-teacher", "/proc/cache", *DUMP], 1, "cannot write /proc/cache"),
        (
            ["train-student", "x", "--data", "digits", "--student", MLP, "--cache", "/nowhere"],
            1,
            "is not a cache",
        ),
        (["info", "/nowhere"], 1, "/nowhere is not a cache"),
        (["verify", "/"], 1, "/ is not a cache"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])) if isinstance(value, list) else None,
)
def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    got, line = mistake(*words)
    assert message in line
    assert got == code
    assert list(tmp_path.iterdir()) == []


LISTS = "lists all)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["dump"],
            f"there is no command 'dump'; did you mean dump-teacher? (kdcache --help {LISTS}",
        ),
        (
            ["train"],
            f"there is no command 'train'; did you mean train-student? (kdcache --help {LISTS}",
        ),
        (
            ["dump-techer"],
            (
                "there is no command 'dump-techer'; did you mean dump-teacher? (kdcache --help"
                f" {LISTS}"
            ),
        ),
        (["distil"], f"there is no command 'distil' (kdcache --help {LISTS}"),
        (["fidelity", "a.npz"], "fidelity is called codec-error now; write kdcache codec-error"),
        (
            ["--verbose"],
            f"kdcache has no option --verbose; did you mean --version? (kdcache --help {LISTS}",
        ),
        (
            ["info", "x", "--folow"],
            (
                "kdcache info has no option --folow; did you mean --follow? (kdcache info --help"
                f" {LISTS}"
            ),
        ),
        (
            ["codec-error", "--cache", "x"],
            (
                "kdcache codec-error has no option --cache: LOGITS.npz|CACHE stands by itself; write"
                " kdcache codec-error LOGITS.npz|CACHE"
            ),
        ),
        (["gc", "x", "-q"], f"kdcache gc has no option -q (kdcache gc --help {LISTS}"),
        (["info"], "kdcache info needs CACHE; see kdcache info --help"),
        (["merge", "x"], "kdcache merge needs CACHE...; see kdcache merge --help"),
        (["show", "x", "--view", "1:0"], "kdcache show needs --out; see kdcache show --help"),
        (
            ["info", "x", "y"],
            "kdcache info: got unexpected extra argument (y); see kdcache info --help",
        ),
        (["dump-teacher"], "dump-teacher needs CACHE, --data, --teacher and --recipe"),
        (["train-student"], "train-student needs RUN and --student"),
        (
            ["dump-teacher", "x", "--seeds"],
            "kdcache dump-teacher: option '--seeds' requires an argument; see",
        ),
        (
            ["dump-teacher", "x", "--unit-rows", "many"],
            "kdcache dump-teacher: invalid value for '--unit-rows': 'many' is",
        ),
        (
            ["dump-teacher", "x", *DUMP, "--batch-size", "many"],
            "dump-teacher batch_size is 'many'; it must be a whole number or auto",
        ),
        (["info", ""], "an argument of info is empty; give a value, or leave it out"),
        (["train-student", "run", "--cache", " "], "--cache, or what follows it, is empty; give"),
        (["train-student", "run", "--cache="], "--cache is empty; give a value, or leave it out"),
        (
            ["merge", "~/new", "x"],
            "an argument of merge is '~/new'; ~ stays as it is here: write /",
        ),
        (
            ["dump-teacher", "x", *DUMP, "--data", "imagefolder:~/photos"],
            "path of imagefolder is '~/photos'; ~ stays as it is here: write /",
        ),
        (["dump-teacher", "x", "--set", "data=~/x"], "--set data is '~/x'; ~ stays as it is here"),
        (["dump-teacher", "x", "--set", 'data=""'], "--set data is empty; give a value, or leave"),
        (
            ["dump-teacher", "x", *DUMP, "--world-size", "4"],
            "--world-size tells --plan how many processes there will be",
        ),
        (
            ["dump-teacher", "x", *DUMP, "--plan", "--world-size", "0"],
            "world_size is 0; it must be at least 1",
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_words_that_are_not_understood_are_told_in_one_line(words: list[str], message: str) -> None:
    code, line = mistake(*words)
    assert code == 2 and line.startswith(f"kdcache: error: {message}")


def test_an_option_that_begins_so_is_suggested() -> None:
    _, line = mistake("dump-teacher", "x", "--teachr", "y")
    assert "did you mean --teacher or --teacher-classes?" in line
    assert "did you mean --teacher-classes?" in mistake("dump-teacher", "x", "--teacher-c", "y")[1]


@pytest.mark.parametrize("module", ["kdcache", "kdcache_cli"])
def test_both_packages_run_as_modules(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", module, "inof"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "did you mean info?" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["dump-teacher", "x", *DUMP],
            "kdcache: stopped by SIGINT; run the same command again to go on",
        ),
        (["dump-teacher", "x", *DUMP, "--plan"], "kdcache: stopped by SIGINT"),
        (["info", "x"], "kdcache: stopped by SIGINT"),
        (["verify", "x"], "kdcache: stopped by SIGINT"),
        (
            ["verify", "x", "--report=r.jsonl"],
            "kdcache: stopped by SIGINT; run the same command again to go on",
        ),
    ],
    ids=lambda value: " ".join(value[::10]) if isinstance(value, list) else None,
)
def test_an_interrupt_says_to_run_again_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    for name in (
        "kdcache.dump.run.run_dump",
        "kdcache.dump.plan.plan_dump",
        "kdcache.cache.open_cache",
    ):
        monkeypatch.setattr(name, interrupted)
    done = kdcache(*words)
    assert done.exit_code == 130 and done.stderr.splitlines() == [told]


def test_of_several_workers_the_error_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "16")
    _, line = mistake("dump-teacher", tmp_path / "x", *DUMP, "--codec", "topk:k=11")
    assert line.endswith(f" (rank 3 of 16 on {os.uname().nodename})")


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--teacher", f"{CONV},seed=8"], "teacher.sha256"),
        (["--recipe", "eval-whole", "--teacher", f"{CONV},channels=3,input_size=8"], "recipe.mode"),
        (["--codec", "topk:k=3"], "codec.name"),
        (["--codec", "full:dtype=float32"], "codec.configuration.dtype"),
        (["--precision", "bfloat16"], "teacher.precision"),
    ],
)
def test_a_cache_made_otherwise_is_refused_and_left_alone(
    cache: Path, flags: list[str], field: str
) -> None:
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    code, line = mistake("dump-teacher", cache, *DUMP, "--seeds", "0:3", *flags)
    assert code == 1 and f"{field}: " in line and "was made otherwise" in line
    assert before == {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_the_teacher_is_known_by_its_weights_not_by_their_file(tmp_path: Path) -> None:
    state = conv(seed=3).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    teacher = "timm:test_vit,img_size=8,patch_size=4,weights={}"
    import timm

    model = timm.create_model("test_vit", img_size=8, patch_size=4, in_chans=1, num_classes=10)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "b.pth")
    for number, name in enumerate(("a.safetensors", "b.pth")):
        flags = ("--teacher", teacher.format(tmp_path / name), "--seeds", number)
        result_of("dump-teacher", tmp_path / "cache", *DUMP, *flags)
    assert open_cache(tmp_path / "cache").complete_seeds() == [0, 1]


def test_nan_logits_name_the_sample(tmp_path: Path) -> None:
    flags = ("--teacher", "tiny_models:poisoned,mean=0,std=1")
    code, line = mistake("dump-teacher", tmp_path / "cache", *DUMP, *flags)
    assert code == 1 and re.search(
        r"NaN or infinite logits for sample \d{8} \(row \d+, seed 0\)", line
    )


def test_an_unreadable_image_is_named_and_can_be_recorded(tmp_path: Path) -> None:
    for index in range(30):
        path = tmp_path / "images" / f"class{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), index * 8, np.uint8)).save(path)
    (tmp_path / "images" / "class0" / "15.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    words = (
        "dump-teacher",
        tmp_path / "cache",
        *DUMP,
        "--data",
        f"imagefolder:{tmp_path}/images",
        "--teacher",
        f"{CONV},classes=3",
    )
    code, line = mistake(*words)
    assert code == 1 and "class0/15.png" in line and "--skip-unreadable" in line
    told = kdcache(*words[:1], tmp_path / "cache2", *words[2:], "--skip-unreadable").stdout
    assert "1 view whose sample cannot be read, such as" in told
    assert f"kdcache info {tmp_path}/cache2 --absent lists all" in told
    assert result_of("info", tmp_path / "cache2")["manifest"]["skip_unreadable"] is True
    listed = result_of("info", tmp_path / "cache2", "--absent")
    (reason,) = listed["reasons"]
    assert "class0/15.png" in reason and "sample 5 (class0/15.png) of" in told
    assert listed["absent"] == 1
    assert "1 view  sample" in kdcache("info", tmp_path / "cache2", "--absent").stdout
    code, line = mistake("info", tmp_path / "cache2", "--absent", "--seeds", "0:1")
    assert code == 2 and "leave --seeds out" in line


def test_verify_of_a_damaged_cache_fails_and_names_the_unit(cache: Path) -> None:
    unit = next(cache.glob("seeds/00001/records/c/*/0"))
    data = bytearray(unit.read_bytes())
    data[len(data) // 2] ^= 1
    unit.write_bytes(data)
    done = kdcache("verify", cache)
    assert done.exit_code == 1 and "seed 1, unit 0" in done.stdout


def test_a_cache_of_a_future_format_is_refused(cache: Path) -> None:
    root = json.loads((cache / "zarr.json").read_text())
    root["attributes"]["kdcache"]["format_version"] = 2
    (cache / "zarr.json").write_text(json.dumps(root))
    code, line = mistake("info", cache)
    assert code == 1 and "format version 2" in line and "upgrade" in line


def test_a_quickstart_that_has_no_place_is_told(tmp_path: Path) -> None:
    """What it does where it has one, .ci/run looks at."""
    (tmp_path / "file").touch()
    done = kdcache("quickstart", "--out", tmp_path / "file")
    assert done.exit_code == 2 and "is no folder; choose another" in " ".join(done.stderr.split())


CTRL_C = "os.kill(os.getpid(), signal.SIGINT); time.sleep(10)"
EARLY = f"""
class Finder:
    def find_spec(self, name, *others):
        if name == "kdcache_cli.verify":
            {CTRL_C}

sys.meta_path.insert(0, Finder())
"""
LATE = f"""
@atexit.register
def end():
    {CTRL_C}
"""


@pytest.mark.parametrize("when", [EARLY, LATE], ids=["before", "after"])
def test_ctrl_c_outside_a_command_ends_the_program_without_a_traceback(when: str) -> None:
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # where tests ignore it
    program = f"import atexit, os, signal, sys, time\n{heard}\n{when}\nimport runpy\n"
    program += "runpy.run_module('kdcache', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_step_of_the_quickstart_that_could_not_write_its_log_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: Sequence[str], *, stdout: Path, stderr: Path) -> int:
        stderr.touch()
        return 1

    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(quickstart, "run_command", fail)
    with pytest.raises(KdcacheError, match="it left no message; if the disk is full, make room"):
        quickstart.Steps(tmp_path, 7).run("train a teacher", "train-student")


def test_steps_of_the_quickstart_run_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_PRELOADED", [])  # what these steps do not need
    files = {"stdout": tmp_path / "out", "stderr": tmp_path / "log"}
    golden = Path(__file__).parent.parent / "golden" / "v1-full"
    assert run_command(["info", str(golden), "--json"], **files) == 0
    assert json.loads(files["stdout"].read_text())["manifest"]["classes"] == 5
    assert files["stderr"].read_text() == ""
    assert run_command(["info", str(tmp_path)], **files) == 1
    assert files["stdout"].read_text() == ""
    assert "is not a cache" in files["stderr"].read_text()
