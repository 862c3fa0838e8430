"""Who wrote a unit: the name that a commit keeps, which tells the workers of a dump apart."""

import os
import re
import secrets
import socket
from functools import cache
from typing import NamedTuple

_NAME = re.compile(
    r"(?P<host>[^:]*):(?P<process>[0-9]{1,10})" r"(:(?P<word>[0-9a-f]{8})(:(?P<rank>[0-9]{1,9}))?)?"
)


class Writer(NamedTuple):
    """A worker, as its commits name it."""

    host: str
    process: int | None
    """Its number on the host; in a container often 1. None of a name that is not ours."""
    word: str = ""
    """Random: tells processes of one host name and number apart; empty in older caches."""
    rank: int | None = None
    """Its rank among several workers, where it had one."""


def writer_name(rank: int | None = None) -> str:
    """Return the name of this process: `HOST:PROCESS:WORD`, of one of several
    `HOST:PROCESS:WORD:RANK`."""
    process = os.getpid()
    name = f"{socket.gethostname()}:{process}:{_word(process)}"
    if rank is None:
        return name
    return f"{name}:{rank}"


def parse_writer(name: str) -> Writer:
    """Return what a name says, of older caches (`HOST:PROCESS`) too; another text counts as a
    host."""
    match = _NAME.fullmatch(name)
    if match is None:
        return Writer(name, None)
    rank = None
    if match["rank"] is not None:
        rank = int(match["rank"])
    return Writer(match["host"], int(match["process"]), match["word"] or "", rank)


@cache
def _word(process: int) -> str:
    """Return the random word of a process; by its number, since a fork has its parent's memory."""
    return secrets.token_hex(4)
