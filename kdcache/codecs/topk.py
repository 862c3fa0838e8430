"""The k largest logits with their classes, and what is needed to give the tail its mass at any
temperature.

Kept are raw logits, not probabilities: float16 probabilities of a confident teacher can sum to more
than 1, which leaves a negative tail. For the same reason the record holds the log-sum-exp of the
tail itself, not of all classes: the difference of the whole and the head would be lost in rounding
just where the tail is small.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kdcache.codecs.protocol import CodecDefaults
from kdcache.codecs.record_bytes import to_fields
from kdcache.codecs.tail import Tail, levelled, student_weights
from kdcache.config.fields import not_an_option
from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError
from kdcache.shapes import Logits, PerRow, Probabilities, Records

_FLOAT16_MANTISSA = 10
_CLASS_BITS = 20  # of a class index
_MOST_TAU = 1e6
"""At temperatures past it, or below its inverse, sums over the classes would leave float32's
range."""


@dataclass(frozen=True, kw_only=True)
class TopK(CodecDefaults):
    """The codec `topk`: `k` logits in float16, their classes, and three numbers on the tail."""

    name: ClassVar[str] = "topk"
    zstd_level: ClassVar[int] = (
        13  # the first that gives unlike bytes of a chunk tables of their own
    )
    older_defaults: ClassVar[Mapping[str, Any]] = {"tau": 1.0, "mantissa": _FLOAT16_MANTISSA}
    """What a manifest without these options means: those that were written before there were
    any."""
    field_words: ClassVar[Mapping[str, str]] = {
        "tail_lse": "tail log-sum-exp",
        "tail_mean": "tail mean",
        "tail_var": "tail variance",
    }
    classes: int
    k: int
    tau: float = 1.0
    """Temperature at which the tail's mass is exact; at others it is an estimate."""
    mantissa: int = 7
    """Bits of float16's 10 that are kept of the logits and of the tail's mean and variance; the
    others are 0, and take no room on disk. The tail's log-sum-exp keeps all."""
    tail: Tail = not_an_option("uniform")

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"topk:k={self.k}; k must be at least 1")
        if self.k > self.classes:
            raise UsageError(
                f"topk:k={self.k} on {self.classes} classes; k must be from 1 to {self.classes}"
            )
        if not 1 / _MOST_TAU <= self.tau <= _MOST_TAU:
            raise UsageError(
                f"topk:tau={self.tau:g} must be above 0; from {1 / _MOST_TAU:g} to {_MOST_TAU:g}"
                " are taken"
            )
        if not 1 <= self.mantissa <= _FLOAT16_MANTISSA:
            raise UsageError(
                f"topk:mantissa={self.mantissa}; it must be from 1 to {_FLOAT16_MANTISSA}, the bits"
                " of float16"
            )

    @property
    def keeps_all(self) -> bool:
        """Whether no class is dropped."""
        return self.k == self.classes

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`logits` in falling order, their `classes` in the smallest unsigned type that holds them,
        and the tail's numbers."""
        index = "<u4"
        if self.classes <= 256:
            index = "u1"
        elif self.classes <= 65_536:
            index = "<u2"
        return np.dtype(
            [
                ("logits", "<f2", (self.k,)),
                ("classes", index, (self.k,)),
                ("tail_lse", "<f2"),
                ("tail_mean", "<f2"),
                ("tail_var", "<f2"),
            ]
        )

    @property
    def chunk_bytes(self) -> int:
        """Logits apart from what follows."""
        return 2 * self.k

    def fields_of(self, logits: Logits) -> dict[str, Tensor]:
        """Return the fields of records of the k largest logits; equal logits come in the order of
        their classes."""
        top, classes = _largest(logits, self.k)
        tail = logits.scatter(1, classes, -torch.inf)
        if self.k < self.classes:
            lse = torch.logsumexp(tail / self.tau, dim=1)
        else:
            lse = torch.zeros_like(top[:, 0])
        is_tail = tail.isfinite()
        count = max(self.classes - self.k, 1)
        mean = torch.where(is_tail, tail, 0).sum(1) / count
        deviations = torch.where(is_tail, tail - mean[:, None], 0)
        var = (deviations**2).sum(1) / count
        return self._fields(top, classes, lse, mean, var)

    def cut(self, records: Records, source: "TopK") -> Records:
        """Return records of this codec made from those of `source`, which keeps as many logits or
        more at the same tau.

        The logits that are dropped now join the tail: its mean, variance and log-sum-exp follow
        from theirs and the old ones.
        """
        assert self.k <= source.k
        assert (self.classes, self.tau) == (source.classes, source.tau)
        fields = to_fields(records, "cpu")
        top, dropped = fields["logits"].float().tensor_split([self.k], dim=1)
        lse, mean, var = _tail_fields(fields)
        if self.k < source.k:
            old_count = source.classes - source.k
            count = source.classes - self.k
            dropped_lse = torch.logsumexp(dropped / self.tau, dim=1)
            if old_count:
                lse = torch.logaddexp(lse, dropped_lse)
            else:
                lse = dropped_lse
            old_mean = mean
            mean = (old_count * old_mean + dropped.sum(1)) / count
            old_squares = old_count * (var + (old_mean - mean).square())
            dropped_squares = (dropped - mean[:, None]).square().sum(1)
            var = (old_squares + dropped_squares) / count
        classes = fields["classes"][:, : self.k]
        return self.records_of(self._fields(top, classes, lse, mean, var))

    def from_fields(self, fields: Mapping[str, Tensor]) -> "TopKRows":
        """Return the rows whose records have these fields."""
        return TopKRows(self, fields)

    def nearest(self, records: Records, exact: Logits) -> Logits:
        """Return the decoded logits of the classes that are kept; the others as near to `exact` as
        a record allows.

        Of a class that it dropped, a record says that it is no larger than the smallest that it
        keeps. Two classes that changed places at rank k would look far apart otherwise.
        """
        logits = self.decode(records).logits()
        places = torch.from_numpy(records["classes"].astype(np.int64))
        is_kept = torch.zeros_like(logits, dtype=torch.bool).scatter(1, places, True)
        smallest = logits.masked_fill(~is_kept, torch.inf).amin(dim=1, keepdim=True)
        return torch.where(is_kept, logits, exact.minimum(smallest))

    def stated_error(self, logits: Logits) -> PerRow:
        """Return half a unit of the last bit kept, at the largest magnitude among the k kept
        logits."""
        largest = torch.topk(logits.float(), self.k, dim=1).values.abs().amax(1)
        return largest * 2.0 ** -(self.mantissa + 1) + 2.0**-25

    def _fields(
        self, top: Tensor, classes: Tensor, lse: Tensor, mean: Tensor, var: Tensor
    ) -> dict[str, Tensor]:
        return {
            "logits": self._rounded(top),
            "classes": classes,
            "tail_lse": lse,
            "tail_mean": self._rounded(mean),
            "tail_var": self._rounded(var),
        }

    def _rounded(self, values: Tensor) -> Tensor:
        """Return values with the codec's number of bits."""
        if self.mantissa == _FLOAT16_MANTISSA:
            return values
        num_bits = self.mantissa + 1
        digits, exponent = torch.frexp(values)
        integers = (digits * 2.0**num_bits).round()
        return torch.ldexp(integers, exponent - num_bits)


def _tail_fields(fields: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tail's log-sum-exp, mean and variance."""
    return (
        fields["tail_lse"].float(),
        fields["tail_mean"].float(),
        fields["tail_var"].float(),
    )


def _largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest logits of each row, in falling order, and their classes, equal ones in
    the order of classes.

    torch.topk promises no order among equal logits. Where no tie decides which classes are kept, it
    finds them in half of the time, but only a CPU can tell that without a wait.
    """
    if logits.device.type == "cpu":
        top, classes = torch.topk(logits, k, dim=1)
        num_candidates = (logits >= top[:, -1:]).sum(1)
        if not bool((num_candidates > k).any()):
            classes = classes.sort(dim=1).values
            values = logits.gather(1, classes)
            top, order = torch.sort(values, dim=1, descending=True, stable=True)
            return top, classes.gather(1, order)
    return _largest_by_key(logits, k)


def _largest_by_key(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return what `_largest` does, from integers that no two classes of a row share: the logit's
    place among all floats, and below it the class."""
    bits = (logits + 0.0).view(torch.int32)  # the sum makes -0 the 0 that it is equal to
    # of negative floats the larger has the smaller bits
    places = bits ^ ((bits >> 31) & 0x7FFF_FFFF)
    last = logits.shape[1] - 1
    falling = torch.arange(last, -1, -1, device=logits.device)
    keys = torch.topk((places.long() << _CLASS_BITS) | falling, k, dim=1).values
    classes = last - (keys & ((1 << _CLASS_BITS) - 1))
    return logits.gather(1, classes), classes


class TopKRows:
    """Rows of which the k largest logits are known, and of the others what gives them their
    mass."""

    def __init__(self, codec: TopK, fields: Mapping[str, Tensor]) -> None:
        self._codec = codec
        self._fields = fields
        self._top = fields["logits"].float()
        self._index = fields["classes"].to(torch.int64)
        self._dropped = codec.classes - codec.k

    @property
    def keeps_all(self) -> bool:
        """Whether no class is dropped."""
        return self._codec.keeps_all

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return softmax(logits / tau) with the tail shaped by the codec's policy, float32 `[rows,
        classes]`.

        Raises:
            UsageError: the policy is `ghost`, and `tempered_student` is not given.
        """
        tail = self._tail_logit(tau)[:, None]
        top = self._top
        if torch.is_tensor(tau):
            tau = tau[:, None]
        if torch.is_tensor(tau) or tau != 1:
            tail = tail / tau
            top = top / tau
        return torch.softmax(self._dense(self._shaped(tail, tempered_student), top), dim=-1)

    def logits(self) -> Logits:
        """Return the logits with an even tail that has its mass at the codec's tau, float32 `[rows,
        classes]`."""
        return self._dense(self._tail_logit(self._codec.tau)[:, None], self._top)

    def std(self) -> PerRow:
        """Return the standard deviation of each row over all classes: exact, whatever the shape of
        the tail."""
        _, tail_mean, tail_var = _tail_fields(self._fields)
        mean = (self._top.sum(1) + self._dropped * tail_mean) / self._codec.classes
        head = (self._top - mean[:, None]).square().sum(1)
        tail = self._dropped * (tail_var + (tail_mean - mean).square())
        return ((head + tail) / (self._codec.classes - 1)).sqrt()

    def _dense(self, tail: Tensor, top: Tensor) -> Tensor:
        """Return rows of all classes, `top` at the classes of the record and `tail` elsewhere."""
        return tail.expand(-1, self._codec.classes).scatter(1, self._index, top)

    def _shaped(self, tail: Tensor, tempered_student: Logits | None) -> Tensor:
        """Return the tail's logits by class, `[rows, classes]`, or `[rows, 1]` where all are equal.

        Args:
            tail: one logit a row, `[rows, 1]`, which all classes have in the mean.
            tempered_student: its logits over the temperature.
        """
        if self._codec.tail == "ghost":
            return tail + levelled(student_weights(tempered_student), self._index)
        if self._codec.tail == "none":
            return torch.full_like(tail, -math.inf)
        return tail

    def _tail_logit(self, tau: float | PerRow) -> PerRow:
        """Return the value z whose (C - k) copies have the tail's mass at each row's `tau`.

        At the codec's own tau, t, it is exact: z(t) = t (log-sum-exp at t - log(C - k)). At other
        temperatures a Gaussian tail has z = mean + var / (2 tau); what the real tail has beyond
        that at t (its skew) is carried over, times (t / tau)^2, as the next cumulant goes with tau.
        Whatever the tail, z falls as tau grows, to the mean (Jensen), which bounds the estimate
        above t. Below t the sum of exp(x / tau) is at most the sum at t to the power t / tau (norms
        of a vector), and no copy lies above the head.
        """
        own = self._codec.tau
        last = self._top[:, -1]
        size = math.log(max(self._dropped, 1))
        lse = self._fields["tail_lse"].float()
        exact = own * (lse - size)
        if not torch.is_tensor(tau):
            if tau == own:
                return exact.minimum(last)
            tau = torch.full_like(lse, tau)
        _, mean, var = _tail_fields(self._fields)
        skew = exact - (mean + var / (2 * own))
        estimate = mean + var / (2 * tau) + skew * (own / tau) ** 2
        above = tau >= own
        low = torch.where(above, mean, exact)
        high = torch.where(above, exact, own * lse - tau * size)
        return estimate.maximum(low).minimum(high).minimum(last)
