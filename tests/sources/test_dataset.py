"""Map-style data sets as sources: classes, targets and keys wherever they keep them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import Noise

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.sources import DatasetSource


class Rows:
    """A map-style data set around a list of (image, target)."""

    def __init__(self, rows: list[Any], **attributes: Any) -> None:
        self.rows = rows
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def rows(given: list[Any], **attributes: Any) -> Rows:
    return Rows(
        [(Image.new("L", (2, 2), 9 * index), target) for index, target in enumerate(given)],
        **attributes,
    )


def opened(dataset: Rows) -> DatasetSource:
    return DatasetSource(dataset, Spec("rows"))


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ({"classes": ["a", "b", "c"]}, 3),
        ({"classes": 7}, 7),
        ({"num_classes": 4}, 4),
        ({"categories": ("a", "b")}, 2),
        ({"targets": [0, 1, 1]}, 2),
        ({"targets": torch.tensor([0, 5, 1])}, 6),
        ({"labels": np.array([2, 0, 1])}, 3),
        ({"samples": [("x/a.png", 0), ("x/b.png", 4), ("x/c.png", 1)]}, 5),
    ],
)
def test_classes_are_found_where_data_sets_keep_them(
    attributes: dict[str, Any], classes: int
) -> None:
    assert opened(rows([0, 1, 1], **attributes)).classes == classes


def test_a_data_set_that_does_not_say_its_classes_is_told() -> None:
    with pytest.raises(
        SourceError,
        match="does not say how many classes it has; give the data set an attribute `classes`",
    ):
        opened(rows([0, 1]))


@pytest.mark.parametrize("target", [3, -1, "cat", None, 1.0, (1, 2), torch.tensor([0, 1])])
def test_a_target_that_is_no_class_names_its_sample(target: Any) -> None:
    source = opened(rows([0, target], classes=3, targets=[0, 1]))
    with pytest.raises(
        SourceError,
        match=r"sample 1 \(00000001\) of rows has target .*must be a class index from 0 to 2",
    ):
        source.sample(1)


@pytest.mark.parametrize("target", [2, np.int64(2), torch.tensor(2)])
def test_targets_of_any_integer_type_are_taken(target: Any) -> None:
    sample = opened(rows([target], classes=3)).sample(0)
    assert sample.target == 2 and type(sample.target) is int


@pytest.mark.parametrize(
    "image", [np.full((4, 5, 3), 7, np.uint8), torch.full((3, 4, 5), 7, dtype=torch.uint8)]
)
def test_arrays_and_tensors_become_images(image: Any) -> None:
    sample = opened(Rows([(image, 0)], classes=1)).sample(0)
    assert sample.image.size == (5, 4) and sample.image.getpixel((0, 0)) == (7, 7, 7)


def test_a_data_set_without_lists_is_fingerprinted_by_some_samples() -> None:
    one = opened(rows([0, 1, 1], classes=2)).fingerprint
    assert opened(rows([0, 1, 1], classes=2)).fingerprint == one
    assert opened(rows([0, 1, 0], classes=2)).fingerprint != one
    assert opened(rows([0, 1, 1, 1], classes=2)).fingerprint != one
    assert (
        DatasetSource(Noise(10, size=8), Spec("n")).fingerprint
        != DatasetSource(Noise(10, size=9), Spec("n")).fingerprint
    )


def test_a_listing_of_paths_gives_keys() -> None:
    source = opened(
        rows([0, 1], classes=2, root="/data", _image_files=["/data/x/1.png", "/data/y/2.png"])
    )
    assert [source.key(0), source.key(1)] == ["x/1.png", "y/2.png"]
    other = opened(
        rows([0, 1], classes=2, root="/data", _image_files=["/data/x/1.png", "/data/y/3.png"])
    )
    relabelled = opened(
        rows([0, 0], classes=2, root="/data", _image_files=source._paths, _labels=[0, 0])
    )
    assert len({source.fingerprint, other.fingerprint, relabelled.fingerprint}) == 3
    pairs = [
        rows([0, 1], classes=2, samples=[("x/1.png", 0), ("x/2.png", label)]) for label in (0, 1)
    ]
    assert opened(pairs[0]).fingerprint != opened(pairs[1]).fingerprint


@pytest.mark.parametrize("root", ["{0}", "{0}/", "{0}/../{1}", None])
def test_keys_do_not_depend_on_how_a_path_is_written(tmp_path: Path, root: str | None) -> None:
    paths = [str(tmp_path / "a" / "1.png"), tmp_path / "b" / ".." / "b" / "2.png"]
    attributes = {} if root is None else {"root": root.format(tmp_path, tmp_path.name)}
    source = opened(
        rows([0, 1], samples=[(path, at) for at, path in enumerate(paths)], classes=2, **attributes)
    )
    assert [source.key(0), source.key(1)] == ["a/1.png", "b/2.png"]
