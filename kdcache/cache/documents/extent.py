"""Extents: what a cache was asked to hold. Each request is a small document beside the
units, and the extent of the cache is their union.

Missing units say nothing of seeds that nobody has begun: only the request does. It is named by its
own digest, so that all workers of a dump, and the same dump run again, write the same document.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from kdcache.cache.documents.document import (
    checked_content,
    digest,
    parsed,
    refuse_unknown,
    with_digest,
)
from kdcache.cache.documents.limits import MOST_SEEDS, MOST_SPANS, check_extent
from kdcache.cache.prefetch import fetched
from kdcache.cache.storage.protocol import Storage
from kdcache.cache.storage.rereading import read_twice
from kdcache.errors import CacheError, DamagedError, UsageError

ROOT = "extents"
_MOST_REQUESTS = 10_000
_MOST_NUMBERS = 4_000_000  # of seeds and units in them, counted again in each request
_MOST_BYTES = 1 << 20
_MOST_VALUES = 4 * MOST_SPANS
_NAME = re.compile(r"[0-9a-f]{16}\.json")

Span = tuple[int, int]
"""First number, and one past the last."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """One request: which units of which seeds a cache is to hold."""

    seeds: tuple[Span, ...]
    units: tuple[Span, ...] | None = None
    """Of each of these seeds; None means all."""

    @classmethod
    def of(cls, seeds: Iterable[int], units: Iterable[int] | None = None) -> "Extent":
        """Return the request for these seeds, and for these units of each.

        Raises:
            UsageError: more seeds than a cache may be asked for.
        """
        seed_spans = _spans(seeds)
        num_seeds = _num_in(seed_spans)
        if num_seeds > MOST_SEEDS:
            raise UsageError(
                f"{num_seeds} seeds are asked for; a cache may hold at most {MOST_SEEDS}"
            )
        if units is None:
            return cls(seeds=seed_spans)
        return cls(seeds=seed_spans, units=_spans(units))

    @property
    def key(self) -> str:
        """The key of its document."""
        return f"{ROOT}/{digest(self._content())[:16]}.json"

    def all_seeds(self) -> Iterator[int]:
        """Yield every seed."""
        for first, stop in self.seeds:
            yield from range(first, stop)

    def all_units(self) -> Iterator[int]:
        """Yield the unit numbers of a request for some units."""
        for first, stop in self.units or ():
            yield from range(first, stop)

    def to_bytes(self) -> bytes:
        """Return the JSON document, with its digest."""
        return json.dumps(with_digest(self._content())).encode()

    @classmethod
    def from_bytes(cls, data: bytes, key: str, where: str) -> "Extent":
        """Return the request in `data`.

        Raises:
            DamagedError: it is not what was written.
            CacheError: it is of a newer kdcache.
        """
        try:
            content = checked_content(parsed(data, most_values=_MOST_VALUES))
            names = [field.name for field in fields(cls)]
            refuse_unknown(content, names, f"{where}/{key}")
            check_extent(content)
            spans = {name: _pairs(lists) for name, lists in content.items()}
            extent = cls(**spans)
            if extent.key != key:
                raise ValueError("its name is that of another request")
        except (ValueError, TypeError) as error:
            raise DamagedError(
                f"{where}/{key} is damaged: {error}; delete it and run the dump again, which"
                " writes it anew"
            ) from None
        return extent

    def _content(self) -> dict[str, Any]:
        content = {"seeds": self.seeds}
        if self.units is not None:
            content["units"] = self.units
        return content


def is_extent(key: str) -> bool:
    """Return whether an object of this key is a request."""
    folder, _, name = key.rpartition("/")
    return folder == ROOT and _NAME.fullmatch(name) is not None


def publish_extent(storage: Storage, extent: Extent) -> None:
    """Store a request; one that is there already stays.

    Raises:
        CacheError: it cannot be written.
    """
    storage.publish(extent.key, extent.to_bytes())


def read_extents(storage: Storage, requests: dict[str, Extent] | None = None) -> list[Extent]:
    """Return every request of a cache.

    Args:
        storage: of the cache.
        requests: by key, those that were read before; new ones are added.

    Raises:
        CacheError: one that is damaged or of a newer kdcache, or more than anyone asks for.
    """
    if requests is None:
        requests = {}
    keys = [f"{ROOT}/{name}" for name in storage.list(ROOT) if _NAME.fullmatch(name)]
    _require_few(storage, "requests", len(keys), _MOST_REQUESTS)
    _add_new(storage, keys, requests)
    extents: list[Extent] = []
    seed_spans: list[Span] = []
    for key in keys:
        if key in requests:
            extents.append(requests[key])
            seed_spans += requests[key].seeds
    _require_few(storage, "seeds", _num_in(_merged(seed_spans)), MOST_SEEDS)
    return extents


def _add_new(storage: Storage, keys: Iterable[str], requests: dict[str, Extent]) -> None:
    """Read the requests that are not there yet, and add them."""
    new_keys = [key for key in keys if key not in requests]
    num_spans = 0
    num_numbers = 0
    extents = fetched(lambda key: _read(storage, key), new_keys, num_bytes=0)
    for key, extent in zip(new_keys, extents, strict=True):
        if extent is None:
            continue
        spans = [*extent.seeds, *(extent.units or ())]
        num_spans += len(spans)
        num_numbers += _num_in(spans)
        _require_few(storage, "spans of seeds and units", num_spans, MOST_SPANS)
        _require_few(storage, "seeds and units", num_numbers, _MOST_NUMBERS)
        requests[key] = extent


def _require_few(storage: Storage, what: str, count: int, most: int) -> None:
    if count > most:
        raise CacheError(
            f"{storage}/{ROOT} holds {count} {what}, more than the {most} that are counted: "
            "see where they come from, and remove them"
        )


def _read(storage: Storage, key: str) -> Extent | None:
    """Return a request; None of one that was removed since it was listed."""

    def read(is_fresh: bool) -> Extent:
        data = storage.get(key, most=_MOST_BYTES, is_fresh=is_fresh)
        return Extent.from_bytes(data, key, str(storage))

    try:
        return read_twice(read)
    except FileNotFoundError:
        return None


def _pairs(lists: Iterable[list[int]]) -> tuple[Span, ...]:
    """Return the spans that the JSON holds as lists."""
    return tuple((first, stop) for first, stop in lists)


def _spans(numbers: Iterable[int]) -> tuple[Span, ...]:
    return _merged((number, number + 1) for number in numbers)


def _merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return the same numbers in as few spans as can be, rising."""
    union: list[Span] = []
    for first, stop in sorted(spans):
        if not union or first > union[-1][1]:
            union.append((first, stop))
            continue
        last_first, last_stop = union[-1]
        union[-1] = (last_first, max(stop, last_stop))
    return tuple(union)


def _num_in(spans: Iterable[Span]) -> int:
    return sum(stop - first for first, stop in spans)
