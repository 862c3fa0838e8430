"""Scores of a level: where its places are, what is said in a box, and where the peaks are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from kdcache.positions import Pyramid
from kdcache.shapes import Activation
from kdcache.soft_targets import by_segment
from kdcache.tasks.level_scores import LevelScores, highest_peaks, level_scores

SIZE = (100, 136)
LEVELS = ((13, 17), (7, 9), (2, 3))
QUIET = -8.0


def scores_of(
    *loud: tuple[int, int, int, int, float],
    activation: Activation = "sigmoid",
    anchors: int = 2,
    classes: int = 4,
) -> list[LevelScores]:
    """Return the scores of levels that are quiet but for some logits.

    Args:
        loud: level, line, column, class and logit, of the last anchor.
        activation: of the layout; of a softmax the background is class 0 of the logits.
        anchors: at each place.
        classes: how many there are.
    """
    pyramid = Pyramid(LEVELS, (anchors,) * 3, activation)
    parts = []
    for height, width in LEVELS:
        parts.append(torch.full((1, height, width, anchors, classes), QUIET))
    for level, line, column, number, logit in loud:
        parts[level][0, line, column, -1, number] = logit
    logits = pyramid.joined([part.reshape(1, -1, classes) for part in parts])
    return level_scores(by_segment(logits, pyramid), pyramid, SIZE)


def anchors_of_pyramids(images: ImageList, features: list[Tensor]) -> Tensor:
    generator = AnchorGenerator(((8,),) * 3, ((1.0,),) * 3)
    return torch.as_tensor(generator(images, features)[0])


def default_boxes(images: ImageList, features: list[Tensor]) -> Tensor:
    """Return the boxes of SSD, of which there are two at a place at least."""
    generator = DefaultBoxGenerator([[], [], []], scales=[0.1, 0.2, 0.3, 0.4], clip=False)
    return torch.as_tensor(generator(images, features)[0])[::2]


@pytest.mark.parametrize(
    ("activation", "boxes_of"), [("sigmoid", anchors_of_pyramids), ("softmax", default_boxes)]
)
def test_places_are_where_torchvision_has_the_centres_of_its_anchors(
    activation: Activation, boxes_of: Callable[..., Tensor]
) -> None:
    images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])
    features = [torch.zeros(1, 1, height, width) for height, width in LEVELS]
    boxes = boxes_of(images, features)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = []
    for level in scores_of(activation=activation):
        tops, lefts = level.centres
        for top in tops:
            for left in lefts:
                expected.append([left, top])
    np.testing.assert_allclose(centres.numpy(), expected, rtol=0, atol=1e-4)


def test_probabilities_are_those_of_the_layout() -> None:
    (sigmoids, *_) = scores_of((0, 3, 4, 2, 1.0))
    assert float(sigmoids.scores[3, 4, 2]) == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert float(sigmoids.scores[3, 5, 2]) == pytest.approx(1 / (1 + np.exp(-QUIET)))
    (softmaxes, *_) = scores_of((0, 3, 4, 2, 1.0), (0, 5, 4, 0, 1.0), activation="softmax")
    others = 3 * np.exp(QUIET - 1.0)
    assert softmaxes.scores.shape[-1] == 3
    assert float(softmaxes.scores[3, 4, 1]) == pytest.approx(1 / (1 + others))
    assert float(softmaxes.confidences[5, 4]) < 0.3  # sure of the background


def test_a_box_is_asked_in_its_middle_half() -> None:
    """Level 0 has places every 7 pixels down and 8 across."""
    level = scores_of((0, 5, 6, 1, 3.0), (0, 2, 6, 2, 3.0), (0, 5, 3, 3, 3.0))[0]
    found = level.within((24.0, 14.0, 72.0, 56.0))
    assert found[1] > 0.9
    assert found[2] < 0.1  # above the middle half
    assert found[3] < 0.1  # to the left of it


def test_a_box_smaller_than_a_stride_is_asked_at_the_nearest_place() -> None:
    level = scores_of((2, 1, 2, 1, 3.0))[2]
    assert level.strides == (50, 45)
    assert level.within((88.0, 47.0, 89.0, 48.0))[1] > 0.9
    assert level.within((135.0, 99.0, 136.0, 100.0))[1] > 0.9
    assert level.within((0.0, 0.0, 1.0, 1.0))[1] < 0.1


def test_heat_has_the_confidence_of_a_place_at_its_centre() -> None:
    level = scores_of((1, 2, 3, 1, 0.5))[1]
    top = level.centres[0][2]
    left = level.centres[1][3]
    nearest = level.nearest(SIZE)
    smooth = level.smooth(SIZE)
    assert nearest.shape == smooth.shape == SIZE
    highest = level.confidences.max()
    assert nearest.max() == highest
    assert np.argwhere(nearest == highest).mean(0) == pytest.approx([top, left], abs=0.6)
    around = smooth[int(top) - 1 : int(top) + 1, int(left) - 1 : int(left) + 1]
    assert around.min() > 0.85 * highest
    assert smooth.max() <= highest + 1e-6
    # half a stride away: halfway down to the neighbour
    assert smooth[int(top), int(left + level.strides[1] / 2)] == pytest.approx(
        highest / 2, abs=0.04
    )


def peaks_of(*loud: Any, least: float = 0.3, most: int = 9) -> list[tuple[int, float, float]]:
    peaks = highest_peaks(scores_of(*loud), least, most)
    return [(peak.number, peak.x, peak.y) for peak in peaks]


def test_peaks_of_one_object_are_one() -> None:
    beside = [(0, 5, 6, 1, 2.0), (0, 5, 7, 1, 1.5), (1, 3, 3, 1, 1.0), (0, 10, 6, 1, 0.5)]
    assert peaks_of(*beside) == [(1, 48.0, 35.0), (1, 48.0, 70.0)]
    assert peaks_of(*beside, most=1) == [(1, 48.0, 35.0)]
    assert peaks_of(*beside, least=0.7) == [(1, 48.0, 35.0)]


def test_peaks_of_two_classes_may_be_close() -> None:
    # two places apart at the fine level, within one of the coarse one
    found = peaks_of((0, 5, 6, 1, 2.0), (1, 3, 4, 2, 1.0))
    assert found == [(1, 48.0, 35.0), (2, 60.0, 42.0)]
    assert peaks_of((0, 5, 6, 1, 2.0), (1, 3, 4, 1, 1.0)) == [(1, 48.0, 35.0)]


def test_where_nothing_is_sure_the_surest_is_named() -> None:
    assert peaks_of((1, 0, 0, 3, -4.0)) == [(3, 0.0, 0.0)]
