"""Soft targets of maps: the rows of all pixels, for each head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcache.errors import CodecError
from kdcache.shapes import PerRow, ViewLogits
from kdcache.soft_targets.protocol import DenseTargets, SoftTargets

_ONE_BY_ONE = (
    "soft targets of maps go into a loss head by head: give teacher.heads[0], and the student's"
    " logits as rows of pixels, [views * height * width, classes]"
)


@dataclass(frozen=True)
class MapTargets:
    """The teacher's maps of a batch: rows of pixels, for each head."""

    heads: Sequence[SoftTargets]
    """Of each head, main first, the rows of all views' pixels, view by view, line by line."""
    size: tuple[int, int]
    """Height and width of a map."""

    def logits(self) -> ViewLogits:
        """Return raw logits, float32 `[views, heads, height, width, classes]`."""
        return self._stacked([rows.logits() for rows in self.heads])

    def probs(self, tau: float | PerRow, student: Tensor | None = None) -> ViewLogits:
        """Return softmax(logits / tau), in the shape of `logits`.

        Raises:
            CodecError: a temperature for each row, or a student: a loss takes heads one by one.
        """
        if student is not None or isinstance(tau, Tensor):
            raise CodecError(_ONE_BY_ONE)
        return self._stacked([rows.probs(tau) for rows in self.heads])

    def std(self) -> Tensor:
        """Return the standard deviation of each pixel's logits, `[views, heads, height, width]`."""
        return self._stacked([rows.std()[:, None] for rows in self.heads])[..., 0]

    def _stacked(self, heads: Sequence[Tensor]) -> Tensor:
        return torch.stack([one.reshape(-1, *self.size, one.shape[-1]) for one in heads], dim=1)


def heads_of(rows: SoftTargets) -> Sequence[SoftTargets]:
    """Return the rows of each head; of classification there is one."""
    return rows.heads if isinstance(rows, MapTargets) else [rows]


def per_head(make: Callable[..., SoftTargets], *teachers: Any) -> Any:
    """Return what `make` gives of several teachers' rows, for each head that all of them have if
    these are maps."""
    if not isinstance(teachers[0], MapTargets):
        return make(*teachers)
    heads = zip(*(teacher.heads for teacher in teachers), strict=False)
    return MapTargets([make(*rows) for rows in heads], teachers[0].size)


def as_maps(logits: ViewLogits) -> SoftTargets:
    """Return logits that are all known as the soft targets, of maps for each head."""
    if logits.ndim == 2:
        return DenseTargets(logits)
    heads = [
        DenseTargets(logits[:, head].reshape(-1, logits.shape[-1]))
        for head in range(logits.shape[1])
    ]
    return MapTargets(heads, (logits.shape[2], logits.shape[3]))
