"""Dumps killed at random moments, and dumps of one cache at the same time, while a reader looks on."""

import threading
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from nursery import SETTINGS, UNITS, num_committed, started, to_the_end

from kdcache.cache import Cache, open_cache
from kdcache.errors import CacheError, MissingUnitError
from kdcache.verify import verify_cache

pytestmark = pytest.mark.slow

KILLS = 30
Right = dict[tuple[int, int], bytes]


def units_of(cache: Cache) -> Right:
    return {(seed, unit): cache.read_unit(cache.commit_of(seed, unit)).tobytes() for seed, unit in UNITS}


@pytest.fixture(scope="module")
def right(nursery: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Right:
    """Return each unit's records as an unbroken dump writes them."""
    path = tmp_path_factory.mktemp("unbroken") / "cache"
    to_the_end(nursery, path)
    return units_of(open_cache(path))


class Reader(threading.Thread):
    """Reads all that the cache under `path` holds, again and again; anything but right or missing ends it with `failure`."""

    def __init__(self, path: Path, right: Right) -> None:
        super().__init__()
        self.path, self.right = path, right
        self.done = threading.Event()
        self.read = self.missing = self.slabs = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.is_set():
                self.poll()
        except BaseException as error:
            self.failure = error

    def poll(self) -> None:
        try:
            cache = open_cache(self.path)
        except CacheError as error:
            assert "it has no zarr.json" in str(error)
            return
        for seed, unit in UNITS:
            try:
                records = cache.read_unit(cache.commit_of(seed, unit))
            except MissingUnitError:
                self.missing += 1
            else:
                assert records.tobytes() == self.right[seed, unit]
                self.read += 1
        for seed in range(3):
            try:
                whole = cache.read(seed, range(240)).tobytes()
            except MissingUnitError:
                continue
            assert whole == b"".join(self.right[one] for one in UNITS if one[0] == seed)
            self.slabs += 1

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def test_killed_at_random_moments_and_run_again(nursery: ForkServerContext, right: Right, tmp_path: Path) -> None:
    random = np.random.default_rng(2026)
    kills, finished, partial, orphans = 0, 0, 0, 0
    path = tmp_path / "cache0"
    with Reader(path, right) as reader:
        while kills < KILLS:
            before = num_committed(path)
            process = started(nursery, path)
            if random.random() < 0.75:  # else it may be killed as early as at its start
                while num_committed(path) == before and process.is_alive():
                    time.sleep(0.001)
                time.sleep(random.uniform(0, 0.15))
            else:
                time.sleep(random.uniform(0, 0.5))
            process.kill()
            process.join()
            assert process.exitcode in (-9, 0), "a dump of a cache that was cut off fails"
            kills += process.exitcode == -9
            partial += 0 < num_committed(path) < len(UNITS)
            orphans += len(list(path.glob("seeds/*/records/c/*/0"))) > num_committed(path)
            if process.exitcode == 0:
                assert units_of(open_cache(path)) == right
                finished += 1
                assert finished <= 10, "the dumps are too fast to be killed"
                reader.path = path = tmp_path / f"cache{finished}"
        to_the_end(nursery, path)
        reader.done.wait(0.5)
    if reader.failure:
        raise reader.failure
    assert partial >= 20, "most kills leave a cache that is begun and not done"
    assert orphans > 0, "some fall between a unit's object and its commit"
    assert reader.read > 200 and reader.missing > 200 and reader.slabs > 0
    cache = open_cache(path)
    assert units_of(cache) == right
    report = verify_cache(cache, views=8, data=cache.manifest.source["spec"])
    assert report["faults"] == [] and report["missing"] == {} and report["units"] == len(UNITS)


def test_two_dumps_of_one_cache_at_once(nursery: ForkServerContext, right: Right, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with Reader(path, right) as reader:
        processes = [started(nursery, path) for _ in range(2)]
        for process in processes:
            process.join(60)
    if reader.failure:
        raise reader.failure
    assert [process.exitcode for process in processes] == [0, 0]
    assert units_of(open_cache(path)) == right
    assert verify_cache(open_cache(path))["faults"] == []
    assert reader.read > 0


def test_no_unit_is_mixed_from_two_dumps(nursery: ForkServerContext, right: Right, tmp_path: Path) -> None:
    """Each process adds a number of its own to the logits, so that every record tells who computed it."""
    path = tmp_path / "cache"
    teacher = SETTINGS["teacher"].replace("conv", "wobbly")
    orders = ("0:3", "2,1,0")  # each begins where the other ends, so both take part however fast; in the middle they race
    processes = [started(nursery, path, teacher=teacher, seeds=order) for order in orders]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    writers = set()
    for unit, records in units_of(open_cache(path)).items():
        added = np.frombuffer(records, np.float32) - np.frombuffer(right[unit], np.float32)
        (number,) = set(np.rint(added).tolist())
        np.testing.assert_allclose(added, number, atol=1e-3)
        writers.add(number)
    assert writers == {process.pid % 997 for process in processes if process.pid}, "both took part"
