"""Stored views: what is rendered of them, that nothing is drawn, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from drawn_views import Objects, Photographs, Scenes
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, autoaugment, functional

from kdcache.cache.arrays import arrays_digest
from kdcache.errors import RecipeError, UsageError
from kdcache.runtime.generators import generator_states
from kdcache.sources import as_source
from kdcache.views import Recipe, ViewDataset
from kdcache.views.stored_arrays import are_boxes, are_stored
from kdcache.views.stored_views import StoredViews, ViewKey

BOXES = np.array(
    [
        [[0.25, 0.125, 0.5, 0.25], [0, 0, 1, 1], [0, 0, 0, 0]],
        [[0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.2, 0, 0.1, 0.9]],
    ],
    np.float32,
)
FLIPS = np.array([[0, 1, 0], [1, 0, 1]], np.uint8)


def stored(boxes: np.ndarray = BOXES, flips: np.ndarray = FLIPS) -> StoredViews:
    arrays = {"boxes": boxes, "flips": flips}
    return StoredViews.from_arrays(arrays, arrays_digest(arrays))


def table(views: StoredViews, **options: Any) -> dict[str, Any]:
    crop = {"name": "kdcache.StoredCrop", "size": "input", "views": views.digest, **options}
    return {"size": 16, "transforms": [crop]}


def recipe(views: StoredViews | None = None, **options: Any) -> Recipe:
    views = views or stored()
    return Recipe("theirs", table(views, **options), views=views)


def dataset(data: Any, views: StoredViews | None = None, *, size: int = 16) -> ViewDataset:
    return ViewDataset(as_source(data), recipe(views), np.array([2, 0, 1]), sizes=[size])


def torchvisions(image: Image.Image, box: np.ndarray, *, flip: bool, size: int) -> Tensor:
    """Return what a program gives that calls torchvision with a box in shares, as FKD's does."""
    top, left, height, width = box.tolist()
    high = image.height
    wide = image.width
    crop = functional.resized_crop(
        image, top * high, left * wide, height * high, width * wide, [size, size]
    )
    if flip:
        crop = functional.hflip(crop)
    return functional.pil_to_tensor(crop)


@pytest.mark.parametrize("size", [16, 24])
def test_a_view_is_the_box_and_the_flip_that_are_stored(size: int) -> None:
    views = dataset(Photographs(), size=size)
    for row, seed in ((1, 0), (2, 0), (0, 1), (1, 1), (2, 1)):
        index = views.order[row]
        image, _ = Photographs()[index]
        expected = torchvisions(image, BOXES[seed, index], flip=bool(FLIPS[seed, index]), size=size)
        assert torch.equal(views.batch([(row, seed)]).views[0][0], expected)


def test_nothing_is_drawn() -> None:
    assert not recipe().generators
    before = generator_states()
    dataset(Photographs()).batch([(1, 0)])
    [*recipe().steps(Photographs()[0][0], None, ViewKey(0, 0))]
    assert generator_states() == before


def test_the_trace_ends_with_the_view() -> None:
    names = [name for name, _ in dataset(Photographs()).trace(1, 0)]
    assert names == ["decode", "convert", "kdcache.StoredCrop"]


class Levels(Scenes):
    """Whose mask says the level of each pixel, from 0 to 2."""

    task = "segmentation"

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        image, _ = super().__getitem__(index)
        red = np.asarray(image)[..., 0] // 86
        return image, Image.fromarray(red.astype(np.uint8))


def test_a_mask_goes_where_its_image_goes() -> None:
    boxes = np.tile(np.array([0.25, 0.25, 0.25, 0.25], np.float32), (1, 3, 1))
    views = stored(boxes, np.ones((1, 3), np.uint8))
    whole = dataset(Levels(), views, size=16)
    batch = whole.batch([(1, 0)])
    _, mask = Levels()[0]
    box = (18, 16, 36, 32)
    expected = mask.crop(box).resize((16, 16), Image.Resampling.NEAREST)
    flipped = np.asarray(expected)[:, ::-1]
    assert (batch.labels.first[0].numpy() == flipped).mean() > 0.8


def test_boxes_go_where_their_image_goes() -> None:
    boxes = np.tile(np.array([0, 0, 1, 0.5], np.float32), (1, 3, 1))
    views = stored(boxes, np.ones((1, 3), np.uint8))
    moved = dataset(Objects(), views, size=36).batch([(1, 0)]).labels
    # of 64x72 the left half, turned: 4 and 36 of 36 columns become 0 and 32, 5 and 50 of 64 rows
    assert moved.objects is not None
    assert moved.objects.boxes[0, 0].tolist() == pytest.approx(
        [0, 5 * 36 / 64, 32, 50 * 36 / 64], abs=0.1
    )


def test_the_fingerprint_covers_the_stored_views() -> None:
    other = BOXES.copy()
    other[1, 1, 0] = 0.125
    assert recipe().fingerprint == recipe().fingerprint
    assert recipe(stored(other)).fingerprint != recipe().fingerprint
    assert recipe(interpolation="bicubic").fingerprint != recipe().fingerprint


def test_a_recipe_goes_to_a_manifest_and_back() -> None:
    views = stored()
    there = recipe(views)
    back = Recipe.from_dict(there.to_dict(), views)
    assert back.fingerprint == there.fingerprint
    assert back.at(8).fingerprint == there.fingerprint


@pytest.mark.parametrize("views", [None, stored(flips=1 - FLIPS)])
def test_a_recipe_without_its_views_is_refused(views: StoredViews | None) -> None:
    with pytest.raises(RecipeError, match=r"StoredCrop: its views are kept in the cache"):
        Recipe("theirs", table(stored()), views=views)


def test_an_image_alone_says_neither_sample_nor_seed() -> None:
    with pytest.raises(RecipeError, match="render it by a ViewDataset"):
        recipe()(Photographs()[0][0])


def test_a_view_that_is_not_stored_is_told() -> None:
    with pytest.raises(RecipeError, match=r"sample 2 \(.*no view is stored under seed 0"):
        dataset(Photographs()).batch([(0, 0)])
    with pytest.raises(RecipeError, match=r"no views are stored under seed 2; .* seeds 0 to 1"):
        dataset(Photographs()).batch([(0, 2)])


def test_a_box_without_a_pixel_is_told() -> None:
    boxes = BOXES.copy()
    boxes[0, 0] = [0.5, 0.5, 1e-4, 0.5]
    with pytest.raises(RecipeError, match="has no pixel of an image of 64x72"):
        dataset(Photographs(), stored(boxes)).batch([(1, 0)])


def test_which_views_are_there() -> None:
    assert are_stored(stored().arrays).tolist() == [[True, True, False], [True, True, True]]


def changed(place: int, value: float) -> np.ndarray:
    boxes = BOXES.copy()
    boxes[0, 0, place] = value
    return boxes


@pytest.mark.parametrize(
    "boxes",
    [changed(0, np.nan), changed(3, np.inf), changed(0, -0.1), changed(2, 0.9), changed(2, 0)],
)
def test_a_box_lies_in_its_image(boxes: np.ndarray) -> None:
    assert not are_boxes(boxes)[0, 0]
    with pytest.raises(ValueError, match="boxes of which one does not lie in its image"):
        stored(boxes)


@pytest.mark.parametrize(
    "arrays",
    [
        {"boxes": BOXES},
        {"boxes": BOXES, "flips": FLIPS, "more": FLIPS},
        {"boxes": BOXES.astype("<f2"), "flips": FLIPS},
        {"boxes": BOXES[:, :2], "flips": FLIPS},
        {"boxes": BOXES, "flips": 2 * FLIPS},
        {"boxes": BOXES, "flips": FLIPS.astype("<f4")},
        {"boxes": BOXES[0], "flips": FLIPS[0]},
    ],
)
def test_other_arrays_are_no_views(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="flips"):
        StoredViews.from_arrays(arrays, "0" * 64)


OPERATIONS: list[list[Any]] = [
    ["Identity", 0.0],
    ["ShearX", 0.25],
    ["ShearY", -0.125],
    ["TranslateX", 0.25],
    ["TranslateY", -0.125],
    ["Rotate", 9.5],
    ["Brightness", 0.25],
    ["Color", -0.5],
    ["Contrast", 0.75],
    ["Sharpness", 0.9],
    ["Posterize", 5.0],
    ["Solarize", 178.5],
    ["AutoContrast", 0.0],
    ["Equalize", 0.0],
]


def with_operations(numbers: Any, table: list[list[Any]] = OPERATIONS) -> Recipe:
    """Return a recipe that does some operations with the view of sample 0 under seed 0."""
    operations = np.zeros((2, 3, len(numbers)), np.uint8)
    operations[0, 0] = numbers
    arrays = {"boxes": BOXES, "flips": FLIPS, "operations": operations}
    views = StoredViews.from_arrays(arrays, arrays_digest(arrays))
    crop = {"name": "kdcache.StoredCrop", "size": "input", "views": views.digest}
    entry = {"name": "kdcache.StoredOperations", "operations": table, "views": views.digest}
    return Recipe("theirs", {"size": 32, "transforms": [crop, entry]}, views=views)


def view_of(recipe: Recipe, *, size: int = 32) -> Tensor:
    """Return the view of sample 0 under seed 0."""
    views = ViewDataset(as_source(Photographs()), recipe, np.arange(3), sizes=[size])
    return views.batch([(0, 0)]).views[0][0]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_an_operation_is_that_of_torchvisions_policies(number: int) -> None:
    name, magnitude = OPERATIONS[number]
    crop = view_of(with_operations([]))
    pixels = magnitude * 32 if name.startswith("Translate") else magnitude
    expected = autoaugment._apply_op(
        functional.to_pil_image(crop), name, pixels, InterpolationMode.NEAREST, fill=None
    )
    found = view_of(with_operations([number]))
    assert torch.equal(found, functional.pil_to_tensor(expected))
    assert name == "Identity" or not torch.equal(found, crop)


def test_operations_come_one_after_the_other() -> None:
    once = view_of(with_operations([5, 1]))
    assert not torch.equal(once, view_of(with_operations([1, 5])))
    assert torch.equal(once, view_of(with_operations([0, 5, 0, 1])))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["Rotat", 9.0], "unknown operation 'Rotat'; did you mean 'Rotate'"),
        (["Rotate", 1e9], "operations is 1000000000.0; it may be at most"),
        (["Rotate", 400.0], "operation Rotate has magnitude 400.0; it must be from -360 to 360"),
        (["Posterize", 0.0], "operation Posterize has magnitude 0.0; it must be from 1 to 8"),
        (["Equalize", True], "operation Equalize has magnitude True; it must be from 0 to 0"),
        (["Equalize"], r"an operation is \[name, magnitude\]"),
        ("Equalize", r"an operation is \[name, magnitude\]"),
    ],
)
def test_an_operation_that_cannot_be_is_told(entry: Any, message: str) -> None:
    with pytest.raises((RecipeError, UsageError), match=message):
        with_operations([0], [entry])


def test_an_operation_that_is_not_in_the_table_is_told() -> None:
    with pytest.raises(RecipeError, match="operation 14 is stored, and the table has 14"):
        view_of(with_operations([14]))


def test_masks_cannot_follow_operations() -> None:
    with pytest.raises(RecipeError, match=r"StoredOperations moves images without"):
        ViewDataset(as_source(Levels()), with_operations([1]), np.arange(3), sizes=[32])


@pytest.mark.parametrize("size", [32, 64])
def test_a_block_is_black_at_any_size(size: int) -> None:
    blocks = np.zeros((2, 3, 4), np.float16)
    blocks[0, 0] = [0.25, 0.5, 0.125, 0.5]
    arrays = {"boxes": BOXES, "flips": FLIPS, "blocks": blocks}
    views = StoredViews.from_arrays(arrays, arrays_digest(arrays))
    crop = {"name": "kdcache.StoredCrop", "size": "input", "views": views.digest}
    erasing = {"name": "kdcache.StoredErasing", "views": views.digest}
    whole = Recipe("theirs", {"size": 32, "transforms": [crop]}, views=views)
    erased = Recipe("theirs", {"size": 32, "transforms": [crop, erasing]}, views=views)
    expected = view_of(whole, size=size).clone()
    expected[:, size // 4 : size * 3 // 8, size // 2 :] = 0
    assert torch.equal(view_of(erased, size=size), expected)


def pixel_boxes(*box: int) -> StoredViews:
    boxes = np.zeros((1, 3, 4), np.uint16)
    boxes[0, 0] = box
    arrays = {"pixel_boxes": boxes, "flips": np.zeros((1, 3), np.uint8)}
    return StoredViews.from_arrays(arrays, arrays_digest(arrays))


def test_a_box_in_pixels_is_cut_out() -> None:
    views = pixel_boxes(3, 5, 20, 30)
    image, _ = Photographs()[0]
    expected = image.crop((5, 3, 35, 23)).resize((16, 16), Image.Resampling.BILINEAR)
    found = dataset(Photographs(), views).batch([(1, 0)]).views[0][0]
    assert torch.equal(found, functional.pil_to_tensor(expected))


def test_a_box_in_pixels_of_another_image_is_told() -> None:
    with pytest.raises(RecipeError, match="under seed 0 passes the end of an image of 64x72"):
        dataset(Photographs(), pixel_boxes(40, 0, 25, 9)).batch([(1, 0)])


MIXED: dict[str, np.ndarray] = {
    "boxes": BOXES,
    "flips": FLIPS,
    "partners": np.ones((2, 3), np.uint32),
    "shares": np.full((2, 3), 0.5, np.float32),
    "cuts": np.zeros((2, 3, 4), np.float16),
    "partner_boxes": np.full((2, 3, 4), 0.25, np.float32),
    "partner_flips": FLIPS,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": np.full((2, 3), np.nan, np.float32)}, "shares that are not from 0 to 1"),
        ({"shares": np.full((2, 3), -0.1, np.float32)}, "shares that are not from 0 to 1"),
        ({"cuts": np.full((2, 3, 4), 0.75, np.float16)}, "cuts of which one does not lie"),
        ({"partners": np.full((2, 3), 4, np.uint32)}, "partners beyond the last of 3 samples"),
        ({"partner_boxes": np.zeros((2, 3, 4), np.float32)}, "partners of which no box"),
        ({"partner_boxes": np.full((2, 3, 4), 0.9, np.float32)}, "partner_boxes of which one"),
        ({"partner_flips": FLIPS + np.uint8(1)}, "partner_flips that are neither 0 nor 1"),
        ({"partner_operations": FLIPS[..., None]}, "stored views are boxes and flips, not"),
        ({"operations": FLIPS[..., None]}, "stored views are boxes and flips, not"),
        ({"shares": np.full((2, 3, 1), 0.5, np.float32)}, r"shares of shape \(2, 3, 1\)"),
    ],
)
def test_other_arrays_of_partners_are_no_views(change: dict[str, np.ndarray], message: str) -> None:
    assert StoredViews.from_arrays(MIXED, "0" * 64).mixes
    with pytest.raises(ValueError, match=message):
        StoredViews.from_arrays(MIXED | change, "0" * 64)


@pytest.mark.parametrize("name", list(MIXED))
def test_no_array_of_mixed_views_may_lack(name: str) -> None:
    arrays = {**MIXED}
    del arrays[name]
    with pytest.raises(ValueError, match="stored views are boxes and flips, not"):
        StoredViews.from_arrays(arrays, "0" * 64)
