"""What commands show on terminals of 80 columns: help in sections, lines broken between words, tables
and progress that fit."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import mistake
from runs import CONV, DIGITS, dump
from terminals import on_terminal, step

from kdcache_cli import main
from kdcache_cli.sections import SectionedCommand

SECTIONED = [command for command in main.commands.values() if isinstance(command, SectionedCommand)]


def test_every_command_is_in_one_section() -> None:
    listed: list[str] = []
    for names in main.sections.values():
        listed += names
    assert sorted(listed) == sorted(main.commands)


@pytest.mark.parametrize("command", SECTIONED, ids=lambda command: command.name)
def test_every_option_is_in_one_section(command: SectionedCommand) -> None:
    listed: list[str] = []
    for names in command.sections.values():
        listed += names
    options = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            options.append(max(parameter.opts, key=len))
    assert sorted(listed) == sorted(options)


def test_commands_with_many_options_have_sections() -> None:
    for command in main.commands.values():
        assert len(command.params) <= 12 or command in SECTIONED, command.name


def test_sections_come_in_the_help() -> None:
    text = CliRunner().invoke(main, ["train-student", "--help"]).output
    assert text.index("Views and soft targets:") < text.index("--cache") < text.index("Training:")
    assert "-h, --help" in text[text.index("Other options:") :]
    of_group = CliRunner().invoke(main, ["--help"]).output
    assert of_group.index("Look at a cache:") < of_group.index("codec-error ")


def test_a_step_of_the_quickstart_moves_on_the_terminal_and_not_in_its_log(tmp_path: Path) -> None:
    golden = str(Path(__file__).parent.parent / "golden" / "v1-full")
    files = [str(tmp_path / "out"), str(tmp_path / "log")]
    words = [*files, "merge", str(tmp_path / "copy"), golden, "--json"]
    code, text = on_terminal(words, columns=50, run=step)
    shown = text.replace("\r", "\n").splitlines()
    bars = [line for line in shown if "━" in line]
    assert code == 0 and any("copy" in line and "6/6 units" in line for line in bars), text
    assert max(map(len, bars)) <= 50
    assert json.loads((tmp_path / "out").read_text())["units_written"] == 6
    assert "copy" not in (tmp_path / "log").read_text()


MISTAKE = ["info", "no-such-folder-of-any-name/and-one-more/under-it"]


def test_an_error_is_broken_between_words_on_a_terminal_alone() -> None:
    code, text = on_terminal(MISTAKE, columns=50)
    lines = text.splitlines()
    assert code != 0 and lines[0].startswith("kdcache: error:") and len(lines) > 1
    assert max(map(len, lines)) <= 50 and all(line.startswith("  ") for line in lines[1:])
    assert " ".join(text.split()) == mistake(*MISTAKE)


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("logits") / "logits.npz"
    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(256, 20)).astype(np.float32)
    np.savez(path, teacher=teacher, student=teacher + generator.normal(size=teacher.shape))
    return str(path)


@pytest.mark.parametrize(("columns", "has_cosines"), [(80, False), (120, True)])
def test_the_table_of_codecs_fits(logits: str, columns: int, has_cosines: bool) -> None:
    words = ["codec-error", logits, "--tau", "1", "--batch-size", "64"]
    words += ["--codec", "full:dtype=bfloat16"]
    code, text = on_terminal(words, columns=columns)
    table = text[text.index("tau 1") :]
    assert code == 0 and max(map(len, table.splitlines())) <= columns
    assert "full:dtype=bfloat16" in table and "…" not in table
    assert ("cosine" in table) == has_cosines


@pytest.mark.slow
def test_a_training_shows_one_line_that_fits_and_how_long_the_run_takes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    dump(cache, seeds="0:2")
    words: list[Any] = ["train-student", tmp_path / "run", "--cache", cache, "--data", DIGITS]
    words += ["--eval-data", "digits:split=test", "--student", CONV, "--epochs", 2]
    words += ["--batch-size", 16, "--workers", 0, "--set", "samples=0:64"]
    code, text = on_terminal([str(word) for word in words])
    assert code == 0, text
    shown = text.replace("\r", "\n").splitlines()
    assert max(len(line) for line in shown if "━" in line) <= 80
    assert any("epoch 1/2" in line and "steps" in line and "run: " in line for line in shown)
    (first,) = [line for line in shown if line.startswith("epoch 1/2: loss")]
    (last,) = [line for line in shown if line.startswith("epoch 2/2: loss")]
    assert first.endswith(" left") and not last.endswith(" left")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["epochs"] == 2
