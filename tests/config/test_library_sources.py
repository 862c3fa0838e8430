"""Names in the sources of a library that is not imported."""

import re
import sys
import zipfile
from pathlib import Path

import pytest

from kdcache.config.library_sources import LibrarySources
from kdcache.errors import UsageError

REGISTERED = re.compile(r"^@register\ndef (\w+)", re.MULTILINE)
SOURCE = """
@register
def small_net(): ...

@register
def large_net(): ...

@register
def other_task(): ...

def plain(): ...

old_names = {"tiny_net": "small_net", "vast_net.big_data": "large_net"}
"""


def sources(name: str, *, left_out: str | None = None) -> LibrarySources:
    left_out_names = None
    if left_out is not None:
        left_out_names = re.compile(left_out)
    return LibrarySources(
        name, files=("models/*.py",), registered=REGISTERED, left_out=left_out_names
    )


def write_library(folder: Path, name: str, source: str) -> None:
    models = folder / name / "models"
    models.mkdir(parents=True)
    (models / "nets.py").write_text(source, encoding="utf-8")
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')")


@pytest.mark.parametrize("name", ["small_net", "plain", "tiny_net", "vast_net"])
def test_a_name_that_stands_in_the_sources_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_library(tmp_path, "lib_of_nets", SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    sources("lib_of_nets").require(name, "model")
    assert "lib_of_nets" not in sys.modules


@pytest.mark.parametrize("name", ["smal_net", "small", "net", "register\ndef small_net", ""])
def test_a_name_that_does_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_library(tmp_path, "lib_of_nets", SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"unknown model .* large_net, other_task, small_net"):
        sources("lib_of_nets").require(name, "model")


def test_the_nearest_of_those_for_us_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_library(tmp_path, "lib_of_nets", SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'other_task'"):
        sources("lib_of_nets").require("other_tasc", "model")
    with pytest.raises(UsageError, match=r"'other_tasc' \(known: large_net, small_net\)"):
        sources("lib_of_nets", left_out="other.*").require("other_tasc", "model")


def test_a_library_that_is_imported_is_left_to_itself() -> None:
    LibrarySources("pytest", files=("__init__.py",), registered=re.compile(r'"(\w+)"')).require(
        "rasies", "name"
    )


def test_what_cannot_be_read_is_left_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_library(tmp_path / "empty", "lib_without_sources", "# compiled\n")
    write_library(tmp_path / "zipped", "lib_in_zip", SOURCE)
    archive = tmp_path / "libs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tmp_path / "zipped").rglob("*.py")):
            file.write(path, path.relative_to(tmp_path / "zipped"))
    write_library(tmp_path / "partial", "lib_with_a_lost_file", SOURCE)
    (tmp_path / "partial" / "lib_with_a_lost_file" / "models" / "more.py").symlink_to("nowhere.py")
    monkeypatch.syspath_prepend(tmp_path / "empty")
    monkeypatch.syspath_prepend(tmp_path / "partial")
    monkeypatch.syspath_prepend(archive)
    for library in (
        "lib_without_sources",
        "lib_in_zip",
        "lib_with_a_lost_file",
        "lib_that_is_nowhere",
    ):
        sources(library).require("smal_net", "model")
