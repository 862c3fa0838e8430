"""Signals: remembered where something would be lost, at once elsewhere, and passed over by loader
workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from nursery import Program

from kdcache.errors import StoppedError
from kdcache.runtime import stopping
from kdcache.runtime.stopping import (
    SIGNALS,
    StopInterrupt,
    at_once,
    handlers_kept,
    heeding,
    interrupting,
    look,
    outlive_signals,
    starting_apart,
    starting_blocked,
    stop_requested,
    until_stopped,
)

NAMES = {signal.Signals(number).name for number in SIGNALS}


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python runs handlers between two steps


@pytest.fixture(autouse=True)
def handlers_come_back() -> Iterator[None]:
    # SIGINT is ignored where tests run in the background, SIGHUP under nohup
    outside = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in outside.items():
        signal.signal(number, handler)
    assert after == before
    assert not stop_requested(), "what one job was told is not for the next"


def test_what_a_library_leaves_behind_is_taken_away() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: sys.exit(number))
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_loop_that_heeds_signals_ends_at_its_next_look(name: str) -> None:
    kept = []
    number = signal.Signals[name]
    with pytest.raises(StoppedError) as caught, heeding(lambda: f": {len(kept)} units written"):
        for unit in range(5):
            kept.append(unit)
            if unit == 2:
                send(number)
            look()
    assert (
        str(caught.value)
        == f"stopped by {name}: 3 units written; run the same command again to go on"
    )
    assert caught.value.exit_code == 128 + number


def test_what_schedulers_send_is_heard() -> None:
    assert {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"} == NAMES


def test_where_nothing_is_lost_a_signal_ends_a_command_at_once() -> None:
    with pytest.raises(StopInterrupt) as caught, interrupting():
        send(signal.SIGUSR1)
        time.sleep(60)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    assert isinstance(caught.value, KeyboardInterrupt), "what passes Ctrl-C on passes it on too"


def test_a_second_ctrl_c_ends_a_loop_at_once_but_not_one_that_arrives_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StopInterrupt), heeding(lambda: ""):
        send(signal.SIGINT)
        send(signal.SIGINT)  # as a launcher passes it on
        send(signal.SIGTERM)
        monkeypatch.setattr(stopping, "AGAIN_SECONDS", 0.0)
        send(signal.SIGTERM)  # schedulers repeat it
        send(signal.SIGINT)
        time.sleep(60)


def test_a_wait_inside_a_loop_ends_at_once_and_tells_what_the_loop_keeps() -> None:
    told = pytest.raises(
        StoppedError, match=r"^stopped by SIGTERM after step 7, which is kept; run"
    )
    with told, heeding(lambda: " after step 7, which is kept"), at_once():
        send(signal.SIGTERM)
        time.sleep(60)
    with pytest.raises(StoppedError), heeding(lambda: ""):
        send(signal.SIGTERM)
        with at_once():
            raise AssertionError("it was told before")


def test_a_signal_in_the_middle_of_a_fork_ends_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised there Python prints, and passes over."""
    block = signal.pthread_sigmask

    def block_and_send(how: int, numbers: Any) -> Any:
        before = block(how, numbers)
        if how == signal.SIG_BLOCK:
            signal.raise_signal(signal.SIGINT)
        return before

    with pytest.raises(StopInterrupt), interrupting():
        monkeypatch.setattr(signal, "pthread_sigmask", block_and_send)
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(10)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As after nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupting(), heeding(lambda: ""):
            send(signal.SIGHUP)
            look()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_more_is_begun_once_a_stop_was_asked_for() -> None:
    done = []
    with heeding(lambda: ""):
        for item in until_stopped(range(10)):
            done.append(item)
            if item == 3:
                send(signal.SIGTERM)
    assert done == [0, 1, 2, 3]


def test_a_loop_in_another_thread_leaves_signals_alone() -> None:
    found = []

    def loop() -> None:
        with heeding(lambda: ""):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert found == [before]


def _outliving(ready: Any) -> None:
    outlive_signals()
    asleep = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.2)
    asleep.terminate()
    ready.send(asleep.wait(30))
    ready.poll(60)


def _starts_apart() -> None:
    context = get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_outliving, args=(there,), daemon=True)
    with heeding(lambda: ""):
        with starting_apart():
            child.start()
        assert child.pid is not None
        for _ in range(3):
            for number in SIGNALS:
                os.kill(child.pid, number)
        assert here.recv() == -signal.SIGTERM
        for number in SIGNALS:
            os.kill(child.pid, number)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*SIGNALS}, (
            "the parent goes on hearing them"
        )
    here.send("end")
    child.join(30)
    assert child.exitcode == 0


def test_a_child_that_is_started_apart_passes_over_all_signals(tmp_path: Path) -> None:
    """From its birth on; programs that it starts do not.

    The parent is a process of its own: the tests' may have a small stack for signals, as
    faulthandler sets it up.
    """
    assert Program(_starts_apart, folder=tmp_path).end(90) == (0, "", "")


def test_a_child_that_is_spawned_apart_begins_with_signals_blocked() -> None:
    """As on macOS, where it is no fork: it imports for seconds, and Ctrl-C goes to it too."""
    read, write = os.pipe()
    with starting_blocked("spawn"):
        words = [sys.executable, "-c", "import signal; print(*signal.pthread_sigmask(0, []))"]
        child = os.posix_spawn(
            sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
        )
    os.close(write)
    with os.fdopen(read) as file:
        blocked = file.read().split()
    os.waitpid(child, 0)
    assert {*blocked} == {str(int(number)) for number in SIGNALS}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*SIGNALS}


def test_a_child_that_others_start_is_ended_as_ever() -> None:
    context = get_context("fork")
    with heeding(lambda: ""):
        child = context.Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        child.terminate()
        child.join(30)
    assert child.exitcode == -signal.SIGTERM
