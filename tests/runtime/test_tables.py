"""Tables in files."""

import csv
from pathlib import Path

import numpy as np
from pyarrow import parquet

from kdcache.runtime.tables import write_table

COLUMNS = {
    "key": ["a, or so", 'b "c"'],
    "class": np.array([3, 40]),
    "score": np.array([0.25, 1 / 3], np.float32),
}


def test_what_stands_in_a_table_is_read_back(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        write_table(tmp_path / name, COLUMNS)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["key", "class", "score"],
        ["a, or so", "3", "0.250000"],
        ['b "c"', "40", "0.333333"],
    ]
    table = parquet.read_table(tmp_path / "a.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "int64", "float"]
    assert table.to_pylist()[0] == {"key": "a, or so", "class": 3, "score": 0.25}


def test_names_of_files_that_are_no_text_are_written_as_they_are(tmp_path: Path) -> None:
    name = b"a\xff.png".decode(errors="surrogateescape")
    write_table(tmp_path / "a.csv", {"key": [name]})
    assert (tmp_path / "a.csv").read_bytes() == b"key\na\xff.png\n"
    write_table(tmp_path / "a.parquet", {"key": [name]})
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == [{"key": "a\ufffd.png"}]


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", {"key": [], "score": np.empty(0)})
    assert (tmp_path / "a.csv").read_text() == "key,score\n"
