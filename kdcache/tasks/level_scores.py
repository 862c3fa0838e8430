"""The class probabilities of a view at the places of a level, and where these are in the view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdcache.positions import Layout, Segment
from kdcache.shapes import Activation
from kdcache.soft_targets import SoftTargets, segments_of
from kdcache.tasks.class_probabilities import class_probabilities

_CANDIDATES = 500
"""Places of a level that are looked at for peaks."""


class Peak(NamedTuple):
    """A place where the teacher is surer than around it."""

    score: float
    """The largest probability of a class."""
    number: int
    """Of that class."""
    x: float
    y: float
    """Pixels from the left and from the top of the view."""
    stride: float
    """Pixels to the next place."""


@dataclass(frozen=True, eq=False)
class LevelScores:
    """The probabilities of a level."""

    scores: Tensor
    """Of each class the largest of a place's anchors, float32 `[height, width, classes]`."""
    centres: tuple[np.ndarray, np.ndarray]
    """Pixels from the top to each line of places, and from the left to each column."""
    strides: tuple[float, float]
    """Pixels from line to line, and from column to column."""

    @property
    def confidences(self) -> np.ndarray:
        """The largest probability at each place, `[height, width]`."""
        confidences: np.ndarray = self.scores.amax(-1).numpy()
        return confidences

    def nearest(self, size: tuple[int, int]) -> np.ndarray:
        """Return the confidence of the nearest place, for each pixel of a view."""
        lines, columns = self._nearest_places(size)
        heat: np.ndarray = self.confidences[lines][:, columns]
        return heat

    def smooth(self, size: tuple[int, int]) -> np.ndarray:
        """Return the confidence, bilinear between places, for each pixel of a view."""
        down = _weights(self.centres[0], size[0])
        right = _weights(self.centres[1], size[1])
        heat: np.ndarray = down @ self.confidences @ right.T
        return heat

    def within(self, box: Sequence[float]) -> Tensor:
        """Return the largest probability of each class at the places nearest to the middle half of
        a box, `[classes]`.

        Anchors that a detector is trained to say a box's class at are about as large as the box and
        overlap half of it, so their centres are there.
        """
        left, upper, right, lower = box
        lines = _span(self.centres[0], upper, lower)
        columns = _span(self.centres[1], left, right)
        return self.scores[lines, columns].flatten(0, 1).amax(0)

    def peaks(self) -> list[Peak]:
        """Return the places that no neighbour is surer than, the surest first."""
        confidences, numbers = self.scores.max(-1)
        around = functional.max_pool2d(confidences[None], 3, stride=1, padding=1)[0]
        is_peak = confidences >= around
        ranked = torch.where(is_peak, confidences, -1.0).flatten()
        best = ranked.topk(min(_CANDIDATES, len(ranked)))
        peaks = []
        for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if score < 0:
                break
            line, column = divmod(place, confidences.shape[1])
            x = float(self.centres[1][column])
            y = float(self.centres[0][line])
            peaks.append(Peak(score, int(numbers[line, column]), x, y, max(self.strides)))
        return peaks

    def _nearest_places(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        places = []
        for centres, length in zip(self.centres, size, strict=True):
            pixels = np.arange(length) + 0.5
            places.append(np.abs(pixels[:, None] - centres).argmin(1))
        return places[0], places[1]


def level_scores(teacher: SoftTargets, layout: Layout, size: tuple[int, int]) -> list[LevelScores]:
    """Return the probabilities of each level.

    Args:
        teacher: of one view.
        layout: levels of places with anchors.
        size: height and width of the view in pixels.
    """
    levels = []
    for segment, rows in zip(layout.segments, segments_of(teacher), strict=True):
        probabilities = class_probabilities(rows.logits(), layout)
        scores = probabilities.reshape(*segment.shape, -1).amax(2)
        levels.append(_placed(scores, segment, layout.activation, size))
    return levels


def _placed(
    scores: Tensor, segment: Segment, activation: Activation, size: tuple[int, int]
) -> LevelScores:
    """Return the probabilities of a level with where torchvision puts its anchors.

    Those of RetinaNet and FCOS begin at the view's upper left corner and go by whole pixels
    (`AnchorGenerator`); those of SSD, whose scores are softmaxes, are in the middle of equal cells
    (`DefaultBoxGenerator`).
    """
    centres = []
    strides = []
    for length, count in zip(size, segment.shape[:2], strict=True):
        if activation == "sigmoid":
            stride = float(max(length // count, 1))
            first = 0.0
        else:
            stride = length / count
            first = stride / 2
        centres.append(first + stride * np.arange(count))
        strides.append(stride)
    return LevelScores(scores, (centres[0], centres[1]), (strides[0], strides[1]))


def _weights(centres: np.ndarray, length: int) -> np.ndarray:
    """Return how much each place counts for each pixel along a side, `[length, places]`."""
    pixels = np.arange(length) + 0.5
    units = np.eye(len(centres), dtype=np.float32)
    columns = [np.interp(pixels, centres, unit) for unit in units]
    return np.stack(columns, axis=1)


def _span(centres: np.ndarray, start: float, stop: float) -> slice:
    """Return the places nearest to the middle half of a side of a box."""
    quarter = (stop - start) / 4
    first = np.abs(centres - (start + quarter)).argmin()
    last = np.abs(centres - (stop - quarter)).argmin()
    return slice(int(first), int(last) + 1)


def highest_peaks(levels: Sequence[LevelScores], least: float, most: int) -> list[Peak]:
    """Return the peaks of all levels, the surest first, without those beside a surer one.

    Args:
        levels: of one view.
        least: score below which none is returned but the surest.
        most: how many to return.
    """
    peaks: list[Peak] = []
    for level in levels:
        peaks += level.peaks()
    chosen: list[Peak] = []
    for peak in sorted(peaks, key=lambda peak: -peak.score):
        is_low = peak.score < least and chosen
        if is_low or len(chosen) == most:
            break
        if not any(_are_close(peak, other) for other in chosen):
            chosen.append(peak)
    return chosen


def _are_close(peak: Peak, other: Peak) -> bool:
    """Return whether two peaks are most likely of one object: of one class they may be as far apart
    as places of the coarser level, of two as those of the finer one."""
    reach = min(peak.stride, other.stride)
    if peak.number == other.number:
        reach = max(peak.stride, other.stride)
    return abs(peak.x - other.x) <= reach and abs(peak.y - other.y) <= reach
