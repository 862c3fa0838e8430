"""How far one gradient of a loss is from another, with respect to a student's logits: what a lossy
record does to training."""

from collections.abc import Callable, Sequence

from kdcache.codecs import Codec
from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError
from kdcache.shapes import LogitRows, Scalar
from kdcache.soft_targets import SoftTargets

Teacher = LogitRows | SoftTargets
Losses = Callable[[LogitRows, Teacher], Sequence[Scalar]]
"""Gives losses of a batch, of the student's logits against the teacher's."""

FAR_OF_SOME = 0.1
FAR_OF_ALL = 0.5
"""Errors of DIST's gradient from which on a user is told: of codecs that keep some classes, and of
those that keep all.

The first make the same mistake in every batch, which costs students points; the errors of the
others are noise over all classes, and students that were trained through a third of it lost nothing
(docs/results/codecs.md)."""


def is_far(error: float, codec: Codec) -> bool:
    """Return whether an error of DIST's gradient is one that training is not known to forgive."""
    if codec.keeps_all:
        return error > FAR_OF_ALL
    return error > FAR_OF_SOME


class Difference:
    """Sums over batches that tell how far one gradient is from another."""

    def __init__(self) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device="cpu")
        """Of the squares of differences, of the exact ones, of the others, and of products."""

    def add(self, exact: Tensor, other: Tensor) -> None:
        """Count a batch's gradients, of equal shapes."""
        exact = exact.flatten()
        other = other.flatten()
        apart = other - exact
        sums = [
            torch.dot(apart, apart),
            torch.dot(exact, exact),
            torch.dot(other, other),
            torch.dot(exact, other),
        ]
        self._sums += torch.stack(sums).cpu().double()

    @property
    def error(self) -> float:
        """|other - exact| / |exact|."""
        apart, exact, _, _ = self._sums
        return float((apart / exact).sqrt())

    @property
    def cosine(self) -> float:
        """<other, exact> / (|other| |exact|); 0 where one of them is zero."""
        _, exact, other, product = self._sums
        least = torch.finfo(torch.float64).tiny
        return float(product / (exact * other).sqrt().clamp_min(least))


def gradients(student: LogitRows, teacher: Teacher, losses: Losses) -> list[Tensor]:
    """Return the gradient of each of the losses of a batch with respect to the student's logits."""
    # a clone: inference tensors cannot require a gradient
    student = student.detach().float().clone().requires_grad_()
    results = []
    for loss in losses(student, teacher):
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        results.append(gradient)
    return results


def whole_batches(rows: int, size: int) -> list[slice]:
    """Return the batches of `size` among `rows`, without what is left over.

    Raises:
        UsageError: not even one.
    """
    if rows < size:
        raise UsageError(
            f"{rows} rows to measure on are less than one batch of {size}; give more, or a smaller"
            " batch size"
        )
    return [slice(start, start + size) for start in range(0, rows - size + 1, size)]
