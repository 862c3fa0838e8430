from pathlib import Path

import pytest

from kdcache.errors import ModelError, SourceError, UsageError
from kdcache.runtime.user_code import user_code
from kdcache.sources import as_source


def broken() -> None:
    raise KeyError("label")


def test_what_users_code_raises_is_one_line_with_the_class_the_message_and_the_place() -> None:
    with pytest.raises(SourceError) as caught, user_code("sample 7 of mine:build", SourceError):
        broken()
    line = broken.__code__.co_firstlineno + 1
    expected = (
        f"sample 7 of mine:build fails: KeyError: 'label' ({Path(__file__).name}, line {line});"
        " mend it"
    )
    assert str(caught.value) == expected


class WithoutFrames:
    """A data set whose items are read by code that leaves no frame in a traceback."""

    classes = 2
    __getitem__ = {}.__getitem__

    def __len__(self) -> int:
        return 3


def test_no_file_of_kdcache_is_named_as_the_users() -> None:
    with pytest.raises(SourceError, match="KeyError") as caught:
        as_source(WithoutFrames())
    assert ".py" not in str(caught.value)


def test_errors_of_kdcache_and_of_memory_pass_as_they_are() -> None:
    for raised in (UsageError("no such thing"), MemoryError("8 GB")):
        with pytest.raises(type(raised)) as caught, user_code("sample 7", SourceError):
            raise raised
        assert caught.value is raised


def test_a_long_message_of_many_lines_is_cut_to_one_line() -> None:
    with pytest.raises(ModelError) as caught, user_code("model mine:build", ModelError):
        raise RuntimeError("shape\n" * 1000)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 350
