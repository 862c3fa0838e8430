"""Commits: the create-only documents from which the presence of a unit follows."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcache.cache.limits import check_commit
from kdcache.cache.seal import digest, parsed, refuse_unknown, seal, unseal
from kdcache.errors import DamagedUnitError
from kdcache.shapes import Records

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
    absent: list[dict[str, Any]] = field(default_factory=list)
    """`row` and `reason`, and `seed` where the unit has several, of samples that could not be read; their records hold zeros
    and are never given out."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    """A few views as rendered at the dump: `row`, `crc32` of the pixels, `thumbnail`, `steps` (absent in the first caches),
    and `seed` where the unit has several."""
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
        absent, probes = ([entry for entry in part if entry.get("seed", seed) == seed] for part in (self.absent, self.probes))
        return dataclasses.replace(self, seed=seed, absent=absent, probes=probes)

    def stray(self, key: str, seeds: range) -> str | None:
        """Return what it speaks of that is not the unit's own: an object but `key`, other rows, or seeds not in `seeds`."""
        if self.key != key:
            return f"object {self.key[:80]!r}, not {key}"
        for entry in (*self.absent, *self.probes):
            if not self.start <= entry["row"] < self.stop or entry.get("seed", seeds[0]) not in seeds:
                return f"row {entry['row']} under seed {entry.get('seed', seeds[0])}, of another unit"
        return None

    def is_of(self, data: bytes) -> bool:
        """Return whether `data` is the object that was committed."""
        return len(data) == self.num_bytes and hashlib.sha256(data).hexdigest() == self.sha256

    @property
    def digest(self) -> str:
        """Hash of the whole commit."""
        return digest(self._content())

    def to_bytes(self) -> bytes:
        """Return the sealed JSON document."""
        return json.dumps(seal(self._content()), indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Commit":
        """Return the commit in `data`.

        Raises:
            DamagedUnitError: the document is not what was written.
            CacheError: it is of a newer kdcache.
        """
        try:
            content = unseal(parsed(data))
            refuse_unknown(content, cls, where)
            check_commit(content)
            return cls(**content)
        except (ValueError, TypeError) as error:
            raise DamagedUnitError(
                f"{where}: the commit is damaged: {error}; delete it and the unit's object, and run the dump again"
            ) from error

    def _content(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        return {name: value for name, value in content.items() if name not in _LATER or value != _LATER[name]}


def seed_entry(seed: int, seeds: range) -> dict[str, int]:
    """Return what an entry of `absent` or `probes` says of its seed: nothing where the unit has one only."""
    return {"seed": seed} if len(seeds) > 1 else {}


def numbers_in(names: Iterable[str], form: str, allowed: range) -> list[int]:
    """Return the numbers that names of a form hold, rising; other names are passed over: .DS_Store, ._000000.json, 0.json."""
    digits = ((name, name.partition(".")[0]) for name in names)
    found = ((name, int(text)) for name, text in digits if text.isdecimal() and len(text) <= 10)
    return sorted(number for name, number in found if form.format(number) == name and number in allowed)


def commit_key(seed: int, unit: int) -> str:
    """Return the key of a unit's commit."""
    return f"commits/{seed:05d}/{unit:06d}.json"


def unit_name(seed: int, unit: int, start: int, stop: int) -> str:
    """Return the name that errors give a unit."""
    return f"seed {seed}, unit {unit} (rows {start} to {stop - 1})"


def also_absent(
    absent: list[dict[str, Any]], rows: range, seeds: range, winner: Records, mine: Records
) -> list[dict[str, Any]]:
    """Return `absent` and the rows that the winner, killed before its commit, could not read: zeros there, a record here."""
    known = {(entry.get("seed", seeds[0]), entry["row"]) for entry in absent}
    theirs, ours = (np.ascontiguousarray(part).view(np.uint8).reshape(*part.shape, -1).any(2) for part in (winner, mine))
    found = [(seeds[at], rows[position]) for at, position in np.argwhere(ours & ~theirs)]
    entry = {"reason": "the writer whose records these are could not read it"}
    return absent + [{"row": row, **entry, **seed_entry(seed, seeds)} for seed, row in found if (seed, row) not in known]
