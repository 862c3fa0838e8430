"""The forms of a document's values."""

import re
from typing import Any

import pytest

from kdcache.cache.documents.schema import Items, Number, Table, Text, require

FORM: dict[str, Any] = {
    "count": range(3, 9),
    "text?": Text(4),
    "share?": Number(0, 1),
    "pair?": (range(5), Text(2)),
    "list?": Items(range(2), 3),
    "table?": Table(Number(0, 9), 2, key=re.compile("[a-z]+")),
    "either?": frozenset({None, re.compile("on|off")}),
    "flag?": bool,
}
TAKEN: list[dict[str, Any]] = [
    {"count": 3},
    {"count": 8, "of the future": [[]]},
    {
        "count": 3,
        "text": "four",
        "share": 1,
        "pair": [4, "ab"],
        "list": [0, 1, 1],
        "table": {"a": 0.5},
    },
    {"count": 3, "share": 0.5, "list": [], "table": {}, "either": None, "flag": False},
    {"count": 3, "either": "on"},
]
REFUSED: list[tuple[Any, str]] = [
    ({}, "it has no count"),
    ({"count": True}, "count is True; it must be an integer from 3 to 8"),
    ({"count": 3.0}, "count is 3.0; it must be an integer"),
    ({"count": 9}, "count is 9; it must be an integer from 3 to 8"),
    ({"count": 3, "text": "five!"}, "text has 5 characters; it may have 4"),
    ({"count": 3, "text": 4}, "text is 4; it must be text"),
    ({"count": 3, "share": 1.5}, "share is 1.5; it must be a number from 0 to 1"),
    ({"count": 3, "share": float("nan")}, "share is nan; it must be a number"),
    ({"count": 3, "share": True}, "share is True; it must be a number"),
    ({"count": 3, "share": 10**400}, "it must be a number from 0 to 1"),
    ({"count": 3, "pair": [4]}, "pair is .4.; it must be a list of 2"),
    ({"count": 3, "pair": [4, "abc"]}, "pair has 3 characters; it may have 2"),
    ({"count": 3, "list": [0, 2]}, "list is 2; it must be an integer from 0 to 1"),
    ({"count": 3, "list": [0] * 4}, "list has 4 values; it may have 3"),
    ({"count": 3, "list": {}}, "list is .*; it must be a list"),
    (
        {"count": 3, "table": {"A": 1}},
        r"a key of table is 'A'; it must be text that matches \[a-z\]\+",
    ),
    ({"count": 3, "table": {"a": 1, "b": 1, "c": 1}}, "table has 3 keys; it may have 2"),
    ({"count": 3, "table": {"a" * 101: 1}}, "a key of table has 101 characters; it may have 100"),
    ({"count": 3, "table": {"a": "x"}}, "table.a is 'x'; it must be a number from 0 to 9"),
    (
        {"count": 3, "either": "maybe"},
        "either is 'maybe'; it must be null or text that matches on|off",
    ),
    ({"count": 3, "flag": 1}, "flag is 1; it must be true or false"),
    ([], "it is .*; it must be an object"),
    ("x" * 10**6, "it must be an object"),
]


@pytest.mark.parametrize("value", TAKEN)
def test_what_has_a_form_is_taken(value: Any) -> None:
    require(value, FORM, "")


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_has_another_form_is_named_with_what_it_must_be(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        require(value, FORM, "")
    assert len(str(caught.value)) < 200
