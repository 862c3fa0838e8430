"""What data to evaluate on lies beside that to train on."""

from pathlib import Path

import pytest
from image_files import write_noise

from kdcache.sources.evaluation_split import evaluation_split


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with splits: folders of classes, tables, tars, and annotations."""
    write_noise(tmp_path, {"train": 3, "test": 3}, ["cat", "dog", "bird"], "{index}.jpg")
    write_noise(tmp_path / "unlike", {"train": 3, "val": 2}, ["cat", "dog", "bird"], "{index}.jpg")
    for name in ("train.csv", "val.csv", "instances_train2017.json", "instances_val2017.json"):
        (tmp_path / name).write_text("image,label\n")
    for name in ("train2017", "val2017", "shards/train", "shards/val"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shards" / "train" / "a.tar").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("imagefolder:train", "imagefolder:test"),
        ("./train", "imagefolder:./test"),
        ("csv:train.csv,label=breed", "csv:val.csv,label=breed"),
        ("shards/train", "tars:shards/val"),
        (
            "coco:train2017,annotations=instances_train2017.json",
            "coco:val2017,annotations=instances_val2017.json",
        ),
        ("imagefolder:train,except_fold=0/5", "imagefolder:train,fold=0/5"),
        ("digits", "digits:test"),
        ("digits:train", "digits:test"),
        ("torchvision:CIFAR100,root=/data", "torchvision:CIFAR100,root=/data,train=false"),
    ],
)
def test_the_split_beside_the_training_data_is_found(data: Path, text: str, other: str) -> None:
    assert evaluation_split(text) == other


@pytest.mark.parametrize(
    ("text", "splits", "other"),
    [
        ("hf:lab/set,image=img", ("train", "test"), "hf:lab/set,image=img,split=test"),
        ("hf:lab/set,split=train", ("test", "train", "validation"), "hf:lab/set,split=validation"),
        ("hf:lab/set,split=train[:80%]", ("train", "test"), "hf:lab/set,split=test"),
        ("hf:lab/set,split=test", ("train", "test"), None),
        ("hf:lab/set,split=train+test", ("train", "test"), None),
        ("hf:lab/set", ("train", "extra"), None),
        ("hf:lab/set,except_fold=0/5", ("train", "test"), "hf:lab/set,fold=0/5"),
    ],
)
def test_a_split_of_the_same_data_set_is_found(
    text: str, splits: tuple[str, ...], other: str | None
) -> None:
    assert evaluation_split(text, splits) == other


@pytest.mark.parametrize(
    "text",
    [
        "imagefolder:unlike/train",  # a class of it is not in the other
        "imagefolder:test",
        "digits:all",
        "digits:test",
        "torchvision:CIFAR10,root=/data,train=false",
        "torchvision:ImageNet,root=/data",
        "hf:cifar10,split=train",
        "tiny_models:few_digits",
    ],
)
def test_where_none_is_known_none_is_told(data: Path, text: str) -> None:
    assert evaluation_split(text) is None
