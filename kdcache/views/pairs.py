"""Views before they are mixed, and pairs of them."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from kdcache.targets import MixedTarget, ViewTarget

Unmixed = tuple[list[Tensor], ViewTarget]
"""The unmixed view of a row at each size, and its target, a mask at the first size."""
Mix = Callable[[Tensor, Tensor], tuple[Tensor, float]]
"""Returns the mixed view of two, and the share of the first one's label."""


class UnmixedViews(dict[tuple[int, int], Unmixed]):
    """Those of a batch by (row, seed), each drawn when it is first asked for: both of a pair are
    drawn once."""

    def __init__(self, draw_view: Callable[[int, int], Unmixed]) -> None:
        super().__init__()
        self._draw_view = draw_view

    def __missing__(self, view: tuple[int, int]) -> Unmixed:
        drawn = self._draw_view(*view)
        self[view] = drawn
        return drawn

    def taken(self, row: int, seed: int) -> Unmixed:
        """Return one that will not be asked for again."""
        if (row, seed) in self:
            return self.pop((row, seed))
        return self._draw_view(row, seed)


class Pair(NamedTuple):
    """A view and the one that it is mixed with."""

    own: Unmixed
    other: Unmixed
    mix: Mix


def mixed(pair: Pair) -> tuple[list[Tensor], MixedTarget]:
    """Return the mixed view of a pair at each size, and what its target is."""
    own_views, own_target = pair.own
    other_views, other_target = pair.other
    assert isinstance(own_target, int), "require_following has refused a recipe that mixes"
    assert isinstance(other_target, int)
    views = []
    shares = []
    for own_view, other_view in zip(own_views, other_views, strict=True):
        view, share = pair.mix(own_view, other_view)
        views.append(view)
        shares.append(share)
    return views, (own_target, other_target, shares[0])


def unmixed(own: Unmixed) -> tuple[list[Tensor], MixedTarget]:
    """Return a view that is not mixed at each size, and what its target is."""
    views, target = own
    second_target = -1
    if isinstance(target, int):
        second_target = target  # others of its batch may be mixed
    return views, (target, second_target, 1.0)
