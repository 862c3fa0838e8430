"""Labels that cannot be meant are told before anything is trained on them, and no others are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from image_files import write_images
from map_caches import STUDENT, TEACHER, made
from PIL import Image
from runs import MLP, dump, train
from segmentation_files import Shapes

from kdcache.config.spec import Spec
from kdcache.shapes import Labels
from kdcache.sources import DatasetSource, open_source
from kdcache.tasks.seen_labels import SeenLabels
from kdcache.views import Batch

Capture = pytest.CaptureFixture[str]


class Binary(Shapes):
    """Masks as an image editor saves them: 0 and 255."""

    classes = 2

    def __init__(self, length: int = 24, levels: tuple[int, int] = (0, 255)) -> None:
        super().__init__(length)
        self.levels = levels

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image, mask = super().__getitem__(index)
        low, high = self.levels
        return image, Image.fromarray(np.where(np.asarray(mask) < 2, low, high).astype(np.uint8))


def binary(low: int = 0, high: int = 255) -> Binary:
    return Binary(levels=(low, high))


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have specs find the data set of this file."""
    monkeypatch.setattr(tiny_models, "binary", binary, raising=False)


def notes(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("note: data ")]


@pytest.mark.parametrize(
    ("levels", "note"),
    [
        (
            (0, 255),
            (
                "hold class 0 and 255 only, and 255 means no class; if 255 is meant as a class, say"
                " which: a line 255,CLASS"
            ),
        ),
        ((255, 255), "hold nothing but 255, which means no class; if 255 is meant"),
        ((1, 1), "hold class 1 "),
        ((0, 1), None),
    ],
)
def test_masks_that_cannot_be_meant_are_told_by_dump_and_training(
    tmp_path: Path, recipe: str, capsys: Capture, levels: tuple[int, int], note: str | None
) -> None:
    data = f"tiny_models:binary,low={levels[0]},high={levels[1]}"
    made(tmp_path / "cache", recipe, data=data, teacher=f"{TEACHER},classes=2", batch_size=8)
    dumped = notes(capsys.readouterr().err)
    settings: dict[str, Any] = {
        "data": data,
        "student": f"{STUDENT},classes=2",
        "batch_size": 8,
        "epochs": 1,
        "log_steps": 1,
    }
    train(tmp_path / "run", cache=(str(tmp_path / "cache"),), loss="ce", **settings)
    trained = notes(capsys.readouterr().err)
    for told, count in ((dumped, 16), (trained, 8)):
        expected = (
            [] if note is None else [f"note: data {data}: the {count} masks looked at {note}"]
        )
        assert len(told) == len(expected) and all(map(str.startswith, told, expected)), told


def test_known_labels_are_looked_at_when_the_data_is_opened(
    tmp_path: Path, capsys: Capture
) -> None:
    root = write_images(tmp_path / "images", {"only/a.png": 1, "only/b.png": 2})
    SeenLabels(open_source(f"imagefolder:{root}"))
    assert notes(capsys.readouterr().err) == [
        f"note: data imagefolder:{root}: it has one class only, 0 (only): there is nothing to tell"
        " apart"
    ]
    seen = SeenLabels(open_source("digits:train"))
    seen.add(batch([3] * 500))
    seen.tell()
    assert not notes(capsys.readouterr().err), "the source knows better"


def batch(labels: list[int], absent: tuple[int, ...] = ()) -> Batch:
    count = len(labels)
    rows = torch.arange(count)
    reasons = tuple((position, "gone") for position in absent)
    return Batch(
        (torch.zeros(count, 1, 2, 2, dtype=torch.uint8),),
        Labels(torch.tensor(labels)),
        rows,
        rows * 0,
        reasons,
    )


@pytest.mark.parametrize(
    ("classes", "labels", "note"),
    [
        (10, [3] * 16, "all 16 labels looked at are class 3, of 10 classes; are the labels right?"),
        (2, [1] * 21, "all 21 labels looked at are class 1, of 2 classes"),
        (2, [1] * 20, None),
        (1000, [7, 7], None),
        (3, [0, 1] * 30, "class 2 never occurs in the 60 labels looked at; are there 3 classes?"),
        (3, [0, 1] * 29, None),
        (3, [0, 1] * 30 + [-1], "class 2 never occurs in the 60 labels"),
        (
            9,
            [0, 8] * 90,
            (
                "classes 1, 2, 3, 4, 5, 2 others never occur in the 180 labels looked at; are there"
                " 9 classes?"
            ),
        ),
        (1, [0], "it has one class only, 0: there is nothing to tell apart"),
    ],
)
def test_labels_are_told_only_where_chance_is_excluded(
    capsys: Capture, classes: int, labels: list[int], note: str | None
) -> None:
    seen = SeenLabels(DatasetSource(tiny_models.Noise(4, classes=classes), Spec("noise")))
    half = len(labels) // 2
    for part in (labels[:half], labels[half:]):
        seen.add(batch(part, tuple(at for at, label in enumerate(part) if label < 0)))
    seen.tell()
    told = notes(capsys.readouterr().err)
    assert [line.startswith(f"note: data noise: {note}") for line in told] == (
        [] if note is None else [True]
    ), told
    seen.add(batch([5 % classes] * 100))
    seen.tell()
    assert not capsys.readouterr().err, "once"


def test_ordinary_data_is_not_remarked_upon(tmp_path: Path, recipe: str, capsys: Capture) -> None:
    dump(tmp_path / "digits", data="tiny_models:few_digits", seeds="0:1")
    train(
        tmp_path / "run",
        data="tiny_models:few_digits",
        recipe="digits",
        loss="ce",
        epochs=1,
        batch_size=64,
        student=MLP,
    )
    made(tmp_path / "maps", recipe)
    assert not notes(capsys.readouterr().err)
