"""Orders that are functions of a key alone: the same on every machine and with every version of numpy."""

import numpy as np


def keyed_permutation(length: int, *key: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return a permutation of `range(length)` that depends on `key` only, int64 `[length]`.

    numpy promises the streams of its bit generators for ever, those of `Generator.permutation` it does not; hence the sort.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int64)


def row_order(length: int, order_seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return `order`, int64 `[length]`: row r of a cache is sample `order[r]` of its source.

    A unit of consecutive rows is thereby a random subset of the source, however the source is sorted.
    """
    return keyed_permutation(length, 0, order_seed)
