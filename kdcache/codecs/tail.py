"""The shape of the tail that topk dropped: a policy chosen when a cache is read, never part of it.

A record fixes the tail's mass; a policy says how it lies over the classes. `uniform` spreads it
evenly, `prior` as rows of the same first class have it on average, `ghost` keeps it together as one
more class, `none` drops it.
"""

import dataclasses
import math
from typing import Literal, TypeVar

import torch
from torch import Tensor

from kdcache.codecs.protocol import Codec, to_fields
from kdcache.errors import UsageError
from kdcache.shapes import Probabilities, Records

Tail = Literal["uniform", "prior", "ghost", "none"]
AnyCodec = TypeVar("AnyCodec", bound=Codec)

_PSEUDO_ROWS = 2
"""Even rows that every first class starts with: one that was rarely seen stays near `uniform`."""
_DENSE_CLASSES = 4096
"""Up to here a prior is a dense table (64 MB), where a batch's rows are found faster than in a
sparse one."""


def set_tail(codec: AnyCodec, tail: Tail, records: Records) -> AnyCodec:
    """Return `codec` with another tail policy for what it decodes; its records and its place in a
    manifest stay as they are.

    Args:
        codec: a codec that drops classes.
        tail: the policy.
        records: a sample of the cache's records, to estimate `prior` from; the other policies do
            not look at them.

    Raises:
        UsageError: a codec that keeps every class, or no records for a prior.
    """
    if codec.keeps_all:
        raise UsageError(
            f"tail {tail!r}: codec {codec.name} keeps every class, there is no tail to spread;"
            " leave it out"
        )
    prior = TailPrior(records, codec.classes) if tail == "prior" else None
    return dataclasses.replace(codec, tail=tail, prior=prior)  # type: ignore[type-var]


class TailPrior:
    """How far above the tail each class lies, on average over the rows of one first class.

    Entry (c, j) is the mean, over sample rows whose first class is c, of class j's logit less the
    row's mean tail logit where j is among the k largest, and 0 where it is not. Means of logits,
    not of probabilities, serve every temperature.
    """

    def __init__(self, records: Records, classes: int) -> None:
        if not len(records):
            raise UsageError(
                "tail 'prior' is estimated from records, and there are none; use tail uniform,"
                " ghost or none"
            )
        fields = to_fields(records, "cpu")
        index = fields["classes"].to(torch.int64)
        first = index[:, :1]
        weights = 1 / (torch.bincount(first[:, 0], minlength=classes) + _PSEUDO_ROWS)
        excess = (fields["logits"].float() - fields["tail_mean"].float()[:, None]) * weights[first]
        places = torch.stack([first.expand_as(index)[:, 1:].flatten(), index[:, 1:].flatten()])
        table = torch.sparse_coo_tensor(
            places, excess[:, 1:].flatten(), (classes, classes), check_invariants=True
        ).coalesce()
        table = table.to_dense() if classes <= _DENSE_CLASSES else table
        self._tables = {table.device: table}

    def excess(self, first: Tensor) -> Tensor:
        """Return float32 `[rows, classes]` for the first class of each row."""
        if first.device not in self._tables:
            self._tables[first.device] = next(iter(self._tables.values())).to(first.device)
        return self._tables[first.device].index_select(0, first).to_dense()


def student_weights(student: Probabilities | None) -> Tensor:
    """Return the log-weights of `ghost`: the student's own, held constant.

    KL over k + 1 classes, the last one the whole tail, has the value and the gradient of KL with
    the teacher's tail in the proportions of the student's: p_j = p_tail s_j / s_tail. So every loss
    on probabilities sees a ghost class.

    Raises:
        UsageError: a loss that does not tell the student's probabilities.
    """
    if student is None:
        raise UsageError(
            "tail 'ghost' follows the student, which this loss does not tell; use tail uniform,"
            " prior or none"
        )
    return student.detach().float().log()


def levelled(weights: Tensor, head: Tensor) -> Tensor:
    """Return log-weights shifted so that the weights of the classes outside `head`, `[rows, k]`,
    have mean 1.

    Rows that have no weight there come out even.
    """
    tail = weights.scatter(1, head, -torch.inf)
    mean = torch.logsumexp(tail, 1, keepdim=True) - math.log(max(tail.shape[1] - head.shape[1], 1))
    return torch.where(mean.isfinite(), tail - mean, 0.0)
