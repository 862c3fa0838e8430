"""FKD's files: what is read of each kind of label, and what is told of files that are none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imports.fkd_files import CLASSES, CROPS, content, key, recovered, write, write_images

from kdcache.errors import CacheError
from kdcache.imports.fkd import Fkd
from kdcache.imports.protocol import CropLabels
from kdcache.imports.units import LEAST_LOG, logits_of
from kdcache.sources import open_source


def read(folder: Path, value: Any, index: int = 0) -> CropLabels:
    """Return what is read of a file that holds `value`."""
    source = open_source(write_images(folder / "data"))
    write(folder / "labels" / f"{key(index)}.tar", value)
    return Fkd(folder / "labels", source).labels(index)


def test_boxes_flips_and_labels_are_read(tmp_path: Path) -> None:
    boxes, flips, labels = value = content(4)
    found = read(tmp_path, value, 4)
    assert np.array_equal(found.views["boxes"], boxes)
    assert np.array_equal(found.views["flips"], flips)
    assert np.array_equal(found.classes, labels[:, 0])
    assert np.array_equal(found.probabilities, labels[:, 1])


def test_half_precision_and_tensors_are_read(tmp_path: Path) -> None:
    boxes, flips, labels = content(0)
    halves = [boxes.astype(np.float16), flips, labels.astype(np.float16)]
    found = read(tmp_path, halves)
    assert np.array_equal(found.views["boxes"], halves[0].astype(np.float32))
    tensors = [torch.from_numpy(part) for part in (boxes, flips, labels)]
    assert np.array_equal(read(tmp_path, tensors).probabilities, labels[:, 1])


def test_labels_of_one_class_are_read(tmp_path: Path) -> None:
    boxes, flips, labels = content(0, k=1)
    found = read(tmp_path, [boxes, flips, labels[..., 0]])
    assert found.classes.shape == (CROPS, 1)
    assert np.array_equal(found.probabilities, labels[:, 1])


def test_the_file_has_the_images_name_up_to_its_first_dot(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_images(root)
    (root / "ant" / "0.png").rename(root / "ant" / "0.x.y.png")
    source = open_source(f"imagefolder:{root}")
    assert Fkd(tmp_path / "labels", source).file(0) == str(tmp_path / "labels" / "ant" / "0.tar")


def changed(place: int, change: Any) -> Any:
    value = content(0)
    value[place] = change(value[place])
    return value


def with_class(number: float) -> Any:
    labels = content(0)[2]
    labels[0, 0, 0] = number
    return labels


def with_share(number: float) -> Any:
    labels = content(0)[2]
    labels[0, 1, 0] = number
    return labels


BOXES, FLIPS, LABELS = content(0)
OTHERS: list[tuple[Any, str]] = [
    ({"boxes": 1}, "no list of boxes, flips and labels"),
    ([BOXES, FLIPS], "no list of boxes, flips and labels"),
    ([BOXES.tolist(), FLIPS, LABELS], "where an array is to be"),
    ([BOXES[:2], FLIPS, LABELS], r"boxes of shape \(2, 4\), flips of shape \(3,\)"),
    ([BOXES, FLIPS, LABELS[:2]], r"labels of shape \(2, 2, 2\)"),
    ([BOXES, FLIPS, LABELS[:, 0, 0]], "hard labels, one class a crop"),
    ([BOXES, FLIPS, LABELS[:, :1]], r"labels of shape \(3, 1, 2\), where"),
    ([BOXES, FLIPS, LABELS[..., :0]], r"labels of shape \(3, 2, 0\), where"),
    ([2 * BOXES, FLIPS, LABELS], "boxes of which one does not lie in its image"),
    ([BOXES * np.float32(np.nan), FLIPS, LABELS], "boxes of which one does not lie in its image"),
    ([BOXES, FLIPS, with_class(0.5)], "classes are no whole numbers"),
    ([BOXES, FLIPS, with_class(np.nan)], "classes are no whole numbers"),
    ([BOXES, FLIPS, with_class(1e20)], "classes are no whole numbers"),
    ([BOXES, FLIPS, with_class(3)], "labels of classes 0 to 3, and the data has classes 0 to 2"),
    ([BOXES, FLIPS, with_class(-1)], "labels of classes -1 to 1"),
    ([BOXES, FLIPS, with_class(1)], "a class twice among the labels"),
    ([BOXES, FLIPS, with_share(-0.1)], "no probabilities"),
    ([BOXES, FLIPS, with_share(1.5)], "no probabilities"),
    ([BOXES, FLIPS, with_share(np.nan)], "no probabilities"),
]


@pytest.mark.parametrize(("value", "message"), OTHERS, ids=[text for _, text in OTHERS])
def test_other_content_is_told(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=message) as caught:
        read(tmp_path, value)
    assert "labels/ant/0.tar holds " in str(caught.value)
    assert "is it one of FKD's, for these data?" in str(caught.value)


def test_logits_give_the_probabilities_that_fkd_trains_on() -> None:
    labels = content(3, crops=50)[2]
    logits = logits_of(labels[:, 0].astype(np.int32), labels[:, 1], len(CLASSES))
    expected = recovered(labels, is_normed=False)
    assert torch.allclose(torch.softmax(logits, 1), expected, atol=1e-6)


@pytest.mark.parametrize("shares", [[1.0, 0.0], [0.75, 0.25], [0.75, 0.2505]])
def test_what_has_no_share_has_none_at_any_temperature(shares: list[float]) -> None:
    classes = np.array([[2, 0]], np.int32)
    logits = logits_of(classes, np.array([shares], np.float32), 1000)
    assert logits.isfinite().all()
    assert logits.min() == LEAST_LOG
    heated = torch.softmax(logits / 8, 1)
    assert heated[0, [2, 0]].sum() > 0.9999
