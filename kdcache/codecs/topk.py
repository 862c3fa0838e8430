"""The k largest logits with their classes, and what is needed to give the tail its mass at any temperature.

Kept are raw logits, not probabilities: float16 probabilities of a confident teacher can sum to more than 1, which leaves a
negative tail. For the same reason the record holds the log-sum-exp of the tail itself, not of all classes: the difference
of the whole and the head would be lost in rounding just where the tail is small.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.codecs.protocol import checked, narrowed, to_fields
from kdcache.errors import CodecError
from kdcache.shapes import Logits, PerRow, Probabilities, Records


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The codec `topk`: `k` logits in float16, their classes, and three numbers on the tail."""

    name: ClassVar[str] = "topk"
    classes: int
    k: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.classes:
            raise CodecError(f"topk:k={self.k} on {self.classes} classes; k must be from 1 to {self.classes}")

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`logits` in falling order, their `classes` in the smallest unsigned type that holds them, and the tail's numbers."""
        index = "u1" if self.classes <= 256 else "<u2" if self.classes <= 65_536 else "<u4"
        return np.dtype(
            [("logits", "<f2", (self.k,)), ("classes", index, (self.k,))]
            + [(name, "<f2") for name in ("tail_lse", "tail_mean", "tail_var")]
        )

    def encode(self, logits: Logits) -> Records:
        """Return records of the k largest logits; equal logits come in the order of their classes.

        Raises:
            CodecError: logits of another class count, not finite, or past float16's range.
        """
        logits = checked(logits, self.classes)
        top, classes = _largest(logits, self.k)
        tail = logits.scatter(1, classes, -torch.inf)
        lse = torch.logsumexp(tail, dim=1) if self.k < self.classes else torch.zeros_like(top[:, 0])
        kept = tail.isfinite()
        count = max(self.classes - self.k, 1)
        mean = torch.where(kept, tail, 0).sum(1) / count
        var = (torch.where(kept, tail - mean[:, None], 0) ** 2).sum(1) / count
        records = np.empty(len(logits), self.record_dtype)
        records["logits"] = narrowed(top, torch.float16, "logits").cpu().numpy()
        records["classes"] = classes.cpu().numpy()
        for name, values in (("tail_lse", lse), ("tail_mean", mean), ("tail_var", var)):
            records[name] = narrowed(values, torch.float16, name.replace("_", " ")).cpu().numpy()
        return records

    def decode(self, records: Records, device: torch.device | str = "cpu") -> "TopKRows":
        """Return the rows, decoded on `device`."""
        fields = to_fields(records, device)
        return TopKRows(
            self.classes,
            fields["logits"].float(),
            fields["classes"].to(torch.int64),
            lse=fields["tail_lse"].float(),
            mean=fields["tail_mean"].float(),
            var=fields["tail_var"].float(),
        )

    def stated_error(self, logits: Logits) -> PerRow:
        """Return half a float16 ulp at the largest magnitude among the k kept logits."""
        return torch.topk(logits.float(), self.k, dim=1).values.abs().amax(1) * 2.0**-11 + 2.0**-25


def _largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest logits of each row and their classes, equal ones in the order of classes.

    torch.topk promises no order among equal logits, and a stable sort of every row takes far longer: only the rows where a tie
    decides which classes are kept are sorted whole.
    """
    top, classes = torch.topk(logits, k, dim=1)
    tied = (logits >= top[:, -1:]).sum(1) > k
    if bool(tied.any()):
        classes[tied] = torch.sort(logits[tied], dim=1, descending=True, stable=True).indices[:, :k]
    classes = classes.sort(dim=1).values
    top, order = torch.sort(logits.gather(1, classes), dim=1, descending=True, stable=True)
    return top, classes.gather(1, order)


class TopKRows:
    """Rows of which the k largest logits are known; the tail's mass is spread evenly over the other classes."""

    def __init__(self, classes: int, top: Tensor, index: Tensor, *, lse: Tensor, mean: Tensor, var: Tensor) -> None:
        self._classes, self._top, self._index = classes, top, index
        self._lse, self._mean, self._var = lse, mean, var

    def probs(self, tau: float) -> Probabilities:
        """Return softmax(logits / tau) with the tail at one value per row, float32 `[rows, classes]`."""
        return torch.softmax(self._dense(tau) / tau, dim=-1)

    def logits(self) -> Logits:
        """Return the logits with the tail at the one value that keeps its mass at tau 1, float32 `[rows, classes]`."""
        return self._dense(1.0)

    def _dense(self, tau: float) -> Logits:
        dense = self._tail_logit(tau)[:, None].repeat(1, self._classes)
        return dense.scatter(1, self._index, self._top)

    def _tail_logit(self, tau: float) -> PerRow:
        """Return the value z whose (C - k) copies have the tail's mass at `tau`.

        At tau 1 it is exact. At other temperatures a Gaussian tail has log mean exp(z / tau) = mean / tau + var / (2 tau^2);
        what the real tail has beyond that at tau 1 (its skew) is carried over, shrunk by tau^3, the order of the next cumulant.
        Whatever the tail, z falls with tau from the largest tail logit to the mean (Jensen), which bounds the estimate.
        """
        exact = self._lse - math.log(max(self._classes - self._top.shape[1], 1))
        skew = exact - (self._mean + self._var / 2)
        estimate = self._mean + self._var / (2 * tau) + skew / tau**2
        low, high = (self._mean, exact) if tau >= 1 else (exact, self._top[:, -1])
        return estimate.maximum(low).minimum(high).minimum(self._top[:, -1])
