"""The command `report`: what it prints, and mistakes in one line."""

import os
from pathlib import Path

import pytest
from command_line import kdcache, kdcache_json, mistake
from forged_runs import compared_runs, forged_run, rising


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return compared_runs(tmp_path / "runs")


def test_it_prints_the_table_and_writes_the_page(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    text = kdcache("report", runs, "-o", out, "--no-evaluate")
    assert "ce          81.00 ± 0.58 over 3 runs" in text
    assert "dist:tau=4  84.17 ± 0.44 over 3 runs, +3.17 ± 0.44 against ce" in text
    assert out.read_text().startswith("<!doctype html>")
    result = kdcache_json("report", runs, "-o", out, "--no-evaluate", "--against", "dist:tau=4")
    assert result["against"] == "dist:tau=4" and result["lines"][0]["name"] == "dist:tau=4"
    assert result["lines"][1]["difference"]["mean"] == pytest.approx(-19 / 6)


def test_mistakes_are_one_line(runs: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "report.html", "--no-evaluate")
    (tmp_path / "empty").mkdir()
    assert "is no run and holds none" in mistake("report", tmp_path / "empty", *out)
    assert "is not a folder" in mistake("report", tmp_path / "nowhere", *out)
    assert "is given twice" in mistake("report", runs, runs / "ce-0", *out)
    assert "did you mean 'dist:tau=4'" in mistake("report", runs, *out, "--against", "dist:tau=5")
    assert "end it in .html" in mistake("report", runs, "-o", tmp_path / "report.pdf")
    assert "make it first" in mistake("report", runs, "-o", tmp_path / "none" / "report.html")
    (runs / "ce-0" / "config.toml").write_text("[train-student]\nstudnt = 1\n")
    assert "did you mean 'student'" in mistake("report", runs, *out)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in mistake("report", runs, "-o", tmp_path / "locked" / "r.html")


def test_a_run_alone_is_a_report(tmp_path: Path) -> None:
    run = forged_run(tmp_path / "run", rising(50.0))
    text = kdcache("report", run, "-o", tmp_path / "r.html", "--no-evaluate")
    assert "ce     50.00" in text and "±" not in text


def test_a_line_of_another_task_has_not_the_score_of_the_others(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", rising(50.0))
    forged_run(tmp_path / "runs" / "b", rising(40.0, "miou"), label_smoothing=0.1)
    text = kdcache("report", tmp_path / "runs", "-o", tmp_path / "r.html", "--no-evaluate")
    assert "label_smoothing 0.1  no top-1" in text
