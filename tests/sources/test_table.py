"""Tables of images and labels: CSV and Parquet, names and numbers, one clear line for each
mistake."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from image_files import write_images
from pyarrow import parquet

from kdcache.errors import KdcacheError, SourceError, UsageError
from kdcache.sources import Source, open_source
from kdcache.sources.protocol import Filed, Listed

ROWS = [("a.png", "dog", 0), ("b.png", "cat", 1), ("below/c.png", "dog", 2)]
TABLE = "image,label,number\n" + "".join(f"{a},{b},{c}\n" for a, b, c in ROWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", {"a.png": 10, "b.png": 20, "below/c.png": 30})
    (tmp_path / "train.csv").write_text(TABLE)
    columns = [list(column) for column in zip(*ROWS, strict=True)]
    table = pa.table(dict(zip(("image", "label", "number"), columns, strict=True)))
    parquet.write_table(table, tmp_path / "train.parquet")
    return tmp_path


def targets(source: Source) -> list[int]:
    found = []
    for index in range(len(source)):
        target = source.sample(index).target
        assert isinstance(target, int)
        found.append(target)
    return found


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_a_source(folder: Path, kind: str) -> None:
    source = open_source(f"{kind}:{folder}/train.{kind},root={folder}/images")
    assert isinstance(source, Listed) and isinstance(source, Filed)
    assert list(source.keys()) == ["a.png", "b.png", "below/c.png"]
    assert targets(source) == [1, 0, 1] and source.class_names == ("cat", "dog")
    known = source.known_targets()
    assert known is not None and known.tolist() == [1, 0, 1]
    sizes = source.file_sizes()
    assert sizes is not None
    assert sizes[:, 0].tolist() == [Path(name).stat().st_size for name in source.files()]
    assert source.sample(1).image.getpixel((0, 0)) == 20 and not source.may_draw


def test_columns_are_named_and_paths_lie_below_the_table_or_anywhere(folder: Path) -> None:
    table = folder / "images" / "other.tsv"
    table.write_text(f"file\tkind\nb.png\t01\n\n{folder}/images/a.png\t02\n")
    source = open_source(f"csv:{table},image=file,label=kind,classes=5")
    assert targets(source) == [1, 2] and source.classes == 5 and source.class_names is None
    assert [source.key(0), source.key(1)] == ["b.png", "a.png"]


def test_numbers_are_class_indices_and_may_have_names(folder: Path) -> None:
    spec = f"csv:{folder}/train.csv,root={folder}/images,label=number"
    source = open_source(spec)
    assert targets(source) == [0, 1, 2] and source.classes == 3
    (folder / "names.txt").write_text("x\ny\nz\nnever\n")
    named = open_source(f"{spec},classes={folder}/names.txt")
    assert named.class_names == ("x", "y", "z", "never") and targets(named) == [0, 1, 2]
    (folder / "train.csv").write_text("image,label\na.png,0.0\nb.png,2.0\n")
    assert targets(open_source(f"csv:{folder}/train.csv,root={folder}/images")) == [0, 2]


def test_the_order_of_names_is_that_of_the_file_that_states_it(folder: Path) -> None:
    (folder / "names.txt").write_text("owl\ndog\ncat\n")
    spec = f"csv:{folder}/train.csv,root={folder}/images"
    stated = open_source(f"{spec},classes={folder}/names.txt")
    assert targets(stated) == [1, 2, 1] and stated.class_names == ("owl", "dog", "cat")
    assert stated.fingerprint != open_source(spec).fingerprint


def test_the_fingerprint_is_that_of_the_list_not_of_the_place(folder: Path) -> None:
    first = open_source(f"csv:{folder}/train.csv,root={folder}/images")
    same = open_source(f"parquet:{folder}/train.parquet,root={folder}/images")
    assert first.fingerprint == same.fingerprint
    (folder / "train.csv").write_text(TABLE.replace("b.png,cat", "b.png,dog"))
    assert open_source(first.spec).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("", "", UsageError, "is empty|cannot be read|no text"),
        ("imgae,label\na.png,1\n", "", UsageError, "unknown column of .* 'image'; did you mean 'imgae'"),
        (TABLE, ",lable=number", UsageError, "did you mean 'label'"),
        (TABLE, ",kind=x", UsageError, "unknown option of source csv"),
        ("image,label\n", "", SourceError, "lists no image"),
        ("image,label\na.png,\n", "", SourceError, "line 2 has no label"),
        ("image,label\n,1\n", "", SourceError, "line 2 has '' as image"),
        ("image,label\na.png,1,2\n", "", SourceError, "line 2 has 3 fields, and the first line 2"),
        ("image,label\na.png,-1\n", "", UsageError, "line 2: label '-1' is no class index from 0 to 1048575"),
        ("image,label\na.png,7\n", ",classes=5", UsageError, "label '7' is no class index from 0 to 4"),
        ("image,label\na.png,dog\n", ",classes=5", UsageError, "label 'dog' is no class index"),
        ("image,label\na.png,dgo\n", ",classes=NAMES", UsageError, "label in line 2 .* did you mean 'dog'"),
        (TABLE, ",classes=0", UsageError, "classes=0; it must be a number from 1 to 1048576"),
        (TABLE, ",classes=999999999", UsageError, "classes=999999999; it must be a number from 1"),
        (TABLE, ",classes=/nowhere", UsageError, "neither a number nor a text file"),
        ("image,label\nnone.png,1\n", "", SourceError, "there is no image .*none.png.* give root=FOLDER"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_meant_is_told(
    folder: Path, text: str, options: str, error: type[KdcacheError], message: str
) -> None:
    (folder / "names.txt").write_text("cat\ndog\n")
    (folder / "a.csv").write_text(text)
    options = options.replace("NAMES", str(folder / "names.txt"))
    with pytest.raises(KdcacheError, match=message) as caught:
        open_source(f"csv:{folder}/a.csv,root={folder}/images{options}")
    assert isinstance(caught.value, error | SourceError) and len(str(caught.value)) < 500


def test_a_table_that_is_none_is_told(folder: Path) -> None:
    with pytest.raises(SourceError, match="root=/nowhere is not a folder"):
        open_source(f"csv:{folder}/train.csv,root=/nowhere")
    with pytest.raises(SourceError, match="is not a file; write csv:FILE"):
        open_source(f"csv:{folder}/none.csv")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        open_source(f"parquet:{folder}/train.csv")
    with pytest.raises(UsageError, match="did you mean 'number'"):
        open_source(f"parquet:{folder}/train.parquet,label=nubmer")
    (folder / "a.csv").write_text('image,label\n"a.png,1\nb.png,2\n')
    with pytest.raises(SourceError, match=r"line 3 has 1 fields, .*; close each quote"):
        open_source(f"csv:{folder}/a.csv,root={folder}/images")
    (folder / "a.csv").write_text('image,label\n"' + "a.png,1\n" * 20_000)
    with pytest.raises(SourceError, match=r"field larger than field limit .*; close each quote"):
        open_source(f"csv:{folder}/a.csv,root={folder}/images")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Source]:
    """Return what opens a table of labels, each with an image of its own."""

    def open_labels(labels: list[Any] | pa.Array, options: str = "", kind: str = "csv") -> Source:
        names = [f"{number}.png" for number in range(len(labels))]
        write_images(tmp_path, dict.fromkeys(names, 1))
        path = tmp_path / f"labels.{kind}"
        if kind == "csv":
            lines = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
            path.write_text("image,label\n" + "".join(lines))
        else:
            parquet.write_table(pa.table({"image": names, "label": labels}), path)
        return open_source(f"{kind}:{path}{options}")

    return open_labels


def test_one_bad_label_does_not_turn_class_indices_into_names(
    opened: Callable[..., Source], tmp_path: Path
) -> None:
    labels = [*range(12), "?"]
    message = (
        r"line 14: label '\?' is no class index .*, as most labels are; mend the line, leave it"
    )
    with pytest.raises(UsageError, match=f"{message} out, or give classes=FILE"):
        opened(labels)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"c{number}\n" for number in range(12)))
    with pytest.raises(UsageError, match=f"{message} out, or add it to the file of classes"):
        opened(labels, f",classes={names}")
    names.write_text("".join(f"{label}\n" for label in labels))
    assert targets(opened(labels, f",classes={names}")) == list(range(13))


def test_names_of_which_some_are_numbers_stay_names(opened: Callable[..., Source]) -> None:
    source = opened(["cat", "7", "dog", "8"])
    assert source.class_names == ("7", "8", "cat", "dog") and targets(source) == [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "1", "nan"], r"line 4 has no label \(nan\); leave it out"),
        (["cat", "NaN"], r"line 3 has no label \(NaN\)"),
        (["0", "<NA>"], "line 3 has no label"),
        (
            ["0", "0.5"],
            "line 3: label '0.5' is no whole number; give class indices from 0, or give",
        ),
        (["cat", "1e-05"], "line 3: label '1e-05' is no whole number"),
        (["0", "999999999"], "line 3: label '999999999' is no class index from 0 to 1048575"),
        (
            ["0", "1" * 19],
            "line 3: label '1111111111111111111' is no class index from 0 to 1048575",
        ),
    ],
)
def test_a_label_that_is_none_is_refused_with_its_line(
    opened: Callable[..., Source], labels: list[str], message: str
) -> None:
    with pytest.raises(KdcacheError, match=message):
        opened(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0, None, 1]), "line 2 has no label; leave it out"),
        (pa.array([0.0, float("nan")]), r"line 2 has no label \(nan\)"),
        (pa.array([0.0, 1.5]), "line 2: label '1.5' is no whole number"),
        (pa.array([0.0, float("inf")]), "line 2: label 'inf' is no whole number"),
        (pa.array([[0], [1]]), r"line 1: label \[0\] is neither UTF-8 text nor a number; give label=COLUMN"),
        (pa.array([{"a": 1}]), "line 1: label {'a': 1} is neither UTF-8 text nor a number"),
        (pa.array([date(2020, 1, 1)]), "line 1: label datetime.date.* is neither UTF-8 text"),
        (pa.array([b"cat", b"\xff"]), r"line 2: label b'\\xff' is neither UTF-8 text nor a number; give label=COLUMN"),
    ],
)  # fmt: skip
def test_a_label_of_a_parquet_file_that_is_none_is_refused_with_its_line(
    opened: Callable[..., Source], labels: pa.Array, message: str
) -> None:
    with pytest.raises(KdcacheError, match=message):
        opened(labels, kind="parquet")


def test_whole_floats_are_numbers_and_bytes_are_text(opened: Callable[..., Source]) -> None:
    whole = opened(pa.array([1.0, 0.0]), kind="parquet")
    assert targets(whole) == [1, 0] and whole.class_names is None
    assert opened(pa.array([b"dog", b"cat"]), kind="parquet").class_names == ("cat", "dog")


def test_what_a_file_names_is_a_class_whatever_it_looks_like(
    opened: Callable[..., Source], tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("nan\n0.5\n")
    source = opened(["0.5", "nan"], f",classes={tmp_path}/names.txt")
    assert targets(source) == [1, 0]


@pytest.mark.parametrize("second", ["a.png,1", "./a.png,0", "below/../a.png,0"])
def test_an_image_that_comes_twice_is_refused_with_both_lines(folder: Path, second: str) -> None:
    (folder / "a.csv").write_text(f"image,label\na.png,0\nb.png,1\n{second}\n")
    with pytest.raises(UsageError, match=r"images/a\.png' twice, in lines 2 and 4; keep one"):
        open_source(f"csv:{folder}/a.csv,root={folder}/images")
