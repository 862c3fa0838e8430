"""Boxes of views, cut at the edges of their images."""

import math

import torch

from kdcache.shapes import Detections, Objects
from kdcache.tasks.boxes_in_images import boxes_in_images

NAN = (math.nan,) * 4


def cut(boxes: list[tuple[float, ...]], frame: tuple[float, ...]) -> dict[int, list[float]]:
    """Return the boxes that are left, by their classes, which are their places."""
    places = torch.arange(len(boxes))
    objects = Objects(
        torch.zeros(1, 0, 4),
        torch.zeros(1, 0),
        torch.zeros(1, 0, dtype=torch.bool),
        torch.tensor([frame], dtype=torch.float32),
        torch.tensor([[20.0, 40.0]]),
    )
    found = Detections(torch.tensor(boxes), torch.linspace(1, 0, len(boxes)), places)
    (kept,) = boxes_in_images([found], objects)
    assert len(kept.scores) == len(kept.boxes) == len(kept.classes)
    assert torch.equal(kept.scores, found.scores[kept.classes])
    return dict(zip(kept.classes.tolist(), kept.boxes.tolist(), strict=True))


BOXES: list[tuple[float, ...]] = [
    (1, 2, 3, 4),
    (10, 40, 30, 60),  # below the image
    (10, 10, 50, 50),  # across its edge
    (-5, -5, 5, 5),
    (0, 31.995, 20, 40),  # half a hundredth of a pixel is left
    (0, 31.98, 20, 40),
    (7, 7, 7, 9),  # of no width
    (1, math.nan, 3, 4),
    (1, 2, math.inf, 4),
]


def test_what_lies_in_the_padding_is_left_out_and_the_rest_is_cut() -> None:
    kept = cut(BOXES, (0, 0, 64, 32))
    assert sorted(kept) == [0, 2, 3, 5]
    assert kept[0] == [1, 2, 3, 4]
    assert kept[2] == [10, 10, 50, 32]
    assert kept[3] == [0, 0, 5, 5]


def test_an_image_that_is_flipped_in_its_view_is_where_it_is() -> None:
    assert cut(BOXES, (64, 0, 0, 32)) == cut(BOXES, (0, 0, 64, 32))


def test_boxes_are_left_as_they_are_where_it_is_not_known_where_the_image_is() -> None:
    kept = cut(BOXES, NAN)
    assert sorted(kept) == [0, 1, 2, 3, 4, 5]
    assert all(sides == list(torch.tensor(BOXES[place])) for place, sides in kept.items())


def test_a_view_without_a_box_stays_one() -> None:
    assert cut([BOXES[1]], (0, 0, 64, 32)) == {}
