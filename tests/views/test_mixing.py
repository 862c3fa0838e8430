"""Mixing: pairs and what is drawn for them are functions of the seed, mixed pixels are exact, and
so are their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from drawn_views import draw
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from kdcache import open_cache
from kdcache.errors import UnreadableSampleError, UsageError
from kdcache.models.model import open_model
from kdcache.shapes import Rows
from kdcache.sources import Sample, Source, open_source
from kdcache.views import (
    Mixing,
    Recipe,
    ViewDataset,
    in_pairs,
    load_recipe,
    mixing,
    partners,
    row_order,
)
from kdcache.views.mixing import UNMIXED, Blend, Box, blend, mix, partner

WORD = st.integers(0, 2**32 - 1)
KEY = st.tuples(WORD, WORD)
BLOCK = st.integers(1, 20).map(lambda half: 2 * half)
KINDS = st.sampled_from(
    [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 0.5}, {"mixup": 1.0, "prob": 0.5}]
)
SIDES = st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(
    lambda sides: Box(sides[0][0], sides[1][0], sides[0][1], sides[1][1])
)


def forget() -> None:
    """Empty what the module remembers: what is asked for next is drawn anew."""
    mixing._partners_in.cache_clear()
    mixing._blend_of.cache_clear()


@given(st.integers(1, 130), BLOCK, KEY, WORD)
def test_the_partner_of_a_partner_is_the_row_itself_and_in_its_block(
    rows: int, block: int, key: Any, seed: int
) -> None:
    found, itself = partners(rows, Mixing(mixup=1.0, block=block), key, seed), np.arange(rows)
    assert found.dtype == np.int64 and np.array_equal(found[found], itself)
    assert np.array_equal(found // block, itself // block)
    assert (found == itself).sum() == rows % block % 2, (
        "only of an odd last block is a row left over"
    )


@given(st.integers(1, 130), BLOCK, KEY, WORD)
def test_partners_depend_on_key_and_seed_only(rows: int, block: int, key: Any, seed: int) -> None:
    made = Mixing(mixup=1.0, block=block)
    np.random.seed(rows)
    found = partners(rows, made, key, seed)
    forget()
    np.random.seed(7)
    assert np.array_equal(
        found, partners(rows, Mixing(cutmix=0.3, prob=0.1, block=block), key, seed)
    )
    assert found.tolist() == [partner(row, rows, made, key, seed) for row in range(rows)]
    whole = rows // block * block
    assert np.array_equal(found[:whole], partners(rows + 3, made, key, seed)[:whole]), (
        "a block knows nothing of the others"
    )


@given(KEY, KEY, WORD, WORD)
def test_other_keys_and_seeds_pair_otherwise(
    key: Any, other: Any, seed: int, following: int
) -> None:
    made = Mixing(mixup=1.0, block=64)
    found = partners(128, made, key, seed)
    assert np.array_equal(found, partners(128, made, other, following)) == (
        (key, seed) == (other, following)
    )
    assert not np.array_equal(found[:64], found[64:] - 64), "nor are two blocks paired alike"


def test_pairs_and_draws_never_change() -> None:
    """Caches on disk depend on these: with others every teacher's row would belong to another
    image."""
    made = Mixing(mixup=0.8, cutmix=1.0, block=8)
    assert partners(13, made, (17, 23), 5).tolist() == [1, 0, 6, 7, 5, 4, 2, 3, 12, 11, 10, 9, 8]
    assert partners(13, made, (17, 23), 6).tolist() == [7, 4, 5, 6, 1, 2, 3, 0, 10, 12, 8, 11, 9]
    assert blend(made, (17, 23), 5, 3, 9) == Blend(40_484 / 2**16, None)
    share, box = blend(made, (17, 23), 5, 0, 9)
    assert share == 37_232 / 2**16
    np.testing.assert_allclose(box, [0.623722, 0.097587, 1.280902, 0.754767], atol=1e-6)


@given(st.integers(1, 100), st.sets(st.integers(0, 99), max_size=30), BLOCK, WORD)
def test_pairs_are_put_side_by_side_and_no_row_is_lost(
    length: int, absent: set[int], block: int, seed: int
) -> None:
    partner_of = partners(length, Mixing(mixup=1.0, block=block), (1, 2), seed)
    rows = np.array([row for row in np.roll(np.arange(length), 7) if row not in absent], np.int64)
    ordered = in_pairs(rows, partner_of)
    assert sorted(ordered) == sorted(rows)
    single = [row for row in rows.tolist() if partner_of[row] == row or partner_of[row] in absent]
    pairs = ordered[: len(rows) - len(single)].reshape(-1, 2)
    assert ordered[len(rows) - len(single) :].tolist() == single, (
        "those without a partner come last, in their order"
    )
    assert np.array_equal(partner_of[pairs[:, 0]], pairs[:, 1])
    assert pairs[:, 0].tolist() == [row for row in rows.tolist() if row in pairs[:, 0]], (
        "pairs stay in order"
    )


@given(KINDS, KEY, WORD, st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_pair_has_one_draw_whichever_is_asked_for(
    kind: Any, key: Any, seed: int, one: int, other: int
) -> None:
    made = Mixing(**kind)
    drawn = blend(made, key, seed, one, other)
    forget()
    np.random.seed(7)
    assert drawn == blend(made, key, seed, other, one)
    assert 0 <= drawn.share <= 1 and drawn.share * 2**16 % 1 == 0
    assert drawn == UNMIXED or (drawn.box is None) == ("mixup" in kind) or len(kind) == 2
    assert blend(made, key, seed, one, one) == UNMIXED, "a row left over"


def drawn_from(count: int = 3_000, **settings: Any) -> list[Blend]:
    return [blend(Mixing(**settings), (3, 4), 5, 2 * pair, 2 * pair + 1) for pair in range(count)]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_are_those_of_beta(kind: str, alpha: float) -> None:
    shares = np.array([draw.share for draw in drawn_from(**{kind: alpha})])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 0.01, (
        "the variance of Beta(alpha, alpha)"
    )


def test_prob_and_switch_are_how_often() -> None:
    found = drawn_from(mixup=0.8, cutmix=1.0, prob=0.7, switch=0.3)
    mixed = [draw for draw in found if draw != UNMIXED]
    assert abs(len(mixed) / len(found) - 0.7) < 0.03
    assert abs(np.mean([draw.box is not None for draw in mixed]) - 0.3) < 0.03


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"mixup": 0.8, "cutmix": 1.0, "switch": 0.0}, {False}),
        ({"mixup": 0.8, "cutmix": 1.0, "switch": 1.0}, {True}),
        ({"mixup": 0.8, "cutmix": 1.0}, {False, True}),
        ({"mixup": 0.8, "switch": 1.0}, {False}),
        ({"cutmix": 1.0, "switch": 0.0}, {True}),
    ],
)
def test_cutmix_is_taken_where_it_may_be(settings: dict[str, float], kinds: set[bool]) -> None:
    assert {draw.box is not None for draw in drawn_from(50, **settings)} == kinds


def test_with_prob_0_nothing_is_mixed() -> None:
    assert set(drawn_from(50, mixup=1.0, prob=0.0)) == {UNMIXED}


def test_boxes_have_the_area_of_the_rest_and_lie_anywhere() -> None:
    found = drawn_from(cutmix=1.0)
    boxes = np.array([draw.box for draw in found])
    left, top, right, bottom = boxes.T
    np.testing.assert_allclose(
        (right - left) * (bottom - top), [1 - draw.share for draw in found], atol=1e-9
    )
    np.testing.assert_allclose(right - left, bottom - top, atol=1e-9)
    for centre in ((left + right) / 2, (top + bottom) / 2):
        assert 0 <= centre.min() < 0.01 and 0.99 < centre.max() <= 1
        assert abs(centre.mean() - 0.5) < 0.03 and abs(centre.var() - 1 / 12) < 0.01


def two_views(seed: int, height: int = 7, width: int = 5) -> tuple[Tensor, Tensor]:
    """Return a view of dark and one of light pixels."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.randint(128, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return low, high + 128


@given(st.integers(0, 2**16), WORD)
def test_mixup_is_exact_to_half_a_level(weight: int, seed: int) -> None:
    own, other = two_views(seed)
    share = weight / 2**16
    mixed, label_share = mix(own, other, Blend(share, None))
    assert mixed.dtype == torch.uint8 and label_share == share
    expected = own.double() * share + other.double() * (1 - share)
    assert (mixed.double() - expected).abs().max() <= 0.5
    back, _ = mix(other, own, Blend(share, None))
    assert (mixed.int() + back.int() - own.int() - other.int()).abs().max() <= 1, (
        "the partner gets the rest of both"
    )


def test_the_extremes_of_a_share_give_one_of_the_two() -> None:
    white, black = (
        torch.full((1, 2, 2), 255, dtype=torch.uint8),
        torch.zeros(1, 2, 2, dtype=torch.uint8),
    )
    for own, other in (two_views(1), (white, black), (white, white)):
        assert torch.equal(mix(own, other, UNMIXED)[0], own)
        assert torch.equal(mix(own, other, Blend(0.0, None))[0], other)


@given(BOXES, st.integers(1, 40), st.integers(1, 40), WORD)
def test_a_box_is_the_partners_and_its_area_is_counted(
    box: Box, height: int, width: int, seed: int
) -> None:
    own, other = two_views(seed, height, width)
    kept = own.clone(), other.clone()
    mixed, share = mix(own, other, Blend(0.123, box))
    partners_own, its_share = mix(other, own, Blend(0.123, box))
    taken = mixed >= 128
    assert torch.equal(mixed, torch.where(taken, other, own)) and torch.equal(
        partners_own, torch.where(taken, own, other)
    )
    assert share == its_share == pytest.approx(1 - float(taken.float().mean()), abs=1e-6)
    across, down = (
        taken[0].any(0).nonzero().flatten().tolist(),
        taken[0].any(1).nonzero().flatten().tolist(),
    )
    assert taken.sum() == 3 * len(across) * len(down), "a rectangle, in all channels"
    for edges, found, length in (
        ((box.left, box.right), across, width),
        ((box.top, box.bottom), down, height),
    ):
        if found:
            clipped = [min(max(edge, 0), 1) * length for edge in edges]
            np.testing.assert_allclose([found[0], found[-1] + 1], clipped, atol=0.5)
    assert torch.equal(own, kept[0]) and torch.equal(other, kept[1]), (
        "what is mixed is not changed: the partner needs it"
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "mixing: neither mixup nor cutmix is above 0; leave the table out"),
        ({"mixup": -0.1}, r"mixing: mixup is -0\.1; it must be 0, or from"),
        ({"cutmix": float("inf")}, "recipe r mixing.cutmix is inf; it must be a finite number"),
        ({"cutmix": float("nan")}, "recipe r mixing.cutmix is nan; it must be a finite number"),
        ({"mixup": 1.0, "prob": 1.1}, r"mixing: prob is 1\.1; it must be from 0 to 1"),
        ({"mixup": 1.0, "switch": -1}, r"mixing: switch is -1\.0; it must be from 0 to 1"),
        ({"mixup": 1.0, "block": 7}, "mixing: block is 7; it must be even, from 2 to"),
        ({"mixup": 1.0, "block": 0}, "mixing: block is 0; it must be even, from 2 to"),
        ({"mixup": "0.8"}, "recipe r mixing mixup is '0.8'; it must be a number"),
        ({"mixups": 0.8}, "unknown recipe r mixing key 'mixups'; did you mean 'mixup'"),
    ],
)
def test_a_table_that_makes_no_sense_is_told(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        Recipe("r", {"size": 8, "transforms": [], "mixing": table})


def test_the_fingerprint_covers_the_table() -> None:
    def fingerprint(**table: Any) -> str:
        return Recipe(
            "r", {"size": 8, "transforms": [], **({"mixing": table} if table else {})}
        ).fingerprint

    tables = [
        {},
        {"mixup": 0.8},
        {"mixup": 0.9},
        {"cutmix": 0.8},
        {"mixup": 0.8, "prob": 0.5},
        {"mixup": 0.8, "block": 64},
    ]
    assert len({fingerprint(**table) for table in tables}) == len(tables)
    assert fingerprint(mixup=0.8) == fingerprint(mixup=0.8, block=512, switch=0.5), (
        "what is left out is as if it were written"
    )


SIDE = 48


class Waves:
    """Smooth pictures, the same at any resolution; sample i has label i. Counts what is read, and
    some cannot be."""

    spec, fingerprint = "waves", "0"

    def __init__(self, length: int, broken: tuple[int, ...] = ()) -> None:
        self.classes, self.broken = length, broken
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.classes

    def key(self, index: int) -> str:
        return f"wave {index}"

    def sample(self, index: int) -> Sample:
        self.read.append(index)
        if index in self.broken:
            raise UnreadableSampleError(f"wave {index} is broken")
        y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
        waves = [
            np.sin((3 + index % 5) * x + 2 * y + index),
            np.cos(4 * y * x + index),
            np.sin((x - 0.3) * index + 4 * y),
        ]
        return Sample(Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8)), index)


def mixing_recipe(**table: Any) -> Recipe:
    transforms = [{"name": "Resize", "size": ["input", "input"]}, {"name": "RandomHorizontalFlip"}]
    return Recipe(
        "mixes",
        {"size": SIDE, "transforms": transforms, "mixing": {"mixup": 0.8, "cutmix": 1.0} | table},
    )


def unmixed(source: Source, recipe: Recipe, indices: Rows, seed: int) -> Tensor:
    return torch.stack(
        [draw(source.sample(index).image, recipe, index, seed) for index in indices.tolist()]
    )


def paired(recipe: Recipe, rows: int, seed: int) -> Rows:
    assert recipe.mixing is not None
    return in_pairs(np.arange(rows), partners(rows, recipe.mixing, recipe.key, seed))


@pytest.mark.parametrize("length", [24, 25])
def test_in_batches_of_pairs_each_image_is_read_once(length: int) -> None:
    source, recipe = Waves(length), mixing_recipe(block=8)
    dataset = ViewDataset(source, recipe, row_order(length, 0), sizes=[SIDE, 24])
    ordered = paired(recipe, length, 3).tolist()
    for start in range(0, length, 6):
        dataset.batch([(row, 3) for row in ordered[start : start + 6]])
    assert sorted(source.read) == list(range(length))
    source.read.clear()
    for row in ordered:
        dataset.batch([(row, 3)])
    assert len(source.read) == 2 * (length // 2 * 2) + length % 2, (
        "alone, a row needs its partner too"
    )


@pytest.mark.parametrize("table", [{"cutmix": 0.0}, {"mixup": 0.0}, {"prob": 0.5}])
def test_a_batch_holds_the_mixed_views_and_both_labels(table: dict[str, float]) -> None:
    length, seed = 25, 4
    source, recipe, order = Waves(length), mixing_recipe(block=10, **table), row_order(length, 0)
    assert recipe.mixing is not None
    dataset = ViewDataset(source, recipe, order, sizes=[SIDE])
    batch = dataset.batch([(row, seed) for row in range(length)])
    assert batch.labels.mixed is not None
    second, shares = batch.labels.mixed
    others = partners(length, recipe.mixing, recipe.key, seed)
    own = unmixed(source, recipe, order, seed)
    its = own[others]
    for row, other in enumerate(others.tolist()):
        expected, share = mix(
            own[row], its[row], blend(recipe.mixing, recipe.key, seed, row, other)
        )
        assert torch.equal(batch.views[0][row], expected)
        assert batch.labels.first[row] == order[row] and second[row] == order[other]
        assert float(shares[row]) == pytest.approx(share, abs=1e-6)
        assert batch.labels.leading[row] == (order[row] if share >= 0.5 else order[other])
    (left_over,) = np.flatnonzero(others == np.arange(length)).tolist()
    assert shares[left_over] == 1 and torch.equal(batch.views[0][left_over], own[left_over])
    assert (shares < 1).sum() > 8, "some are mixed"


def test_without_mixing_there_is_one_label() -> None:
    recipe = Recipe("plain", {"size": SIDE, "transforms": []})
    assert (
        ViewDataset(Waves(3), recipe, row_order(3, 0), sizes=[SIDE]).batch([(0, 1)]).labels.mixed
        is None
    )


@pytest.mark.parametrize("table", [{"cutmix": 0.0}, {"mixup": 0.0}])
def test_two_sizes_see_the_same_mixture(table: dict[str, float]) -> None:
    recipe = mixing_recipe(**table)
    dataset = ViewDataset(Waves(24), recipe, row_order(24, 0), sizes=[SIDE, 2 * SIDE])
    other_size = ViewDataset(Waves(24), recipe, row_order(24, 0), sizes=[2 * SIDE])

    def thumbnails(views: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(views.float(), 6)

    batch = dataset.batch([(row, 1) for row in range(24)])
    assert torch.equal(batch.views[1], other_size.batch([(row, 1) for row in range(24)]).views[0])
    small, large = (thumbnails(views) for views in batch.views)
    assert (small - large).abs().mean() < 2
    others = thumbnails(other_size.batch([(row, 2) for row in range(24)]).views[0])
    assert (small - others).abs().mean() > 20, (
        "another seed's mixtures are told apart by the same measure"
    )


def test_a_pair_is_absent_together() -> None:
    length, seed = 12, 2
    recipe, order = mixing_recipe(block=4, prob=0.5), row_order(length, 0)
    broken = int(order[5])
    assert recipe.mixing is not None
    other = partner(5, length, recipe.mixing, recipe.key, seed)
    dataset = ViewDataset(
        Waves(length, (broken,)), recipe, order, sizes=[SIDE], skip_unreadable=True
    )
    batch = dataset.batch([(row, seed) for row in range(length)])
    assert batch.absent == tuple((row, f"wave {broken} is broken") for row in sorted((5, other)))
    there = [row for row in range(length) if row not in (5, other)]
    whole = ViewDataset(Waves(length), recipe, order, sizes=[SIDE]).batch(
        [(row, seed) for row in there]
    )
    assert torch.equal(batch.views[0][there], whole.views[0]), "the others are what they were"
    assert batch.labels.mixed is not None
    for labels in (batch.labels.first, batch.labels.mixed[0]):
        assert (labels == -1).nonzero().flatten().tolist() == sorted((5, other))
    assert not batch.views[0][[5, other]].any()


DIGITS = """
mode = "L"
size = 8
[[transforms]]
name = "RandomCrop"
size = 8
padding = 1
[mixing]
mixup = 1.0
prob = 0.8
"""


def test_a_cache_holds_the_teachers_answer_to_the_mixed_image_and_not_a_mixture_of_two_answers(
    tmp_path: Path,
) -> None:
    (tmp_path / "mixes.toml").write_text(DIGITS)
    recipe_file, rows = str(tmp_path / "mixes.toml"), np.arange(256)
    recipe = load_recipe(recipe_file)
    spec = f"{runs.CONV},seed=7,scale=12"  # surer than the usual one
    runs.dump(
        tmp_path / "cache",
        teacher=spec,
        data="digits:train",
        recipe=recipe_file,
        seeds="0:1",
        codec="full:dtype=float32",
    )
    cache, source = open_cache(tmp_path / "cache"), open_source("digits:train")
    cached = torch.from_numpy(cache.read(0, rows)["logits"].copy())
    teacher = open_model(spec, classes=10, recipe=recipe, trained=True).eval()

    assert recipe.mixing is not None
    others = partners(len(source), recipe.mixing, recipe.key, 0)[rows]
    own, its = (unmixed(source, recipe, cache.order[part], 0) for part in (rows, others))
    draws = [
        blend(recipe.mixing, recipe.key, 0, row, other)
        for row, other in zip(rows.tolist(), others.tolist(), strict=True)
    ]
    mixed = torch.stack([mix(a, b, drawn)[0] for a, b, drawn in zip(own, its, draws, strict=True)])
    share = torch.tensor([drawn.share for drawn in draws])
    with torch.inference_mode():
        answer, first, second = (teacher(views) for views in (mixed, own, its))

    torch.testing.assert_close(cached, answer, rtol=0, atol=1e-5)
    mixture = share[:, None] * first.softmax(1) + (1 - share[:, None]) * second.softmax(1)
    apart = (cached.softmax(1) - mixture).abs().sum(1) / 2
    assert apart[share == 1].max() < 1e-5 and (share == 1).sum() > 20, (
        "nothing else tells the two apart"
    )
    assert apart[(share > 0.2) & (share < 0.8)].mean() > 0.2, (
        "a fifth of all probability lies elsewhere"
    )
