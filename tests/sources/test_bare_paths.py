"""Paths in the place of a spec: what they are taken for, and that it is told."""

from pathlib import Path

import pyarrow as pa
import pytest
from image_files import picture, write_images, write_tar
from pyarrow import parquet

from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import UsageError
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


def test_a_folder_that_exists_is_no_pattern_and_no_file(data: Path) -> None:
    for name in ("set {1}", "best*", "photos.zip", "labels.txt", "shots.png", "old.tar"):
        write_images(data / name, {"cat/a.png": 1})
        assert spec_of_path(f"{data}/{name}", OPENERS) == Spec("imagefolder", f"{data}/{name}")
    (data / "a{1}.csv").write_text("image,label\ncat/a.png,cat\n")
    assert spec_of_path("a{1}.csv", OPENERS) == Spec("csv", "a{1}.csv")


@pytest.mark.parametrize("name", ["masks", "labels"])
def test_a_class_may_be_called_as_the_folder_of_another_source(data: Path, name: str) -> None:
    source = {"masks": "segfolder", "labels": "yolo"}[name]
    write_images(data / "shop", {f"{name}/a.png": 1, "gloves/b.png": 2})
    way_out = rf"write {source}:shop,classes=N, or imagefolder:shop if {name} is a class"
    with pytest.raises(UsageError, match=way_out):
        spec_of_path("shop", OPENERS)
    write_images(data / "shop", {"helmets/c.png": 3})
    assert spec_of_path("./shop", OPENERS) == Spec("imagefolder", "./shop")
    write_images(data / "shop", {"images/c.png": 3})
    with pytest.raises(UsageError, match=way_out):
        spec_of_path("shop", OPENERS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", "'a.zip': an archive is no source; unpack it to folders, or give a function of"),
        ("train.tar.gz", "an archive is no source; unpack it"),
        ("list.txt", "a list is no source; make it a table, a .csv file with the columns image"),
        ("x.jsonl", "a list is no source"),
        (
            "x.json",
            "a file of COCO's is written coco:IMAGES,annotations=x.json; of others, a list is",
        ),
        ("x.npy", "a file of arrays is no source; give a function of yours"),
        ("x.mat", "a file of arrays is no source"),
        ("data-0.arrow", "give the folder that `datasets` saved"),
        ("a.png", "a single image is no source; give the folder that holds one folder per class"),
        ("./a.bin", "'./a.bin': the file is none of .csv, .tsv, .parquet, .tar; give one of"),
    ],
)
def test_a_file_that_is_no_source_says_why_and_what_helps(
    data: Path, name: str, message: str
) -> None:
    (data / name).touch()
    with pytest.raises(UsageError, match=message):
        spec_of_path(name, OPENERS)
