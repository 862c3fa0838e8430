"""The line that a terminal shows while a slow library is imported."""

import io
import sys
from importlib import import_module
from pathlib import Path

import pytest

from kdcache_cli import loading

NAME = "slow_library_of_a_test"


class Screen(io.StringIO):
    """A terminal, or none."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(loading, "_SLOW", (NAME,))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return tmp_path


def imported(folder: Path, code: str, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is shown while a library of this code is imported."""
    (folder / f"{NAME}.py").write_text(code)
    monkeypatch.setattr(sys, "stderr", screen)
    loading.tell_loading()
    import_module(NAME)
    return screen.getvalue()


def test_a_line_is_shown_and_erased(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; seen = sys.stderr.getvalue()"
    shown = imported(folder, code, Screen(is_terminal=True), monkeypatch)
    assert sys.modules[NAME].seen == f"loading {NAME} ...\r"
    assert shown == f"loading {NAME} ...\r\r\x1b[K"


def test_an_import_that_fails_leaves_no_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(is_terminal=True)
    with pytest.raises(ImportError, match="a part is missing"):
        imported(folder, "raise ImportError('a part is missing')", screen, monkeypatch)
    assert screen.getvalue().endswith("\r\x1b[K")


def test_a_log_gets_no_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not imported(folder, "", Screen(is_terminal=False), monkeypatch)


def test_a_terminal_that_cannot_erase_gets_no_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not imported(folder, "", Screen(is_terminal=True), monkeypatch)


@pytest.mark.parametrize("rank", ["1", "first"])
def test_of_several_processes_one_shows_it(
    rank: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert not imported(folder, "", Screen(is_terminal=True), monkeypatch)


def test_a_library_that_is_not_there_is_missed_as_usual(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    loading.tell_loading()
    with pytest.raises(ModuleNotFoundError):
        import_module(NAME)
    assert not screen.getvalue()
