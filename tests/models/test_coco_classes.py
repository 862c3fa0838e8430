"""Detectors with COCO's weights give its 80 classes, whatever numbers torchvision has for them."""

from typing import Any

import pytest
import torch
from tiny_detectors import faster_rcnn, fcos, mask_rcnn, retinanet, ssd
from torchvision import models

from kdcache.errors import ModelError
from kdcache.models.coco_classes import keep_named_classes
from kdcache.models.model import open_model
from kdcache.models.preprocessing import GivenPreprocessing
from kdcache.models.wrapping import wrapped
from kdcache.views import Recipe

CATEGORIES = ("__background__", "cat", "N/A", "dog", "N/A")
TRANSFORMS = [{"name": "kdcache.Letterbox", "size": "input"}]
RECIPE = Recipe("boxes", {"size": 64, "transforms": TRANSFORMS})


@pytest.mark.parametrize(
    ("make", "num_classes", "kept"),
    [
        (retinanet, 5, [1, 3]),
        (fcos, 5, [1, 3]),
        (ssd, 4, [0, 1, 3]),
        (faster_rcnn, 4, [0, 1, 3]),
        (mask_rcnn, 4, [0, 1, 3]),
    ],
)
def test_the_logits_of_the_named_classes_stay_as_they_were(
    make: Any, num_classes: int, kept: list[int]
) -> None:
    views = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    detector = make(num_classes)
    preprocessing = GivenPreprocessing(mean=0.5, std=0.25)
    model = wrapped(detector, RECIPE, preprocessing, task="detection").eval()
    before = model(views)
    before_logits = before.logits
    keep_named_classes(detector, CATEGORIES, has_background=0 in kept)
    after = model(views)
    torch.testing.assert_close(after.logits, before_logits[..., kept])
    assert after.layout == before.layout
    numbers = {old: new - int(0 in kept) for new, old in enumerate(kept)}
    for found in after.detections():
        assert set(found.classes.tolist()) <= set(numbers.values())


def test_torchvisions_weights_are_cut_to_the_80_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    whole = models.get_model(name, weights=None, weights_backbone=None, num_classes=91)
    state = whole.state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    spec = f"torchvision:{name},weights=DEFAULT"
    recipe = Recipe("boxes", {"size": 320, "transforms": TRANSFORMS})
    model = open_model(spec, classes=80, recipe=recipe, trained=True, task="detection")
    assert model.layout.row_width(80) == 81
    with pytest.raises(ModelError, match="gives 80 classes, and 3 are asked for"):
        open_model(spec, classes=3, recipe=recipe, trained=True, task="detection")
