"""One contract for every kind of target, and what each refuses."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError, UsageError
from kdcache.sources.own import OwnSource
from kdcache.targets import (
    KINDS,
    NO_TARGET,
    ClassLabel,
    ClassMask,
    StoredTarget,
    TargetKind,
    target_kind,
    task_of,
)

CLASSES = 5
IMAGE = Image.new("RGB", (6, 4))


def mask(*values: int) -> Image.Image:
    pixels = np.resize(np.array(values, np.uint8), (IMAGE.height, IMAGE.width))
    return Image.fromarray(pixels)


GOOD: dict[str, list[StoredTarget]] = {
    "classification": [0, 3, CLASSES - 1],
    "segmentation": [mask(0), mask(0, 4, 255)],
}


def test_every_kind_is_under_its_task() -> None:
    assert all(kind.task == task for task, kind in KINDS.items()) and GOOD.keys() <= KINDS.keys()
    assert all(isinstance(kind, TargetKind) for kind in KINDS.values())
    assert target_kind(task_of(object())) is KINDS["classification"]
    with pytest.raises(UsageError, match=r"unknown task 'depth'.*classification.*segmentation"):
        target_kind("depth")


@pytest.mark.parametrize(("task", "target"), [(task, one) for task in GOOD for one in GOOD[task]])
def test_what_is_stored_is_read_back(task: str, target: StoredTarget) -> None:
    kind = KINDS[task]
    checked = kind.checked(target, IMAGE, CLASSES, "sample 0")
    data = kind.encode(checked)
    kind.check_stored(data)
    found = kind.decode(data, IMAGE, CLASSES, "sample 0")
    assert np.array_equal(np.asarray(found), np.asarray(target))
    assert kind.encode(found) == data


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("classification", 5, "must be a class index from 0 to 4"),
        ("classification", 1.0, "must be a class index from 0 to 4.*int"),
        ("segmentation", 1, "must be an image of mode L as large as its own"),
        ("segmentation", mask(1).resize((3, 3)), "an image of 3x3 pixels.* as large as its own"),
        ("segmentation", mask(1).convert("RGB"), "must be an image of mode L"),
        ("segmentation", mask(1, 37), "a mask with class 37; known are 0 to 4, and 255 for none"),
    ],
)
def test_what_no_sample_of_five_classes_has_is_refused(
    task: str, target: Any, message: str
) -> None:
    with pytest.raises(SourceError, match=rf"^sample 7 .*{message}"):
        KINDS[task].checked(target, IMAGE, CLASSES, "sample 7")


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("classification", b"5", "is of class 5; the cache says 5 classes"),
        ("segmentation", ClassMask().encode(mask(9)), "class 9; known are 0 to 4"),
        ("segmentation", ClassMask().encode(mask(1).resize((3, 3))), "a mask of 3x3 pixels"),
    ],
)
def test_a_file_of_another_sample_is_refused(task: str, target: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=rf"^sample 7 .*{message}"):
        KINDS[task].decode(target, IMAGE, CLASSES, "sample 7")


@pytest.mark.parametrize("data", [b"", b"-1", b"1.0", b"one", b"1234567890", b"1\n"])
def test_a_file_that_is_no_class_index_is_told_before_it_is_read(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a class index"):
        ClassLabel().check_stored(data)


def test_labels_of_a_batch() -> None:
    plain = ClassLabel().batch([(2, -1, 1.0), NO_TARGET], (4, 6), mixes=False)
    assert plain.first.tolist() == [2, -1] and plain.mixed is None
    mixed = ClassLabel().batch([(2, 4, 0.75)], (4, 6), mixes=True)
    assert mixed.mixed is not None
    assert [part.tolist() for part in (mixed.first, *mixed.mixed)] == [[2], [4], [0.75]]
    masks = ClassMask().batch(
        [(torch.ones(4, 6, dtype=torch.uint8), -1, 1.0), NO_TARGET], (4, 6), mixes=False
    )
    assert masks.first.shape == (2, 4, 6) and masks.first.dtype == torch.uint8
    assert masks.first[0].unique().tolist() == [1] and masks.first[1].unique().tolist() == [255]


class Masked:
    """A whole source of a user's, whose mask has a class that there is not."""

    spec, classes, fingerprint, task = "mine", 3, "1" * 64, "segmentation"

    def __len__(self) -> int:
        return 1

    def key(self, index: int) -> str:
        return "a"

    def sample(self, index: int) -> tuple[Image.Image, Image.Image]:
        return IMAGE, mask(0, 3)


def test_a_mask_of_a_users_source_is_looked_at() -> None:
    source = OwnSource(Masked(), Spec("mine", "Masked", {}))
    with pytest.raises(SourceError, match=r"sample 0 \(a\) of mine has a mask with class 3"):
        source.sample(0)


def test_no_code_outside_compares_a_tasks_name() -> None:
    package = Path(__file__).parents[2] / "kdcache"
    compares = re.compile(rf"""[!=]= ["']({"|".join(KINDS)})["']""")
    assert compares.search('task == "segmentation"')
    rooms = (package / "targets", package / "tasks")
    others = [path for path in package.rglob("*.py") if path.parent not in rooms]
    assert others and [path for path in others if compares.search(path.read_text())] == []
