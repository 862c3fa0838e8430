"""The way of values into checked dataclasses."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from kdcache.config.fields import build
from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    name: str
    size: int = 3
    rate: float = 0.5
    on: bool = False
    kind: Literal["a", "bb"] = "a"
    limit: float | None = None
    steps: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    options: dict[str, Any] = field(default_factory=dict)


def test_build_fills_a_dataclass() -> None:
    values = {
        "name": "n",
        "rate": 2,
        "limit": 3,
        "steps": [4, 5],
        "inner": {"depth": 7},
        "options": {"x": [1]},
        "on": True,
    }
    table = build(Table, values, "t")
    assert table == Table(
        name="n",
        rate=2.0,
        limit=3.0,
        steps=(4, 5),
        inner=Inner(depth=7),
        options={"x": [1]},
        on=True,
    )
    assert type(table.rate) is float and type(table.limit) is float
    assert build(Table, {"name": 12, "limit": None}, "t") == Table(name="12")
    assert build(Table, dataclasses.asdict(table), "t") == table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "t needs name"),
        (
            {"name": "n", "sice": 3},
            r"unknown t key 'sice'; did you mean 'size'\? \(known: inner, kind, ",
        ),
        ({"name": "n", "zzz": 3}, r"unknown t key 'zzz' \(known"),
        ({"name": True}, "t name is true; it must be text"),
        ({"name": "n", "size": 1.0}, "t size is 1.0; it must be a whole number"),
        ({"name": "n", "size": True}, "t size is true; it must be a whole number"),
        ({"name": "n", "size": "3"}, "t size is '3'; it must be a whole number"),
        ({"name": "n", "rate": True}, "t rate is true; it must be a number"),
        ({"name": "n", "on": 1}, "t on is 1; it must be true or false"),
        ({"name": "n", "kind": "b"}, "unknown t kind 'b'; did you mean 'bb'"),
        ({"name": "n", "limit": "x"}, "t limit is 'x'; it must be a number"),
        ({"name": "n", "steps": 3}, "t steps is 3; it must be a list"),
        ({"name": "n", "steps": [1.5]}, "t steps is 1.5; it must be a whole number"),
        ({"name": "n", "inner": 3}, "t inner is 3, but has keys of its own; write depth=..."),
        ({"name": "n", "inner": {"deph": 3}}, "unknown t inner key 'deph'; did you mean 'depth'"),
        ({"name": "n", "rate": float("inf")}, "t rate is inf; it must be a finite number"),
        ({"name": "n", "limit": float("nan")}, "t limit is nan; it must be a finite number"),
        ({"name": "n", "rate": 10**400}, r"t rate has 401 digits; it must be a number below 2\^63"),
        ({"name": "n", "steps": [10**20]}, "t steps has 21 digits"),
        ({"name": "n", "options": {"a": [{"b": float("nan")}]}}, r"t options\.a\.b is nan"),
        ({"name": "n", "options": 3}, "t options is 3; it must be a table"),
    ],
)
def test_build_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(Table, values, "t")
