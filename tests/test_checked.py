"""Signatures are checked in tests: types of all functions, and sizes where they have names."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from beartype import BeartypeConf, beartype
from checked import MOST_CALLS, begin_test, checked
from runs import dump

from kdcache.shapes import Logits, PerRow
from kdcache.sources import open_source
from kdcache.views import load_recipe

checks = checked(typechecker=beartype(conf=BeartypeConf(violation_type=TypeError)))
FIVE_ROWS, SIX_ROWS = torch.zeros(5, 2), torch.zeros(6)


@checks
def count(rows: int) -> int:
    return rows if rows < 3 else str(rows)


def test_types_are_checked_on_the_way_in_and_out() -> None:
    assert count(2) == 2
    for wrong in ("2", 3):
        with pytest.raises(TypeError, match="violates type hint"):
            count(wrong)


@checks
def weighted(logits: Logits, weights: PerRow) -> Logits:
    return logits * weights[:, None] if logits.sum() == 0 else logits[1:]


def test_sizes_of_one_name_are_equal() -> None:
    assert weighted(FIVE_ROWS, SIX_ROWS[1:]).shape == (5, 2)
    for wrong in ((FIVE_ROWS, SIX_ROWS), (FIVE_ROWS + 1, SIX_ROWS[1:])):
        with pytest.raises(TypeError, match="violates type hint"):
            weighted(*wrong)


@checks
def hidden(pairs: "list[tuple[Logits, PerRow]]", use: Callable[[Logits], None] | None) -> None:
    pass


def test_sizes_within_containers_are_equal_too() -> None:
    hidden([(FIVE_ROWS, SIX_ROWS[1:])], None)
    with pytest.raises(TypeError, match="violates type hint"):
        hidden([(FIVE_ROWS, SIX_ROWS)], None)


def test_the_first_calls_of_a_test_are_checked() -> None:
    for _ in range(MOST_CALLS - 1):
        assert count(2) == 2
    with pytest.raises(TypeError, match="violates type hint"):
        count("2")
    assert count(0.5) == 0.5
    begin_test()
    with pytest.raises(TypeError, match="violates type hint"):
        count("2")


@checks
@dataclass
class Scored:
    logits: Logits
    scores: PerRow


def test_fields_of_a_dataclass_are_checked() -> None:
    Scored(FIVE_ROWS, SIX_ROWS[1:])
    with pytest.raises(TypeError, match="violates type hint"):
        Scored(FIVE_ROWS, SIX_ROWS)


def test_functions_and_methods_of_the_package_are_checked() -> None:
    """Those with shapes are in losses/test_losses.py."""
    with pytest.raises(TypeError, match="violates type hint"):
        load_recipe(5)
    with pytest.raises(TypeError, match="violates type hint"):
        open_source("digits").sample("first")
    with pytest.raises(TypeError, match="violates type hint"):
        dump("cache", batch_size="many")


class Outer:
    def fail(self) -> None:
        raise ValueError("reached")


@checks
class Inner(Outer):
    @checks
    def fail(self) -> None:
        super().fail()  # whose class is a variable of an outer function


def test_a_traceback_through_a_checked_function_shows_its_variables() -> None:
    with pytest.raises(ValueError, match="reached") as caught:
        Inner().fail()
    assert any("self" in entry.frame.f_locals for entry in caught.traceback)
    assert any("_call" in entry.frame.f_locals for entry in caught.traceback)
