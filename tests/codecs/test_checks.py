"""Records of maps are checked byte plane by byte plane, and refused for what records of rows are
refused for."""

from typing import Any

import numpy as np
import pytest

from kdcache.codecs import check_records
from kdcache.errors import CodecError

CLASSES = 19
FLOATS = [np.nan, np.inf, -np.inf]
HUGE = [*FLOATS, 2.0**40, -(2.0**40), 3e38]
CASES: list[tuple[str, Any, dict[str, str], Any, list[Any]]] = [
    ("<f2", [("scale", "<f4"), ("logits", "<f2", (5,))], {}, 65504, FLOATS),
    *(
        (name, [("scale", "<f4"), ("logits", name, (5,))], {}, 1.0995e12, HUGE)
        for name in ("<f4", "<f8")
    ),
    (
        "bfloat16",
        [("logits", "<u2", (5,))],
        {"dtype": "bfloat16"},
        0x5380,
        [0x7F80, 0xFF80, 0x7FC1, 0x5381, 0xD381],
    ),
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
            told = (
                "NaN or infinity in ",
                "past 1.1e+12 in ",
                "a class beyond 18 in classes",
                "a class twice",
                "negative",
            )
            assert any(words in str(error) for words in told)
            found.append(True)
    assert found[0] == found[1], "maps are refused for what rows are refused for"
    return found[0]


@pytest.mark.parametrize(
    ("row", "stored", "largest", "bad"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_what_is_no_number_or_huge_is_refused_wherever_it_stands(
    row: Any, stored: dict[str, str], largest: Any, bad: list[Any]
) -> None:
    rows = np.zeros((2, 3, 4), row)
    values = np.random.default_rng(0).normal(0, 1000, rows["logits"].shape)
    rows["logits"] = np.abs(values) if stored else values
    rows["logits"][1, 0, 1, 2] = largest
    assert not refused(stored, rows), "the largest number is taken"
    for place in np.ndindex(rows["logits"].shape):
        changed = rows.copy()
        changed["logits"][place] = bad[sum(place) % len(bad)]
        assert refused(stored, changed)
    if "scale" in rows.dtype.names:
        for value in HUGE:
            rows["scale"][1, 2, 3] = value
            assert refused(stored, rows)


@pytest.mark.parametrize("kind", ["u1", "<u2", "<u4"])
def test_classes_that_there_are_not_are_refused(kind: str) -> None:
    rows = np.zeros((1, 3, 4), [("classes", kind, (2,)), ("logits", "<f2", (2,))])
    for number in (18, 19, 255, *(() if kind == "u1" else (256, 274))):
        rows["classes"][0, 1, 1, 1] = number
        assert refused({}, rows) == (number >= CLASSES)


@pytest.mark.parametrize(
    ("kind", "count"), [("u1", 2), ("u1", 19), ("<u2", 3), ("<u4", 100), ("<u2", 70)]
)
def test_a_class_that_comes_twice_is_refused_but_for_absent_rows(kind: str, count: int) -> None:
    classes = max(count, CLASSES)
    generator = np.random.default_rng(0)
    rows = np.zeros((2, 3, 5), [("classes", kind, (count,)), ("logits", "<f2", (count,))])
    for place in np.ndindex(rows.shape):
        rows["classes"][place] = generator.permutation(classes)[:count]
    for at in ((1, 2), (0, 0), (1, 1)):  # of absent views all is zero
        rows[at] = np.zeros((), rows.dtype)
    checks = [(as_maps(rows), rows.dtype), (rows, None)]
    for records, row in checks:
        check_records({"configuration": {}}, records, row, classes)
    rows["classes"][0, 2, 4, count - 1] = rows["classes"][0, 2, 4, 0]
    for records, row in ((as_maps(rows), rows.dtype), (rows, None)):
        with pytest.raises(CodecError, match=r"record \d of it holds a class twice in classes"):
            check_records({"configuration": {}}, records, row, classes)


def test_a_negative_variance_is_refused() -> None:
    rows = np.zeros((2, 3, 4), [("logits", "<f2", (2,)), ("tail_var", "<f2")])
    rows["tail_var"] = np.linspace(0, 60000, rows.size).reshape(rows.shape)
    rows["tail_var"][1, 1, 1] = -0.0
    assert not refused({}, rows), "zero has no sign"
    rows["tail_var"][1, 1, 1] = -6e-8
    assert refused({}, rows), "the least number below zero"
