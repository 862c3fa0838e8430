"""Subsets: caches of some samples. Rows keep their numbers and units theirs; of other samples
nothing is held."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcache.cache.arrays import damaged, read_arrays
from kdcache.cache.documents.manifest import SAMPLES, Manifest
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.storage.protocol import Storage
from kdcache.shapes import Records, Rows

_NUMBERS = "numbers"
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def samples_arrays(numbers: Rows) -> dict[str, np.ndarray]:
    """Return the arrays of a subset of samples; their numbers rise."""
    return {_NUMBERS: numbers.astype("<u4")}


def read_samples(storage: Storage, manifest: Manifest) -> Rows | None:
    """Return the numbers of the samples that a cache holds, rising, int64; None if it is no subset.

    Raises:
        CacheError: they are absent, or no such numbers.
    """
    if manifest.samples is None:
        return None
    digest = manifest.arrays[SAMPLES]
    arrays = read_arrays(storage, SAMPLES, digest, most=manifest.most_bytes(SAMPLES))
    numbers = arrays.get(_NUMBERS, np.empty(0))
    if len(arrays) != 1 or not _are_samples(numbers, manifest):
        raise damaged(storage, SAMPLES, digest)
    return numbers.astype(np.int64)


def _are_samples(numbers: np.ndarray, manifest: Manifest) -> bool:
    """Return whether these are rising numbers of as many samples as a subset holds."""
    if numbers.dtype != "<u4" or numbers.shape != (manifest.num_held,):
        return False
    is_rising = bool((numbers[1:] > numbers[:-1]).all())
    return is_rising and bool(numbers[-1] < manifest.rows)


def held_mask(samples: Rows, order: Rows) -> Mask:
    """Return which rows are of `samples`, bool `[rows]`: row r is sample `order[r]`."""
    is_chosen = np.zeros(len(order), bool)
    is_chosen[samples] = True
    mask: Mask = is_chosen[order]
    return mask


def thinned(
    manifest: Manifest,
    is_held: Mask,
    start: int,
    *,
    records: Records,
    samples: Sequence[StoredSample],
    facts: dict[str, Any],
) -> tuple[Records, list[StoredSample], dict[str, Any]]:
    """Return records, samples and facts of a unit without those of rows that a subset does not
    hold.

    Records become zeros, which compress away; of a sample the name stays.

    Args:
        manifest: of the subset.
        is_held: which of the unit's rows it holds.
        start: the unit's first row.
        records: `[seeds, rows]`.
        samples: of a webdataset store.
        facts: of the commit.
    """
    records = np.where(is_held, records, np.zeros((), records.dtype))
    names_or_samples: list[StoredSample] = []
    if samples:
        for sample, is_whole in zip(samples, is_held, strict=True):
            names_or_samples.append(sample if is_whole else StoredSample(sample.key))
    kinds = ["absent"]
    if manifest.has_images:
        # a probe is a view of the source, as before; but where the cache is the source, its image
        # is gone
        kinds.append("probes")
    facts = {**facts}
    for kind in kinds:
        parts = facts.get(kind, [])
        facts[kind] = [part for part in parts if is_held[part.row - start]]
    return records, names_or_samples, facts
