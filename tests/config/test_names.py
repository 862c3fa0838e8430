"""Names that users give, among those that there are."""

import pytest

from kdcache.config.names import choose
from kdcache.errors import UsageError


def test_choose_lists_few_and_counts_many() -> None:
    assert choose("b", ["a", "b"], "letter") == "b"
    with pytest.raises(UsageError, match=r"unknown letter 'x' \(known: a, b\)"):
        choose("x", ["b", "a"], "letter")
    with pytest.raises(UsageError, match=r"unknown letter 'x' \(known: none\)"):
        choose("x", [], "letter")
    many = [f"detector_number_{number}_of_a_long_name" for number in range(25)]
    with pytest.raises(
        UsageError, match=r"'r_7_of' .*\(25 are known, all in a page; with 'r_7_of'"
    ):
        choose("r_7_of", many, "letter", all_in="a page")
    with pytest.raises(UsageError, match=r"'x' \(25 are known, all in a page\)$"):
        choose("x", many, "letter", all_in="a page")
    with pytest.raises(UsageError, match=r"did you mean 'name7'\? \(40 are known\)"):
        choose("nmae7", [f"name{number}" for number in range(40)], "letter")
