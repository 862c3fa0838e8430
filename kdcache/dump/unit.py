"""A unit in the making: records, probes and statistics of its rows, from batches to a commit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdcache.cache import Cache, Commit
from kdcache.cache.committing import commit_unit
from kdcache.cache.documents.commit import seed_if_grouped
from kdcache.cache.documents.parts import Absence, Probe
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.stored_samples import stored_samples
from kdcache.cache.writer_name import writer_name
from kdcache.codecs import codec_spec
from kdcache.dump.encoding import EncodedBatch
from kdcache.errors import SourceError, shortened
from kdcache.runtime.console import say
from kdcache.shapes import Records, Rows
from kdcache.verify.views import make_probe, num_probes, num_traced
from kdcache.views import Batch, ViewDataset

_MANY_ABSENT = 16
_BELIEVABLE_SHARE = 0.2
"""Of a unit's samples may be unreadable, or fewer than _MANY_ABSENT, but not all."""
_NUM_REASONS = 3
_REASON_LENGTH = 90


class UnitMaker:
    """A unit in the making: takes batches of its rows in any order, and commits them."""

    def __init__(
        self,
        cache: Cache,
        dataset: ViewDataset,
        *,
        seed: int,
        unit: int,
        rank: int | None = None,
    ) -> None:
        """Begin unit `unit` of `seed`, and of those that share it.

        Args:
            cache: that it goes into.
            dataset: its views.
            seed: the first of its seeds.
            unit: its number.
            rank: of this process among several workers, for the commit.
        """
        self.seed = seed
        self.unit = unit
        self.rows = cache.manifest.unit_range(unit)
        self.seeds = cache.manifest.unit_seeds(seed)
        self._cache = cache
        self._dataset = dataset
        self._rank = rank
        self.counted = 0
        self._records: Records | None = None
        self._absent: list[Absence] = []
        self._probes: list[Probe] = []
        self._sums: dict[str, float] = {}
        self._num_read = 0
        self._labels = np.full(len(self.rows), -1, np.int64)
        self._num_probes = num_probes(cache.manifest)

    def add(self, batch: Batch, encoded: EncodedBatch) -> None:
        """Take a batch of the unit's rows under one seed, with its records and statistics; probe
        some of its views.

        Raises:
            SourceError: so many samples cannot be read that something else than these must be
                wrong.
        """
        records = encoded.records
        if self._records is None:
            self._records = np.zeros((len(self.seeds), len(self.rows)), records.dtype)
        seed = int(batch.seeds[0])
        present_places = batch.present_places
        unit_rows = batch.rows.numpy()[present_places] - self.rows.start
        self._records[self.seeds.index(seed), unit_rows] = records[present_places]
        if batch.labels.first.ndim == 1:
            self._labels[unit_rows] = batch.labels.first.numpy()[present_places]
        self.counted += len(records)
        self._add_absent(batch, seed)
        self._probe(batch, present_places, seed)
        for name, value in encoded.statistics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * len(present_places)
        self._num_read += len(present_places)

    def _add_absent(self, batch: Batch, seed: int) -> None:
        """Take the samples of a batch that cannot be read."""
        if not batch.absent:
            return
        for place, reason in batch.absent:
            row = int(batch.rows[place])
            absence_seed = seed_if_grouped(seed, self.seeds)
            self._absent.append(Absence(row=row, reason=reason, seed=absence_seed))
        self._check_absent()

    @property
    def records(self) -> Records:
        """The records so far, `[seeds, rows]`; those that are not there yet are zeros."""
        assert self._records is not None, "add comes first"
        return self._records

    @property
    def is_complete(self) -> bool:
        """Whether every row has come under every seed."""
        return self.counted == len(self.rows) * len(self.seeds)

    @property
    def statistics(self) -> dict[str, float]:
        """Means over the rows that could be read, see `EncodedBatch`."""
        return {name: total / self._num_read for name, total in self._sums.items()}

    def commit(self) -> Commit:
        """Publish the unit, and return the commit that counts.

        Raises:
            CacheError: the cache cannot be written.
        """
        facts: dict[str, Any] = {
            "absent": sorted(self._absent, key=lambda absence: (absence.row, absence.seed or 0)),
            "probes": self._probes,
            "statistics": self.statistics,
            "writer": writer_name(self._rank),
        }
        samples: list[StoredSample] = []
        if self._cache.manifest.store == "webdataset":
            indices = self._cache.order[self.rows.start : self.rows.stop]
            samples = stored_samples(
                self._dataset.source,
                indices,
                self._labels,
                has_images=self._cache.manifest.has_images,
            )
        return commit_unit(self._cache, self.seed, self.unit, self.records, samples, **facts)

    def _check_absent(self) -> None:
        """Check that the share of unreadable samples can be believed: all of them are absent where
        a mount went away."""
        rows = {absence.row for absence in self._absent}
        # of a mixed pair both are absent, for one reason
        reasons = list(dict.fromkeys(absence.reason for absence in self._absent))
        are_many = len(reasons) >= _MANY_ABSENT and len(rows) > _BELIEVABLE_SHARE * len(self.rows)
        if are_many or len(rows) == len(self.rows):
            texts = [shortened(reason, _REASON_LENGTH) for reason in reasons[:_NUM_REASONS]]
            raise SourceError(
                f"{len(rows)} of the {len(self.rows)} samples of unit {self.unit} cannot be read,"
                " too many to go on: see that the data is all there, then run again; or leave"
                f" these samples out of it. The first: {'; '.join(texts)}"
            )

    def _probe(self, batch: Batch, present_places: Rows, seed: int) -> None:
        """Probe the batch's first views that are present, if `seed` is to have more probes."""
        num_traces = num_traced(self._cache.manifest, seed, self.unit)
        first = self._num_probes_of(seed)
        last = max(num_traces, self._num_probes)
        for count, place in enumerate(present_places[: max(last - first, 0)], start=first):
            row = int(batch.rows[place])
            trace = None
            if count < num_traces:
                trace = self._dataset.trace(row, seed)  # renders the view once more
            probe = make_probe(row, batch.views[0][place], trace)
            self._probes.append(replace(probe, seed=seed_if_grouped(seed, self.seeds)))

    def _num_probes_of(self, seed: int) -> int:
        """Return how many probes there are of a seed, or of any where a unit has one."""
        count = 0
        for probe in self._probes:
            count += probe.seed is None or probe.seed == seed
        return count


def tell_clipped(cache: Cache, commits: Sequence[Commit]) -> None:
    """Say how many views the codec's fit cannot hold, if any."""
    num_views = 0
    shares = []
    for commit in commits:
        count = len(cache.held_rows(commit))
        num_views += count
        shares.append(commit.statistics.get("clipped", 0.0) * count)
    if num_clipped := round(sum(shares)):
        say(
            f"note: {num_clipped} of {num_views} views have logits beyond what the fit of"
            f" {codec_spec(cache.codec)} can hold, and lose more to clipping than to rounding; a"
            " fit to more views (views=) holds more, and full holds all"
        )
