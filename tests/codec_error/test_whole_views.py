"""Errors of codecs that code maps or levels as a whole are those of whole views."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.codec_error.calibration import TAUS, fit_codec
from kdcache.codec_error.measure import fitted_gradients
from kdcache.codec_error.pairs import pairs_of_pixels, pixels_of_view
from kdcache.codec_error.whole_views import WHOLE_VIEWS, WholeViews, whole_errors, whole_views
from kdcache.codecs import Full, open_codec
from kdcache.losses import dist_loss
from kdcache.positions import Heads, Layout, Proposals, Pyramid

CLASSES = 5
LAYOUT = Pyramid(((6, 4), (3, 2)), anchors=(2, 2))


def logits_of(layout: Layout, views: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(views, layout.num_positions, CLASSES, generator=generator)


def fitted(steps: float, layout: Layout) -> Any:
    codec = open_codec(f"cosine:steps={steps}", classes=CLASSES)
    return codec.fit(logits_of(layout, seed=1).flatten(0, 1))


@pytest.mark.parametrize("layout", [LAYOUT, Heads(((3, 4), (3, 4))), Heads(((3, 4), (2, 2)))])
def test_finer_steps_have_a_smaller_error_and_exact_records_none(layout: Layout) -> None:
    views = WholeViews(logits_of(layout), layout)
    errors = []
    for steps in (4.0, 16.0, 64.0):
        of_taus = whole_errors(fitted(steps, layout), views, layout.activation, TAUS)
        assert list(of_taus) == list(TAUS)
        errors.append(of_taus[1.0])
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0
    exact = Full(classes=CLASSES, dtype="float32")
    assert whole_errors(exact, views, layout.activation, TAUS) == dict.fromkeys(TAUS, 0.0)


def test_the_error_is_that_of_the_sum_over_levels_of_rows_by_place() -> None:
    views = WholeViews(logits_of(LAYOUT), LAYOUT)
    codec = Full(classes=CLASSES, dtype="uint4")
    rounded = codec.decode(codec.encode(views.logits.flatten(0, 1))).logits()
    gradients = []
    for teacher in (views.logits, rounded.reshape(views.logits.shape)):
        student = views.neighbours.clone().requires_grad_()
        terms = []
        for ours, theirs in zip(LAYOUT.split(student), LAYOUT.split(teacher), strict=True):
            places = [part.reshape(-1, 2 * CLASSES) for part in (ours, theirs)]
            terms.append(dist_loss(*places, tau=1.0, activation="sigmoid"))
        gradients.append(torch.autograd.grad(sum(terms), student)[0])
    expected = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    found = whole_errors(codec, views, "sigmoid", (1.0,))
    assert found[1.0] == pytest.approx(expected, rel=1e-4)


def test_a_neighbour_is_the_same_anchor_at_the_next_place_of_the_line() -> None:
    places = torch.arange(LAYOUT.num_positions).float()
    views = WholeViews(places.reshape(1, -1, 1), LAYOUT)
    neighbours = views.neighbours[0, :, 0].tolist()
    assert neighbours[:8] == [2, 3, 4, 5, 6, 7, 0, 1]
    assert neighbours[48:52] == [50, 51, 48, 49]


def test_some_views_are_kept_and_none_of_proposals() -> None:
    views = list(logits_of(LAYOUT, WHOLE_VIEWS + 3))
    kept = whole_views(views, LAYOUT)
    assert kept is not None and len(kept.logits) == WHOLE_VIEWS
    assert whole_views(views, Proposals(LAYOUT.num_positions)) is None


def test_a_fitted_codec_of_whole_maps_is_measured_on_views() -> None:
    logits = logits_of(LAYOUT, 8)
    parts = [pixels_of_view(view, row, 30) for row, view in enumerate(logits)]
    pairs = pairs_of_pixels(parts)
    codec = open_codec("cosine", classes=CLASSES)
    alone = fit_codec(codec, pairs)
    assert set(alone.errors) == set(TAUS) and alone.codec.fit_arrays()
    with_views = replace(pairs, views=WholeViews(logits, LAYOUT))
    fitted_to_pairs = fit_codec(codec, with_views)
    assert set(fitted_to_pairs.errors) == set(TAUS)
    assert 0 < fitted_to_pairs.errors[1.0] < 0.5
    assert fitted_gradients(fitted_to_pairs) == []
