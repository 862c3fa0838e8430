"""Orders that are functions of a key alone: the same on every machine and with every version of
numpy."""

from collections.abc import Iterator

import numpy as np

_AT_ONCE = 1 << 20


def keyed_permutation(length: int, *key: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return a permutation of `range(length)` that depends on `key` only, int64 `[length]`.

    numpy promises the streams of its bit generators for ever, those of `Generator.permutation` it
    does not; hence the sort.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def row_order(length: int, order_seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return `order`, int64 `[length]`: row r of a cache is sample `order[r]` of its source.

    A unit of consecutive rows is thereby a random subset of the source, however the source is
    sorted.
    """
    return keyed_permutation(length, 0, order_seed)


def row_of(sample: int, length: int, order_seed: int) -> int:
    """Return the row of a sample: where it stands in `row_order(length, order_seed)`, which is
    not made for that."""
    own_word = 0
    for words in _words(sample + 1, 0, order_seed):
        own_word = words[-1]
    row = 0
    start = 0
    for words in _words(length, 0, order_seed):
        row += int((words < own_word).sum())
        # equal words come in the order of their samples
        earlier_words = words[: max(sample - start, 0)]
        row += int((earlier_words == own_word).sum())
        start += len(words)
    return row


def _words(length: int, *key: int) -> "Iterator[np.ndarray[tuple[int], np.dtype[np.uint64]]]":
    """Yield what `keyed_permutation` sorts, some at a time."""
    generator = np.random.Philox(np.random.SeedSequence(key))
    for start in range(0, length, _AT_ONCE):
        yield generator.random_raw(min(_AT_ONCE, length - start))
