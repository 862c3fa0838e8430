"""Downloads: what the network does is one line."""

import logging
import socket
from collections.abc import Iterator
from urllib.error import HTTPError, URLError

import huggingface_hub
import pytest
from huggingface_hub.utils import http_backoff

from kdcache.runtime.downloads import asking_hub, network_reason

NOWHERE = "http://127.0.0.1:1/model.safetensors"


class Kept(logging.Handler):
    """Keeps the lines that would be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = huggingface_hub.logging.get_logger()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def ask_in_vain() -> None:
    with pytest.raises(Exception, match="refused"):
        http_backoff("HEAD", NOWHERE, max_retries=2, base_wait_time=0.001)


def test_the_tries_of_the_hub_are_one_note(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    with asking_hub():
        ask_in_vain()
    (note,) = capsys.readouterr().err.splitlines()
    assert "no answer of the Hugging Face hub yet: " in note and note.endswith("; trying again")
    assert "refused" in note and not kept.lines
    ask_in_vain()
    assert len(kept.lines) == 5, "what others do with the client is told as ever"


def test_errors_of_the_hub_are_shown(kept: Kept) -> None:
    with asking_hub():
        logging.getLogger("huggingface_hub.utils").error("it is gone")
    assert kept.lines == ["it is gone"]


def raised(error: BaseException, cause: BaseException | None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError(socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
        (raised(OSError("no file"), ConnectionRefusedError("refused.")), "refused"),
        (TimeoutError(), "TimeoutError"),
        (HTTPError(NOWHERE, 404, "Not Found", {}, None), None),
        (raised(ValueError("no number"), KeyError("a")), None),
    ],
)
def test_the_network_says_why_a_download_came_to_nothing(
    error: BaseException, reason: str | None
) -> None:
    told = network_reason(error)
    if reason is None:
        assert told is None
    else:
        assert told is not None and reason in told and not told.endswith(".")
