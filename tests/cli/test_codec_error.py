"""The command `codec-error`, as a user meets it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from map_caches import made
from runs import CONV, DIGITS, dump, largest_file

from kdcache_cli import main


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec-error") / "logits.npz"
    generator = np.random.default_rng(0)
    head = generator.normal(size=(20, 8)).astype(np.float32)
    features = generator.normal(size=(600, 8))
    student = (features + 0.5 * generator.normal(size=(600, 8))) @ head.T
    np.savez(
        path, teacher=features @ head.T, student=student, image_id=np.arange(600) // 3, head=head
    )
    return path


def run(*words: Any) -> Result:
    return CliRunner().invoke(main, ["codec-error", *map(str, words)])


def test_the_table_names_codecs_and_marks_the_front(logits: Path) -> None:
    done = run(logits)
    assert done.exit_code == 0, done.output
    lines = [
        line
        for line in done.stdout.splitlines()
        if line.strip().startswith(("full:", "lowrank:", "topk:"))
    ]
    assert {line.split()[0].partition(":")[0] for line in lines} == {"full", "lowrank", "topk"}
    assert any("*" in line for line in lines) and not all("*" in line for line in lines)
    assert "tau 1, batches of 256" in done.stdout and "tau 4, batches of 256" in done.stdout
    assert max(map(len, lines)) <= 110


def test_json_has_what_was_asked_for(logits: Path) -> None:
    words = (
        "--codec",
        "lowrank:error=0.2",
        "--codec",
        "topk:k=3",
        "--tau",
        "2",
        "--batch-size",
        "64",
        "--batch-size",
        "32",
    )
    done = run(logits, *words, "--json")
    result = json.loads(done.stdout)
    assert [codec["codec"] for codec in result["codecs"]] == ["lowrank:error=0.2", "topk:k=3"]
    assert result["taus"] == [2.0] and result["batch_sizes"] == [64, 32]
    for codec in result["codecs"]:
        assert len(codec["gradients"]) == 2 and codec["bytes"] > 0
        for case in codec["gradients"]:
            assert set(case) == {"tau", "batch_size", "inter", "intra", "both", "kl"}
            assert all(
                0 < case[term]["error"] < 3 and -1 <= case[term]["cosine"] <= 1
                for term in ("inter", "intra", "both", "kl")
            )


@pytest.mark.parametrize("name", ["codecs.png", "codecs.svg"])
def test_a_plot_is_drawn(logits: Path, tmp_path: Path, name: str) -> None:
    assert (
        run(
            logits, "--codec", "topk:k=3", "--codec", "full:dtype=uint8", "--plot", tmp_path / name
        ).exit_code
        == 0
    )
    assert (tmp_path / name).stat().st_size > 5000
    whole = (tmp_path / name).read_bytes()
    with largest_file(1_000):
        done = run(logits, "--codec", "topk:k=3", "--plot", tmp_path / name)
    assert done.exit_code == 1 and "write elsewhere, or make room" in done.stderr
    assert (tmp_path / name).read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


def test_a_codec_that_fails_is_a_row_with_its_reason_below(logits: Path) -> None:
    done = run(logits, "--codec", "lowrank:error=1e-9", "--codec", "topk:k=3")
    assert done.exit_code == 0 and not done.stderr, done.output
    rows = [
        line.split()
        for line in done.stdout.splitlines()
        if line.strip().startswith("lowrank:error=1e-9")
    ]
    assert rows[0] == rows[1] == ["lowrank:error=1e-9", "fails"]
    assert " ".join(rows[2]).startswith(
        "lowrank:error=1e-9 fails: lowrank:error=1e-09 cannot be met on this sample"
    )
    assert len(rows) == 3


def test_a_teacher_and_a_cache_serve_as_well(tmp_path: Path) -> None:
    codecs = ("--codec", "topk:k=3", "--codec", "lowrank:step=1", "--workers", "0")
    many = f"{DIGITS},length=256"
    teacher = run(
        "--teacher",
        CONV,
        "--data",
        many,
        "--recipe",
        "digits",
        "--views",
        "512",
        *codecs,
    )
    assert teacher.exit_code == 0 and "another view" in teacher.stdout, teacher.output
    dump(tmp_path / "cache", data=many, codec="full:dtype=float32", seeds="0:2")
    cached = run(tmp_path / "cache", "--views", "512", *codecs)
    assert cached.exit_code == 0 and "lowrank:step=1" in cached.stdout, cached.output
    helped = run(tmp_path / "cache", "--views", "512", "--teacher", f"{CONV},seed=7", *codecs)
    assert helped.exit_code == 0 and helped.stdout != cached.stdout, helped.output
    other = run(tmp_path / "cache", "--teacher", f"{CONV},seed=9", *codecs)
    assert other.exit_code != 0 and "is not the one that cache" in other.stderr


def test_of_maps_every_codec_has_its_row(tmp_path: Path, recipe: str) -> None:
    made(tmp_path / "cache", recipe, codec="full:dtype=float16")
    done = run(tmp_path / "cache", "--tau", "1", "--plot", tmp_path / "codecs.svg")
    assert done.exit_code == 0, done.output
    head, rows, *_ = done.stdout.split("\n\n")
    assert head.endswith(
        "4 classes; student: the teacher at the next position\n"
        "fitted on 1728 positions, measured on 12 other views of 2x4x6, whole"
    )
    assert rows.startswith("tau 1, batches of 12\n")
    families = {line.split()[0].partition(":")[0] for line in rows.splitlines()[3:]}
    assert families == {"full", "cosine", "lowrank", "topk"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to measure: give an .npz file"),
        (["nowhere.npz"], "nowhere.npz cannot be read"),
        (["nowhere"], "nowhere is not a cache"),
        (["LOGITS", "--codec", "topk:k=30"], "topk:k=30 on 20 classes"),
        (["LOGITS", "--codec", "topl:k=3"], "did you mean 'topk'"),
        (["LOGITS", "--tau", "0"], "tau is 0.0; it must be above 0"),
        (["LOGITS", "--batch-size", "5000"], "less than one batch of 5000"),
        (["LOGITS", "--codec", "lowrank:error=1e-9"], "lowrank:error=1e-09 cannot be met"),
        (["LOGITS", "--plot", "codecs.bmp"], "end its name in one of"),
        (["LOGITS", "--plot", "nowhere/codecs.png"], "does not exist"),
        (["LOGITS", "--teacher", CONV], "not both"),
        (["--teacher", CONV], "give an .npz file"),
    ],
)
def test_mistakes_are_one_line(logits: Path, words: list[str], message: str) -> None:
    done = run(*(str(logits) if word == "LOGITS" else word for word in words))
    assert done.exit_code != 0 and message in done.stderr
    assert done.stderr.startswith("kdcache: error: ") and done.stderr.count("\n") == 1
