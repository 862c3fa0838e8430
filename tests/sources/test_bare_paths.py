"""Paths in the place of a spec: what they are taken for, and that it is told."""

from pathlib import Path

import pyarrow as pa
import pytest
from image_files import picture, write_images, write_tar
from pyarrow import parquet

from kdcache.config.spec import Spec, parse_spec
from kdcache.sources import open_source
from kdcache.sources.bare_paths import spec_of_path
from kdcache.sources.registry import OPENERS


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path / "folder", {"cat/a.png": 1, "dog/b.png": 2})
    write_tar(tmp_path / "tars" / "a.tar", {"a.png": picture(1), "a.cls": b"0"})
    (tmp_path / "train.csv").write_text("image,label\ncat/a.png,cat\n")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").touch()
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    parquet.write_table(pa.table({"image": ["cat/a.png"], "label": [0]}), tmp_path / "p.parquet")
    images = pa.array([{"bytes": picture(1), "path": None}])
    parquet.write_table(pa.table({"image": images, "label": [0]}), tmp_path / "hub.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("folder", "imagefolder:folder"),
        ("{0}/folder", "imagefolder:{0}/folder"),
        ("./folder,fold=0/5", "imagefolder:./folder,fold=0/5"),
        ("{0}/tars", "tars:{0}/tars"),
        ("tars/a.tar", "tars:tars/a.tar"),
        ("tars/a-{{0..3}}.tar,classes=4", "tars:tars/a-{{0..3}}.tar,classes=4"),
        ("train.csv", "csv:train.csv"),
        ("train.csv,root=folder", "csv:train.csv,root=folder"),
        ("p.parquet", "parquet:p.parquet"),
        ("hub.parquet", "hf:parquet,data_files=hub.parquet"),
        ("saved", "hf:saved"),
        ("./voc", "voc:./voc"),
    ],
)
def test_a_path_is_taken_for_a_source(data: Path, text: str, spec: str) -> None:
    taken = spec_of_path(text.format(data), OPENERS)
    assert taken is not None and taken == parse_spec(spec.format(data))


@pytest.mark.parametrize("text", ["digits:train", "digits", "mypkg:build,path=/x", "mypkg", ""])
def test_a_spec_is_no_path(text: str) -> None:
    assert spec_of_path(text, OPENERS) is None


def test_what_a_path_is_taken_for_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source(f"{data}/folder")
    assert len(source) == 2 and source.spec == f"imagefolder:{data}/folder"
    assert f"data {data}/folder is taken for imagefolder:{data}/folder" in capsys.readouterr().err
    assert open_source(f"{data}/folder").fingerprint == open_source(source.spec).fingerprint


def test_a_path_with_a_comma_is_one_path(data: Path) -> None:
    write_images(data / "a,b=c", {"cat/a.png": 1})
    assert spec_of_path("./a,b=c", OPENERS) == Spec("imagefolder", "./a,b=c")
