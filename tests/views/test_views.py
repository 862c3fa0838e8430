"""A view is a function of (source, recipe, index, seed): the same pixels everywhere, another draw
under any other key."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from drawn_views import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import Deadly, Drawing, Noise
from torch import Tensor

from kdcache.config.spec import Spec
from kdcache.errors import KdcacheError, RecipeError, UnreadableSampleError
from kdcache.runtime.generators import preserved_generators, seed_generators
from kdcache.sources import DatasetSource, Sample, Source
from kdcache.views import (
    Recipe,
    ViewDataset,
    ViewLoader,
    load_recipe,
    row_order,
    shipped_recipes,
)

SIZES = {
    "imagenet-b1": 24,
    "imagenet-b2": 24,
    "imagenet-b3": 24,
    "eval": 24,
    "eval-bicubic": 24,
    "detection-eval": 24,
    "detection-small": 24,
}  # small ones: what is tested does not depend on it
RANDOM = ("cifar", "digits", "imagenet-b1", "imagenet-b2")


def names() -> list[str]:
    """Return the recipes of square views; those of segmentation are in test_masks.py and
    test_replay.py, those of detection in test_boxes.py."""
    return [
        name
        for name in shipped_recipes()
        if name not in ("cityscapes", "coco", "coco-ssd", "segmentation-eval", "voc")
    ]


def recipe_of(name: str) -> Recipe:
    recipe = load_recipe(name)
    return recipe.at(SIZES.get(name, recipe.size))


@pytest.fixture(scope="module")
def source() -> Source:
    return DatasetSource(Noise(length=24, size=32), Spec("noise"))


def photo(side: int = 96) -> Image.Image:
    """Return an image without symmetry, smooth enough to be the same at any resolution."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(5 * x + 2 * y), np.cos(7 * y * x + x), np.sin(9 * (x - 0.3) ** 2 + 4 * y)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8))


class One:
    """A source of a single image."""

    spec, classes, fingerprint = "one", 1, "0"

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def __len__(self) -> int:
        return 1

    def key(self, index: int) -> str:
        return str(index)

    def sample(self, index: int) -> Sample:
        return Sample(self._image, 0)


def render(source: Source, recipe: Recipe, index: int, seed: int) -> Tensor:
    """Return one view, from a data set of one row, which is not mixed."""
    return (
        ViewDataset(source, recipe, np.array([index]), sizes=[recipe.size])
        .batch([(0, seed)])
        .views[0][0]
    )


def batches(dataset: ViewDataset, requests: Any, workers: int) -> dict[tuple[int, int], Tensor]:
    """Return every view that the requests name, by (row, seed)."""
    found = {}
    for batch in ViewLoader(dataset, requests, workers=workers, pin_memory=False):
        for view, row, seed in zip(
            batch.views[0], batch.rows.tolist(), batch.seeds.tolist(), strict=True
        ):
            found[row, seed] = view
    return found


@pytest.mark.parametrize("name", names())
@given(data=st.data())
@settings(max_examples=6)
def test_a_view_is_replayed_bit_for_bit(name: str, source: Source, data: st.DataObject) -> None:
    recipe = recipe_of(name)
    seeds = st.integers(0, 2**32 - 1)
    views = data.draw(
        st.lists(st.tuples(st.integers(0, 23), seeds), min_size=1, max_size=6, unique=True)
    )
    order = row_order(24, data.draw(st.integers(0, 9)))
    dataset = ViewDataset(source, recipe, order, sizes=[recipe.size])
    expected = {view: dataset.batch([view]).views[0][0] for view in views}
    seed_generators(data.draw(seeds))  # whatever the global generators held before
    cut = data.draw(st.integers(0, len(views)))
    again = data.draw(st.permutations(views))
    found = batches(dataset, [part for part in (again[:cut], again[cut:]) if part], workers=0)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["digits", "imagenet-b1"])
def test_loader_workers_and_batches_do_not_matter(name: str, source: Source) -> None:
    recipe = recipe_of(name)
    dataset = ViewDataset(source, recipe, row_order(24, 0), sizes=[recipe.size])
    views = [(row, seed) for seed in (0, 5) for row in range(24)]
    alone = batches(dataset, [views], workers=0)
    workers = batches(
        dataset, [views[start : start + 7] for start in range(0, 48, 7)][::-1], workers=2
    )
    assert alone.keys() == workers.keys() == set(views)
    assert all(torch.equal(alone[key], workers[key]) for key in views)


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_the_callers_generators_are_given_back(source: Source) -> None:
    recipe = recipe_of("imagenet-b1")
    dataset = ViewDataset(source, recipe, row_order(24, 0), sizes=[24])
    seed_generators(1, 2, 3)
    expected = draws()
    for work in (
        lambda: render(source, recipe, 3, 9),
        lambda: dataset.__getitems__([(0, 1), (2, 3)]),
        lambda: list(ViewLoader(dataset, [[(0, 1)], [(5, 1)]], workers=0, pin_memory=False)),
    ):
        seed_generators(1, 2, 3)
        work()
        assert (
            draws()[:2] == expected[:2]
        )  # `random` is what beartype itself draws from to pick the items that it checks


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6))
def test_generators_are_seeded_by_numpys_hash_of_the_key(key: list[int]) -> None:
    """Caches on disk depend on it: by another hash every view would be another."""
    words = np.random.SeedSequence(key).generate_state(4)
    with preserved_generators():
        seed = seed_generators(*key)
        assert seed == int(words[0]) * 2**32 + int(words[1]) == torch.initial_seed()
        assert np.random.rand() == np.random.RandomState(words[2]).rand()


def test_preserved_generators_are_given_back_after_an_error_too() -> None:
    seed_generators(1, 2, 3)
    expected = draws()
    seed_generators(1, 2, 3)
    with pytest.raises(ZeroDivisionError), preserved_generators():
        seed_generators(4)
        draws()
        raise ZeroDivisionError
    assert draws() == expected


@pytest.mark.parametrize("name", RANDOM)
def test_seed_and_index_are_two_words(name: str) -> None:
    recipe, image = recipe_of(name), photo(8 if name == "digits" else 32)

    def view(index: int, seed: int) -> bytes:
        class Many(One):
            def sample(self, index: int) -> Sample:
                return Sample(image, 0)

        return render(Many(image), recipe, index, seed).numpy().tobytes()

    keys = [(index, seed) for index in range(12) for seed in range(12)]
    by_sum: dict[int, set[bytes]] = {}
    for index, seed in keys:
        by_sum.setdefault(index + seed, set()).add(view(index, seed))
    assert all(len(views) > 1 for total, views in by_sum.items() if 3 < total < 19), (
        "pairs of one sum share a draw"
    )
    assert view(1, 2) == view(1, 2)
    for one in (lambda word: view(word, 3), lambda word: view(3, word)):
        assert len({one(word) for word in range(12)}) > 3, "a word of the key does not count"
    swapped = [view(index, seed) != view(seed, index) for index, seed in keys if index < seed]
    assert np.mean(swapped) > 0.9


def test_other_recipes_draw_otherwise() -> None:
    entry = {"name": "RandomResizedCrop", "size": "input"}
    one = Recipe("a", {"size": 24, "transforms": [entry]})
    other = Recipe("a", {"size": 24, "transforms": [{**entry, "scale": [0.08, 0.999]}]})
    same = Recipe("b", {"size": 24, "transforms": [dict(entry)]})
    views = [draw(photo(), recipe, 0, 0) for recipe in (one, other, same)]
    assert torch.equal(views[0], views[2])
    difference = (views[0].int() - views[1].int()).abs().float().mean()
    assert difference > 5, (
        "almost equal parameters would give almost equal crops from the same draw"
    )


@pytest.mark.parametrize("seed", range(8))
def test_two_sizes_see_the_same_draw(seed: int) -> None:
    recipe, source = load_recipe("imagenet-b1"), One(photo())

    def thumbnail(size: int, seed: int) -> "np.ndarray[Any, Any]":
        view = render(source, recipe.at(size), 0, seed).float()[None]
        return torch.nn.functional.adaptive_avg_pool2d(view, 8).flatten().numpy()

    small, large = thumbnail(32, seed), thumbnail(64, seed)
    np.testing.assert_allclose(small, large, rtol=0, atol=12)
    others = [float(np.abs(small - thumbnail(64, other)).max()) for other in range(20, 30)]
    assert min(others) > 12, "another draw must be told apart by the same measure"


def test_one_batch_renders_every_size_that_was_asked_for() -> None:
    recipe = load_recipe("imagenet-b1")
    dataset = ViewDataset(One(photo()), recipe, row_order(1, 0), sizes=[24, 48])
    batch: Any = dataset.__getitems__([(0, 3), (0, 4)])
    assert [tuple(view.shape) for view in batch.views] == [(2, 3, 24, 24), (2, 3, 48, 48)]
    for position, seed in enumerate((3, 4)):
        for views, size in zip(batch.views, (24, 48), strict=True):
            assert torch.equal(views[position], render(One(photo()), recipe.at(size), 0, seed))
    assert (
        batch.labels.first.tolist() == [0, 0]
        and batch.seeds.tolist() == [3, 4]
        and len(dataset) == 1
    )


class Broken(One):
    """A source whose sample cannot be read."""

    def sample(self, index: int) -> Sample:
        raise UnreadableSampleError(f"sample {index} is broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_keep_their_class_and_text_through_a_worker(workers: int) -> None:
    dataset = ViewDataset(Broken(photo()), recipe_of("cifar"), row_order(1, 0), sizes=[32])
    with pytest.raises(UnreadableSampleError, match=r"^sample 0 is broken$"):
        list(ViewLoader(dataset, [[(0, 0)]], workers=workers, pin_memory=False))


def test_unreadable_samples_are_absent_where_that_was_chosen() -> None:
    dataset = ViewDataset(
        Broken(photo()), recipe_of("cifar"), row_order(1, 0), sizes=[32], skip_unreadable=True
    )
    batch: Any = dataset.__getitems__([(0, 0)])
    assert (
        batch.absent == ((0, "sample 0 is broken"),)
        and batch.labels.first.tolist() == [-1]
        and not batch.views[0].any()
    )


def images() -> dict[str, Image.Image]:
    grey = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)
    colour = np.stack([grey, grey.T.reshape(48, 40), 255 - grey], -1)
    rgb = Image.fromarray(colour)
    modes = {
        mode: rgb.convert(mode)
        for mode in ("RGB", "L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr", "HSV", "F", "I")
    }
    palette = rgb.quantize(16)
    palette.info["transparency"] = 3
    return {
        **modes,
        "P with transparency": palette,
        "one pixel": rgb.resize((1, 1)),
        "wide": rgb.resize((300, 2)),
    }


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("kind", images())
def test_images_of_any_kind_are_rendered_or_refused_in_clear_words(name: str, kind: str) -> None:
    recipe, image = recipe_of(name), images()[kind]
    if name in ("cifar", "digits") and kind in ("one pixel", "wide"):
        with pytest.raises(
            RecipeError,
            match=rf"recipe {name} fails on an image of size \({image.width}, .*crop size",
        ):
            render(One(image), recipe, 0, 0)
        return
    view = render(One(image), recipe, 0, 0)
    assert view.dtype == torch.uint8 and view.shape == (recipe.channels, recipe.size, recipe.size)
    assert type(view) is Tensor
    if kind not in ("RGB", "L", "wide", "one pixel"):
        plain = image.convert(recipe.mode)
        assert torch.equal(view, render(One(plain), recipe, 0, 0)), "conversion is Pillow's"


def test_sixteen_bits_keep_their_upper_eight() -> None:
    recipe = Recipe("plain", {"size": 2, "mode": "L", "transforms": []})
    image = Image.fromarray(np.array([[0, 255], [300, 65_535]], np.uint16))
    assert image.mode == "I;16"
    assert render(One(image), recipe, 0, 0).tolist() == [[[0, 0], [1, 255]]]


def test_a_recipe_error_leaves_as_a_value_and_is_raised_by_the_loader() -> None:
    wrong = Recipe("wrong", {"size": 24, "transforms": [{"name": "Resize", "size": 7}]})
    dataset = ViewDataset(One(photo()), wrong, row_order(1, 0), sizes=[24])
    assert isinstance(dataset.__getitems__([(0, 0)]), KdcacheError)
    with pytest.raises(
        RecipeError,
        match=r"^sample 0 \(0\): .* gives torch.uint8 \(3, 7, 7\) where uint8 \(3, 24, 24\)",
    ):
        list(ViewLoader(dataset, [[(0, 0)]], workers=0, pin_memory=False))


def test_a_data_set_that_draws_is_replayed_too() -> None:
    source = DatasetSource(Drawing(), Spec("drawing"))
    recipe, order = load_recipe("digits"), row_order(40, 0)
    request = [(row, 3) for row in range(40)]
    batches = []
    for workers, size in ((0, 40), (2, 10)):
        parts = [request[start : start + size] for start in range(0, 40, size)]
        loader = ViewLoader(
            ViewDataset(source, recipe, order, sizes=[8]), parts, workers=workers, pin_memory=False
        )
        batches.append(torch.cat([batch.views[0] for batch in loader]))
    assert torch.equal(*batches)
    assert torch.equal(batches[0][5], render(source, recipe, int(order[5]), 3))


def test_a_worker_that_is_killed_is_told() -> None:
    dataset = ViewDataset(
        DatasetSource(Deadly(), Spec("deadly")), load_recipe("digits"), np.arange(40), sizes=[8]
    )
    with pytest.raises(KdcacheError, match=r"a loader worker was killed.*fewer --workers"):
        list(ViewLoader(dataset, [[(7, 0)]], workers=1, pin_memory=False))
