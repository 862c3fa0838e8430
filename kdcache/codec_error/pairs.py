"""Rows of a teacher's logits and of a proxy student's on the same views, to measure a codec on
before anything is trained.

The proxy is a student's own logits where there are any, and else the teacher on another view of
the same sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kdcache.codec_error.whole_views import WholeViews
from kdcache.errors import UsageError
from kdcache.shapes import Activation, Logits, Rows
from kdcache.views import keyed_permutation

ANOTHER_VIEW = "the teacher on another view of the sample"
NEXT_PIXEL = "the teacher on the next pixel"
MAP_VIEWS = 64
"""Views of maps whose pixels are the rows."""
PixelRows = tuple[Logits, Logits, Rows]
"""Pixels of a view's maps, their neighbours to the right, and the view's row for each."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of two models' logits on the same views."""

    teacher: Logits
    student: Logits
    groups: Rows
    """Rows of one number belong together, as views of one sample do, and never fall into different
    halves."""
    proxy: str
    """What the student's logits are, in words."""
    head: Tensor | None = None
    """Weights of the teacher's classifier, `[classes, features]`, if known: a prior for a codec's
    fit."""

    activation: Activation = "softmax"
    """How the losses that are measured make probabilities of the logits."""
    views: WholeViews | None = None
    """Some whole views of the rows, for codecs that code maps or levels as a whole."""

    def __post_init__(self) -> None:
        for name in ("teacher", "student"):
            is_finite = torch.isfinite(getattr(self, name))
            if not bool(is_finite.all()):
                row = int((~is_finite.all(dim=1)).nonzero()[0])
                raise UsageError(
                    f"{name}: row {row} holds NaN or infinite logits; check the model and its"
                    " precision"
                )

    @property
    def differ(self) -> bool:
        """Whether the two models' logits differ anywhere; if not, a loss between them has no
        gradient."""
        return not torch.equal(self.teacher, self.student)

    def require_gradient(self) -> None:
        """Raise a UsageError if the two models' logits do not differ."""
        if not self.differ:
            raise UsageError(
                f"the student ({self.proxy}) gives the teacher's own logits, so that there is no"
                " gradient to measure; use a recipe that draws at random, or another student"
            )

    def halves(self, split: int = 0) -> "tuple[Pairs, Pairs]":
        """Return (to fit on, to measure on), split by group and in random order; the second has
        half of the rows or more.

        Args:
            split: key of the split: each number gives another one.

        Raises:
            UsageError: a single group, which cannot be split.
        """
        names, members = np.unique(self.groups, return_inverse=True)
        if len(names) < 2:
            raise UsageError(
                "all rows are of one sample; codecs are fitted on some samples and measured on"
                " others"
            )
        rank = np.argsort(keyed_permutation(len(names), split))[members]
        sizes = np.cumsum(np.bincount(rank, minlength=len(names)))
        half = (len(members) + 1) // 2
        last = min(int(np.searchsorted(sizes, half)), len(names) - 2)
        order = keyed_permutation(len(members), 1)
        is_measured = rank[order] <= last
        return self.take(order[~is_measured]), self.take(order[is_measured])

    def by_group(self) -> "Pairs":
        """Return all rows, those of a group side by side, the groups in random order."""
        names, members = np.unique(self.groups, return_inverse=True)
        rank = keyed_permutation(len(names), 0)[members]
        return self.take(np.argsort(rank, kind="stable"))

    def to(self, device: torch.device) -> "Pairs":
        """Return the pairs on `device`."""
        head = self.head
        if head is not None:
            head = head.to(device)
        views = self.views
        if views is not None:
            views = replace(views, logits=views.logits.to(device))
        return replace(
            self,
            teacher=self.teacher.to(device),
            student=self.student.to(device),
            head=head,
            views=views,
        )

    def take(self, rows: Rows) -> "Pairs":
        """Return the rows asked for, in their order."""
        return replace(
            self,
            teacher=self.teacher[rows],
            student=self.student[rows],
            groups=self.groups[rows],
        )


def pairs_of_two_views(first: Logits, second: Logits, samples: Rows) -> Pairs:
    """Return the rows of two views of each sample, each the other's proxy."""
    return Pairs(
        teacher=torch.cat([first, second]),
        student=torch.cat([second, first]),
        groups=np.concatenate([samples, samples]),
        proxy=ANOTHER_VIEW,
    )


def pixels_of_view(maps: Tensor, row: int, count: int) -> PixelRows:
    """Return pixels of a view's maps, `[heads, height, width, classes]`, or of its positions,
    `[positions, classes]`; their neighbours to the right, and their row for each."""
    width = maps.shape[-2]
    flat = maps.float().flatten(0, -2)
    places = keyed_permutation(len(flat), 0, row)[:count]
    columns = places % width
    neighbours = places - columns + (columns + 1) % width
    return flat[places], flat[neighbours], np.full(len(places), row)


def pairs_of_pixels(parts: Sequence[PixelRows]) -> Pairs:
    """Return the pixels of several views, each with its neighbour as its proxy."""
    teacher, student, groups = zip(*parts, strict=True)
    return Pairs(
        teacher=torch.cat(teacher),
        student=torch.cat(student),
        groups=np.concatenate(groups),
        proxy=NEXT_PIXEL,
    )
