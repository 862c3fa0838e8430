"""How far one gradient of a loss is from another, with respect to a student's logits: what a lossy
record does to training."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from kdcache.codecs import Codec
from kdcache.deferred import Tensor, torch
from kdcache.errors import UsageError
from kdcache.shapes import Logits, Scalar
from kdcache.soft_targets import SoftTargets

TeacherLoss = Callable[[Logits, Logits | SoftTargets], Scalar]
"""The loss of a batch: of the student's logits against the teacher's, such as
`functools.partial(dist_loss, tau=4.0)`."""

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


def gradient_error(
    exact: Logits,
    decoded: Iterable[SoftTargets],
    student: Logits,
    *,
    loss: TeacherLoss,
    batch_size: int = 256,
) -> tuple[float, float]:
    """Return (error, cosine) of the loss's gradient with respect to the student's logits, decoded
    against exact.

    error = |g_decoded - g_exact| / |g_exact|, cosine = <g_decoded, g_exact> / (|g_decoded|
    |g_exact|), the sums taken over all whole batches; rows past the last whole batch are left out.

    Args:
        exact: the teacher's logits.
        decoded: what a codec gives back of each whole batch of them, such as `decoded_batches`
            yields.
        student: logits of a student on the same rows.
        loss: the loss of a batch.
        batch_size: rows of a batch.

    Raises:
        UsageError: fewer rows than one batch.
    """
    difference = Difference()
    for part, rows in zip(whole_batches(len(exact), batch_size), decoded, strict=True):
        exact_gradient = _gradient(student[part], exact[part], loss)
        decoded_gradient = _gradient(student[part], rows, loss)
        difference.add(exact_gradient, decoded_gradient)
    return difference.error, difference.cosine


def decoded_batches(codec: Codec, logits: Logits, batch_size: int = 256) -> Iterator[SoftTargets]:
    """Yield what `codec` gives back of each whole batch of `logits`, decoded where they are."""
    for part in whole_batches(len(logits), batch_size):
        yield codec.decode(codec.encode(logits[part]), logits.device)


class Difference:
    """Sums over batches that tell how far one gradient is from another."""

    def __init__(self) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64)
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
        self._sums += torch.stack(sums).double().cpu()

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


def gradients(
    student: Logits,
    teacher: Logits | SoftTargets,
    losses: Callable[[Logits, Logits | SoftTargets], Sequence[Scalar]],
) -> list[Tensor]:
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


def _gradient(student: Logits, teacher: Logits | SoftTargets, loss: TeacherLoss) -> Tensor:
    (gradient,) = gradients(student, teacher, lambda ours, theirs: [loss(ours, theirs)])
    return gradient
