"""Mixing: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) as part of the view.

Rows are mixed in pairs that are a function of the seed: in each block of rows a keyed permutation
is paired off, neighbour with neighbour, so that the partner of a row's partner is the row. Both get
one draw: row a is `share` of itself and the rest of b, row b the same of itself and a, as in the
pair mode of timm. The pixels stay integers: the teacher's and the student's process get the same
bits on any machine.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from kdcache.errors import UsageError, quoted
from kdcache.shapes import Rows, View
from kdcache.views.bounds import MOST_ALPHA, MOST_BLOCK
from kdcache.views.permutation import keyed_permutation
from kdcache.views.stored_views import StoredMix

# domains of the keys, beside those of views
_PAIRS = 2
_BLEND = 3
_ONE = 2**16
"""Shares are multiples of one over this."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """The table `mixing` of a recipe."""

    mixup: float = 0.0
    """alpha of mixup: the share is drawn from Beta(alpha, alpha); 0 for none."""
    cutmix: float = 0.0
    """alpha of CutMix, likewise of the area."""
    switch: float = 0.5
    """How often CutMix is taken where both are given."""
    prob: float = 1.0
    """How often a pair is mixed at all."""
    block: int = 512
    """Rows among which pairs are made; the rows of a unit are a multiple of it, so that both of a
    pair are in one unit."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            if alpha != 0 and not 1 / MOST_ALPHA <= alpha <= MOST_ALPHA:
                raise UsageError(
                    f"mixing: {name} is {alpha}; it must be 0, or from {1 / MOST_ALPHA:g} to"
                    f" {MOST_ALPHA:g}"
                )
        for name in ("switch", "prob"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise UsageError(f"mixing: {name} is {share}; it must be from 0 to 1")
        if not 2 <= self.block <= MOST_BLOCK or self.block % 2:
            raise UsageError(
                f"mixing: block is {quoted(self.block)}; it must be even, from 2 to {MOST_BLOCK}"
            )
        if self.mixup == self.cutmix == 0:
            raise UsageError("mixing: neither mixup nor cutmix is above 0; leave the table out")


class Box(NamedTuple):
    """A rectangle of CutMix, in fractions of the view's sides."""

    left: float
    top: float
    right: float
    bottom: float


class Blend(NamedTuple):
    """What is drawn for a pair: a share of mixup (`box` is None then), or a box that is taken from
    the partner."""

    share: float
    box: Box | None


UNMIXED = Blend(1.0, None)


def partners(rows: int, mixing: Mixing, key: tuple[int, int], seed: int) -> Rows:
    """Return each row's partner under `seed`, int64 `[rows]`: an involution; a row left over in an
    odd block is its own."""
    blocks = []
    for start in range(0, rows, mixing.block):
        offsets = _partner_offsets(start, rows, mixing, key, seed)
        blocks.append(start + offsets)
    return np.concatenate(blocks)


def partner(row: int, rows: int, mixing: Mixing, key: tuple[int, int], seed: int) -> int:
    """Return the partner of one of `rows` rows under `seed`."""
    offset = row % mixing.block
    start = row - offset
    offsets = _partner_offsets(start, rows, mixing, key, seed)
    return start + int(offsets[offset])


def in_pairs(rows: Rows, partner_of: Rows) -> Rows:
    """Return `rows` with partners side by side, a pair where its first row was; those whose partner
    is not there come last."""
    is_present = np.zeros(len(partner_of), bool)
    is_present[rows] = True
    partner_rows = partner_of[rows]
    is_paired = is_present[partner_rows] & (partner_rows != rows)
    first = rows[is_paired & (rows < partner_rows)]
    pairs = np.stack([first, partner_of[first]], axis=1)
    return np.concatenate([pairs.reshape(-1), rows[~is_paired]])


def _partner_offsets(
    start: int, rows: int, mixing: Mixing, key: tuple[int, int], seed: int
) -> Rows:
    """Return the partners of the rows of the block that begins at `start`, counted from there."""
    length = min(mixing.block, rows - start)
    return _partners_in(length, (*key, _PAIRS, seed, start // mixing.block))


@lru_cache(4096)
def _partners_in(length: int, key: tuple[int, ...]) -> Rows:
    order = keyed_permutation(length, *key)
    partner_of = np.arange(length)
    left = order[: length // 2 * 2 : 2]
    right = order[1::2]
    partner_of[left] = right
    partner_of[right] = left
    partner_of.flags.writeable = False
    return partner_of


def blend(mixing: Mixing, key: tuple[int, int], seed: int, row: int, other: int) -> Blend:
    """Return the draw of the pair of rows `row` and `other`, in whichever order, under `seed`."""
    if row == other:
        return UNMIXED
    first = min(row, other)
    last = max(row, other)
    return _blend_of(mixing, (*key, _BLEND, seed, first, last))


# both of a pair ask for it in turn, and the generator takes a tenth of a millisecond to start
@lru_cache(1024)
def _blend_of(mixing: Mixing, key: tuple[int, ...]) -> Blend:
    # of numpy's generators only this one promises the same stream of its distributions for ever
    bits = np.random.MT19937(np.random.SeedSequence(key))
    generator = np.random.RandomState(bits)
    mixed, cut, across, down = generator.random_sample(4)
    if mixed >= mixing.prob:
        return UNMIXED
    is_cut = mixing.cutmix > 0 and (mixing.mixup == 0 or cut < mixing.switch)
    alpha = mixing.cutmix if is_cut else mixing.mixup
    drawn_share = float(generator.beta(alpha, alpha))
    share = round(drawn_share * _ONE) / _ONE
    if not is_cut:
        return Blend(share, None)
    half = (1 - share) ** 0.5 / 2
    box = Box(across - half, down - half, across + half, down + half)
    return Blend(share, box)


def mix(own: View, other: View, draw: Blend) -> tuple[View, float]:
    """Return a view mixed with its partner's, and the share of its own label: with a box, the area
    that is left of it."""
    if draw.box is None:
        weight = round(draw.share * _ONE)
        own_part = own.int().mul_(weight)
        other_part = other.int().mul_(_ONE - weight)
        mixed = own_part.add_(other_part).add_(_ONE // 2)
        return mixed.bitwise_right_shift_(16).to(torch.uint8), draw.share
    box = draw.box
    height, width = own.shape[1:]
    left = _edge(box.left, width)
    right = _edge(box.right, width)
    top = _edge(box.top, height)
    bottom = _edge(box.bottom, height)
    mixed = own.clone()
    mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    box_area = (bottom - top) * (right - left)
    return mixed, 1 - box_area / (height * width)


def mix_as_stored(own: View, other: View, stored: StoredMix) -> tuple[View, float]:
    """Return a view mixed with its partner's as somebody else drew it, and the share of its own
    label: blended, if it was, and then with a box from the partner's."""
    mixed = own
    own_share = 1.0
    if stored.share:
        mixed, own_share = mix(mixed, other, Blend(1 - stored.share, None))
    if stored.cut is not None:
        top, left, height, width = stored.cut
        box = Box(left, top, left + width, top + height)
        mixed, share_left = mix(mixed, other, Blend(1.0, box))
        own_share *= share_left
    return mixed, own_share


def _edge(at: float, length: int) -> int:
    return min(max(round(at * length), 0), length)
