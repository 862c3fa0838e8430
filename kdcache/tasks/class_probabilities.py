"""The probabilities of the classes of the data at the positions of a detector."""

import torch
from torch import Tensor

from kdcache.positions import Layout
from kdcache.shapes import Probabilities


def class_probabilities(rows: Tensor, layout: Layout) -> Probabilities:
    """Return the probabilities of the classes of the data, `[rows, classes]`, of logits `[rows, row
    width]`."""
    if layout.activation == "sigmoid":
        return torch.sigmoid(rows)
    probabilities = torch.softmax(rows, dim=-1)
    if layout.has_background:
        return probabilities[:, 1:]
    return probabilities
