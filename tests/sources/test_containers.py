"""Data as programs hold it: what torch, Hugging Face and timm put around images."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_dataset
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

from kdcache.errors import SourceError, UnreadableSampleError
from kdcache.sources import as_source
from kdcache.sources.protocol import may_draw

NUM = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    for number in range(NUM):
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def same_sample(first: Any, second: Any) -> bool:
    pixels = [np.asarray(sample.image.convert("RGB")) for sample in (first, second)]
    return np.array_equal(*pixels) and first.target == second.target


def test_a_subset_has_the_names_and_files_of_what_it_is_taken_from(folder: Path) -> None:
    whole = ImageFolder(folder)
    source, all_samples = as_source(Subset(whole, [7, 2, 2])), as_source(whole)
    assert [source.key(index) for index in range(3)] == ["b/03.png", "a/04.png", "a/04.png"]
    assert same_sample(source.sample(0), all_samples.sample(7))
    assert source.class_names == ("a", "b") and source.classes == 2 and not may_draw(source)
    assert source.contents(0) == all_samples.contents(7) != None  # noqa: E711
    assert source.file_sizes().tolist() == all_samples.file_sizes()[[7, 2, 2]].tolist()
    again = as_source(Subset(ImageFolder(folder), torch.tensor([7, 2, 2])))
    other = as_source(Subset(whole, [7, 2]))
    assert source.fingerprint == again.fingerprint != other.fingerprint


def test_data_sets_one_after_another(folder: Path) -> None:
    whole = ImageFolder(folder)
    source = as_source(ConcatDataset([Subset(whole, [3]), whole]))
    assert len(source) == NUM + 1 and source.classes == 2
    assert [source.key(0), source.key(4)] == ["0/a/06.png", "1/a/06.png"]
    assert same_sample(source.sample(0), source.sample(4))
    assert len(source.files()) == NUM and len(source.file_sizes()) == NUM + 1


def test_parts_that_do_not_fit_are_told(folder: Path) -> None:
    whole = ImageFolder(folder)
    fake = FakeData(size=4, image_size=(3, 8, 8), num_classes=3)
    fake.classes = 3
    with pytest.raises(
        SourceError, match=r"joins \S+, of 2 classes for classification, and \S+, of"
    ):
        as_source(ConcatDataset([whole, fake]))
    renamed = ImageFolder(folder)
    renamed.classes = ["b", "a"]
    with pytest.raises(SourceError, match="whose classes have other names"):
        as_source(ConcatDataset([whole, renamed]))
    with pytest.raises(SourceError, match=r"has indices from -1 to 12, .* samples 0 to 11"):
        as_source(Subset(whole, [12, -1]))
    with pytest.raises(SourceError, match="is empty"):
        as_source(Subset(whole, []))


def test_tensors() -> None:
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    source = as_source(TensorDataset(images, torch.tensor([0, 1, 2, 0, 1, 2])))
    assert source.classes == 3 and source.sample(5).target == 2
    assert np.array_equal(np.asarray(source.sample(4).image), images[4, 0].numpy())
    other = as_source(TensorDataset(images.flip(0), torch.tensor([0, 1, 2, 0, 1, 2])))
    assert source.fingerprint != other.fingerprint
    with pytest.raises(SourceError, match="holds 3 tensors; give one of images and one of class"):
        as_source(TensorDataset(images, images, images))


def table_of(folder: Path) -> Any:
    whole = ImageFolder(folder)
    rows = {
        "image": [Path(path).read_bytes() for path, _ in whole.samples],
        "label": [label for _, label in whole.samples],
    }
    encoded = [{"bytes": data, "path": None} for data in rows["image"]]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    return datasets.Dataset.from_dict({**rows, "image": encoded}, features=features)


def test_a_table_of_hugging_face(folder: Path) -> None:
    table = table_of(folder)
    source = as_source(table)
    assert source.class_names == ("a", "b") and len(source) == NUM and not may_draw(source)
    assert same_sample(source.sample(3), as_source(ImageFolder(folder)).sample(3))
    assert as_source(table.with_format("torch")).fingerprint == source.fingerprint
    part = as_source(ConcatDataset([Subset(table, [3]), table]))
    assert same_sample(part.sample(0), source.sample(3))
    assert part.known_targets().tolist() == [0] + [0] * 6 + [1] * 6


TABLES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda table: table.with_transform(lambda rows: rows), r"has a transform; give data\.with"),
    (lambda table: table.remove_columns("label"), r"has columns image; take those of one image"),
    (
        lambda table: table.add_column("second", table["label"]).rename_column("label", "first"),
        "has columns",
    ),
]


@pytest.mark.parametrize(("change", "message"), TABLES, ids=[text for _, text in TABLES])
def test_other_tables_are_told(folder: Path, change: Any, message: str) -> None:
    table = change(table_of(folder))
    if "second" in table.features:
        table = table.cast_column("second", datasets.ClassLabel(names=["a", "b"]))
    with pytest.raises(SourceError, match=message):
        as_source(table)


def test_images_of_timm(folder: Path, tmp_path: Path) -> None:
    source = as_source(create_dataset("", str(folder)))
    assert source.class_names == ("a", "b") and not may_draw(source)
    assert source.key(0) == "a/00.png"
    assert same_sample(source.sample(7), as_source(ImageFolder(folder)).sample(7))
    assert may_draw(as_source(ImageDataset(str(folder), transform=lambda image: image)))
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "a" / "02.png").write_bytes(b"cut")
    broken = as_source(ImageDataset(str(tmp_path / "broken")))
    with pytest.raises(UnreadableSampleError):  # where timm gives another image
        broken.sample(1)


class OwnSubset(Subset[Any]):
    """A subclass may do anything, so that it is a data set of a user's."""


def test_a_class_made_from_one_of_these_is_asked_as_any_other(folder: Path) -> None:
    with pytest.raises(SourceError, match="does not say how many classes it has"):
        as_source(OwnSubset(ImageFolder(folder), [0]))
