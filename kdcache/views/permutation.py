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
    return sorted_places(words)


def sorted_places(
    words: "np.ndarray[tuple[int], np.dtype[np.uint64]]",
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return what a stable argsort returns, several times as fast: numbers are sorted that have a
    word's upper bits and, in the place of the lower ones, where it stands."""
    length = len(words)
    lower_bits = np.uint64((1 << max(length - 1, 1).bit_length()) - 1)
    numbers = np.empty_like(words)
    for block in _blocks(length):  # memory that is new takes longer than the sort
        np.bitwise_and(words[block], ~lower_bits, out=numbers[block])
        numbers[block] |= np.arange(block.start, block.stop, dtype=np.uint64)
    numbers.sort()
    ties = []
    for block in _blocks(length - 1):
        following = numbers[block.start + 1 : block.stop + 1]
        is_tie = (numbers[block] ^ following) <= lower_bits
        ties.append(block.start + np.flatnonzero(is_tie))
    numbers &= lower_bits
    places = numbers.view(np.int64)
    _order_ties(places, words, np.concatenate([np.empty(0, np.int64), *ties]))
    return places


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, length))


def _order_ties(
    places: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    words: "np.ndarray[tuple[int], np.dtype[np.uint64]]",
    ties: "np.ndarray[tuple[int], np.dtype[np.int64]]",
) -> None:
    """Bring places whose words differ in their lower bits alone in order, in place.

    Args:
        places: which are in order but for these.
        words: what is sorted.
        ties: after which of the places comes one with the same upper bits.
    """
    if not len(ties):
        return
    is_new = np.diff(ties, prepend=ties[0] - 2) > 1
    starts = ties[is_new]
    last_ties = np.append(ties[:-1][is_new[1:]], ties[-1])
    for start, stop in zip(starts, last_ties + 2, strict=True):
        tied = places[start:stop]
        places[start:stop] = tied[np.argsort(words[tied], kind="stable")]


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
