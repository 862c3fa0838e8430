"""The boxes that a detector finds in views, as far as they are of the images in these: what is
scored, written and drawn."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import remove_small_boxes

from kdcache.shapes import Detections, Objects

LEAST_SIDE = 0.01
"""Pixels of the view; of less no box is left, as torchvision's RoIHeads have it."""


def boxes_in_images(detections: Sequence[Detections], objects: Objects) -> list[Detections]:
    """Return the boxes of each view cut at the edges of its image, in pixels of the view.

    A letterboxed view has padding, of which a detector knows nothing. A box wholly in it is left
    out, by torchvision's rule (`RoIHeads.postprocess_detections`): a side below `LEAST_SIDE` is
    left of it. So is a box that is not finite, or of no finite score.

    Args:
        detections: of each view.
        objects: say where the image of each view is; where that is not known, boxes are not cut.
    """
    frames = objects.frames.unbind()
    return [_in_frame(*pair) for pair in zip(detections, frames, strict=True)]


def _in_frame(detections: Detections, frame: Tensor) -> Detections:
    """Return the boxes of a view within the frame of its image, `[4]`."""
    boxes, scores, classes = detections
    is_finite = torch.isfinite(boxes).all(1) & torch.isfinite(scores)
    corners = frame.to(boxes.device).reshape(2, 2)
    # of a flipped image the corners have changed places
    first = corners.amin(0).nan_to_num(nan=-torch.inf).repeat(2)
    last = corners.amax(0).nan_to_num(nan=torch.inf).repeat(2)
    cut = torch.minimum(torch.maximum(boxes, first), last)
    is_left = torch.zeros_like(is_finite)
    is_left[remove_small_boxes(cut, LEAST_SIDE)] = True
    places = is_left & is_finite
    return Detections(cut[places], scores[places], classes[places])
