"""Losses through torch.compile, in one piece; one test runs it in a process of its own, where
shapes are not checked, for the checks cannot be compiled."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial

import torch
from losses.references import labels, logits
from torch import Tensor

from kdcache.codecs import open_codec
from kdcache.codecs.tail import Tail, with_tail
from kdcache.losses import open_loss
from kdcache.soft_targets import DenseTargets, SoftTargets

CLASSES = 20
LOSSES = (
    "dist",
    "dist:tau=4,activation=sigmoid",
    "dist:tau=2,standardize=true",
    "kl:tau=4",
    "dkd",
    "nkd",
    "mse",
    "mlkd:taus=[2,4]",
    "dist+kl:tau=4",
)


def main() -> None:
    """Compile each loss, on logits and, where it takes them, on what topk keeps."""
    for text in LOSSES:
        check(text, dense_targets)
    check("dist", partial(topk_targets, tail="uniform"), num_rows=(16, 12))
    check("kl:tau=4", partial(topk_targets, tail="ghost"))
    if shutil.which("g++"):
        # where no size is known, nor any number that is made of sizes
        check("dist", dense_targets, num_rows=(16, 12), backend="inductor", dynamic=True)


def dense_targets(rows: int) -> SoftTargets:
    return DenseTargets(logits(rows, CLASSES, seed=1))


def topk_targets(rows: int, *, tail: Tail) -> SoftTargets:
    codec = open_codec("topk:k=5", classes=CLASSES)
    records = codec.encode(logits(rows, CLASSES, seed=1))
    return with_tail(codec, tail).decode(records)


def check(
    text: str,
    make: Callable[[int], SoftTargets],
    *,
    num_rows: Sequence[int] = (16,),
    backend: str = "eager",
    dynamic: bool | None = None,
) -> None:
    """Compare the gradient of a loss with that of the same, compiled without a break."""
    loss = open_loss(text)

    def total(student: Tensor, teacher: SoftTargets, targets: Tensor) -> Tensor:
        terms = loss.terms(student, teacher, targets)
        return torch.stack([*terms.values()]).sum()

    torch.compiler.reset()  # else all count as new versions of one function
    compiled = torch.compile(total, backend=backend, fullgraph=True, dynamic=dynamic)
    for rows in num_rows:
        teacher = make(rows)
        targets = labels(rows, CLASSES)
        gradients = []
        for function in (total, compiled):
            student = logits(rows, CLASSES).requires_grad_()
            values = function(student, teacher, targets)
            gradients.extend(torch.autograd.grad(values, student))
        torch.testing.assert_close(*gradients, msg=lambda difference: f"{text}: {difference}")
    print(text)
