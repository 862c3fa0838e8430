"""Random logits for the tests of losses, and the formulas of the papers in float64, written out one
row at a time."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

Case = tuple[Tensor, Tensor, Tensor]
"""Logits of a student and of its teacher, and labels."""


def logits(rows: int, classes: int, *, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def labels(rows: int, classes: int, *, seed: int = 0) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def cases(*, rows: int = 6, classes: int = 12) -> st.SearchStrategy[Case]:
    """Return cases of up to that many rows, and of 2 to that many classes."""

    def case(rows: int, classes: int, seed: int) -> Case:
        return (
            logits(rows, classes, seed=seed),
            logits(rows, classes, seed=seed + 1),
            labels(rows, classes, seed=seed),
        )

    return st.builds(case, st.integers(1, rows), st.integers(2, classes), st.integers(0, 2**31))


def grad(student: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of `loss(student)` with respect to the student's logits."""
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def standardized(z: Tensor) -> Tensor:
    """Return each row minus its mean, over its standard deviation plus 1e-7."""
    rows = []
    for row in z.double():
        centred = row - row.sum() / len(row)
        rows.append(centred / ((centred**2).sum().div(len(row) - 1).sqrt() + 1e-7))
    return torch.stack(rows)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def dkd(student: Tensor, teacher: Tensor, targets: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return (TCKD, NCKD) with tau^2."""
    tckd, nckd = [], []
    for s, t, label in zip(student.double(), teacher.double(), targets.tolist(), strict=True):
        p, q = ((z / tau).exp() / (z / tau).exp().sum() for z in (t, s))
        other = torch.arange(len(s)) != label
        binary = [torch.stack([x[label], x[other].sum()]) for x in (p, q)]
        tckd.append(tau**2 * kl(*binary))
        nckd.append(tau**2 * kl(p[other] / p[other].sum(), q[other] / q[other].sum()))
    return torch.stack(tckd).mean(), torch.stack(nckd).mean()


def nkd(student: Tensor, teacher: Tensor, targets: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return (target, nontarget), the latter with tau^2."""
    target, nontarget = [], []
    for s, t, label in zip(student.double(), teacher.double(), targets.tolist(), strict=True):
        p, q = t.exp() / t.exp().sum(), s.exp() / s.exp().sum()
        target.append(-p[label] * q[label].log())
        other = torch.arange(len(s)) != label
        p, q = ((z / tau).exp()[other] / (z / tau).exp()[other].sum() for z in (t, s))
        nontarget.append(-(tau**2) * (p * q.log()).sum())
    return torch.stack(target).mean(), torch.stack(nontarget).mean()


def pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along a dimension, by autograd's own derivatives."""
    a = a - a.mean(dim, keepdim=True)
    b = b - b.mean(dim, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    correlation: Tensor = (a * b).sum(dim) / (norms + 1e-8)
    return correlation
