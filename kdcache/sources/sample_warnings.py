"""Warnings about samples, with the sample's name, once for each kind.

Pillow warns of an image without its name, and a loader worker warns into a stream that nobody can
attribute. So whoever works on a sample says which, and what is heard in a worker travels to the
main process beside the views.
"""

import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from kdcache.errors import KdcacheWarning


class SampleWarning(NamedTuple):
    """A warning that was raised while a sample was worked on."""

    kind: str
    """Equal for warnings that differ in numbers only."""
    text: str
    """With the sample's name."""


_NOT_ABOUT_SAMPLES = (
    KdcacheWarning,
    DeprecationWarning,
    PendingDeprecationWarning,
    ImportWarning,
    ResourceWarning,
)
_CURRENT: ContextVar[Callable[[], str] | None] = ContextVar("sample", default=None)
_TOLD: set[str] = set()


class about_sample:  # noqa: N801 # a function to its callers
    """Say which sample the block works on; `name` is called only if there is a warning.

    It is entered twice for each view, and a class takes half as long as a generator.
    """

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._token = _CURRENT.set(self._name)

    def __exit__(self, *error: object) -> None:
        _CURRENT.reset(self._token)


@contextmanager
def heard_warnings() -> Iterator[list[SampleWarning]]:
    """Collect the warnings about samples of this thread instead of showing them; others are shown
    as before."""
    collected_warnings: list[SampleWarning] = []
    thread = threading.get_ident()
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any
        ) -> None:
            warning = None
            if threading.get_ident() == thread:
                warning = sample_warning(message, category)
            if warning is None:
                show_others(message, category, *args, **kwargs)
            else:
                collected_warnings.append(warning)

        warnings.showwarning = show
        yield collected_warnings


def sample_warning(message: Warning | str, category: type[Warning]) -> SampleWarning | None:
    """Return a warning that was just raised with the name of the sample that it is about; None if
    it is about none."""
    name = _CURRENT.get()
    if name is None or issubclass(category, _NOT_ABOUT_SAMPLES):
        return None
    text = " ".join(str(message).split())
    kind = f"{category.__name__} {re.sub(r'[0-9]+', '#', text)}"
    return SampleWarning(kind, f"{name()}: {text}")


def is_news(warning: SampleWarning) -> bool:
    """Return whether this process was told no warning of this kind yet; from now on it was."""
    if warning.kind in _TOLD:
        return False
    _TOLD.add(warning.kind)
    return True


def tell_warnings(collected_warnings: Iterable[SampleWarning]) -> None:
    """Warn of what was heard, once in this process for each kind."""
    for warning in collected_warnings:
        if is_news(warning):
            warnings.warn(f"{warning.text}; told once", KdcacheWarning, stacklevel=2)
