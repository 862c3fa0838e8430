"""Metrics that survive a cut, and progress that does not flood a job's log."""

import json
import sys
from pathlib import Path

import pytest

from kdcache import tracking
from kdcache.tracking import Bar, MetricsFile, progress, read_metrics, say


def test_metrics_are_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    metrics = MetricsFile(path, step=0)
    lines = [{"kind": "step", "step": step, "loss": 0.1 * step} for step in (1, 2, 3)]
    for line in lines:
        metrics.write(line)
    assert read_metrics(path) == lines == [json.loads(text) for text in path.read_text().splitlines()]


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


def test_a_log_gets_a_line_every_thirty_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress("dump", 20, "views") as bar:
        assert isinstance(bar, Bar)
        bar.advance(20, "seed 3")
    captured = capsys.readouterr()
    assert captured.out == "" and "dump" in captured.err and "20/20" in captured.err and "seed 3" in captured.err


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")
