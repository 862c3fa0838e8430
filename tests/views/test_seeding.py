"""A view is drawn as if every generator were seeded for it, from the same words as ever, whichever
of them its recipe is known to use."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from drawn_views import Drawing, Objects, Photographs, Scenes

from kdcache.config.spec import Spec
from kdcache.runtime.generators import generator_states, hashed_words, preserved_generators
from kdcache.sources import DatasetSource, MaskSource, Source
from kdcache.views import Recipe, ViewDataset, load_recipe, shipped_recipes
from kdcache.views.transform_facts import NEVER_DRAW, STORED_TRANSFORMS

SIZE = (40, 48)
MASKED = ("cityscapes", "segmentation-eval", "voc")


def source_of(name: str) -> Source:
    if name in MASKED:
        return MaskSource(Scenes(), Spec("scenes"), classes=3)
    if name.startswith("coco"):
        return DatasetSource(Objects(), Spec("objects"))
    return DatasetSource(Photographs(), Spec("photographs"))


def seed_everything(recipe: Recipe, seed: int, index: int) -> None:
    """Seed all generators as they always were: caches on disk depend on it."""
    words = np.random.SeedSequence([*recipe.key, seed, index]).generate_state(4)
    torch.manual_seed(int(words[0]) * 2**32 + int(words[1]))
    np.random.seed(words[2])
    random.seed(int(words[3]))


def drawn(recipe: Recipe, source: Source, seed: int, index: int, follower: Any) -> bytes:
    """Return the pixels of a view before it is mixed."""
    with preserved_generators():
        seed_everything(recipe, seed, index)
        image, target = source.sample(index)
        seed_everything(recipe, seed, index)
        view, _ = recipe.render(image, follower(target, image))
    return view.numpy().tobytes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_view_of_every_recipe_is_as_all_generators_give_it(name: str) -> None:
    source: Any = source_of(name)
    source.may_draw = False  # so that nothing else seeds them
    assert_seeded(name, source)


@pytest.mark.parametrize("name", ["cifar", "eval", "imagenet-b2"])
def test_a_data_set_that_draws_finds_all_generators_seeded(name: str) -> None:
    assert_seeded(name, DatasetSource(Drawing(), Spec("drawing")))


def assert_seeded(name: str, source: Source) -> None:
    """Assert that views of a recipe are what all generators give, seeded for each."""
    recipe = load_recipe(name)
    if recipe.size is not None:
        recipe = recipe.at(SIZE)
    table = recipe.to_dict()["table"]
    table.pop("mixing", None)
    unmixed = Recipe(name, table)
    dataset = ViewDataset(source, unmixed, np.arange(3), sizes=[unmixed.size])
    for view in ((0, 0), (2, 0), (1, 2**32 - 1), (1, 7)):
        rendered = dataset.batch([view]).views[0][0]
        expected = drawn(unmixed, source, view[1], view[0], dataset._kind.follower)
        assert rendered.numpy().tobytes() == expected


def test_the_hash_of_many_keys_is_numpys_of_each() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, (40, 4), dtype=np.uint32)
    words[:3] = [[0, 0, 0, 0], [2**32 - 1] * 4, [1, 0, 2**32 - 1, 0]]
    expected = [np.random.SeedSequence(key).generate_state(4) for key in words]
    np.testing.assert_array_equal(hashed_words(words), expected)


@pytest.mark.parametrize(
    ("transforms", "generators"),
    [
        ([{"name": "Resize", "size": 8}], set()),
        ([{"name": "Resize", "size": 8}, {"name": "RandomHorizontalFlip"}], {"torch"}),
        (
            [{"name": "RandomApply", "transforms": [{"name": "timm.AutoAugment", "policy": "v0"}]}],
            {"torch", "numpy", "random"},
        ),
        ([{"name": "RandomApply", "transforms": [{"name": "Resize", "size": 8}]}], {"torch"}),
    ],
)
def test_the_generators_of_a_recipe(transforms: list[Any], generators: set[str]) -> None:
    assert Recipe("r", {"size": 8, "transforms": transforms}).generators == generators


def test_transforms_that_are_said_to_draw_nothing_draw_nothing() -> None:
    entries: dict[str, dict[str, Any]] = {
        "CenterCrop": {"size": 8},
        "Grayscale": {},
        "Pad": {"padding": 2},
        "Resize": {"size": 8},
        "kdcache.Letterbox": {"size": 8},
    }
    assert {*entries, *STORED_TRANSFORMS} == NEVER_DRAW  # test_stored_views.py has those
    for name, options in entries.items():
        recipe = Recipe("r", {"size": "image", "transforms": [{"name": name, **options}]})
        before = generator_states()
        [*recipe.steps(Photographs()[0][0])]
        assert generator_states() == before
