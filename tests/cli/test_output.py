"""What commands print, on any terminal."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from image_files import encode
from PIL import Image
from runs import CONV

import kdcache.tools.evaluate
import kdcache.verify.cache  # noqa: F401  # what is first imported under a patch would keep it
from kdcache.runtime.console import say
from kdcache.sources import sample_warnings
from kdcache_cli.commands import main
from kdcache_cli.output import json_text
from kdcache_cli.terminal import escape_what_cannot_be_shown

TEXT = "née 日本 \udce9 a"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"n\xe9e \u65e5\u672c \udce9 a"),
        ("ANSI_X3.4-1968", rb"n\xe9e \u65e5\u672c \udce9 a"),
        ("latin-1", b"n\xe9e " + rb"\u65e5\u672c \udce9 a"),
        ("utf-8", "née 日本 ".encode() + rb"\udce9 a"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: bytes
) -> None:
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, raw in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    escape_what_cannot_be_shown()
    escape_what_cannot_be_shown()
    click.echo(TEXT)
    say(TEXT)
    click.echo(TEXT, err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    assert (written["stdout"].getvalue(), written["stderr"].getvalue()) == (
        shown + b"\n",
        (shown + b"\n") * 2,
    )


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_a_command_line_that_the_terminal_cannot_show_is_no_traceback(encoding: str) -> None:
    command = [sys.executable, "-m", "kdcache_cli", "日本"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (
        done.returncode == 2
        and rb"there is no command '\u65e5\u672c'" in done.stderr
        and b"Traceback" not in done.stderr
    )


def test_a_warning_about_an_image_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_warnings, "_TOLD", set())
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    for index in range(6):
        path = tmp_path / "images" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture, transparency=bytes(range(256))))
    words: list[Any] = [
        "dump-teacher",
        tmp_path / "cache",
        "--data",
        f"imagefolder:{tmp_path}/images",
        "--recipe",
        "digits",
    ]
    words += ["--teacher", f"{CONV},classes=2", "--workers", "0", "--store", "webdataset"]
    done = CliRunner().invoke(main, [str(word) for word in words])
    lines = [line for line in done.stderr.splitlines() if "warning" in line]
    assert done.exit_code == 0 and len(lines) == 1, done.output
    assert (
        lines[0].startswith("kdcache: warning: sample ")
        and "Palette images with Transparency" in lines[0]
    )


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "out of memory; give the job more"),
        (
            MemoryError("Unable to allocate 7 GiB\nfor an array"),
            "out of memory (Unable to allocate 7 GiB for an array); give",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory (DefaultCPUAllocator: can't",
        ),
    ],
)
def test_memory_that_runs_out_is_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, told: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("kdcache.config.files.load_config", fail)
    done = CliRunner().invoke(main, ["dump-teacher", "there"])
    assert done.exit_code == 1 and done.stderr.startswith(f"kdcache: error: {told}")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("; what was finished is kept\n")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("evaluate", "use a smaller --batch-size, or auto, which tries what fits, or --precision"),
        ("verify", "use a smaller --batch-size, or --precision bfloat16"),
    ],
)
def test_memory_of_a_gpu_that_runs_out_names_the_batch_and_a_way_out(
    monkeypatch: pytest.MonkeyPatch, command: str, told: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        error.add_note("on a batch of 256 views")
        raise error

    monkeypatch.setattr("kdcache.config.files.load_config", fail)
    monkeypatch.setattr("kdcache.cache.open_cache", fail)
    done = CliRunner().invoke(main, [command, "there"])
    assert done.exit_code == 1
    line = "kdcache: error: out of GPU memory on a batch of 256 views; "
    assert done.stderr.startswith(f"{line}{told}") and done.stderr.count("\n") == 1


def test_json_has_a_line_an_entry_and_numbers_side_by_side() -> None:
    value = {"missing": {3: [0, 2], 4: []}, "caches": [{"rows": 8}, {}], "tau": 0.5, "of": None}
    text = json_text(value)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert text.splitlines() == [
        "{",
        ' "missing": {',
        '  "3": [0, 2],',
        '  "4": []',
        " },",
        ' "caches": [',
        "  {",
        '   "rows": 8',
        "  },",
        "  {}",
        " ],",
        ' "tau": 0.5,',
        ' "of": null',
        "}",
    ]
