"""COCO's 80 classes in torchvision's detectors, which count them by category ids up to 90, with
gaps."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BACKGROUND = "__background__"
_NO_CLASS = "N/A"


def keep_named_classes(detector: Any, categories: Sequence[str], *, has_background: bool) -> None:
    """Leave those outputs of a detector out that stand for no class, so that it counts the classes
    of its data from 0, in the order of their ids.

    Args:
        detector: one of torchvision's, with an output for each category.
        categories: their names, as the weights tell them: `__background__`, and `N/A` for none.
        has_background: whether it learnt the background as a class, which then stays the first.
    """
    kept = []
    for number, name in enumerate(categories):
        is_background = name == BACKGROUND
        if name != _NO_CLASS and (has_background or not is_background):
            kept.append(number)
    for layer, numbers_of_class in _class_layers(detector):
        _keep(layer, len(categories), kept, numbers_of_class)
    for module in detector.modules():
        for name in ("num_classes", "num_columns"):
            if getattr(module, name, None) == len(categories):
                setattr(module, name, len(kept))


def named_classes(categories: Sequence[str]) -> tuple[str, ...]:
    """Return the names of those categories that are a class of the data."""
    return tuple(name for name in categories if name not in (BACKGROUND, _NO_CLASS))


def _class_layers(detector: Any) -> Iterator[tuple[nn.Linear | nn.Conv2d, int]]:
    """Yield the layers whose outputs are counted by class, and how many outputs side by side each
    class has."""
    if hasattr(detector, "roi_heads"):
        heads = detector.roi_heads
        yield heads.box_predictor.cls_score, 1
        yield heads.box_predictor.bbox_pred, 4
        if heads.has_mask():
            yield heads.mask_predictor.mask_fcn_logits, 1
        return
    head = detector.head.classification_head
    if hasattr(head, "cls_logits"):
        yield head.cls_logits, 1
        return
    for block in head.module_list:  # of an SSD one for each level
        layers = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
        yield layers[-1], 1


def _keep(
    layer: nn.Linear | nn.Conv2d, num_classes: int, kept: Sequence[int], numbers_of_class: int
) -> None:
    """Keep the outputs of some classes; those of several anchors lie one after the other."""
    outputs = torch.arange(len(layer.weight)).reshape(-1, num_classes, numbers_of_class)
    places = outputs[:, list(kept)].flatten()
    layer.weight = _part(layer.weight, places)
    if layer.bias is not None:
        layer.bias = _part(layer.bias, places)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(places)
    else:
        layer.out_channels = len(places)


def _part(values: Tensor, places: Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach()[places].clone(), requires_grad=values.requires_grad)
