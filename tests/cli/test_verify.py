"""The command `verify` as a user meets it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from runs import CONV, DIGITS, dump
from tiny_models import FEW

from kdcache_cli.commands import main

TEACHER = f"{CONV},seed=7"
CPU = ("--workers", "0", "--device", "cpu")
HERE = (*CPU, "--data", DIGITS)


def kdcache(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def lines_of(done: Result) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dumped") / "cache"
    dump(path, unit_rows=32)
    return path


@pytest.fixture
def cache(dumped: Path, tmp_path: Path) -> Path:
    """Return a cache that the test may change."""
    return Path(shutil.copytree(dumped, tmp_path / "cache"))


def test_the_teacher_runs_again_and_is_told_in_a_line(cache: Path) -> None:
    done = kdcache("verify", cache, "--teacher", TEACHER, *HERE)
    assert done.exit_code == 0, done.output
    told = lines_of(done)
    assert told["views"] == "64 rendered again, all as at the dump"
    apart = "largest difference 0, median 0, 0 beyond rounding"
    assert told["teacher"] == f"run again on 64 views in float32: 64 records equal, {apart}"
    assert told["faults"] == "0"
    assert "teacher" not in lines_of(kdcache("verify", cache))


def test_json_says_the_same(cache: Path) -> None:
    words = (
        "--views",
        20,
        "--precision",
        "bfloat16",
        "--batch-size",
        7,
        "--data",
        f"{DIGITS},length={FEW}",
    )
    done = kdcache("verify", cache, "--teacher", TEACHER, *HERE, *words, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["teacher"]
    assert found["views"] == 20 and found["precision"] == "bfloat16" and found["equal_records"] < 20
    assert (
        0 < found["median_difference"] <= found["largest_difference"] < 0.1 and found["beyond"] == 0
    )


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (f"{CONV},seed=8", f"teacher {CONV},seed=8 is not the one that cache"),
        ("tiny_models:scaled,mean=0.5,std=0.25,seed=7,factor=1.5", "and gives other logits: in "),
    ],
)
def test_another_teacher_ends_with_exit_code_1_and_one_line(
    cache: Path, teacher: str, told: str
) -> None:
    done = kdcache("verify", cache, "--teacher", teacher, *HERE)
    assert done.exit_code == 1
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("fault ")]
    assert told in fault and done.stdout.splitlines()[-1].split() == ["faults", "1"]


def test_the_transform_or_decoder_that_changed_is_named(tmp_path: Path) -> None:
    for index in range(12):
        path = tmp_path / "images" / f"class{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(
            np.random.default_rng(index).integers(50, 200, (8, 8), dtype=np.uint8)
        ).save(path)
    dump(tmp_path / "cache", data=f"imagefolder:{tmp_path}/images", teacher=f"{CONV},classes=3")
    for change, code, told in (
        (
            1,
            0,
            "kdcache: warning: 6 of 6 re-rendered views have other pixels but the same thumbnail",
        ),
        (
            40,
            1,
            (
                "pixels first differ after decoding the image; library versions are the same, so"
                " the images themselves"
            ),
        ),
    ):
        for path in (tmp_path / "images").rglob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)) + np.uint8(change)).save(path)
        done = kdcache(
            "verify", tmp_path / "cache", "--views", 6, "--data", f"imagefolder:{tmp_path}/images"
        )
        assert done.exit_code == code and told in " ".join(done.output.split())
        assert ("6 with other pixels under the same thumbnail" in done.stdout) == (code == 0)


def test_files_that_changed_are_named_with_exit_code_1(tmp_path: Path) -> None:
    for index in range(6):
        path = tmp_path / "images" / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * index).save(path, compress_level=0)
    data = ("--data", f"imagefolder:{tmp_path / 'images'}")
    teacher = ("--teacher", f"{CONV},classes=3", "--recipe", "digits")
    cache = tmp_path / "cache"
    assert kdcache("dump-teacher", cache, *data, "--content-digests", *teacher, *CPU).exit_code == 0
    done = kdcache("verify", cache, "--contents", *data)
    assert done.exit_code == 0
    assert lines_of(done)["contents"] == "6 samples read, none of them changed"
    Image.new("L", (8, 8), 7).save(tmp_path / "images" / "class1" / "4.png", compress_level=0)
    done = kdcache("verify", cache, "--contents", *data)
    assert done.exit_code == 1
    told = lines_of(done)
    assert told["contents"] == "6 samples read, 1 of them changed"
    assert told["fault"].endswith("1 sample has other contents than at the dump (class1/4.png)")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--teacher", "tiny_models:cnov"], 2, "did you mean 'conv'"),
        (["--teacher", "timm:tset_resnet,pretrained=true"], 2, "did you mean 'test_resnet'"),
        (["--teacher", f"{CONV},classes=7"], 1, "gives 7 classes, and 10 are asked for"),
        (["--teacher", TEACHER, "--precision", "int8"], 2, "unknown compute precision 'int8'"),
        (["--teacher", TEACHER, "--device", "tpu9"], 2, "use auto, cpu"),
        (["--teacher", TEACHER, "--workers", "-1"], 2, "it must be from 0 to 1024"),
        (["--teacher", TEACHER, "--views", "0"], 2, "it must be at least 1 to run a teacher on"),
        (["--views", "5"], 2, f"made from {DIGITS}; if that is right, add --data {DIGITS}"),
        (["--precision", "bfloat16"], 2, "say how a teacher runs; give --teacher SPEC too"),
        (["--batch-size", "8"], 2, "say how a teacher runs; give --teacher SPEC too"),
        (["--contents", "--data", DIGITS], 2, "was made without content digests"),
        (["--data", DIGITS], 2, "give --views N, --contents or --teacher SPEC too"),
    ],
)
def test_mistakes_are_one_line(cache: Path, words: list[str], code: int, told: str) -> None:
    data = [] if "--teacher" not in words or "--data" in words else ["--data", DIGITS]
    done = kdcache("verify", cache, *words, *data)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kdcache: error: ")]
    assert (
        done.exit_code == code
        and told in line
        and done.stdout == ""
        and "Traceback" not in done.output
    )
