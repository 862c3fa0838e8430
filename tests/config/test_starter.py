"""The file of settings to begin with: it loads, and each line that is commented out could stand."""

import re
from pathlib import Path

import pytest
from command_line import kdcache, kdcache_json, mistake
from runs import largest_file

from kdcache.config.files import load_config
from kdcache.config.starter import starter_text
from kdcache.dump.config import DumpConfig
from kdcache.train.config import TrainConfig

COMMENTED = re.compile(r"^# (\w+ = )", re.MULTILINE)


def test_a_file_to_begin_with_is_written_and_loads(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    shown = kdcache("init", file)
    assert f"kdcache train-student --config {file}" in shown
    assert f"kdcache dump-teacher --config {file} --plan" in file.read_text()
    dumping = load_config(DumpConfig, "dump-teacher", file=str(file), flags={})
    training = load_config(TrainConfig, "train-student", file=str(file), flags={})
    assert dumping.cache == training.cache and dumping.data == training.data
    assert "exists; give another name" in mistake("init", file)


def test_a_full_disk_leaves_no_file_that_is_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    with largest_file(100):
        assert "make room" in mistake("init", file)
    assert not list(tmp_path.iterdir())
    assert f"kdcache train-student --config {file}" in kdcache("init", file)


def test_every_line_that_is_commented_out_may_stand(tmp_path: Path) -> None:
    text = starter_text()
    assert len(COMMENTED.findall(text)) > 10
    file = tmp_path / "all.toml"
    file.write_text(COMMENTED.sub(r"\1", text))
    dumping = load_config(DumpConfig, "dump-teacher", file=str(file), flags={})
    training = load_config(TrainConfig, "train-student", file=str(file), flags={})
    assert dumping.teacher_classes == 1000 and training.ema.decay == 0.9999


def test_what_is_shown_as_usual_is_the_default() -> None:
    usual = {"run_seed": 0}
    for name, value in usual.items():
        assert f"# {name} = {value}" in starter_text()
        fields = TrainConfig.__dataclass_fields__
        assert fields[name].default == value


def test_its_name_is_kdcache_toml_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kdcache_json("init")["file"] == "kdcache.toml"
    assert (tmp_path / "kdcache.toml").is_file()
    assert "does not end with .toml" in mistake("init", "settings.txt")
    assert "cannot write" in mistake("init", "nowhere/a.toml")
