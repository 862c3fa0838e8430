"""Downloads by libraries: one line on what the network does, in the place of their many."""

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError

from kdcache.errors import one_line
from kdcache.runtime.console import say

_LONGEST_REASON = 200
_NETWORK = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError, URLError)
_NETWORK_NAMES = frozenset(("TransportError", "OfflineModeIsEnabled", "LocalEntryNotFoundError"))
"""Classes of the libraries that the hub's clients stand on; which of these are installed varies."""


def network_reason(error: BaseException) -> str | None:
    """Return why a download came to nothing, as the network says it; None if it is not the network.

    A server that answers and refuses is no failure of the network.
    """
    reason = None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HTTPError):
            return None
        if _is_of_network(cause):
            reason = _text(cause)
        cause = cause.__cause__ or cause.__context__
    return reason


def _text(error: BaseException) -> str:
    return one_line(str(error), _LONGEST_REASON).rstrip(".") or type(error).__name__


def _is_of_network(error: BaseException) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return isinstance(error, _NETWORK) or not names.isdisjoint(_NETWORK_NAMES)


@contextmanager
def asking_hub() -> Iterator[None]:
    """Run the block, which asks the Hugging Face hub: a note says that its client tries again.

    Of the client's own lines only errors are shown: it would print two for each try.
    """
    from huggingface_hub.utils.logging import get_logger  # noqa: PLC0415

    handlers = list(get_logger().handlers)
    note = _OneNote()
    for handler in handlers:
        handler.addFilter(note)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(note)


class _OneNote(logging.Filter):
    """Says once that something is tried again, and passes no record but errors."""

    def __init__(self) -> None:
        super().__init__()
        self._reason = ""
        self._is_said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        if record.levelno >= logging.ERROR:
            return True
        text = record.getMessage()
        if "[Retry" not in text:
            self._reason = text.partition(" thrown while")[0].strip("'")
        elif not self._is_said:
            self._is_said = True
            say(f"note: no answer of the Hugging Face hub yet: {self._reason}; trying again")
        return False
