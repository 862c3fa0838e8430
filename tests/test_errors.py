"""Messages are one line of bounded length, whatever they quote."""

import pickle

import pytest

from kdcache.errors import (
    MOST_MESSAGE,
    CacheError,
    KdcacheError,
    UsageError,
    brief,
    quoted,
    shortened,
)


def test_of_a_long_message_the_beginning_and_the_way_out_stay() -> None:
    message = str(CacheError(f"cache x is damaged: {'y' * 10**6}; restore it from a copy"))
    assert len(message) == MOST_MESSAGE and "yyy...yyy" in message
    assert message.startswith("cache x is damaged: yyy") and message.endswith(
        "yyy; restore it from a copy"
    )
    assert str(KdcacheError("short")) == "short" and str(UsageError()) == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\nb", "a b"), ("a\x1b[31mb", "a\\x1b[31mb"), ("é\ud800", "é\\ud800"), ("a\x00", "a\\x00")],
)
def test_a_message_is_a_line_that_any_terminal_can_be_sent(text: str, line: str) -> None:
    assert str(KdcacheError(text)) == line


def test_an_error_comes_through_another_process_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(CacheError("x" * 1000)))  # noqa: S301
    assert isinstance(error, CacheError) and len(str(error)) == MOST_MESSAGE


def test_what_is_quoted_is_cut() -> None:
    assert quoted("a") == "'a'" and brief("a") == "a" and quoted([1]) == "[1]"
    assert len(quoted("a" * 1000)) == len(brief("a" * 1000)) == len(quoted([0] * 1000)) == 60
    assert (
        shortened("abcdefghij", 10) == "abcdefghij" and shortened("abcdefghijk", 10) == "abcd...ijk"
    )
