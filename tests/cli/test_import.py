"""The command `import`: what it prints, and mistakes that are told before torch is there."""

import json
from pathlib import Path

from click.testing import CliRunner
from imports.fkd_files import key, write_images, write_labels

from kdcache_cli import main


def run(*words: object) -> str:
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_prints_what_was_made_and_info_tells_it(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    labels = write_labels(tmp_path / "labels")
    (labels / f"{key(3)}.tar").unlink()
    words = ("import", "fkd", labels, tmp_path / "cache", "--data", data, "--teacher-name", "L2")
    lines = run(*words, "--size", 24, "--crops", "0:2").splitlines()
    assert f"from     {labels}, fkd" in lines
    assert "seeds    0 to 1, 18 views each" in lines
    assert "labels   2 classes a view" in lines
    assert "teacher  100.00 % right on these views" in lines
    assert "absent   2 views that have no labels" in lines
    again = json.loads(run(*words, "--size", 24, "--crops", "0:2", "--json"))
    assert again["units_written"] == 0
    told = run("info", tmp_path / "cache").splitlines()
    assert "views     stored, of 2 seeds" in told
    assert "imported  from labels of format fkd" in told
    assert "absent    2 views that have no labels; --absent lists them" in told
