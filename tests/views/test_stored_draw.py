"""Views of which a seed is stored: draws are those of TinyViT's program, and pixels those of timm's
operations."""

from typing import Any

import numpy as np
import pytest
import torch
from drawn_views import Photographs
from imports.tinyvit_files import CLIP_MEAN, CLIP_STD, rendered
from torchvision.transforms import functional

from kdcache.cache.arrays import arrays_digest
from kdcache.errors import RecipeError
from kdcache.sources import as_source
from kdcache.views import Recipe, ViewDataset, numpy_draws
from kdcache.views.drawn_policy import DrawnPolicy
from kdcache.views.numpy_draws import KNOWN_DRAWS, check_draws, require_known_draws
from kdcache.views.stored_arrays import are_stored
from kdcache.views.stored_draw import DrawnView, StoredDraw
from kdcache.views.stored_views import StoredViews, ViewKey

NUM_SEEDS = 40


def stored(seeds: Any = None) -> StoredViews:
    """Return views with seeds 0, 1, ..., of three samples each, of which one lacks the first."""
    if seeds is None:
        seeds = np.arange(NUM_SEEDS * 3).reshape(NUM_SEEDS, 3) + 1
        seeds[0, 2] = 0
    arrays = {"draw_seeds": np.array(seeds, np.uint32)}
    return StoredViews.from_arrays(arrays, arrays_digest(arrays))


def recipe(views: StoredViews, *, size: int = 48, **options: Any) -> Recipe:
    table = {"name": "kdcache.StoredDraw", "size": "input", "views": views.digest, **options}
    return Recipe("theirs", {"size": size, "transforms": [table]}, views=views)


def dataset(size: int = 48, **options: Any) -> ViewDataset:
    order = np.array([2, 0, 1])
    made = recipe(stored(), **options)
    return ViewDataset(as_source(Photographs()), made, order, sizes=[size])


def transform(**options: Any) -> StoredDraw:
    views = stored()
    return StoredDraw(224, views.digest, image_mode="RGB", stored_views=views, **options)


DRAWN: list[tuple[tuple[int, int], int, tuple[Any, ...], list[Any], list[Any]]] = [
    ((375, 500), 0, (166, 339, 171, 129, False), [], []),
    (
        *((375, 500), 1, (13, 128, 282, 366, True)),
        [("SolarizeAdd", 101)],
        [((34, 92, 119, 108), 325552969)],
    ),
    ((375, 500), 2, (94, 24, 260, 231, False), [("ShearY", 0.2816070988009149)], []),
    (
        *((375, 500), 3, (152, 198, 186, 160, True)),
        [("Posterize", 1)],
        [((59, 83, 86, 83), 792247292)],
    ),
    ((375, 500), 2147483647, (68, 141, 219, 281, True), [("Solarize", 0)], []),
    ((400, 60), 1, (160, 0, 80, 60, False), [("AutoContrast", None)], []),
    ((400, 60), 5, (140, 0, 58, 54, True), [("TranslateYRel", -0.38343903287768805)], []),
]
"""What its own program draws with `rand-m9-mstd0.5-inc1` and one block in two views: height and
width of the image, seed, crop with flip, operations and blocks. Of 400x60 no crop of seed 1
fits."""
OF_MANY: list[tuple[int, list[Any], list[Any]]] = [
    (
        2,
        [("ShearY", -0.057743567260268), ("TranslateYRel", -0.13627869910350796)],
        [((44, 28, 112, 72), 371472436), ((90, 58, 108, 42), 992370337)],
    ),
    (
        3,
        [("Posterize", 2), ("SolarizeAdd", 30)],
        [((24, 116, 138, 46), 747556234), ((190, 38, 29, 96), 337139902)],
    ),
]
"""Likewise with `rand-m7-n3-mstd101` and up to three blocks, of 375x500."""


def assert_drawn(found: DrawnView, operations: list[Any], blocks: list[Any]) -> None:
    assert [name for name, _ in found.operations] == [name for name, _ in operations]
    for (_, value), (_, expected) in zip(found.operations, operations, strict=True):
        assert value == (expected if expected is None else pytest.approx(expected, rel=1e-12))
    assert [*found.blocks] == blocks


@pytest.mark.parametrize(("size", "seed", "cut", "operations", "blocks"), DRAWN)
def test_what_is_drawn_is_what_its_own_program_draws(
    size: tuple[int, int], seed: int, cut: tuple[Any, ...], operations: Any, blocks: Any
) -> None:
    made = transform(policy="rand-m9-mstd0.5-inc1", erase_probability=0.5)
    found = made.drawn(seed, *size)
    assert (*found.crop, found.is_flipped) == cut
    assert_drawn(found, operations, blocks)


@pytest.mark.parametrize(("seed", "operations", "blocks"), OF_MANY)
def test_several_operations_and_blocks_are_drawn(
    seed: int, operations: list[Any], blocks: list[Any]
) -> None:
    made = transform(policy="rand-m7-n3-mstd101", erase_probability=0.5, max_count=3)
    assert_drawn(made.drawn(seed, 375, 500), operations, blocks)


KINDS: list[dict[str, Any]] = [
    {"policy": "rand-m9-mstd0.5-inc1", "erasing": 0.25},
    {"policy": "rand-m9-mstd101-n4-inc1", "erasing": 0.0},
    {"policy": "rand", "erasing": 1.0, "mode": "rand", "count": 3},
    {"policy": "rand-m9-mmax11-mstd2-n3-inc1", "erasing": 1.0, "mode": "const", "count": 2},
    {"policy": None, "erasing": 1.0, "size": 64, "interpolation": "bilinear"},
]


@pytest.mark.parametrize("kind", KINDS, ids=[str(kind["policy"]) for kind in KINDS])
def test_views_are_those_that_timm_renders_from_the_draws(kind: dict[str, Any]) -> None:
    mean, std = [*CLIP_MEAN], [*CLIP_STD]
    options = {
        "interpolation": kind.get("interpolation", "bicubic"),
        "erase_probability": kind["erasing"],
        "erase_mode": kind.get("mode", "pixel"),
        "max_count": kind.get("count", 1),
        "canvas": kind.get("size", 48),
        "pixel_mean": mean,
        "pixel_std": std,
    }
    if kind["policy"] is not None:
        options["policy"] = kind["policy"]
    made = dataset(kind.get("size", 48), **options)
    num_cut = 0
    for seed in range(1, NUM_SEEDS):
        image, _ = Photographs()[0]
        found = made.batch([(1, seed)]).views[0][0]
        expected = rendered(3 * seed, image, **{"mean": mean, "std": std, **kind})
        num_cut += int(((expected < -0.5) | (expected > 255.5)).sum())
        assert (found.double() - expected.clamp(0, 255)).abs().max() < 0.501
    has_noise = kind["erasing"] > 0 and kind.get("mode", "pixel") == "pixel"
    assert (num_cut > 0) >= has_noise


def test_noise_is_cut_at_black_and_white_as_often_as_the_page_says() -> None:
    made = transform(erase_probability=1.0, pixel_mean=CLIP_MEAN, pixel_std=CLIP_STD)
    blocks = [block for seed in range(60) for block in made.drawn(seed, 224, 224).blocks]
    noise = torch.cat([made._erased([block], 3).flatten(1) for block in blocks], 1)
    noise = noise[:, ~noise[0].isnan()].double()
    levels = 255 * (noise * torch.tensor(CLIP_STD)[:, None] + torch.tensor(CLIP_MEAN)[:, None])
    is_cut = (levels < -0.5) | (levels > 255.5)
    assert 100 * float(is_cut.double().mean()) == pytest.approx(6.8, abs=0.3)


def test_a_view_of_twice_the_size_has_the_same_draws() -> None:
    options = {"erase_probability": 1.0, "canvas": 48}
    small, large = dataset(48, **options), dataset(96, **options)
    for seed in range(1, 8):
        block = transform(erase_probability=1.0).drawn(3 * seed, 64, 72).blocks[0]
        top, left = (round(start * 48 / 224) for start in block.place[:2])
        # of the noise each pixel has become four
        one = small.batch([(1, seed)]).views[0][0][:, top, left]
        four = large.batch([(1, seed)]).views[0][0][:, 2 * top : 2 * top + 2, 2 * left]
        assert torch.equal(four, one[:, None].expand(3, 2))


def test_grey_views_are_drawn_too() -> None:
    made = recipe(stored(), policy="rand-m9-n8-inc1", erase_probability=1.0).with_mode("L")
    for seed in range(1, 8):
        view, _ = made.render(Photographs()[0][0], None, ViewKey(0, seed))
        assert view.shape == (1, 48, 48)


def test_what_is_drawn_hangs_on_nothing_else() -> None:
    made = dataset(policy="rand-m9-mstd0.5-inc1", erase_probability=0.5, canvas=48)
    torch.manual_seed(0)
    request = [(row, seed) for row in range(1, 3) for seed in range(1, 6)]
    together = made.batch(request).views[0]
    torch.manual_seed(1)
    for place, view in enumerate(request):
        assert torch.equal(together[place], made.batch([view]).views[0][0])


def test_a_view_without_a_seed_is_told() -> None:
    assert are_stored(stored().arrays)[:2].tolist() == [[True, True, False], [True] * 3]
    with pytest.raises(RecipeError, match=r"sample 2 \(.*no view is stored under seed 0"):
        dataset().batch([(0, 0)])
    with pytest.raises(RecipeError, match=r"no views are stored under seed 40; .* seeds 0 to 39"):
        dataset().batch([(0, 40)])
    with pytest.raises(RecipeError, match="render it by a ViewDataset"):
        recipe(stored())(Photographs()[0][0])


def test_a_crop_is_not_drawn_and_a_draw_is_no_crop() -> None:
    drawn = stored()
    crop = {"name": "kdcache.StoredCrop", "size": "input", "views": drawn.digest}
    boxes = {"boxes": np.full((1, 3, 4), 0.25, np.float32), "flips": np.zeros((1, 3), np.uint8)}
    cut = StoredViews.from_arrays(boxes, arrays_digest(boxes))
    made = Recipe("theirs", {"size": 48, "transforms": [crop]}, views=drawn)
    for other in (made, recipe(cut)):
        with pytest.raises(RecipeError, match="no view is stored under seed 0"):
            other.render(Photographs()[0][0], None, ViewKey(0, 0))


@pytest.mark.parametrize(
    "arrays",
    [
        {"draw_seeds": np.ones((2, 3), np.int32)},
        {"draw_seeds": np.ones((2, 3, 1), np.uint32)},
        {"draw_seeds": np.ones(3, np.uint32)},
        {"draw_seeds": np.ones((2, 3), np.uint32), "flips": np.ones((2, 3), np.uint8)},
        {"draw_seeds": np.full((2, 3), (1 << 31) + 1, np.uint32)},
    ],
)
def test_other_arrays_are_no_seeds(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="draw_seeds"):
        StoredViews.from_arrays(arrays, "0" * 64)


@pytest.mark.parametrize(
    "policy",
    ["v0", "augmix-m3", "rand-w0", "rand-m9.5", "rand-m9-m8", "rand-m", "rand-", "rand-p0.5", ""],
)
def test_other_policies_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="what is read is rand with m, mstd, mmax, n and inc"):
        DrawnPolicy(policy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "v0"}, "what is read is rand"),
        ({"policy": "rand-n17"}, "past 16"),
        ({"erase_mode": "black"}, "erase_mode.*black"),
        ({"max_count": 0}, "both are from 1 on"),
        ({"max_count": 101}, "at most 100"),
        ({"canvas": 0}, "both are from 1 on"),
        ({"canvas": 4096}, "at most 2048"),
        ({"pixel_mean": [0.5]}, "three levels"),
        ({"pixel_std": [0.5, 0.5]}, "a list of three numbers"),
        ({"interpolation": "lanczos"}, "cannot shift an image"),
    ],
)
def test_other_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(stored(), **options)


@pytest.mark.parametrize("known", KNOWN_DRAWS, ids=[known.name for known in KNOWN_DRAWS])
def test_a_numpy_that_draws_other_numbers_is_told(
    known: numpy_draws.KnownDraw, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_draws(KNOWN_DRAWS)
    changed = known._replace(expected=[value + 1e-6 for value in known.expected])
    monkeypatch.setattr(numpy_draws, "KNOWN_DRAWS", (changed,))
    require_known_draws.cache_clear()
    try:
        with pytest.raises(RecipeError, match=r"numpy \S+ draws \[.* where") as caught:
            dataset().batch([(1, 1)])
    finally:
        require_known_draws.cache_clear()
    assert known.name in str(caught.value)


def test_the_crop_is_torchvisions() -> None:
    made = transform()
    image, _ = Photographs()[0]
    drawn = made.drawn(5, image.height, image.width)
    expected = functional.resized_crop(
        image, *drawn.crop, [224, 224], functional.InterpolationMode.BICUBIC
    )
    if drawn.is_flipped:
        expected = functional.hflip(expected)
    assert made(image, view=ViewKey(2, 1)).tobytes() == expected.tobytes()
