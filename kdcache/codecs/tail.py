"""The shape of the tail that topk dropped: a policy chosen when a cache is read, never part of it.

A record fixes the tail's mass; a policy says how it lies over the classes. `uniform` spreads it
evenly, `ghost` keeps it together as one more class, `none` drops it.
"""

import dataclasses
import math
from typing import Literal, TypeVar

from kdcache.codecs.protocol import RowCodec
from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError
from kdcache.shapes import Logits

Tail = Literal["uniform", "ghost", "none"]
AnyCodec = TypeVar("AnyCodec", bound=RowCodec)


def has_tail(codec: RowCodec) -> bool:
    """Return whether the codec drops classes whose mass a policy can spread."""
    return not codec.keeps_all and hasattr(codec, "tail")


def with_tail(codec: AnyCodec, tail: Tail) -> AnyCodec:
    """Return `codec` with another tail policy for what it decodes; its records and its place in a
    manifest stay as they are.

    Raises:
        UsageError: a codec without a tail.
    """
    if not has_tail(codec):
        raise UsageError(
            f"tail {tail!r}: codec {codec.name} leaves no tail that could be spread; leave it out"
        )
    return dataclasses.replace(codec, tail=tail)  # type: ignore[type-var]


def student_weights(tempered_student: Logits | None) -> Tensor:
    """Return the log-weights of `ghost`: the student's logits over the temperature, held constant.

    KL over k + 1 classes, the last one the whole tail, has the value and the gradient of KL with
    the teacher's tail in the proportions of the student's: p_j = p_tail s_j / s_tail. So every loss
    on probabilities sees a ghost class.

    Raises:
        UsageError: a loss that does not tell the student's logits.
    """
    if tempered_student is None:
        raise UsageError(
            "tail 'ghost' follows the student, which this loss does not tell; use tail uniform or"
            " none"
        )
    weights: Tensor = tempered_student.detach().float()
    return weights


def levelled(weights: Tensor, head: Tensor) -> Tensor:
    """Return log-weights shifted so that the weights of the classes outside `head`, `[rows, k]`,
    have mean 1.

    Rows that have no weight there come out even.
    """
    tail = weights.scatter(1, head, -torch.inf)
    num_classes = max(tail.shape[1] - head.shape[1], 1)
    mean = torch.logsumexp(tail, 1, keepdim=True) - math.log(num_classes)
    return torch.where(mean.isfinite(), tail - mean, 0.0)
