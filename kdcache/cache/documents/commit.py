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
        return dataclasses.replace(
            self, seed=seed, absent=_of_seed(self.absent, seed), probes=_of_seed(self.probes, seed)
        )

    def mismatch(self, key: str, seeds: range) -> str | None:
        """Return what it speaks of that is not the unit's own, or None.

        That is an object but `key`, another row, a seed that is not in `seeds`, or one and the same
        view twice.
        """
        if self.key != key:
            return f"object {quoted(self.key)}, not {key}"
        for parts in (self.absent, self.probes):
            seen = set[tuple[int, int]]()
            for part in parts:
                view = part.row, seeds[0] if part.seed is None else part.seed
                if not self.start <= view[0] < self.stop or view[1] not in seeds:
                    return f"row {view[0]} under seed {view[1]}, of another unit"
                if view in seen:
                    return f"row {view[0]} under seed {view[1]} twice"
                seen.add(view)
        return None

    def is_of(self, data: bytes) -> bool:
        """Return whether `data` is the object that was committed."""
        return len(data) == self.num_bytes and hashlib.sha256(data).hexdigest() == self.sha256

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
            refuse_unknown(content, [field.name for field in dataclasses.fields(cls)], where)
            check_commit(content)
            return cls(**read_fields(cls, content))
        except (ValueError, TypeError) as error:
            raise DamagedUnitError(
                f"{where}: the commit is damaged: {error}; delete {' and '.join(paths)} and run"
                " the dump again"
            ) from error

    def _content(self) -> dict[str, Any]:
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: as_json(value)
            for name, value in content.items()
            if name not in _LATER or value != _LATER[name]
        }


def seed_if_grouped(seed: int, seeds: range) -> int | None:
    """Return what an absence or a probe says of its seed: None where the unit has one only."""
    return seed if len(seeds) > 1 else None


def _of_seed(parts: Iterable[_OfView], seed: int) -> list[_OfView]:
    return [part for part in parts if part.seed is None or part.seed == seed]


def numbers_in(names: Iterable[str], form: str, allowed: range) -> list[int]:
    """Return the numbers that names of a form hold, rising; other names are passed over: .DS_Store,
    ._000000.json, 0.json."""
    digits = ((name, name.partition(".")[0]) for name in names)
    found = ((name, int(text)) for name, text in digits if text.isdecimal() and len(text) <= 10)
    return sorted(
        number for name, number in found if form.format(number) == name and number in allowed
    )


def commit_key(seed: int, unit: int) -> str:
    """Return the key of a unit's commit."""
    return f"commits/{seed:05d}/{unit:06d}.json"


def unit_name(seed: int, unit: int, start: int, stop: int) -> str:
    """Return the name that errors give a unit."""
    return f"seed {seed}, unit {unit} (rows {start} to {stop - 1})"


def mean_statistics(told: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """Return means over rows, by name, from what is said of so many rows each.

    Names that not all of them have are left out, and of equal values the mean is exactly these.
    """
    told = [(values, count) for values, count in told if values and count]
    if not told:
        return {}
    names = sorted(set.intersection(*(set(values) for values, _ in told)))
    return {name: _mean([(values[name], count) for values, count in told]) for name in names}


def _mean(told: Sequence[tuple[float, int]]) -> float:
    if len({value for value, _ in told}) == 1:
        return told[0][0]
    return sum(value * count for value, count in told) / sum(count for _, count in told)


def also_absent(
    absent: list[Absence], rows: range, seeds: range, winner: Records, mine: Records
) -> list[Absence]:
    """Return `absent` and the rows that the winner, killed before its commit, could not read: zeros
    there, a record here."""
    known = {(seeds[0] if part.seed is None else part.seed, part.row) for part in absent}
    theirs, ours = (
        np.ascontiguousarray(part).view(np.uint8).reshape(*part.shape, -1).any(2)
        for part in (winner, mine)
    )
    found = [(seeds[at], rows[position]) for at, position in np.argwhere(ours & ~theirs)]
    reason = "the writer whose records these are could not read it"
    return absent + [
        Absence(row=row, reason=reason, seed=seed_if_grouped(seed, seeds))
        for seed, row in found
        if (seed, row) not in known
    ]
