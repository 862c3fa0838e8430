"""Metrics that survive a cut, and progress that does not flood a job's log."""

import json
import os
import pty
import re
import socket
import sys
from pathlib import Path

import pytest

from kdcache.runtime import console as tracking
from kdcache.runtime.console import Bar, draw_bars_on, own_name, progress, say
from kdcache.train.metrics_log import MetricsFile
from kdcache.train.metrics_reading import read_metrics


def test_metrics_are_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    metrics = MetricsFile(path, step=0)
    lines = [{"kind": "step", "step": step, "loss": 0.1 * step} for step in (1, 2, 3)]
    for line in lines:
        metrics.write(line)
    assert (
        read_metrics(path) == lines == [json.loads(text) for text in path.read_text().splitlines()]
    )


def test_lines_past_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, step=0)
    for step in range(1, 6):
        metrics.write({"step": step})
    MetricsFile(path, step=3).write({"step": 4, "again": True})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    MetricsFile(path, step=2).write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_a_damaged_line_costs_only_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1}\n\xff{"st\n[3]\n{"kind": "epoch", "epoch": 1, "step": 4}\n{"kind": "epoch",'
        b' "epoch": 2, "step": 5}\n'
    )
    assert [line["step"] for line in read_metrics(path)] == [1, 4, 5]
    MetricsFile(path, step=5, epochs=1)
    assert f"note: {path}: lines 2 to 3 cannot be read, and are left out" in capsys.readouterr().err
    assert [line["step"] for line in read_metrics(path)] == [
        1,
        4,
    ], "the second epoch is still to be evaluated"


def test_a_log_gets_a_line_every_thirty_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    with progress("dump", 1000, "views") as bar:
        assert isinstance(bar, Bar)
        for _ in range(100):
            now += 1.0
            bar.advance(10, "seed 3")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "dump: 300/1000 views, 10/s, 70 s left seed 3",
        "dump: 600/1000 views, 10/s, 40 s left seed 3",
        "dump: 900/1000 views, 10/s, 10 s left seed 3",
    ]


def test_steps_that_take_seconds_have_a_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    with progress("epoch 1/1", 78, "steps") as bar:
        for _ in range(78):
            now += 2.5
            bar.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epoch 1/1: 12/78 steps, 0.4/s, 165 s left"


def test_each_of_several_workers_logs_who_it_is_and_when(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert own_name() == ""
    for name, value in {"RANK": "3", "WORLD_SIZE": "16"}.items():
        monkeypatch.setenv(name, value)
    who = f"rank 3 of 16 on {socket.gethostname()}"
    assert own_name() == who
    with progress("dump", 1000, "views", who=own_name()) as bar:
        now += 31
        bar.advance(0)  # another worker has made what was to be made here
        for _ in range(10):
            now += 10
            bar.advance(100, "seed 3")
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d {who}: dump: ", line) for line in lines)
    assert [line.partition(": dump: ")[2] for line in lines] == [
        "0/1000 views, 0/s, no end in sight",
        "300/1000 views, 5/s, 142 s left seed 3",
        "600/1000 views, 7/s, 61 s left seed 3",
        "900/1000 views, 7/s, 13 s left seed 3",
        "1000/1000 views, done in 2.2 min, 8/s",
    ]


def test_the_one_driver_of_many_workers_has_a_bar_on_a_terminal_and_says_who_it_is_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("dump", 20, "views", who="driver on n7"):
        pass
    assert " driver on n7: dump: 0/20 views, done in " in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("dump", 20, "views", who="driver on n7") as bar:
        bar.advance(20)
    assert "driver" not in capsys.readouterr().err


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress("dump", 20, "views") as bar:
        assert isinstance(bar, Bar)
        bar.advance(20, "seed 3")
    captured = capsys.readouterr()
    assert (
        captured.out == ""
        and "dump" in captured.err
        and "20/20" in captured.err
        and "seed 3" in captured.err
    )


def test_a_bar_goes_to_a_terminal_and_messages_to_a_file_where_these_are_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, terminal = pty.openpty()
    monkeypatch.setattr(tracking, "_terminals", [])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with os.fdopen(terminal, "w") as stream:
        draw_bars_on(stream)
        with progress("dump", 20, "views") as bar:
            say("note: a message")
            bar.advance(20, "seed 3")
        shown = ""
        while "\x1b[?25h" not in shown:  # the cursor comes back at the end
            shown += os.read(own, 65536).decode()
    os.close(own)
    assert "20/20" in shown and "seed 3" in shown and "message" not in shown
    assert capsys.readouterr() == ("", "note: a message\n")


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")
