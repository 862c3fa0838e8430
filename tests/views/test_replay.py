"""The replay property, of every shipped recipe: a view is the same, bit for bit, wherever and
whenever it is rendered.

What (row, seed) gives alone is compared with what it gives in any batch, in loader workers, in the
share of a process, after a resume, and whatever the global generators held before: pixels at two
sizes, and labels.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.loader.order import EpochSampler, Split, epoch_views
from kdcache.runtime.generators import seed_generators
from kdcache.sources import DatasetSource, MaskSource
from kdcache.views import (
    ViewDataset,
    ViewLoader,
    load_recipe,
    mixing,
    row_order,
    shipped_recipes,
)
from kdcache.views.dataset import Request

ROWS = 13  # odd: with mixing, one row has no partner
SEEDS = st.integers(0, 2**32 - 1)
VIEWS = st.lists(st.tuples(st.integers(0, ROWS - 1), SEEDS), min_size=1, max_size=8, unique=True)
Rendered = dict[tuple[int, int], tuple[Any, ...]]
"""Of each (row, seed): the bytes of its pixels at each size, its labels, and the share of the
first."""


MASKED = ("cityscapes", "voc")
BOXED = ("coco", "coco-ssd", "detection-eval", "detection-small")
"""Of detection; test_boxes.py replays them."""
RECIPES = [
    name for name in shipped_recipes() if name not in ("segmentation-eval", *BOXED)
]  # the first draws nothing, and has no size


class Photographs:
    """Smooth pictures with grain, of several shapes; sample i has label i."""

    classes = ROWS

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return photograph(index), index


@cache
def photograph(index: int) -> Image.Image:
    """Return a picture, which is the same object each time: whoever changes it changes all that is
    rendered later."""
    random = np.random.default_rng(index)
    width, height = 45 + index % 7, 38 + index % 5
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
        (width, height)
    )
    grain = random.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


class Scenes(Photographs):
    """The same pictures; the mask of sample i has bands of its columns and of i."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image, _ = super().__getitem__(index)
        columns = (np.arange(image.width) + index) // 3 % ROWS
        return image, Image.fromarray(np.tile(columns.astype(np.uint8), (image.height, 1)))


@cache
def source_of(name: str) -> Any:
    """Return the one source of a recipe; to make one reads several samples."""
    if name in MASKED:
        return MaskSource(Scenes(), Spec("scenes"), classes=ROWS)
    return DatasetSource(Photographs(), Spec("photographs"))


def dataset_of(name: str, order_seed: int = 0) -> ViewDataset:
    """Return a new data set, at two sizes, that remembers nothing of what was rendered before."""
    mixing._partners_in.cache_clear()
    mixing._blend_of.cache_clear()
    recipe = load_recipe(name)
    sizes = [(32, 40)] if name in MASKED else [min(recipe.input_size, 32), 20]
    return ViewDataset(source_of(name), recipe, row_order(ROWS, order_seed), sizes=sizes)


def rendered(dataset: ViewDataset, requests: Iterable[Request], workers: int = 0) -> Rendered:
    found: Rendered = {}
    for batch in ViewLoader(dataset, requests, workers=workers, pin_memory=False):
        second, share = batch.labels.mixed or (batch.labels.first, torch.ones(len(batch.rows)))
        labels = zip(batch.labels.first.tolist(), second.tolist(), share.tolist(), strict=True)
        pixels = zip(
            *([view.numpy().tobytes() for view in views] for views in batch.views), strict=True
        )
        for row, seed, view, label in zip(
            batch.rows.tolist(), batch.seeds.tolist(), pixels, labels, strict=True
        ):
            assert (row, seed) not in found
            found[row, seed] = (*view, *label)
    return found


def alone(name: str, views: Iterable[tuple[int, int]], order_seed: int = 0) -> Rendered:
    """Return the views, each rendered by itself."""
    found: Rendered = {}
    for view in views:
        found |= rendered(dataset_of(name, order_seed), [[view]])
    return found


def cut(views: list[tuple[int, int]], size: int) -> list[Request]:
    return [views[start : start + size] for start in range(0, len(views), size)]


@pytest.mark.parametrize("name", RECIPES)
@given(views=VIEWS, order_seed=st.integers(0, 9), before=SEEDS, data=st.data())
@settings(max_examples=9)
def test_in_any_batch_with_others_in_any_order(
    name: str, views: list[tuple[int, int]], order_seed: int, before: int, data: st.DataObject
) -> None:
    expected = alone(name, views, order_seed)
    requests = cut(data.draw(st.permutations(views)), data.draw(st.integers(1, len(views))))
    seed_generators(before)
    states = torch.get_rng_state(), np.random.get_state()
    assert rendered(dataset_of(name, order_seed), requests) == expected
    assert torch.equal(states[0], torch.get_rng_state()), "torch's generator is given back"
    np.testing.assert_equal(np.random.get_state(), states[1])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@given(
    seeds=st.tuples(SEEDS, SEEDS).filter(lambda seeds: seeds[0] != seeds[1]),
    size=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=1)
def test_in_loader_workers(
    name: str, workers: int, seeds: tuple[int, int], size: int, data: st.DataObject
) -> None:
    views = data.draw(st.permutations([(row, seed) for row in range(ROWS) for seed in seeds]))
    assert rendered(dataset_of(name), cut(views, size), workers=workers) == alone(name, views)


@pytest.mark.parametrize("name", RECIPES)
@given(
    seeds=st.lists(SEEDS, min_size=1, max_size=2, unique=True),
    run=st.tuples(SEEDS, st.integers(0, 99)),
    split=st.sampled_from([(2, 1, 1), (5, 1, 1), (6, 1, 2), (4, 2, 1), (12, 2, 1), (12, 2, 3)]),
    data=st.data(),
)
@settings(max_examples=6)
def test_in_the_shares_of_processes_and_after_a_resume(
    name: str,
    seeds: list[int],
    run: tuple[int, int],
    split: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    size, processes, parts = split
    order = epoch_views(
        np.arange(ROWS), ROWS, seeds, load_recipe(name), run_seed=run[0], epoch=run[1]
    )
    steps = len(order) // size
    done = data.draw(st.integers(0, steps))

    shares: Rendered = {}
    for process in range(processes):
        sampler = EpochSampler(
            Split(batch_size=size, parts=parts, process=process, processes=processes)
        )
        sampler.set_epoch(order, first_step=done)
        shares |= rendered(dataset_of(name), sampler)
    expected = [(row, seed) for row, seed in order[done * size : steps * size].tolist()]
    assert shares == alone(name, expected), (
        "all that is left of the epoch, and each view what it always is"
    )


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("eval")])
def test_other_seeds_and_rows_are_other_views(name: str) -> None:
    """Else the properties above would hold of pictures that are all alike."""
    found = alone(name, [(row, seed) for row in range(4) for seed in (0, 1, 2**32 - 1)])
    assert len({view[0] for view in found.values()}) == len(found)
