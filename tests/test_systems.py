"""Systems on which kdcache does not run say so in one line."""

import runpy
import sys
from pathlib import Path

import pytest

import kdcache

HERE = Path(__file__).parent.parent


def test_windows_is_sent_to_its_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match=r"^kdcache needs Linux or macOS; on Windows .*WSL.*$"):
        runpy.run_path(str(kdcache.__file__))


def test_the_command_says_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delitem(sys.modules, "kdcache")
    with pytest.raises(SystemExit, match=r"^kdcache: error: kdcache needs Linux or macOS; .*WSL"):
        runpy.run_path(str(HERE / "cli" / "kdcache_cli" / "__init__.py"))
