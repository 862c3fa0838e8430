"""Lines on a terminal are broken between words, and go to logs as they are."""

import sys

import pytest

from kdcache.runtime.console import say
from kdcache.runtime.wording import counted, human_rate, wrapped_line


@pytest.fixture(autouse=True)
def forty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")


@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_note_is_broken_between_words_on_a_terminal_alone(
    on_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    note = "note: the teacher's maps of 6x8 are brought to 12x16, the student's"
    say(note)
    lines = capsys.readouterr().err.splitlines()
    assert " ".join(line.strip() for line in lines) == note
    assert (max(map(len, lines)) <= 40) == on_terminal


def test_a_value_stands_beside_its_name_however_long_it_is() -> None:
    value = f"segfolder:{'x' * 60}, 32 samples of eleven classes in all"
    first, *others = wrapped_line(value, on_terminal=True, label="source  ").splitlines()
    assert first.startswith("source  segfolder:x")
    assert others and all(line.startswith(" " * len("source  ")) for line in others)
    assert wrapped_line(value, on_terminal=False, label="source  ") == f"source  {value}"


def test_a_line_that_fits_is_left_as_it_is() -> None:
    row = "  loss=ce      0"
    assert wrapped_line(row, on_terminal=True) == row


def test_a_slow_rate_is_not_told_as_none() -> None:
    assert [human_rate(rate) for rate in (0, 0.034, 0.96, 7.6, 12345.6)] == [
        "0",
        "0.034",
        "0.96",
        "8",
        "12,346",
    ]


def test_nouns_are_in_their_form() -> None:
    assert [counted(2, noun) for noun in ("box", "class", "batch", "epoch")] == [
        "2 boxes",
        "2 classes",
        "2 batches",
        "2 epochs",
    ]
    assert counted(1, "box") == "1 box"
