"""The name under which a worker commits."""

import os
import re

import pytest
from nursery import fork_server

from kdcache.cache.writer_name import Writer, parse_writer, writer_name


def test_a_name_says_host_process_and_rank() -> None:
    alone, ranked = parse_writer(writer_name()), parse_writer(writer_name(3))
    assert alone == ranked._replace(rank=None) and ranked.rank == 3
    assert alone.host == os.uname().nodename and alone.process == os.getpid()
    assert re.fullmatch("[0-9a-f]{8}", alone.word) and parse_writer(writer_name()) == alone


def test_processes_of_one_number_are_told_apart() -> None:
    """Each container counts its processes from 1: a fork has another word than its parent."""
    context = fork_server()
    here, there = context.Pipe(duplex=False)
    for _ in range(2):
        context.Process(target=_send, args=(there,)).start()
    words = {parse_writer(name).word for name in (writer_name(), here.recv(), here.recv())}
    assert len(words) == 3
    child, parent = os.pipe()
    if os.fork() == 0:
        os.write(parent, parse_writer(writer_name()).word.encode())
        os._exit(0)
    assert os.read(child, 8).decode() not in words
    os.wait()


def _send(end: object) -> None:
    end.send(writer_name())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("n7:4242", Writer("n7", 4242)),
        ("n7:1:0123abcd", Writer("n7", 1, "0123abcd")),
        ("n7:1:0123abcd:12", Writer("n7", 1, "0123abcd", 12)),
        ("", Writer("", None)),
        ("n7", Writer("n7", None)),
        ("n7:one", Writer("n7:one", None)),
        ("n7:1:0123abcd:12:more", Writer("n7:1:0123abcd:12:more", None)),
        (f"n7:{'9' * 5000}", Writer(f"n7:{'9' * 5000}", None)),
    ],
)
def test_names_of_old_caches_and_of_others_are_read(name: str, writer: Writer) -> None:
    assert parse_writer(name) == writer
