"""A sample of a teacher's logits, from before anything is trained: rows that codecs are fitted to,
and views that they are measured on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kdcache.codec_error.measured_views import MeasuredViews
from kdcache.errors import UsageError
from kdcache.shapes import Logits, Rows
from kdcache.views import keyed_permutation

Own = TypeVar("Own", bound="Sample")


@dataclass(frozen=True, kw_only=True)
class Sample(ABC):
    """Rows of a teacher's logits, and the views that they are of."""

    teacher: Logits
    """Rows that codecs are fitted to."""
    groups: Rows
    """Rows of one number are of one sample of the data, and never fall into different parts."""
    proxy: str
    """What the student's logits are, in words."""
    head: Tensor | None = None
    """Weights of the teacher's classifier, `[classes, features]`, if known: a prior for a codec's
    fit."""

    @property
    @abstractmethod
    def views(self) -> MeasuredViews:
        """What codecs are measured on."""

    @abstractmethod
    def halves(self: Own) -> tuple[Own, Own]:
        """Return (to fit on, to measure on), of unlike samples of the data, for a comparison of
        codecs.

        Raises:
            UsageError: they are all of one.
        """

    @abstractmethod
    def parted(self: Own) -> tuple[Own, Own]:
        """Return (to fit on, to measure on) for a single codec, whose fit wants most rows."""

    @abstractmethod
    def with_other_views(self: Own) -> Own:
        """Return the sample with the teacher on another view in the student's place."""

    @abstractmethod
    def take(self: Own, rows: Rows) -> Own:
        """Return the rows asked for, in their order."""

    @abstractmethod
    def to(self: Own, device: torch.device) -> Own:
        """Return the sample on `device`."""

    def by_group(self: Own) -> Own:
        """Return all rows, those of a group side by side, the groups in random order."""
        names, members = np.unique(self.groups, return_inverse=True)
        rank = keyed_permutation(len(names), 0)[members]
        return self.take(np.argsort(rank, kind="stable"))

    def require_gradient(self) -> None:
        """Raise a UsageError if the two models' logits do not differ."""
        if not self.views.differ:
            raise UsageError(
                f"the student ({self.proxy}) gives the teacher's own logits, so that there is no"
                " gradient to measure; use a recipe that draws at random, or another student"
            )


def require_finite(logits: Logits, whose: str) -> None:
    """Raise a UsageError if rows of logits, `teacher` or `student` by name, are not finite."""
    is_finite = torch.isfinite(logits)
    if not bool(is_finite.all()):
        row = int((~is_finite.all(dim=1)).nonzero()[0])
        raise UsageError(
            f"{whose}: row {row} holds NaN or infinite logits; check the model and its precision"
        )
