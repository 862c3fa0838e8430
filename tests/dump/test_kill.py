"""Dumps killed at random moments, and dumps of one cache at the same time, while a reader looks on.

`KDCACHE_KILLS=500 pytest tests/dump/test_kill.py -k never_agree -n 0 -s` kills more, and prints
what docs/explanation/reliability.md says.
"""

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from nursery import SETTINGS, UNITS, num_committed, started, to_the_end
from s3_server import BUCKET, environ, environment, faulty_proxy, s3_server

from kdcache.cache import Cache, open_cache
from kdcache.cache.opening import open_storage
from kdcache.errors import CacheError, MissingUnitError
from kdcache.verify.cache import verify_cache

pytestmark = pytest.mark.slow

KILLS = 8
PAUSE = 0.02
"""Seconds between two looks of a reader, which else would take the processor from the writers."""
KILLS_OF_FOUR = int(os.environ.get("KDCACHE_KILLS", "8"))
Right = dict[tuple[int, int], bytes]


class Places(NamedTuple):
    """Where caches are made."""

    root: str
    seeds: int
    """That a cache holds: a server in Python takes its time."""
    variables: dict[str, str]
    """Environment of the processes that dump there."""
    lost: list[str]
    """The responses that were."""


def units_of(cache: Cache, units: list[tuple[int, int]] = UNITS) -> Right:
    return {
        (seed, unit): cache.read_unit(cache.commit_of(seed, unit)).tobytes() for seed, unit in units
    }


def units_before(seed: int) -> list[tuple[int, int]]:
    return [one for one in UNITS if one[0] < seed]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Right:
    """Return each unit's records as an unbroken dump writes them."""
    path = tmp_path_factory.mktemp("unbroken") / "cache"
    to_the_end(path)
    return units_of(open_cache(path))


def writer_of(found: bytes, right: bytes) -> int:
    """Return the number that the writer of a unit adds to all of its logits."""
    added = np.frombuffer(found, np.float32) - np.frombuffer(right, np.float32)
    (number,) = set(np.rint(added).tolist())
    np.testing.assert_allclose(added, number, atol=1e-3)
    return int(number)


class Reader(threading.Thread):
    """Reads all that the cache under `path` holds of its first seeds, again and again; anything but
    right or missing ends it with `failure`."""

    def __init__(
        self, path: Path | str, right: Right, *, agree: bool = True, seeds: int = 3
    ) -> None:
        super().__init__()
        self.path, self.right, self.agree, self.seeds = path, right, agree, seeds
        self.done = threading.Event()
        self.read = self.missing = self.slabs = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.wait(PAUSE):
                self.poll()
        except BaseException as error:
            self.failure = error

    def poll(self) -> None:
        try:
            cache = open_cache(self.path)
        except CacheError as error:
            assert "is not a cache: " in str(error)
            return
        for seed, unit in units_before(self.seeds):
            try:
                records = cache.read_unit(cache.commit_of(seed, unit))
            except MissingUnitError:
                self.missing += 1
            else:
                self.check((seed, unit), records.tobytes())
                self.read += 1
        for seed in range(self.seeds):
            try:
                whole = cache.read(seed, range(128)).tobytes()
            except MissingUnitError:
                continue
            width = len(whole) // 16
            for unit in range(16):
                self.check((seed, unit), whole[unit * width : (unit + 1) * width])
            self.slabs += 1

    def check(self, unit: tuple[int, int], found: bytes) -> None:
        """Check that a unit holds what it should, or where writers do not agree what one of them
        wrote."""
        if self.agree:
            assert found == self.right[unit]
        else:
            writer_of(found, self.right[unit])

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def num_orphans(path: Path) -> int:
    """Return how many units' objects are there without a commit."""
    return len(list(path.glob("seeds/*/records/c/*/0"))) - num_committed(path)


def stop_between(process: ForkServerProcess, path: Path) -> None:
    """Stop a dump again and again, until it stands between a unit's object and its commit, or is
    done."""
    with suppress(ProcessLookupError):  # it is done
        while process.is_alive():
            os.kill(int(process.pid or 0), signal.SIGSTOP)
            if num_orphans(path):
                return
            os.kill(int(process.pid or 0), signal.SIGCONT)
            time.sleep(0.001)


def test_killed_at_random_moments_and_run_again(right: Right, tmp_path: Path) -> None:
    random = np.random.default_rng(2026)
    kills, finished, partial, orphans = 0, 0, 0, 0
    path = tmp_path / "cache0"
    with Reader(path, right) as reader:
        while kills < KILLS or not orphans:
            before, wait = num_committed(path), random.uniform(0, 0.15)
            process = started(path)
            if kills % 4 == 0:  # as early as at its start
                time.sleep(3 * wait)
            elif kills % 4 == 1:
                stop_between(process, path)
            else:
                while num_committed(path) == before and process.is_alive():
                    time.sleep(0.001)
                time.sleep(wait)
            process.kill()
            process.join()
            assert process.exitcode in (-9, 0), "a dump of a cache that was cut off fails"
            kills += process.exitcode == -9
            partial += 0 < num_committed(path) < len(UNITS)
            orphans += num_orphans(path) > 0
            if process.exitcode == 0:
                assert units_of(open_cache(path)) == right
                finished += 1
                assert finished <= 10, "the dumps are too fast to be killed"
                reader.path = path = tmp_path / f"cache{finished}"
        to_the_end(path)
        reader.done.wait(0.5)
    if reader.failure:
        raise reader.failure
    assert partial >= KILLS // 2, "most kills leave a cache that is begun and not done"
    assert reader.read > 50 and reader.missing > 50 and reader.slabs > 0
    cache = open_cache(path)
    assert units_of(cache) == right
    report = verify_cache(cache, views=8, data=cache.manifest.source.spec)
    assert report["faults"] == [] and report["missing"] == {} and report["units"] == len(UNITS)


def test_two_dumps_of_one_cache_at_once(right: Right, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with Reader(path, right) as reader:
        processes = [started(path) for _ in range(2)]
        for process in processes:
            process.join(60)
    if reader.failure:
        raise reader.failure
    assert [process.exitcode for process in processes] == [0, 0]
    assert units_of(open_cache(path)) == right
    assert verify_cache(open_cache(path))["faults"] == []
    assert reader.read > 0


@pytest.fixture(params=["folder", "bucket"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    """Give caches in a folder, or on an S3 server that loses its first response to the writing of
    each object."""
    if request.param == "folder":
        yield Places(str(tmp_path), 3, {}, [])
        return
    with ExitStack() as stack:
        proxy = stack.enter_context(faulty_proxy(stack.enter_context(s3_server())))
        seen: set[str] = set()

        def fault(method: str, path: str, number: int) -> str | None:
            is_first = method == "PUT" and path not in seen
            seen.add(path)
            return "drop" if is_first else None

        proxy.fault = fault
        stack.enter_context(environ(**environment(proxy.port)))
        yield Places(
            f"s3://{BUCKET}/{secrets.token_hex(4)}", 1, environment(proxy.port), proxy.injected
        )


def num_held(path: str) -> int:
    """Return how many units are committed, in a folder or a bucket."""
    storage = open_storage(path)
    return sum(1 for seed in range(3) for _ in storage.list(f"commits/{seed:05d}"))


def await_units(path: str, wanted: int, *, seconds: float) -> None:
    """Return when so many units are committed, or time is up: then no one was at work but those who
    begin."""
    deadline = time.monotonic() + seconds
    while num_held(path) < wanted and time.monotonic() < deadline:
        time.sleep(0.005)


def test_four_writers_that_never_agree(right: Right, places: Places) -> None:
    """Four at a time, killed and begun again; each adds a number of its own to the logits."""
    random, kills, caches, writers = np.random.default_rng(500), 0, 0, set()
    settings = {
        "teacher": SETTINGS["teacher"].replace("conv", "wobbly"),
        "seeds": f"0:{places.seeds}",
    }
    units, start = units_before(places.seeds), time.monotonic()
    with Reader(f"{places.root}/0", right, agree=False, seeds=places.seeds) as reader:
        while kills < KILLS_OF_FOUR:
            reader.path = path = f"{places.root}/{caches}"
            processes, num_units = (
                [started(path, places.variables, **settings) for _ in range(4)],
                0,
            )
            while any(process.exitcode != 0 for process in processes):
                await_units(path, min(num_units + 1, len(units)), seconds=1.0)
                time.sleep(random.uniform(0, 0.1))
                num_units, at = num_held(path), int(random.integers(4))
                if kills < KILLS_OF_FOUR and processes[at].exitcode is None:
                    processes[at].kill()
                    processes[at].join()
                    kills += processes[at].exitcode == -9
                    processes[at] = started(path, places.variables, **settings)
                assert all(process.exitcode in (None, 0) for process in processes), (
                    "a dump of a cache that was cut off fails"
                )
                assert not reader.failure, reader.failure
            cache = open_cache(path)
            writers |= {
                (caches, writer_of(records, right[unit]))
                for unit, records in units_of(cache, units).items()
            }
            assert verify_cache(cache)["faults"] == []
            caches += 1
    assert not reader.failure, reader.failure
    assert kills >= KILLS_OF_FOUR and len(writers) >= caches and reader.read and reader.missing
    told = (
        f"{kills} kills, {caches} caches of {len(units)} units by {len(writers)} writers,"
        f" {len(places.lost)} responses lost"
    )
    print(
        f"{told}; reader: {reader.read} units, {reader.missing} not yet;"
        f" {time.monotonic() - start:.0f} s"
    )
