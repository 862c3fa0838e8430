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
    is_list = len(arrays) == 1 and numbers.dtype == "<u4" and numbers.shape == (manifest.num_held,)
    if not is_list or numbers[-1] >= manifest.rows or not (numbers[1:] > numbers[:-1]).all():
        raise damaged(storage, SAMPLES, digest)
    return numbers.astype(np.int64)


def held_mask(samples: Rows, order: Rows) -> Mask:
    """Return which rows are of `samples`, bool `[rows]`: row r is sample `order[r]`."""
    is_chosen = np.zeros(len(order), bool)
    is_chosen[samples] = True
    held: Mask = is_chosen[order]
    return held


def thinned(
    manifest: Manifest,
    held: Mask,
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
        held: which of the unit's rows it holds.
        start: the unit's first row.
        records: `[seeds, rows]`.
        samples: of a webdataset store.
        facts: of the commit.
    """
    records = np.where(held, records, np.zeros((), records.dtype))
    named = [
        sample if keeps else StoredSample(sample.key)
        for sample, keeps in zip(samples, held if samples else (), strict=True)
    ]
    # a probe is a view of the source, as before; but where the cache is the source, its image is
    # gone
    kinds = ("absent", "probes") if manifest.has_images else ("absent",)
    kept = {
        kind: [part for part in facts.get(kind, []) if held[part.row - start]] for kind in kinds
    }
    return records, named, {**facts, **kept}
