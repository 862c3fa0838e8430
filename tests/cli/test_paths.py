"""Paths on which the operating system refuses work end a command in one line with a way out."""

from pathlib import Path

import pytest
from command_line import mistake
from image_files import write_images
from runs import MLP

LONG = "y" * 300
DIGITS = ("--data", "digits", "--recipe", "digits")
DUMP = (*DIGITS, "--teacher", f"{MLP},weights=none.safetensors")
TRAIN = (*DIGITS, "--student", MLP, "--loss", "ce", "--epochs", 1)
COMMANDS = {
    "dump-teacher": lambda path: ("dump-teacher", path, *DUMP),
    "train-student": lambda path: ("train-student", path, *TRAIN),
    "quickstart": lambda path: ("quickstart", "--out", path),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("inner", ["", "below"])
def test_no_folder_is_made_through_a_link_to_nothing(
    command: str, inner: str, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    line = mistake(*COMMANDS[command](link / inner))
    assert f"{link} is a link to {tmp_path}/gone, which is not there; make that folder" in line
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_too_long_is_to_be_shorter(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = mistake(*COMMANDS[command](LONG))
    assert "File name too long; give" in line


@pytest.mark.parametrize(
    "words", [("info",), ("report", "-o", "a.html"), ("evaluate", "--data", "digits")]
)
def test_what_is_read_there_says_the_same(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *others = words
    assert "File name too long; give a shorter path" in mistake(command, LONG, *others)


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "links lead round in a circle there: remove one" in mistake("info", tmp_path / "a")


def test_an_image_that_is_a_link_to_nothing_is_told_so(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"a/1.png": 1, "b/2.png": 2})
    (images / "a" / "0.png").symlink_to(tmp_path / "elsewhere.png")
    teacher = ("--teacher", "tiny_models:conv,classes=2", "--workers", 0, "--device", "cpu")
    words = ("--data", images, "--recipe", "digits", *teacher)
    line = mistake("dump-teacher", tmp_path / "cache", *words)
    assert "0.png) of" in line
    assert "elsewhere.png, which is not there; restore that, or remove the link" in line
