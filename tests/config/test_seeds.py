"""Augmentation seeds as settings have them."""

import pytest

from kdcache.config.seeds import parse_seeds
from kdcache.errors import UsageError

SEEDS = {
    "0:4": [0, 1, 2, 3],
    "3": [3],
    "1,0": [1, 0],
    "0:2,5, 7:9": [0, 1, 5, 7, 8],
    "0:2,1:3": [0, 1, 2],
    "4294967295": [2**32 - 1],
}


@pytest.mark.parametrize(("text", "seeds"), SEEDS.items())
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


NO_SEEDS = [
    "",
    "a",
    "1:",
    ":3",
    "3:1",
    "2:2",
    "-1",
    "1.5",
    "0:4:2",
    "4294967296",
    "0,,1",
    "²",
    "0:4000000000",
]


@pytest.mark.parametrize("text", NO_SEEDS)
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"0:4 means 0, 1, 2 and 3|go past|are more than"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2:0", "are none: 2:0 ends before it begins"),
        ("4294967295:4294967299", "go past 4294967295"),
        ("0:100001", "are more than 100000"),
    ],
)
def test_seeds_say_what_is_wrong_with_them(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_seeds(text)
