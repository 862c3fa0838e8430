"""Losses through torch.compile, in one piece; one test runs it in a fresh Python, where shapes are
not checked, for the checks cannot be compiled."""

import torch
from losses.references import labels, logits
from torch import Tensor

from kdcache.codecs import open_codec
from kdcache.codecs.tail import with_tail
from kdcache.losses import open_loss
from kdcache.soft_targets import DenseTargets, SoftTargets

ROWS = 16
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
        check(text, DenseTargets(logits(ROWS, CLASSES, seed=1)))
    for text in ("dist", "kl:tau=4"):
        for tail in ("uniform", "ghost"):
            check(text, rows_of_topk(tail))


def rows_of_topk(tail: str) -> SoftTargets:
    codec = open_codec("topk:k=5", classes=CLASSES)
    records = codec.encode(logits(ROWS, CLASSES, seed=1))
    return with_tail(codec, tail).decode(records)


def check(text: str, teacher: SoftTargets) -> None:
    """Compare the gradient of a loss with that of the same, compiled without a break."""
    loss = open_loss(text)
    targets = labels(ROWS, CLASSES)

    def total(student: Tensor) -> Tensor:
        terms = loss.terms(student, teacher, targets)
        return torch.stack([*terms.values()]).sum()

    torch.compiler.reset()  # else all count as new versions of one function
    gradients = []
    for function in (total, torch.compile(total, backend="aot_eager", fullgraph=True)):
        student = logits(ROWS, CLASSES).requires_grad_()
        gradients.extend(torch.autograd.grad(function(student), student))
    torch.testing.assert_close(*gradients, msg=lambda difference: f"{text}: {difference}")
    print(text, type(teacher).__name__)
