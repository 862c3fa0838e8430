"""A unit in the making: records, probes and statistics of its rows, from batches to a commit."""

from typing import Any

import numpy as np

from kdcache.cache import Cache, Commit
from kdcache.drift import PROBES_PER_UNIT, make_probe
from kdcache.shapes import Logits, Records
from kdcache.tasks.classification import logit_statistics
from kdcache.views import Batch, ViewDataset


class UnitMaker:
    """A unit in the making: takes batches of its rows in any order, and commits them."""

    def __init__(self, cache: Cache, dataset: ViewDataset, *, seed: int, unit: int, is_scored: bool) -> None:
        """Begin unit `unit` of `seed`.

        Args:
            cache: that it goes into.
            dataset: its views.
            seed: its seed.
            unit: its number.
            is_scored: whether the labels are of the teacher's classes.
        """
        self.seed, self.unit = seed, unit
        self.rows = cache.manifest.unit_range(unit)
        self._cache, self._dataset, self._is_scored = cache, dataset, is_scored
        self.counted = 0
        self._records: Records | None = None
        self._absent: list[dict[str, Any]] = []
        self._probes: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._seen = 0

    def add(self, batch: Batch, logits: Logits, records: Records) -> None:
        """Take a batch of the unit's rows, with its logits and records; probe some of its views."""
        if self._records is None:
            self._records = np.zeros(len(self.rows), records.dtype)
        gone = [position for position, _ in batch.absent]
        there = np.setdiff1d(np.arange(len(batch.rows)), gone)
        self._records[batch.rows.numpy()[there] - self.rows.start] = records[there]
        self.counted += len(records)
        self._absent += [{"row": int(batch.rows[position]), "reason": reason} for position, reason in batch.absent]
        for position in there[: PROBES_PER_UNIT - len(self._probes)]:
            row = int(batch.rows[position])
            self._probes.append(make_probe(row, batch.views[0][position], self._dataset.trace(row, self.seed)))
        targets = batch.labels.leading[there] if self._is_scored else None
        for name, value in logit_statistics(logits[there], targets).items() if len(there) else ():
            self._sums[name] = self._sums.get(name, 0.0) + value * len(there)
        self._seen += len(there)

    @property
    def records(self) -> Records:
        """The records so far, in row order; those that are not there yet are zeros."""
        assert self._records is not None, "add comes first"
        return self._records

    @property
    def is_complete(self) -> bool:
        """Whether every row has come."""
        return self.counted == len(self.rows)

    @property
    def statistics(self) -> dict[str, float]:
        """Means over the rows that could be read, see `logit_statistics`."""
        return {name: total / self._seen for name, total in self._sums.items()}

    def commit(self) -> Commit:
        """Publish the unit, and return the commit that counts.

        Raises:
            CacheError: the cache cannot be written.
        """
        absent = sorted(self._absent, key=lambda entry: int(entry["row"]))
        statistics, probes = self.statistics, self._probes
        return self._cache.commit(self.seed, self.unit, self.records, absent=absent, probes=probes, statistics=statistics)
