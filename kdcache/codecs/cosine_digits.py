"""How the integers of `cosine` become bytes: as digits, those of one place side by side.

An integer without sign is written to a base of 256, 16 or 4, by how large it is expected to be:
upper digits are mostly zeros then, which compress to nothing, and several lower ones share a byte.
A coder of bytes spends a bit or more on each, and looks for bytes that come again: of many small
integers, one in a byte, it makes much less, or needs a search that takes fifty times as long.
"""

from typing import NamedTuple

import numpy as np

from kdcache.deferred import Tensor, torch


class Kind(NamedTuple):
    """Integers that are written alike."""

    least_size: int
    """Integers with a larger expected size are of this kind, unless they are of one before. Sizes
    are quarters of the logarithm to base 2 of an integer's variance."""
    digits: tuple[int, ...]
    """Bits of each digit, the lowest first; together they hold 45 standard deviations or more of
    the largest integer that is expected."""

    @property
    def limit(self) -> int:
        """The largest integer."""
        return (1 << sum(self.digits) - 1) - 1

    @property
    def dtype(self) -> "torch.dtype":
        """Of integers without sign."""
        if sum(self.digits) <= 8:
            return torch.uint8
        return torch.int32


KINDS = (
    Kind(56, (8, 8, 8)),
    Kind(20, (8, 8)),
    Kind(12, (4, 4, 8)),
    Kind(0, (4, 4)),
    Kind(-(1 << 15), (2, 2, 4)),
)
"""By falling size."""
LIMIT = KINDS[0].limit
"""The largest integer of any kind."""


def kind_counts(sizes: np.ndarray) -> list[int]:
    """Return how many integers of these expected sizes are of each kind."""
    counts = []
    num_larger = 0
    for kind in KINDS:
        num_at_least = int((sizes > kind.least_size).sum())
        counts.append(num_at_least - num_larger)
        num_larger = num_at_least
    return counts


def num_bytes(counts: list[int]) -> int:
    """Return the bytes of a map with so many integers of each kind."""
    total = 0
    for kind, count in zip(KINDS, counts, strict=True):
        for bits in kind.digits:
            total += _plane_bytes(count, bits)
    return total


def packed(integers: Tensor, counts: list[int]) -> Tensor:
    """Return the bytes of integers, uint8 `[maps, bytes]`: kind by kind, digit by digit.

    Args:
        integers: int32 `[maps, integers]`, by kind and within their limits.
        counts: how many are of each kind.
    """
    # the sign comes last, so that the upper digits of small integers are zeros
    unsigned = (integers << 1) ^ (integers >> 31)
    planes = []
    for kind, values in zip(KINDS, torch.split(unsigned, counts, dim=1), strict=True):
        rest = values.to(kind.dtype)
        for bits in kind.digits:
            digits = (rest & (1 << bits) - 1).to(torch.uint8)
            planes.append(_joined(digits, bits))
            rest = rest >> bits
    return torch.cat(planes, 1)


def unpacked(raw: Tensor, counts: list[int]) -> Tensor:
    """Return the integers whose bytes `packed` gave, as float32 `[maps, integers]`."""
    integers = raw.new_empty((len(raw), sum(counts)), dtype=torch.float32)
    start = 0
    for kind, values in zip(KINDS, torch.split(integers, counts, dim=1), strict=True):
        num_digits = values.shape[1]
        unsigned = raw.new_zeros(values.shape, dtype=kind.dtype)
        shift = 0
        for bits in kind.digits:
            stop = start + _plane_bytes(num_digits, bits)
            digits = _apart(raw[:, start:stop], bits)[:, :num_digits]
            unsigned |= digits.to(kind.dtype) << shift
            shift += bits
            start = stop
        signed = (unsigned >> 1) ^ -(unsigned & 1)
        if kind.dtype == torch.uint8:  # which has wrapped around
            signed = signed.view(torch.int8)
        values.copy_(signed)
    return integers


def _plane_bytes(num_digits: int, bits: int) -> int:
    return -(-num_digits * bits // 8)


def _joined(digits: Tensor, bits: int) -> Tensor:
    """Return digits `[maps, digits]` with as many in a byte as it holds: of n bytes, byte i has
    the digits i, n + i and so on, the first in its lowest bits."""
    if bits == 8:
        return digits
    size = _plane_bytes(digits.shape[1], bits)
    missing = size * 8 // bits - digits.shape[1]
    padded = torch.nn.functional.pad(digits, (0, missing))
    plane = padded[:, :size].clone()
    for place in range(1, 8 // bits):
        plane |= padded[:, place * size : (place + 1) * size] << place * bits
    return plane


def _apart(plane: Tensor, bits: int) -> Tensor:
    """Return the digits that `_joined` took, and zeros after them."""
    if bits == 8:
        return plane
    parts = [plane >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.cat(parts, 1)
