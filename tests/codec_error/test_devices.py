"""A codec is fitted and measured where the teacher's logits are."""

from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import ELSEWHERE, Elsewhere, MixedDevicesError
from torch import Tensor

from kdcache.codec_error.calibration import fit_codec, fit_default
from kdcache.codec_error.measure import codec_costs
from kdcache.codec_error.pairs import Pairs, pairs_of_two_views
from kdcache.codec_error.position_sample import (
    PositionSample,
    position_sample,
    positions_of_views,
)
from kdcache.codecs import BasisCodec, open_codec
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Boxes, Layout, Proposals, Pyramid

CLASSES = 12


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pairs(*, head: bool) -> Pairs:
    weight = gaussian(CLASSES, 6, seed=1)
    features = gaussian(80, 6, seed=2)
    views = [(features + 0.3 * gaussian(80, 6, seed=seed)) @ weight.T * 2 for seed in (3, 4)]
    made = pairs_of_two_views(*views, np.arange(80))
    return Pairs(**{**vars(made), "head": weight if head else None})


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("spec", ["lowrank:step=1", "lowrank:bytes=10", "cosine", "topk:k=3"])
def test_a_fit_is_made_where_the_logits_are(spec: str, head: bool) -> None:
    codec = open_codec(spec, classes=CLASSES)
    here = fit_codec(codec, pairs(head=head))
    with Elsewhere():
        there = fit_codec(codec, pairs(head=head).to(ELSEWHERE))
        errors = there.errors
    assert errors == here.errors
    arrays = there.codec.fit_arrays()
    assert arrays.keys() == here.codec.fit_arrays().keys()
    for name, array in here.codec.fit_arrays().items():
        assert np.array_equal(array, arrays[name])


def test_the_default_is_chosen_where_the_logits_are() -> None:
    codec = open_codec("lowrank:error=0.3", classes=CLASSES)
    assert isinstance(codec, BasisCodec)
    here = fit_default(codec, pairs(head=True)).codec
    with Elsewhere():
        there = fit_default(codec, pairs(head=True).to(ELSEWHERE)).codec
    assert isinstance(here, BasisCodec) and isinstance(there, BasisCodec)
    for name, array in here.fit_arrays().items():
        assert np.array_equal(array, there.fit_arrays()[name])


def test_whole_maps_are_measured_where_the_logits_are() -> None:
    layout = Pyramid(((4, 4), (2, 2)), (1, 1))
    given = sample_of(layout, None)
    here = fit_codec(open_codec("cosine", classes=CLASSES), given).errors
    with Elsewhere():
        codec = open_codec("cosine", classes=CLASSES)
        assert fit_codec(codec, given.to(ELSEWHERE)).errors == here


def test_proposals_are_measured_where_the_logits_are() -> None:
    boxes = Boxes(gaussian(12, 4, 4).abs(), torch.arange(12) % 5)
    given = sample_of(Proposals(4), boxes)
    codec = open_codec("full:dtype=uint4", classes=CLASSES)
    here = fit_codec(codec, given).errors
    with Elsewhere():
        assert fit_codec(codec, given.to(ELSEWHERE)).errors == here


def sample_of(layout: Layout, boxes: Boxes | None) -> PositionSample:
    logits = TeacherLogits(gaussian(12, layout.num_positions, CLASSES), boxes)
    rows = np.arange(12)
    part = positions_of_views(logits, rows, count=20, whole_rows=rows[:3])
    return position_sample([part], layout)


@pytest.mark.parametrize("layout", [Pyramid(((4, 4), (2, 2)), (1, 1)), None])
def test_codecs_are_compared_where_the_logits_are(layout: Layout | None) -> None:
    given = sample_of(layout, None) if layout else pairs(head=True)
    specs = ["cosine", "full:dtype=uint4", "topk:k=3"]
    settings: dict[str, Any] = {"taus": [1.0, 4.0], "batch_sizes": [2]}
    here = codec_costs(*given.halves(), specs, **settings)
    with Elsewhere():
        assert codec_costs(*given.to(ELSEWHERE).halves(), specs, **settings) == here


def test_operands_on_two_devices_would_be_found() -> None:
    with Elsewhere():
        there = torch.ones(3).to(ELSEWHERE)
        assert there.device == ELSEWHERE and (there * 2).device == ELSEWHERE
        for operation in (lambda: there + torch.ones(3), there.numpy):
            with pytest.raises(MixedDevicesError):
                operation()
        assert torch.zeros(2, device=there.device).device == ELSEWHERE
        assert (there.cpu() + torch.ones(3)).tolist() == [2, 2, 2]
