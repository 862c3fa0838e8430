"""Text files from any editor, lines that come twice, names that are not UTF-8; and every file's
encoding is named."""

import ast
import codecs
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segmentation_files import write_pair
from tiny_models import Noise

from kdcache.config.files import dump_config, load_config
from kdcache.config.spec import Spec
from kdcache.errors import RecipeError, UsageError
from kdcache.loader.class_map import read_class_map
from kdcache.runtime.text_files import path_bytes, path_text, read_columns, read_lines, read_text
from kdcache.sources import DatasetSource, open_source
from kdcache.sources.class_files import read_ids
from kdcache.sources.selection import parse_samples
from kdcache.train.config import TrainConfig
from kdcache.views import load_recipe

ROOT = Path(__file__).parents[2]
EDITORS = {
    "plain": lambda text: text.encode(),
    "byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "Windows": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
    "UTF-16": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("editor", EDITORS)
def test_whatever_editor_wrote_a_file_its_lines_are_the_same(tmp_path: Path, editor: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(EDITORS[editor]("née\n\n 日本 \n"))
    assert [tuple(line) for line in read_lines(path, "names")] == [(1, "née"), (3, "日本")]
    path.write_bytes(EDITORS[editor]('id,class\n\n1, "a,b"\n2,\n'))
    assert [tuple(line) for line in read_columns(path, "ids")] == [
        (3, ["1", '"a', 'b"']),
        (4, ["2", ""]),
    ]


@pytest.mark.parametrize("editor", EDITORS)
def test_every_text_file_that_a_user_writes_is_taken_from_any_editor(
    tmp_path: Path, editor: str
) -> None:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_bytes(EDITORS[editor](text))
        return str(tmp_path / name)

    config = write(
        "run.toml",
        '[train-student]\nrun = "née"\ndata = "digits"\nstudent = "x"\nloss = "ce"\nrecipe ='
        ' "digits"\n',
    )
    assert load_config(TrainConfig, "train-student", file=config, flags={}).run == "née"
    assert load_recipe(write("mine.toml", "size = 8\ntransforms = []\n")).size == 8
    digits = open_source("digits:train")
    class_map = write("map.csv", "student class,teacher class\n1,0\n3,1\n")
    assert read_class_map(class_map, digits, 3).tolist() == [1, 3, -1]
    assert parse_samples(
        write("keys.txt", "00000007\n00000003\n"), 1197, lambda: digits
    ).tolist() == [7, 3]


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (
            "née\nnée".encode("latin-1"),
            r"looks like Windows-1252 or another 8-bit encoding \(byte 0xe9 in line 1\).*iconv -f",
        ),
        (
            "one\ntwo\n日本".encode("shift-jis"),
            r"8-bit encoding \(byte 0x93 in line 3\); save it as UTF-8",
        ),
        (
            "names".encode("utf-16-le"),
            r"looks like UTF-16LE; save it as UTF-8, as with: iconv -f UTF-16LE",
        ),
        ("names".encode("utf-16-be"), "looks like UTF-16BE"),
        ("names".encode("utf-32"), "looks like UTF-32"),
        (codecs.BOM_UTF16_LE + b"abc", "begins as UTF-16 and is damaged"),
        (b"PK\x03\x04\x14\0\0\0", "it is a zip archive .as Excel's"),
        (b"\x89PNG\r\n\x1a\n", "it is a PNG image"),
        (b"a\0b" + bytes(range(1, 200)), "it is a binary file"),
    ],
)
def test_a_file_of_another_encoding_says_what_it_looks_like(
    tmp_path: Path, data: bytes, looks: str
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=rf"^names {path} is no UTF-8 text: .*{looks}") as caught:
        read_text(path, "names")
    assert len(str(caught.value)) < 500


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "it is a folder, not a plain file"),
        (tmp_path / "none", "No such file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(UsageError, match=rf"^recipe .* cannot be read: .*{reason}"):
            read_text(path, "recipe")
    (tmp_path / "x.toml").write_bytes(b"size = \xe9")
    with pytest.raises(UsageError, match=r"recipe file .*x.toml is no UTF-8 text"):
        load_recipe(str(tmp_path / "x.toml"))
    (tmp_path / "x.toml").write_bytes(b"size = = 1")
    with pytest.raises(RecipeError, match="is not TOML"):
        load_recipe(str(tmp_path / "x.toml"))


def test_what_comes_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    def write(text: str) -> str:
        (tmp_path / "x.txt").write_text(text, "utf-8")
        return str(tmp_path / "x.txt")

    digits = open_source("digits:train")
    with pytest.raises(
        UsageError, match=r"samples .*x.txt has '00000003' twice, in lines 1 and 4; keep one"
    ):
        parse_samples(write("00000003\n\n00000004\n00000003 \n"), 1197, lambda: digits)
    with pytest.raises(
        UsageError,
        match=r"line 2: source digits:train has no sample 'x'; keys are such as '00000000'",
    ):
        parse_samples(write("00000003\nx\n"), 1197, lambda: digits)
    with pytest.raises(
        UsageError,
        match=r"class map .*, line 3: class 1 of the teacher has a class .* already, by line 2",
    ):
        read_class_map(write("3,0\n4,1\n5,1\n"), digits, 5)


def test_a_key_that_several_samples_have_names_none_of_them(tmp_path: Path) -> None:
    noise = Noise(3, classes=3)
    noise.images = ["a.png", "b.png", "a.png"]  # type: ignore[attr-defined]
    source = DatasetSource(noise, Spec("noise"))
    (tmp_path / "keys.txt").write_text("b.png\n", "utf-8")
    assert parse_samples(str(tmp_path / "keys.txt"), 3, lambda: source).tolist() == [1]
    (tmp_path / "keys.txt").write_text("b.png\na.png\n", "utf-8")
    with pytest.raises(
        UsageError, match=r"line 2: several samples have the key 'a.png'; give numbers, A:B"
    ):
        parse_samples(str(tmp_path / "keys.txt"), 3, lambda: source)


def test_a_class_of_the_student_whose_name_two_have_must_be_given_by_number(tmp_path: Path) -> None:
    source = DatasetSource(Noise(3, classes=3), Spec("birds"))
    source.class_names = ("crane", "crane", "owl")
    (tmp_path / "map.csv").write_text("owl,0\ncrane,1\n", "utf-8")
    with pytest.raises(
        UsageError, match=r"line 2: two classes of the student are called 'crane'; give the number"
    ):
        read_class_map(str(tmp_path / "map.csv"), source, 3)


def test_only_a_first_line_of_words_is_a_heading(tmp_path: Path) -> None:
    for text, rows in (
        ("id,class\n1,2\n", [["1", "2"]]),
        ("1,void\n", [["1", "void"]]),
        ("-1,255\n", [["-1", "255"]]),
        ("1;2\n", [["1;2"]]),
        ("1,2\nid,class\n", [["1", "2"], ["id", "class"]]),
    ):
        (tmp_path / "x.csv").write_text(text, "utf-8")
        assert [line.fields for line in read_columns(tmp_path / "x.csv", "ids")] == rows


def test_a_heading_is_told_and_a_first_line_with_a_class_is_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = DatasetSource(Noise(3, classes=3), Spec("birds"))
    source.class_names = ("tench", "crane", "owl")
    path = tmp_path / "map.csv"
    path.write_text("tench,O\nowl,1\n", "utf-8")
    with pytest.raises(UsageError, match=r"line 1: 'tench,O' is not STUDENT CLASS,TEACHER CLASS"):
        read_class_map(str(path), source, 3)
    assert not capsys.readouterr().err
    path.write_text("tencj,O\nowl,1\n", "utf-8")
    assert read_class_map(str(path), source, 3).tolist() == [-1, 2, -1]
    told = capsys.readouterr().err
    heading = f"note: class map {path}: line 1 (tencj,O) is taken for the names of the columns\n"
    assert told.startswith(heading)
    path.write_text("student,teacher\nowl,1\n", "utf-8")
    assert read_class_map(str(path), source, 3).tolist() == [-1, 2, -1]
    assert "names of the columns" not in capsys.readouterr().err, "they are the usual ones"


def test_a_first_line_of_ids_with_a_class_is_no_heading(tmp_path: Path) -> None:
    write_pair(tmp_path / "images/0.jpg", tmp_path / "masks/0.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "names.txt").write_text("road\nsky\n", "utf-8")
    options = f"classes={tmp_path}/names.txt,ids={tmp_path}/ids.csv"
    for first in ("O,road", "O,void"):
        (tmp_path / "ids.csv").write_text(f"{first}\n1,sky\n", "utf-8")
        with pytest.raises(UsageError, match=f"line 1: '{first}' is not ID,CLASS"):
            open_source(f"segfolder:{tmp_path},{options}")


def test_the_usual_heading_of_ids_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, is_told in (("id,class", False), ("number,name", True)):
        (tmp_path / "ids.csv").write_text(f"{first}\n1,0\n", "utf-8")
        assert read_ids(str(tmp_path / "ids.csv"), 2, None) == {1: 0}
        assert ("names of the columns" in capsys.readouterr().err) == is_told


def test_quotes_that_do_not_fit_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n" + '"' + "x" * 200_000, "utf-8")
    with pytest.raises(UsageError, match=r"ids .*, line 2: field larger than field limit"):
        read_columns(tmp_path / "x.csv", "ids")


def test_names_of_any_bytes_go_round() -> None:
    for data in (b"plain", "née".encode(), b"caf\xe9/\xff\xfe.png"):
        assert path_bytes(path_text(data)) == data


def test_a_configuration_of_names_that_are_not_utf8_goes_round(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "run": path_text(b"caf\xe9"),
        "data": "digits",
        "recipe": "digits",
        "student": "x",
        "loss": "ce",
    }
    config = TrainConfig(**settings)
    (tmp_path / "config.toml").write_bytes(path_bytes(dump_config(config, "train-student")))
    assert (
        load_config(
            TrainConfig, "train-student", file=str(tmp_path / "config.toml"), flags={}, is_ours=True
        )
        == config
    )


def _unnamed(tree: ast.AST) -> list[int]:
    """Return the lines of calls that open a file as text and do not say its encoding."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        texts = [
            value.value
            for value in node.args
            if isinstance(value, ast.Constant) and isinstance(value.value, str)
        ]
        has_encoding = any(keyword.arg == "encoding" for keyword in node.keywords) or any(
            "utf-8" in text for text in texts
        )
        is_binary = any("b" in text for text in texts)
        is_method = isinstance(node.func, ast.Attribute)
        is_file = (is_method and name in ("read_text", "write_text")) or (
            name == "open" and any(text in ("r", "w", "a", "x") for text in texts)
        )
        is_plain_open = name == "open" and not node.args and is_method
        if (is_file or is_plain_open) and not has_encoding and not is_binary:
            lines.append(node.lineno)
    return lines


def test_the_encoding_of_every_text_file_is_named() -> None:
    assert _unnamed(ast.parse("path.read_text()\npath.open()\npath.open('w')\nopen(p, 'a')")) == [
        1,
        2,
        3,
        4,
    ]
    assert (
        _unnamed(
            ast.parse(
                "p.read_text('utf-8')\np.open('rb')\np.write_text(t, 'utf-8')\np.open('w',"
                " encoding='utf-8')"
            )
        )
        == []
    )
    files = [*ROOT.glob("kdcache/**/*.py"), *ROOT.glob("cli/**/*.py")]
    found = [
        (str(file.relative_to(ROOT)), line)
        for file in files
        for line in _unnamed(ast.parse(file.read_text("utf-8")))
    ]
    assert files and not found


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.txt")
    with pytest.raises(UsageError, match="cannot be read: it is a named pipe, not a plain file"):
        read_text(tmp_path / "keys.txt", "list of keys")
    with pytest.raises(UsageError, match="cannot be read: it is a device, not a plain file"):
        read_text("/dev/zero", "list of keys")
