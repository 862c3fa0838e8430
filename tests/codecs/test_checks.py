"""Records of maps are checked byte plane by byte plane, and refused for what records of rows are refused for."""

from typing import Any

import numpy as np
import pytest

from kdcache.codecs import check_records
from kdcache.errors import CodecError

CLASSES = 19
FLOATS = [np.nan, np.inf, -np.inf]
CASES: list[tuple[str, Any, dict[str, str], list[Any]]] = [
    *((name, [("scale", "<f4"), ("logits", name, (5,))], {}, FLOATS) for name in ("<f2", "<f4", "<f8")),
    ("bfloat16", [("logits", "<u2", (5,))], {"dtype": "bfloat16"}, [0x7F80, 0xFF80, 0x7FC1]),
]


def as_maps(rows: np.ndarray) -> np.ndarray:
    """Return records `[1, 1]` of maps from pixels' rows `[heads, height, width]`."""
    raw = rows.view(np.uint8).reshape(*rows.shape, -1).transpose(0, 3, 1, 2)
    records = np.zeros((1, 1), np.dtype([("maps", "u1", raw.shape)]))
    records["maps"][0, 0] = raw
    return records


def refused(stored: dict[str, str], rows: np.ndarray) -> bool:
    """Return whether rows are refused, as maps and as they are."""
    found = []
    for records, row in ((as_maps(rows), rows.dtype), (rows, None)):
        try:
            check_records({"configuration": stored}, records, row, CLASSES)
            found.append(False)
        except CodecError as error:
            assert "NaN or infinity in " in str(error) or "a class beyond 18 in classes" in str(error)
            found.append(True)
    assert found[0] == found[1], "maps are refused for what rows are refused for"
    return found[0]


@pytest.mark.parametrize(("row", "stored", "bad"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_no_number_is_refused_wherever_it_stands(row: Any, stored: dict[str, str], bad: list[Any]) -> None:
    rows = np.zeros((2, 3, 4), row)
    values = np.random.default_rng(0).normal(0, 1000, rows["logits"].shape)
    rows["logits"] = np.abs(values) if stored else values
    rows["logits"][1, 0, 1, 2] = 0x7F7F if stored else np.finfo(rows["logits"].dtype).max
    assert not refused(stored, rows), "the largest number is one"
    for place in np.ndindex(rows["logits"].shape):
        changed = rows.copy()
        changed["logits"][place] = bad[sum(place) % 3]
        assert refused(stored, changed)
    if "scale" in rows.dtype.names:
        rows["scale"][1, 2, 3] = np.inf
        assert refused(stored, rows)


@pytest.mark.parametrize("kind", ["u1", "<u2", "<u4"])
def test_classes_that_there_are_not_are_refused(kind: str) -> None:
    rows = np.zeros((1, 3, 4), [("classes", kind, (2,)), ("logits", "<f2", (2,))])
    for number in (18, 19, 255, *(() if kind == "u1" else (256, 274))):
        rows["classes"][0, 1, 1, 1] = number
        assert refused({}, rows) == (number >= CLASSES)
