"""What a classifier's scores hide: accuracy by class, which classes are taken for which, and how
far its confidence can be trusted."""

from collections.abc import Sequence

import numpy as np
import torch

from kdcache.runtime.distributed import all_sum
from kdcache.runtime.float64 import float64_device, in_float64
from kdcache.shapes import Labels, Logits

_BINS = 15
_MOST_CONFUSIONS = 400
"""Pairs of classes that are told: of up to 20 classes all."""


class ClassReport:
    """Counts over any number of batches and all processes."""

    def __init__(self, class_names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self._names = class_names
        num_classes = len(class_names)
        home = float64_device(device)
        self._confusions = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=home)
        self._bins = torch.zeros(_BINS, 3, dtype=torch.float64, device=home)
        """Of each share of confidences: rows, those that are right, and the sum of confidences."""

    def add(self, logits: Logits, labels: Labels) -> None:
        """Count a batch; nothing is copied from the device until `result`."""
        targets = labels.first.long()
        confidence, predicted = torch.softmax(logits.float(), dim=1).max(1)
        num_classes = len(self._names)
        pairs = targets * num_classes + predicted
        place = (confidence * _BINS).long().clamp_max(_BINS - 1)
        is_right = in_float64(predicted == targets)
        ones = torch.ones_like(is_right)
        counts = torch.stack([ones, is_right, in_float64(confidence)], dim=1)
        home = self._bins.device
        self._confusions.view(-1).index_add_(0, pairs.to(home), ones)
        self._bins.index_add_(0, place.to(home), counts)

    def result(self) -> dict[str, float]:
        """Return what was counted; every process of the run must ask.

        `calibration_error`, in percent, is the expected one of 15 bins of equal width (Guo, Pleiss,
        Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017). `accuracy/NAME` is
        the share of a class's samples that are right, in percent, of classes that occur.
        `taken/NAME as OTHER` is the share of a class's samples that are taken for another one, in
        percent, of the 400 pairs with the most samples.
        """
        confusions = all_sum(self._confusions).cpu().numpy()
        bins = all_sum(self._bins).cpu().numpy()
        result = {"calibration_error": _calibration_error(bins)}
        totals = confusions.sum(1)
        for number, name in enumerate(self._names):
            if totals[number]:
                right = confusions[number, number]
                result[f"accuracy/{name}"] = _percent(right, totals[number])
        for target, other in _most_confused(confusions):
            pair = f"{self._names[target]} as {self._names[other]}"
            taken = confusions[target, other]
            result[f"taken/{pair}"] = _percent(taken, totals[target])
        return result


def _calibration_error(bins: np.ndarray) -> float:
    """Return in percent how far confidence is from accuracy, over bins `[bins, 3]` of rows, of
    those that are right, and of the sums of confidences."""
    rows, right, confidence = bins.T
    gaps = np.abs(right - confidence)
    return _percent(gaps.sum(), max(rows.sum(), 1))


def _percent(part: float, whole: float) -> float:
    return 100 * float(part / whole)


def _most_confused(confusions: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of classes with the most samples of one that are taken for the other."""
    wrong = confusions * (1 - np.eye(len(confusions)))
    pairs = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]:
        target, other = divmod(int(place), len(confusions))
        if wrong[target, other]:
            pairs.append((target, other))
    return pairs
