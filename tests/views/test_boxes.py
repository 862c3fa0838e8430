"""Boxes go where their images go, and views that are drawn around boxes are replayed as all
others."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detectors import COLOURS, Rectangles
from torchvision import tv_tensors

from kdcache.errors import RecipeError, SourceError
from kdcache.sources import as_source
from kdcache.targets import ClassBoxes
from kdcache.targets.objects import ObjectBoxes
from kdcache.views import Recipe, ViewDataset, ViewLoader, load_recipe

LETTERBOX = {"name": "kdcache.Letterbox", "size": "input", "fill": 114}
SOURCE = as_source(Rectangles(16))


def recipe_of(*transforms: dict[str, Any], size: int = 64) -> Recipe:
    return Recipe("r", {"size": size, "transforms": list(transforms)})


def dataset_of(recipe: Recipe, size: int = 64) -> ViewDataset:
    return ViewDataset(SOURCE, recipe, np.arange(len(SOURCE)), sizes=[size])


@pytest.mark.parametrize(
    "transforms",
    [
        [{"name": "RandomHorizontalFlip"}],
        [{"name": "RandomVerticalFlip"}],
        [{"name": "kdcache.RandomScale", "scales": [0.75, 1.5]}],
        [{"name": "RandomIoUCrop"}],
        [{"name": "RandomZoomOut", "side_range": [1.0, 1.5]}],
        [{"name": "ConvertBoundingBoxFormat", "format": "CXCYWH"}],
    ],
    ids=lambda transforms: transforms[0]["name"],
)
def test_what_is_in_a_box_is_still_in_it(transforms: list[dict[str, Any]]) -> None:
    dataset = dataset_of(recipe_of(*transforms, LETTERBOX))
    num_boxes = 0
    for seed in range(4):
        batch = dataset.batch([(row, seed) for row in (1, 5, 9, 13)])
        assert batch.labels.objects is not None
        views = zip(batch.views[0], batch.labels.first, batch.labels.objects.boxes, strict=True)
        for view, classes, boxes in views:
            for index, box in zip(classes.tolist(), boxes, strict=True):
                if index < 0:
                    continue
                left, top, right, bottom = box.tolist()
                column = min(int((left + right) / 2), 63)
                row = min(int((top + bottom) / 2), 63)
                colour = view[:, row, column].float()
                assert int((colour - torch.tensor(COLOURS).float()).abs().sum(1).argmin()) == index
                num_boxes += 1
    assert num_boxes >= 12


@pytest.mark.parametrize("name", ["coco-ssd", "detection-small", "coco"])
def test_a_view_is_the_same_in_any_batch_and_in_workers(name: str) -> None:
    dataset = dataset_of(load_recipe(name))
    requests = [(row, seed) for row in (2, 7, 11) for seed in (0, 5)]
    torch.manual_seed(3)
    batch = dataset.batch(requests)
    loader = ViewLoader(dataset, [requests[::-1]], workers=1, pin_memory=False)
    (reversed_batch,) = list(loader)
    loader.close()
    assert torch.equal(batch.views[0].flip(0), reversed_batch.views[0])
    assert torch.equal(batch.labels.first.flip(0), reversed_batch.labels.first)
    assert batch.labels.objects is not None and reversed_batch.labels.objects is not None
    assert torch.equal(batch.labels.objects.boxes.flip(0), reversed_batch.labels.objects.boxes)
    for position, request in enumerate(requests):
        alone = dataset.batch([request])
        assert torch.equal(alone.views[0][0], batch.views[0][position])
        count = int((alone.labels.first[0] >= 0).sum())
        assert torch.equal(alone.labels.first[0, :count], batch.labels.first[position, :count])


def test_the_scale_says_how_much_larger_the_image_was() -> None:
    batch = dataset_of(recipe_of(LETTERBOX, size=32), 32).batch([(1, 0), (3, 0)])
    assert batch.labels.objects is not None
    torch.testing.assert_close(batch.labels.objects.scales, torch.tensor([4.0, 4.0]))


def test_a_view_knows_where_its_image_is() -> None:
    letterbox = dataset_of(recipe_of(LETTERBOX, size=32), 32).batch([(1, 0)]).labels.objects
    assert letterbox is not None
    assert letterbox.image_sizes.tolist() == [[48, 64]]
    assert letterbox.frames.tolist() == [[0, 0, 32, 24]]
    crop = {"name": "CenterCrop", "size": 32}
    cropped = dataset_of(recipe_of(crop, size=32), 32).batch([(1, 0)]).labels.objects
    assert cropped is not None
    assert cropped.frames.tolist() == [[-16, -8, 48, 40]], "a crop leaves some of it outside"


def test_a_crop_that_may_never_be_found_is_refused() -> None:
    with pytest.raises(RecipeError, match="where no crop fits, torchvision would draw for ever"):
        recipe_of({"name": "RandomIoUCrop", "sampler_options": [0.5]}, LETTERBOX)
    with pytest.raises(RecipeError, match="SanitizeBoundingBoxes is not needed"):
        dataset_of(recipe_of({"name": "SanitizeBoundingBoxes"}, LETTERBOX))
    with pytest.raises(RecipeError, match="boxes of another kind than torchvision's"):
        dataset_of(recipe_of(LETTERBOX, {"name": "ToPureTensor"})).batch([(1, 0)])


def checked(target: Any) -> ObjectBoxes:
    return ClassBoxes().checked(target, Image.new("RGB", (40, 30)), 3, "sample 0")


def test_boxes_of_torchvisions_class_are_read_in_their_own_form() -> None:
    boxes = tv_tensors.BoundingBoxes([[5, 5, 20, 10]], format="XYWH", canvas_size=(30, 40))
    objects = checked({"boxes": boxes, "labels": [2]})
    assert objects.boxes.tolist() == [[5, 5, 25, 15]] and objects.areas.tolist() == [200]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([1, 2], "it must be a dictionary with boxes"),
        ({"boxes": [[0, 0, 5, 5]], "labels": [3]}, "a box of class 3; known are 0 to 2"),
        ({"boxes": [[0, 0, 5, 5]], "labels": [0, 1]}, "has 1 boxes and 2 classes"),
        ({"boxes": [[0, 0, float("nan"), 5]], "labels": [0]}, "not finite"),
        ({"boxes": [[0, 0, 5, 5]], "labels": [0.5]}, "they must be class indices"),
        ({"boxes": "many", "labels": [0]}, "boxes that are no numbers"),
        ({"boxes": [[0, 0, 5, 5]], "labels": [0], "area": [-3.0]}, "an object of area -3"),
    ],
)
def test_targets_that_are_none_are_told(target: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        checked(target)


def test_a_stored_target_is_read_as_it_was() -> None:
    kind = ClassBoxes()
    objects = checked({"boxes": [[0, 0, 5, 5], [1, 2, 50, 60]], "labels": [0, 2]})
    image = Image.new("RGB", (40, 30))
    again = kind.decode(kind.encode(objects), image, 3, "sample 0")
    assert kind.encode(again) == kind.encode(objects)
    assert again.boxes.tolist() == [[0, 0, 5, 5], [1, 2, 40, 30]]
    empty = checked({"boxes": [], "labels": []})
    assert len(kind.decode(kind.encode(empty), image, 3, "sample 0")) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[",
        b"[]",
        b'{"boxes":[[1,2,3]],"classes":[0],"areas":[1],"crowd":[false]}',
        b'{"boxes":[[1,2,3,4]],"classes":0,"areas":[1],"crowd":[false]}',
        b'{"boxes":[[1,2,3,4]],"classes":[[0]],"areas":[1],"crowd":[false]}',
        b'{"boxes":[[1,2,3,4]],"classes":[1.7],"areas":[1],"crowd":[false]}',
        b'{"boxes":[[1,2,3,4]],"classes":[0],"areas":[[1,2]],"crowd":[false]}',
        b'{"boxes":[["a",2,3,4]],"classes":[0],"areas":[1],"crowd":[false]}',
        b'{"boxes":[[1,2,3,4]],"classes":[99999999999999999999],"areas":[1],"crowd":[false]}',
        b"\xff\xfe" + io.BytesIO(b"x" * 10).getvalue(),
        b"[" * 100_000,
        b'{"boxes":[' + b" " * (4 << 20),
    ],
)
def test_a_stored_target_that_is_none_is_refused_in_a_line(content: bytes) -> None:
    with pytest.raises(SourceError, match=r"^sample 0 has boxes that cannot be read: .*"):
        ClassBoxes().decode(content, Image.new("RGB", (40, 30)), 3, "sample 0")
