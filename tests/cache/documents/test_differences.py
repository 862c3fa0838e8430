"""What differs between two manifests: the field, the transform, the value."""

from dataclasses import replace
from typing import Any

import pytest
from caches import manifest

from kdcache.cache import Manifest
from kdcache.cache.documents.differences import Sides, recipe_differences
from kdcache.views import Recipe, load_recipe

SIDES = Sides("in the cache", "now")
CROP = {"name": "RandomResizedCrop", "size": "input"}
FLIP = {"name": "RandomHorizontalFlip"}
POLICY = {"name": "RandAugment", "num_ops": 2, "magnitude": 7}
ERASING = {"name": "RandomErasing", "p": 0.25}
FULL = [CROP, FLIP, POLICY, ERASING]


def recipe(*transforms: Any, **table: Any) -> dict[str, Any]:
    return Recipe("r", {"size": 32, "transforms": [*transforms], **table}).to_dict()


def told(one: dict[str, Any], other: dict[str, Any]) -> str:
    return "; ".join(recipe_differences(one, other, SIDES))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            [CROP, FLIP, {**POLICY, "magnitude": 9}, ERASING],
            "transform 3, RandAugment: magnitude 7 in the cache, 9 now",
        ),
        (
            [CROP, FLIP, {"name": "RandAugment", "magnitude": 7}, ERASING],
            "transform 3, RandAugment: num_ops 2 in the cache, not given now",
        ),
        (
            [CROP, FLIP, POLICY],
            "4 transforms in the cache, 3 now: RandomErasing is missing now",
        ),
        (
            [CROP, FLIP, POLICY, {"name": "RandomGrayscale"}, ERASING],
            "4 transforms in the cache, 5 now: RandomGrayscale is missing in the cache",
        ),
        (
            [CROP, POLICY, FLIP, ERASING],
            "order of transforms: RandomResizedCrop, RandomHorizontalFlip",
        ),
        (
            [CROP, {"name": "RandomVerticalFlip"}, POLICY, ERASING],
            "transform 2: RandomHorizontalFlip in the cache, RandomVerticalFlip now",
        ),
    ],
)
def test_the_transform_that_differs_is_named(changed: list[Any], line: str) -> None:
    assert told(recipe(*FULL), recipe(*changed)).startswith(line)


def test_values_that_only_a_fingerprint_tells_apart_are_shown() -> None:
    one = recipe(CROP, {**ERASING, "p": 1})
    other = recipe(CROP, {**ERASING, "p": 1.0})
    assert told(one, other) == "transform 2, RandomErasing: p 1 in the cache, 1.0 now"


def test_a_transform_inside_another_is_named_with_it() -> None:
    def jitter(brightness: float) -> dict[str, Any]:
        inner = {"name": "ColorJitter", "brightness": brightness}
        return {"name": "RandomApply", "p": 0.8, "transforms": [inner]}

    place = "transform 2, RandomApply: its transform 1, ColorJitter: brightness"
    line = told(recipe(CROP, jitter(0.4)), recipe(CROP, jitter(0.5)))
    assert line == f"{place} 0.4 in the cache, 0.5 now"


def test_mixing_and_mode_are_named_and_what_decides_no_pixel_is_not() -> None:
    plain = recipe(CROP)
    assert told(plain, recipe(CROP, mixing={"mixup": 0.2})).startswith("mixing: not given in the")
    softer = told(recipe(CROP, mixing={"mixup": 0.8}), recipe(CROP, mixing={"mixup": 0.2}))
    assert softer == "mixing.mixup: 0.8 in the cache, 0.2 now"
    assert told(plain, recipe(CROP, mode="L")) == 'recipe.mode: "RGB" in the cache, "L" now'
    assert told(plain, {**recipe(CROP, size=64, eval="eval-whole"), "name": "other"}) == ""


def test_recipes_that_only_their_fingerprint_tells_apart_are_told_by_it() -> None:
    line = told(recipe(CROP), {**recipe(CROP), "fingerprint": "f" * 64})
    assert line.startswith("recipe.fingerprint: ") and line.endswith("ffffffffffff... now")


def test_what_no_recipe_holds_is_shown_and_breaks_nothing() -> None:
    unknown = recipe(CROP)
    unknown["table"] = {**unknown["table"], "transforms": [7, {"name": 3}], "mixing": [1]}
    assert "transform" in told(recipe(CROP), unknown)
    assert told(recipe(CROP), {**unknown, "table": {"transforms": None}})


def test_shipped_recipes_differ_in_few_words() -> None:
    one = load_recipe("imagenet-b1").to_dict()
    other = load_recipe("imagenet-b2").to_dict()
    text = told(one, other)
    assert "missing" in text and len(text) < 400


def changed(**tables: Any) -> list[str]:
    return manifest().differences(manifest(**tables))


def test_long_values_are_shown_from_where_they_differ() -> None:
    text = "tiny_models:net," + "width=1," * 30
    long = replace(manifest().teacher, architecture=text)
    longer = replace(long, architecture=f"{text}depth=3")
    (line,) = manifest(teacher=long).differences(manifest(teacher=longer))
    start = "...idth=1,width=1,"
    assert line == f'teacher.architecture: {start}" in the cache, {start}depth=3" now'
    wide = [[f"field{number}", "<f2", [5]] for number in range(20)]
    other = [*wide[:-1], ["field19", "<f4", [5]]]
    (line,) = manifest(record_dtype=wide).differences(manifest(record_dtype=other))
    assert '"<f2"' in line and '"<f4"' in line and len(line) < 200


@pytest.mark.parametrize("name", ["classes", "sizes", "contents"])
def test_an_addition_that_one_side_lacks_is_no_difference(name: str) -> None:
    old = manifest().source
    values = {"classes": (5, 6)}.get(name, ("a" * 64, "b" * 64))
    one, other = (replace(old, **{name: value}) for value in values)
    assert changed(source=one) == [] and manifest(source=one).differences(manifest()) == []
    (line,) = manifest(source=one).differences(manifest(source=other))
    assert line.startswith(f"source.{name}: ")


def test_the_digest_of_a_list_is_free_to_differ() -> None:
    assert changed(source=replace(manifest().source, list="a" * 64)) == []
    one, other = (replace(manifest().source, list=digit * 64) for digit in "ab")
    assert manifest(source=one).differences(manifest(source=other)) == []


def test_a_recipe_in_a_manifest_is_told_by_its_transforms() -> None:
    made = manifest(recipe=recipe(*FULL))
    other: Manifest = manifest(recipe=recipe(*FULL[:-1]))
    (line,) = made.differences(other)
    assert line == "4 transforms in the cache, 3 now: RandomErasing is missing now"
