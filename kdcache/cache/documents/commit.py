"""Commits: the create-only documents from which the presence of a unit follows."""

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from kdcache.cache.documents.document import (
    checked_content,
    digest,
    parsed,
    refuse_unknown,
    with_digest,
)
from kdcache.cache.documents.limits import MOST_COMMIT_VALUES, check_commit
from kdcache.cache.documents.parts import Absence, Probe, as_json, read_by, read_fields
from kdcache.errors import DamagedUnitError, quoted
from kdcache.shapes import Records

_OfView = TypeVar("_OfView", Absence, Probe)
Statistics = Mapping[str, float]
_PARSING = threading.Lock()
"""Held while a document is read, which takes many times its bytes. Loader workers, which are
forks, read no commits."""
_LATER = {"writer": ""}
"""Fields that the first commits lack, with what that means: at these values they are left out."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One unit as it was published."""

    seed: int
    """The first of the unit's seeds."""
    unit: int
    start: int
    """First row."""
    stop: int
    """One past the last row."""
    key: str
    """The object that holds the records."""
    num_bytes: int
    sha256: str
    write_id: str
    absent: list[Absence] = field(default_factory=list, metadata=read_by(Absence.all_from_json))
    probes: list[Probe] = field(default_factory=list, metadata=read_by(Probe.all_from_json))
    """A few of the unit's views."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Of the unit's logits: mean, standard deviation, confidence, accuracy."""
    versions: dict[str, str] = field(default_factory=dict)
    writer: str = ""
    """`HOST:PROCESS:WORD[:RANK]`, which tells the workers of a dump apart, see `parse_writer`."""

    @property
    def name(self) -> str:
        """Return `seed S, unit U (rows A to B)`, for messages."""
        return unit_name(self.seed, self.unit, self.start, self.stop)

    def of_seed(self, seed: int) -> "Commit":
        """Return what this commit says of one of its unit's seeds."""
        absent = _of_seed(self.absent, seed)
        probes = _of_seed(self.probes, seed)
        return dataclasses.replace(self, seed=seed, absent=absent, probes=probes)

    def mismatch(self, key: str, seeds: range) -> str | None:
        """Return what it speaks of that is not the unit's own, or None.

        That is an object but `key`, another row, a seed that is not in `seeds`, or one and the same
        view twice.
        """
        if self.key != key:
            return f"object {quoted(self.key)}, not {key}"
        rows = range(self.start, self.stop)
        for parts in (self.absent, self.probes):
            mismatch = _mismatch_of_views(parts, rows, seeds)
            if mismatch is not None:
                return mismatch
        return None

    def is_of(self, data: bytes) -> bool:
        """Return whether `data` is the object that was committed."""
        if len(data) != self.num_bytes:
            return False
        return hashlib.sha256(data).hexdigest() == self.sha256

    @property
    def digest(self) -> str:
        """Hash of the whole commit."""
        return digest(self._content())

    def to_bytes(self) -> bytes:
        """Return the JSON document, with its digest."""
        return json.dumps(with_digest(self._content()), indent=1).encode()

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        where: str,
        *,
        paths: Sequence[str] = ("it", "the unit's object"),
        most_values: int = MOST_COMMIT_VALUES,
    ) -> "Commit":
        """Return the commit in `data`.

        Args:
            data: the document.
            where: it is, for messages.
            paths: of the commit and of the unit's object, for messages.
            most_values: it may hold.

        Raises:
            DamagedUnitError: the document is not what was written.
            CacheError: it is of a newer kdcache.
        """
        try:
            with _PARSING:
                content = checked_content(parsed(data, most_values=most_values))
            names = [field.name for field in dataclasses.fields(cls)]
            refuse_unknown(content, names, where)
            check_commit(content)
            return cls(**read_fields(cls, content))
        except (ValueError, TypeError) as error:
            raise DamagedUnitError(
                f"{where}: the commit is damaged: {error}; delete {' and '.join(paths)} and run"
                " the dump again"
            ) from error

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for data_field in dataclasses.fields(self):
            name = data_field.name
            value = getattr(self, name)
            if name not in _LATER or value != _LATER[name]:
                content[name] = as_json(value)
        return content


def seed_if_grouped(seed: int, seeds: range) -> int | None:
    """Return what an absence or a probe says of its seed: None where the unit has one only."""
    return seed if len(seeds) > 1 else None


def _of_seed(parts: Iterable[_OfView], seed: int) -> list[_OfView]:
    return [part for part in parts if part.seed in (None, seed)]


def _view_of(part: Absence | Probe, seeds: range) -> tuple[int, int]:
    """Return the row and the seed that a part speaks of."""
    if part.seed is None:
        return part.row, seeds[0]
    return part.row, part.seed


def _mismatch_of_views(parts: Iterable[Absence | Probe], rows: range, seeds: range) -> str | None:
    """Return which view of these parts is not the unit's, or comes twice; None if none does."""
    views = set[tuple[int, int]]()
    for part in parts:
        view = _view_of(part, seeds)
        row, seed = view
        if row not in rows or seed not in seeds:
            return f"row {row} under seed {seed}, of another unit"
        if view in views:
            return f"row {row} under seed {seed} twice"
        views.add(view)
    return None


def numbers_in(names: Iterable[str], form: str, allowed: range) -> list[int]:
    """Return the numbers that names of a form hold, rising; other names are passed over: .DS_Store,
    ._000000.json, 0.json."""
    numbers: list[int] = []
    for name in names:
        digits, _, _ = name.partition(".")
        if not digits.isdecimal() or len(digits) > 10:
            continue
        number = int(digits)
        if form.format(number) == name and number in allowed:
            numbers.append(number)
    return sorted(numbers)


def commit_key(seed: int, unit: int) -> str:
    """Return the key of a unit's commit."""
    return f"commits/{seed:05d}/{unit:06d}.json"


def unit_name(seed: int, unit: int, start: int, stop: int) -> str:
    """Return the name that errors give a unit."""
    return f"seed {seed}, unit {unit} (rows {start} to {stop - 1})"


def mean_statistics(parts: Sequence[tuple[Statistics, int]]) -> dict[str, float]:
    """Return means over rows, by name, from what is said of so many rows each.

    Names that not all of them have are left out, and of equal values the mean is exactly these.
    """
    tables: list[Statistics] = []
    counts: list[int] = []
    for table, num_rows in parts:
        if table and num_rows:
            tables.append(table)
            counts.append(num_rows)
    means: dict[str, float] = {}
    for name in _common_names(tables):
        means[name] = _mean([table[name] for table in tables], counts)
    return means


def _common_names(tables: Sequence[Statistics]) -> list[str]:
    """Return the names that all tables have, sorted."""
    if not tables:
        return []
    names = {*tables[0]}
    for table in tables:
        names.intersection_update(table)
    return sorted(names)


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    """Return the mean of values, each of so many rows."""
    if len({*values}) == 1:
        return values[0]
    sums = [value * count for value, count in zip(values, counts, strict=True)]
    return sum(sums) / sum(counts)


def also_absent(
    absent: list[Absence], rows: range, seeds: range, winner: Records, loser: Records
) -> list[Absence]:
    """Return `absent` and the rows that the winner, killed before its commit, could not read: zeros
    there, a record of the loser's."""
    absent_views = {_view_of(part, seeds) for part in absent}
    is_lost = _has_record(loser) & ~_has_record(winner)
    absences = [*absent]
    for seed_position, position in np.argwhere(is_lost):
        row = rows[position]
        seed = seeds[seed_position]
        if (row, seed) not in absent_views:
            absences.append(
                Absence(
                    row=row,
                    reason="the writer whose records these are could not read it",
                    seed=seed_if_grouped(seed, seeds),
                )
            )
    return absences


def _has_record(records: Records) -> np.ndarray:
    """Return of each record whether it is more than zeros."""
    raw = np.ascontiguousarray(records).view(np.uint8)
    by_record = raw.reshape(*records.shape, -1)
    has_record: np.ndarray = np.any(by_record, axis=2)
    return has_record
