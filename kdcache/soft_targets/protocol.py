"""What soft targets are: the teacher's logits of a batch, as far as a record holds them."""

from typing import Protocol, runtime_checkable

from kdcache.deferred import torch
from kdcache.shapes import LogitRows, Logits, PerRow, Probabilities, ProbabilityRows


@runtime_checkable
class SoftTargets(Protocol):
    """Soft targets of a batch as far as a codec holds them, on the device that decoded them."""

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return softmax(logits / tau) over all classes, float32 `[rows, classes]`.

        Args:
            tau: the temperature, one for all rows or one per row.
            tempered_student: the student's logits over that temperature; only the tail policy
                `ghost` looks at them, and takes no gradient.
        """

    def logits(self) -> Logits:
        """Return raw logits, float32 `[rows, classes]`; classes that the codec dropped stand at its
        estimate."""

    def std(self) -> PerRow:
        """Return the standard deviation of each row's logits over all classes, as torch.std
        (divided by classes - 1).

        Logit standardisation (Sun et al., Logit Standardization in Knowledge Distillation, CVPR
        2024) is then probs(tau * std), since a softmax forgets the row's mean.
        """


def keeps_all(rows: SoftTargets) -> bool:
    """Return whether rows hold the logits of all classes, and not an estimate of some."""
    return getattr(rows, "keeps_all", True)


class DenseTargets:
    """Rows whose logits are all known."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits.float()

    def probs(self, tau: float | PerRow, tempered_student: Logits | None = None) -> Probabilities:
        """Return softmax(logits / tau), float32 `[rows, classes]`; nothing depends on the
        student."""
        return _softmax(self._logits, tau)

    def logits(self) -> Logits:
        """Return the logits, float32 `[rows, classes]`."""
        return self._logits

    def std(self) -> PerRow:
        """Return the standard deviation of each row."""
        return self._logits.std(dim=1)


class AnchorTargets:
    """Rows of a detector's places whose logits are all known: the anchors of a place lie side by
    side, each a distribution of its own."""

    def __init__(self, logits: LogitRows) -> None:
        """Take logits `[places, anchors, row width]`."""
        self._logits = logits.float()

    def probs(self, tau: float | PerRow, tempered_student: LogitRows | None = None) -> LogitRows:
        """Return softmax(logits / tau) of each anchor, float32 `[places, anchors, row width]`;
        nothing depends on the student."""
        return _softmax(self._logits, tau)

    def logits(self) -> LogitRows:
        """Return the logits, float32 `[places, anchors, row width]`."""
        return self._logits

    def std(self) -> PerRow:
        """Return the standard deviation of all logits of each place."""
        return self._logits.flatten(1).std(dim=1)


def _softmax(logits: LogitRows, tau: float | PerRow) -> ProbabilityRows:
    """Return softmax(logits / tau) over the last axis."""
    if torch.is_tensor(tau):
        tau = tau.view(-1, *[1] * (logits.ndim - 1))
    elif tau == 1:
        return torch.softmax(logits, dim=-1)
    return torch.softmax(logits / tau, dim=-1)
