"""The commit protocol against a model: presence is the commit, and of several writers the first object counts."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from caches import manifest, records
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kdcache.cache import create_cache, open_cache
from kdcache.cache.commit import commit_key
from kdcache.cache.objects import TEMP_SUFFIX, temporaries
from kdcache.cache.zarr_store import object_key
from kdcache.errors import MissingUnitError

SEEDS, UNITS, ROWS = (0, 1), (0, 1), 6
seeds, units, writers = st.sampled_from(SEEDS), st.sampled_from(UNITS), st.integers(0, 3)


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.cache = create_cache(self.path, manifest(rows=ROWS, unit_rows=4, chunk_rows=2))
        self.winner: dict[tuple[int, int], int] = {}
        self.committed: set[tuple[int, int]] = set()
        self.killed = 0

    def teardown(self) -> None:
        shutil.rmtree(self.path)

    @rule(seed=seeds, unit=units, writer=writers)
    def dump(self, seed: int, unit: int, writer: int) -> None:
        self.cache.start_seed(seed)
        commit = self.cache.commit(seed, unit, records(self.cache, seed, unit, writer))
        self.winner.setdefault((seed, unit), writer)
        self.committed.add((seed, unit))
        assert commit == self.cache.commit_of(seed, unit)

    @rule(seed=seeds, unit=units, writer=writers)
    def killed_before_the_commit(self, seed: int, unit: int, writer: int) -> None:
        data = self.cache.encode_unit(unit, records(self.cache, seed, unit, writer))
        won = self.cache.folder.publish(object_key(seed, unit), data)
        assert won == ((seed, unit) not in self.winner)
        self.winner.setdefault((seed, unit), writer)

    @rule(seed=seeds, unit=units, writer=writers, share=st.floats(0, 1), commit=st.booleans())
    def killed_while_writing(self, seed: int, unit: int, writer: int, share: float, commit: bool) -> None:
        target = self.path / (commit_key(seed, unit) if commit else object_key(seed, unit))
        data = self.cache.encode_unit(unit, records(self.cache, seed, unit, writer))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f".{target.name}.{self.killed:016x}{TEMP_SUFFIX}").write_bytes(data[: round(share * len(data))])
        self.killed += 1

    @rule()
    def open_again(self) -> None:
        self.cache = open_cache(self.path)

    @rule(seed=seeds, unit=units)
    def read_unit(self, seed: int, unit: int) -> None:
        if (seed, unit) in self.committed:
            assert self.cache.read_unit(self.cache.commit_of(seed, unit)).tobytes() == self.right(seed, unit)
        else:
            with pytest.raises(MissingUnitError, match=rf"seed {seed}, unit {unit} "):
                self.cache.commit_of(seed, unit)

    @rule(seed=seeds, rows=st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)).map(sorted))
    def read_rows(self, seed: int, rows: list[int]) -> None:
        if {(seed, unit) for unit in UNITS} <= self.committed:
            width = self.cache.manifest.dtype.itemsize
            whole = b"".join(self.right(seed, unit) for unit in UNITS)
            assert self.cache.read(seed, np.arange(*rows)).tobytes() == whole[rows[0] * width : rows[1] * width]
        else:
            with pytest.raises(MissingUnitError, match=f"seed {seed}"):
                self.cache.read(seed, np.arange(*rows))

    @invariant()
    def presence_is_the_commit(self) -> None:
        present = {(seed, unit) for seed in SEEDS for unit in self.cache.committed_units(seed)}
        assert present == self.committed
        assert self.cache.seeds() == sorted({seed for seed, _ in self.committed})
        for seed in SEEDS:
            assert self.cache.missing_units(seed) == [unit for unit in UNITS if (seed, unit) not in self.committed]
        assert sum(1 for _ in temporaries(self.cache.folder)) == self.killed

    def right(self, seed: int, unit: int) -> bytes:
        return records(self.cache, seed, unit, self.winner[seed, unit]).tobytes()


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=25, stateful_step_count=25)
