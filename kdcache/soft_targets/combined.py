"""Soft targets made of other rows: of several sources in one batch, of several teachers, of a
teacher of other classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.shapes import Logits, PerRow, Probabilities
from kdcache.soft_targets.protocol import SoftTargets, keeps_all


@dataclass(frozen=True)
class JoinedTargets:
    """Rows of a batch that come from several places."""

    parts: Sequence[tuple[Tensor, SoftTargets]]
    """Positions in the batch, int64, on the rows' device, and the rows that stand there."""

    @property
    def keeps_all(self) -> bool:
        """Whether all parts hold the logits of all classes."""
        return all(keeps_all(rows) for _, rows in self.parts)

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return each part's probabilities, in the order of the batch."""
        probabilities = []
        for at, rows in self.parts:
            part_tau = tau[at] if torch.is_tensor(tau) else tau
            part_student = None if tempered_student is None else tempered_student[at]
            probabilities.append(rows.probs(part_tau, part_student))
        return self._in_order(probabilities)

    def logits(self) -> Logits:
        """Return each part's logits, in the order of the batch."""
        return self._in_order([rows.logits() for _, rows in self.parts])

    def std(self) -> PerRow:
        """Return each part's standard deviations, in the order of the batch."""
        return self._in_order([rows.std() for _, rows in self.parts])

    def _in_order(self, values: Sequence[Tensor]) -> Tensor:
        order = torch.cat([at for at, _ in self.parts])
        return torch.cat(list(values))[order.argsort()]


@dataclass(frozen=True)
class PickedTargets:
    """Some of a batch's rows."""

    rows: SoftTargets
    at: Tensor
    """Their positions, int64, on the rows' device."""
    count: int
    """How many rows there are in all."""

    @property
    def keeps_all(self) -> bool:
        """Whether the rows hold the logits of all classes."""
        return keeps_all(self.rows)

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return the probabilities of these rows; what is given of each of them is spread over all
        rows first."""
        if tempered_student is not None:
            tempered_student = self._spread(tempered_student)
        if torch.is_tensor(tau):
            tau = self._spread(tau)
        return self.rows.probs(tau, tempered_student)[self.at]

    def logits(self) -> Logits:
        """Return the logits of these rows."""
        return self.rows.logits()[self.at]

    def std(self) -> PerRow:
        """Return the standard deviations of these rows."""
        return self.rows.std()[self.at]

    def _spread(self, values: Tensor) -> Tensor:
        spread = values.new_ones(self.count, *values.shape[1:])
        return spread.index_copy(0, self.at, values)


class _Probabilities:
    """Rows that are made of probabilities at a temperature: sums of them are not those of any
    logits."""

    def logits(self) -> Logits:
        """Refuse.

        Raises:
            CodecError: always.
        """
        raise CodecError(
            "several teachers, or one of mapped classes, have no logits; use loss dist or kl,"
            " without standardize or activation=sigmoid"
        )

    def std(self) -> PerRow:
        """Refuse, as `logits` does.

        Raises:
            CodecError: always.
        """
        return self.logits().std(dim=1)


@dataclass(frozen=True)
class AveragedTargets(_Probabilities):
    """The mean of several teachers' probabilities at the temperature asked for."""

    teachers: Sequence[SoftTargets]
    weights: Sequence[float]

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return the weighted mean of the teachers' probabilities."""
        total = sum(self.weights)
        parts = []
        for rows, weight in zip(self.teachers, self.weights, strict=True):
            share = weight / total
            parts.append(rows.probs(tau, tempered_student) * share)
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class MappedTargets(_Probabilities):
    """Rows of a teacher of other classes: probabilities are added up by the student's class, and
    brought to a sum of 1."""

    rows: SoftTargets
    classes: Tensor
    """The student's class of each of the teacher's classes, int64 `[teacher classes]`, on the rows'
    device; -1 for none."""
    num_classes: int
    """Classes of the student; those to which no class of the teacher belongs have probability 0."""

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return the probabilities of the student's classes; its logits are not looked at."""
        probs = self.rows.probs(tau)
        # those of no class come into a column of their own: a mask would wait for the device
        places = torch.where(self.classes < 0, self.num_classes, self.classes)
        wider = probs.new_zeros(len(probs), self.num_classes + 1)
        mapped = wider.index_add_(1, places, probs)[:, : self.num_classes]
        sums = mapped.sum(1, keepdim=True)
        return mapped / sums.clamp_min(torch.finfo(mapped.dtype).tiny)
