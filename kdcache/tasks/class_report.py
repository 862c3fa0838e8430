"""What a classifier's scores hide: accuracy by class, which classes are taken for which, and how
far its confidence can be trusted."""

from collections.abc import Sequence

import numpy as np
import torch

from kdcache.runtime.distributed import all_rows
from kdcache.shapes import Labels, Logits

_BINS = 15
"""Of confidences, of equal width."""
_MOST_CONFUSIONS = 400
"""Pairs of classes that are told: of up to 20 classes all."""


class ClassReport:
    """Answers to any number of samples, in all processes.

    12 bytes are kept of each: counts of all pairs of classes would be gigabytes where there are
    20,000.
    """

    def __init__(self, class_names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self._names = class_names
        self._pairs = [torch.empty(0, dtype=torch.int64, device=device)]
        """Of each sample its class times the number of classes, plus the class it is taken for."""
        self._confidences = [torch.empty(0, device=device)]

    def add(self, logits: Logits, labels: Labels) -> None:
        """Count a batch; nothing is copied from the device until `result`."""
        confidence, predicted = torch.softmax(logits.float(), dim=1).max(1)
        self._pairs.append(labels.first.long() * len(self._names) + predicted)
        self._confidences.append(confidence)

    def result(self) -> dict[str, float]:
        """Return what was counted; every process of the run must ask.

        `calibration_error`, in percent, is the expected one of 15 bins of equal width (Guo, Pleiss,
        Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017). `accuracy/NAME` is
        the share of a class's samples that are right, in percent, of classes that occur.
        `taken/NAME as OTHER` is the share of a class's samples that are taken for another one, in
        percent, of the 400 pairs with the most samples.
        """
        samples = all_rows(torch.cat(self._pairs)).cpu().numpy()
        confidence = all_rows(torch.cat(self._confidences)).cpu().numpy()
        pairs, counts = np.unique(samples, return_counts=True)
        targets, answers = np.divmod(pairs, len(self._names))
        totals = np.bincount(targets, counts, minlength=len(self._names))
        shares = 100 * counts / totals[targets]
        is_right = targets == answers
        calibration_error = _calibration_error(confidence, np.isin(samples, pairs[is_right]))
        result = {"calibration_error": calibration_error}
        accuracy = dict(zip(targets[is_right].tolist(), shares[is_right].tolist(), strict=True))
        for target in np.unique(targets).tolist():
            result[f"accuracy/{self._names[target]}"] = accuracy.get(target, 0.0)
        wrong = np.flatnonzero(~is_right)
        most_first = wrong[np.argsort(-counts[wrong], kind="stable")]
        for place in most_first[:_MOST_CONFUSIONS].tolist():
            pair = f"{self._names[targets[place]]} as {self._names[answers[place]]}"
            result[f"taken/{pair}"] = float(shares[place])
        return result


def _calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Return in percent how far confidence is from accuracy, over the bins of confidence."""
    bins = np.minimum((confidence * np.float32(_BINS)).astype(np.int64), _BINS - 1)
    right = np.bincount(bins, is_right, minlength=_BINS)
    expected = np.bincount(bins, confidence, minlength=_BINS)
    return float(100 * np.abs(right - expected).sum() / max(len(bins), 1))
