"""Rows of a teacher's logits and of a proxy student's on the same views, to measure a codec on
before anything is trained: where a view has one row.

The proxy is a student's own logits where there are any, and else the teacher on another view of
the same sample.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from kdcache.codec_error.measured_views import MeasuredViews
from kdcache.codec_error.sample import Sample, require_finite
from kdcache.errors import UsageError
from kdcache.positions import One
from kdcache.shapes import Logits, Rows
from kdcache.views import keyed_permutation

ANOTHER_VIEW = "the teacher on another view of the sample"
_MOST_HELD_OUT = 2048


@dataclass(frozen=True, kw_only=True)
class Pairs(Sample):
    """Rows of two models' logits on the same views."""

    student: Logits

    def __post_init__(self) -> None:
        require_finite(self.teacher, "teacher")
        require_finite(self.student, "student")

    @property
    def views(self) -> MeasuredViews:
        """All rows."""
        return MeasuredViews(logits=self.teacher, student=self.student, layout=One())

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

    def parted(self) -> "tuple[Pairs, Pairs]":
        """Return three quarters of the rows by group, and some of the others, which are of other
        samples, in random order."""
        pairs = self.by_group()
        num_rows = len(pairs.teacher)
        num_others = max(num_rows // 4, 1)
        fitting_rows, other_rows = np.split(np.arange(num_rows), [-num_others])
        held_out_rows = other_rows[keyed_permutation(num_others, 0)[:_MOST_HELD_OUT]]
        return pairs.take(fitting_rows), pairs.take(held_out_rows)

    def with_other_views(self) -> "Pairs":
        """Return the rows with the teacher on another of them in the student's place."""
        return replace(self, student=self.teacher.roll(1, 0))

    def take(self, rows: Rows) -> "Pairs":
        """Return the rows asked for, in their order."""
        return replace(
            self,
            teacher=self.teacher[rows],
            student=self.student[rows],
            groups=self.groups[rows],
        )

    def to(self, device: torch.device) -> "Pairs":
        """Return the pairs on `device`."""
        head = self.head
        if head is not None:
            head = head.to(device)
        return replace(
            self, teacher=self.teacher.to(device), student=self.student.to(device), head=head
        )


def pairs_of_two_views(first: Logits, second: Logits, samples: Rows) -> Pairs:
    """Return the rows of two views of each sample, each the other's proxy."""
    return Pairs(
        teacher=torch.cat([first, second]),
        student=torch.cat([second, first]),
        groups=np.concatenate([samples, samples]),
        proxy=ANOTHER_VIEW,
    )
