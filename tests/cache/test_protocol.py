"""The commit protocol against a model, on a file system that fails: presence is the commit, and the
first object counts."""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from caches import manifest, records, temporaries
from faulty_os import MEETS, Fault, FaultyOS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.protocol import StoredSample
from kdcache.errors import CacheError, DamagedUnitError, MissingUnitError
from kdcache.shapes import Records
from kdcache.tools.garbage import collect_garbage
from kdcache.verify.cache import verify_cache

SEEDS, UNITS, ROWS = (0, 1, 2, 3), (0, 1), 6
STORES: dict[str, dict[str, Any]] = {
    "zarr": {},
    "webdataset": {"store": "webdataset", "seeds_per_unit": 2, "chunk_rows": 4},
}
MOST_CALLS = 60
seeds, units, writers = st.sampled_from(SEEDS), st.sampled_from(UNITS), st.integers(0, 3)
faults = st.none() | st.builds(
    Fault, st.integers(0, MOST_CALLS), st.sampled_from(list(MEETS)), st.booleans()
)


def made(path: Path, store: str) -> Cache:
    return create_cache(
        path, manifest(rows=ROWS, **{"unit_rows": 4, "chunk_rows": 2, **STORES[store]})
    )


def computed(cache: Cache, first: int, unit: int, writer: int) -> Records:
    return np.stack(
        [records(cache, seed, unit, writer) for seed in cache.manifest.unit_seeds(first)]
    )


def dump(cache: Cache, first: int, unit: int, writer: int) -> None:
    """Write a unit as a worker does."""
    start_seed(cache, first)
    samples = [StoredSample(f"sample {row}") for row in cache.manifest.unit_range(unit)]
    commit_unit(
        cache,
        first,
        unit,
        computed(cache, first, unit, writer),
        samples if cache.manifest.store == "webdataset" else (),
    )


@contextmanager
def errors_of(fault: Fault | None) -> Iterator[None]:
    """Let the block fail if there is a fault, with a cache's error and never with one that tells of
    damage."""
    try:
        yield
    except DamagedUnitError:
        raise
    except CacheError:
        assert fault, "it failed without a fault"


class Protocol(RuleBasedStateMachine):
    store: ClassVar[str] = "zarr"
    has_links: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.os = FaultyOS(self.path, has_links=self.has_links)
        self.cache = made(self.path, self.store)
        self.writers: dict[Path, int] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.path)

    @rule(seed=seeds, unit=units, writer=writers, fault=faults)
    def dump(self, seed: int, unit: int, writer: int, fault: Fault | None) -> None:
        first, done = self.cache.manifest.unit_seeds(seed)[0], False
        with errors_of(fault), self.os.running(fault):
            dump(self.cache, first, unit, writer)
            done = True
        for path in self.os.linked:
            self.writers.setdefault(path, writer)
        if done:
            assert all(self.os.is_durable(path) for path in self.places(first, unit)), (
                "it is told done before it is safe"
            )

    @rule(is_lost=st.randoms(use_true_random=False))
    def cut_power(self, is_lost: random.Random) -> None:
        self.os.cut_power(lambda: is_lost.random() < 0.5)
        self.writers = {path: writer for path, writer in self.writers.items() if path.exists()}
        self.cache = open_cache(self.path)

    @rule()
    def open_again(self) -> None:
        self.cache = open_cache(self.path)

    @rule(age=st.sampled_from([1, 30]))
    def collect(self, age: int) -> None:
        """Collect garbage of a week, in a cache of which all is so many days old."""
        for entry in self.cache.storage.walk():
            os.utime(self.path / entry.key, (time.time() - age * 86_400,) * 2)
        orphans = {path for path in self.os.linked if self.is_orphan(path)}
        told = collect_garbage(self.cache, older_than="7d", delete=True)
        gone = {path for path in self.os.linked if not path.exists()}
        assert gone == (orphans if age > 7 else set()) and (age > 7 or not told["keys"])
        assert age < 7 or not list(temporaries(self.cache.storage))
        self.os.linked = {path: data for path, data in self.os.linked.items() if path not in gone}
        self.writers = {path: writer for path, writer in self.writers.items() if path not in gone}

    @rule(seed=seeds, unit=units)
    def read_unit(self, seed: int, unit: int) -> None:
        if self.is_committed(seed, unit):
            assert self.cache.read_unit(self.cache.commit_of(seed, unit)).tobytes() == self.right(
                seed, unit
            )
        else:
            with pytest.raises(MissingUnitError, match=rf"seed {seed}, unit {unit} "):
                self.cache.commit_of(seed, unit)

    @rule(seed=seeds, rows=st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)).map(sorted))
    def read_rows(self, seed: int, rows: list[int]) -> None:
        if all(self.is_committed(seed, unit) for unit in UNITS):
            width = self.cache.manifest.dtype.itemsize
            whole = b"".join(self.right(seed, unit) for unit in UNITS)
            assert (
                self.cache.read(seed, np.arange(*rows)).tobytes()
                == whole[rows[0] * width : rows[1] * width]
            )
        else:
            with pytest.raises(MissingUnitError, match=f"seed {seed}"):
                self.cache.read(seed, np.arange(*rows))

    @rule()
    def verify(self) -> None:
        assert verify_cache(self.cache)["faults"] == []

    @invariant()
    def presence_is_the_commit(self) -> None:
        present = {(seed, unit) for seed in SEEDS for unit in self.cache.committed_units(seed)}
        assert present == {
            (seed, unit) for seed in SEEDS for unit in UNITS if self.is_committed(seed, unit)
        }
        assert self.cache.seeds() == sorted({seed for seed, _ in present})

    @invariant()
    def no_object_changes(self) -> None:
        assert all(path.read_bytes() == data for path, data in self.os.linked.items())

    def places(self, seed: int, unit: int) -> tuple[Path, Path]:
        first = self.cache.manifest.unit_seeds(seed)[0]
        return self.path / self.cache.format.key(first, unit), self.path / commit_key(first, unit)

    def is_committed(self, seed: int, unit: int) -> bool:
        return self.places(seed, unit)[1] in self.os.linked

    def is_orphan(self, path: Path) -> bool:
        unit = self.cache.format.unit_of(path.relative_to(self.path).as_posix())
        return unit is not None and not self.is_committed(*unit)

    def right(self, seed: int, unit: int) -> bytes:
        return records(self.cache, seed, unit, self.writers[self.places(seed, unit)[0]]).tobytes()


class ProtocolOfTars(Protocol):
    store = "webdataset"


class ProtocolWithoutLinks(Protocol):
    has_links = False


TestProtocol = Protocol.TestCase
TestProtocolOfTars = ProtocolOfTars.TestCase
TestProtocolWithoutLinks = ProtocolWithoutLinks.TestCase
TestProtocol.settings = TestProtocolOfTars.settings = settings(
    max_examples=15, stateful_step_count=25
)
TestProtocolWithoutLinks.settings = settings(max_examples=8, stateful_step_count=25)


@pytest.mark.parametrize(
    ("kind", "store"),
    [*((kind, "webdataset") for kind in MEETS), ("kill", "zarr"), ("short", "zarr")],
)
def test_a_fault_at_every_call_of_a_dump(tmp_path: Path, kind: str, store: str) -> None:
    """A first worker meets the fault, at each call in turn, and a second one with other bytes goes
    on after a power cut."""
    assert fail_at_every_call(tmp_path, kind, store) > {"short": 2, "EEXIST": 8}.get(kind, 20)


@pytest.mark.parametrize("kind", ["kill", "ENOSPC", "EIO", "EEXIST"])
def test_a_fault_at_every_renaming_where_there_are_no_hard_links(tmp_path: Path, kind: str) -> None:
    befalls = ("rename_new", "unlink")
    assert fail_at_every_call(tmp_path, kind, "webdataset", has_links=False, befalls=befalls) > 4


def fail_at_every_call(folder: Path, kind: str, store: str, **system: Any) -> int:
    """Return how many calls there are; each fails in turn, in a dump of its own."""
    for is_done in (False, True) if kind in ("EIO", "EEXIST") else (False,):
        number = 0
        while met(folder / f"{number}{is_done}", store, Fault(number, kind, is_done), **system):
            number += 1
    return number


def met(path: Path, store: str, fault: Fault, **settings: Any) -> bool:
    """Return whether the first worker met the fault."""
    system = FaultyOS(path, **settings)
    path.mkdir()
    with errors_of(fault), system.running(fault):
        dump(made(path, store), 0, 0, 1)
    if not system.num_faults:
        return False
    system.cut_power(lambda: True)
    with system.running():
        cache = made(path, store)
        dump(cache, 0, 0, 2)
    found = cache.read_unit(cache.commit_of(0, 0)).tobytes()
    assert sum(found == computed(cache, 0, 0, writer)[0].tobytes() for writer in (1, 2)) == 1
    assert cache.committed_units(0) == [0] and verify_cache(cache)["faults"] == []
    assert all(one.read_bytes() == data for one, data in system.linked.items())
    return True
