"""Sources: stable keys, a fingerprint that notices what changed without opening an image, one clear line for each mistake."""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import Noise

from kdcache.errors import SourceError, UnreadableSampleError, UsageError
from kdcache.sources import DatasetSource, Sample, Source, open_source
from kdcache.spec import Spec


def write_images(root: Path, names: dict[str, int]) -> Path:
    """Write a grey 6x6 image of the given level under each name."""
    for name, level in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), level).save(root / name)
    return root


FILES = {"cat/a.png": 10, "cat/b.png": 20, "dog/a.png": 30, "dog/c.jpg": 40, "owl/x/deep.png": 50}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", FILES)


def fingerprint(folder: Path) -> str:
    return open_source(f"imagefolder:{folder}").fingerprint


def test_digits_are_split_the_same_for_ever() -> None:
    sizes = {"train": 1197, "test": 600, "all": 1797}
    hashes = {}
    for split, size in sizes.items():
        source = open_source(f"digits:{split}")
        assert isinstance(source, Source)
        assert (len(source), source.classes, source.key(3)) == (size, 10, "00000003")
        content = b"".join(sample.image.tobytes() + bytes([sample.target]) for sample in map(source.sample, range(size)))
        hashes[split] = hashlib.sha256(content).hexdigest()[:16]
    assert hashes == {"train": "0085392b2de03f8e", "test": "a2ca486764b8d3d2", "all": "f6f6eeba2c88473b"}
    assert open_source("digits").fingerprint == open_source("digits:train").fingerprint
    assert open_source("digits:split=test").fingerprint == open_source("digits:test").fingerprint
    assert len({open_source(f"digits:{split}").fingerprint for split in sizes}) == 3


def test_imagefolder_has_relative_paths_as_keys(folder: Path) -> None:
    source = open_source(f"imagefolder:{folder}")
    assert isinstance(source, Source)
    assert [source.key(index) for index in range(len(source))] == list(FILES)
    assert [source.sample(index).target for index in range(5)] == [0, 0, 1, 1, 2] and source.classes == 3
    assert source.sample(1).image.getpixel((0, 0)) == (20, 20, 20)


def test_the_fingerprint_is_that_of_the_list_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "elsewhere") == before == fingerprint(Path(f"{folder}/"))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write_images(root, {"owl/new.png": 1}),
        lambda root: (root / "cat/b.png").unlink(),
        lambda root: (root / "cat/b.png").rename(root / "cat/bb.png"),
        lambda root: (root / "cat/a.png").rename(root / "cat/z.png"),  # comes last now
        lambda root: (root / "cat/b.png").rename(root / "dog/b.png"),  # another label
        lambda root: (root / "cat").rename(root / "zebra"),
        lambda root: write_images(root, {"ant/a.png": 1}),  # every class index moves
    ],
    ids=["added", "removed", "renamed", "reordered", "relabelled", "class renamed", "class added"],
)
def test_the_fingerprint_notices(folder: Path, change: Any) -> None:
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_no_image_is_opened_for_the_fingerprint(folder: Path) -> None:
    before = fingerprint(folder)
    for name in FILES:
        (folder / name).write_bytes(b"")
    assert fingerprint(folder) == before


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "cut"])
def test_an_unreadable_image_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "dog/a.png"
    path.write_bytes(path.read_bytes()[:45] if content is None else content)
    source = open_source(f"imagefolder:{folder}")
    with pytest.raises(UnreadableSampleError, match=r"sample 2 \(dog/a\.png\) of imagefolder:.* cannot be read"):
        source.sample(2)
    assert source.sample(3).target == 1


def test_a_file_that_went_away_is_named(folder: Path) -> None:
    source = open_source(f"imagefolder:{folder}")
    (folder / "cat/a.png").unlink()
    with pytest.raises(UnreadableSampleError, match=r"sample 0 \(cat/a\.png\).*FileNotFoundError"):
        source.sample(0)


def write_idx(root: Path, images: Any, labels: Any, *, prefix: str = "train") -> Path:
    """Write Fashion-MNIST's raw files: IDX headers in big-endian 32-bit words, then bytes."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
        header = np.array([magic, *array.shape], ">u4").tobytes()
        (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return root


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_idx(tmp_path, rng.integers(0, 256, (12, 28, 28)), np.arange(12) % 10)
    return write_idx(tmp_path, rng.integers(0, 256, (5, 28, 28)), np.arange(5), prefix="t10k")


def test_torchvision_reads_fashion_mnist_from_disk(fashion: Path) -> None:
    source = open_source(f"torchvision:FashionMNIST,root={fashion}")
    assert (len(source), source.classes, source.key(11)) == (12, 10, "00000011")
    sample = source.sample(11)
    assert sample.image.mode == "L" and sample.image.size == (28, 28) and sample.target == 1
    test = open_source(f"torchvision:FashionMNIST,root={fashion},train=false")
    assert len(test) == 5 and test.fingerprint != source.fingerprint


def test_the_fingerprint_covers_arrays_in_memory(fashion: Path, tmp_path: Path) -> None:
    spec = f"torchvision:FashionMNIST,root={fashion}"
    source = open_source(spec)
    images = np.stack([np.asarray(source.sample(index).image) for index in range(12)])
    labels = np.arange(12) % 10
    before = source.fingerprint
    write_idx(fashion, images, labels)
    assert open_source(spec).fingerprint == before
    write_idx(fashion, images, labels[::-1])
    assert open_source(spec).fingerprint != before
    images[7, 3, 3] ^= 1
    write_idx(fashion, images, labels)
    assert open_source(spec).fingerprint != before


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("digit:train", UsageError, "did you mean 'digits'"),
        ("digits:trian", UsageError, "unknown split of digits 'trian'; did you mean 'train'"),
        ("digits:train,spilt=test", UsageError, "did you mean 'split'"),
        ("imagefolder:/no/such/folder", SourceError, "imagefolder '/no/such/folder' is not a folder"),
        ("imagefolder", SourceError, "imagefolder None is not a folder"),
        ("imagefolder:.,size=3", UsageError, "takes a path and no options, not size"),
        ("torchvision:FashionMNST", UsageError, "did you mean 'FashionMNIST'"),
        ("torchvision:FashionMNIST,rot=x", UsageError, "did you mean 'root'"),
        ("torchvision:FashionMNIST,root=/no/such", SourceError, "check root='/no/such', or add download=true"),
        ("torchvision:FashionMNIST", SourceError, "missing 1 required positional argument: 'root'"),
        ("torchvision:CIFAR10,root=/no/such", SourceError, "Dataset not found .*download=true"),
        ("tiny_models", UsageError, "names no function; write tiny_models:function"),
        ("tiny_models:nosie", UsageError, "unknown function of module tiny_models 'nosie'; did you mean 'noise'"),
        ("tiny_models:noise,lenght=4", UsageError, "did you mean 'length'"),
        ("tiny_models:noise,length=0", SourceError, "is empty; name a data set with at least one sample"),
        ("", UsageError, "has no name"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(spec)


def test_download_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST

    asked = []
    monkeypatch.setattr(FashionMNIST, "download", lambda self: asked.append(self.root))
    for words in ("", ",download=false", ",download=true"):
        with pytest.raises(SourceError, match="not found"):
            open_source(f"torchvision:FashionMNIST,root={tmp_path}{words}")
    assert asked == [str(tmp_path)]


def test_a_folder_without_classes_or_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Couldn't find any class folder"):
        open_source(f"imagefolder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    with pytest.raises(SourceError, match="Found no valid file for the classes cat"):
        open_source(f"imagefolder:{tmp_path}")


def test_your_own_function_gives_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = open_source("tiny_models:noise,length=7,classes=3")
    assert isinstance(source, Source)
    assert (len(source), source.classes, source.spec) == (7, 3, "tiny_models:noise,length=7,classes=3")
    again = open_source("tiny_models:noise,length=7,classes=3")
    other = open_source("tiny_models:noise,length=7,size=8,classes=3")
    assert again.fingerprint == source.fingerprint != other.fingerprint
    (tmp_path / "my_own_data.py").write_text("from tiny_models import Noise\n\ndef build(n=3):\n    return Noise(n)\n")
    monkeypatch.chdir(tmp_path)  # modules are found in the working directory
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert len(open_source("my_own_data:build,n=4")) == 4


class Own:
    """A whole source, not a data set."""

    spec, classes, fingerprint = "own", 2, "abc"

    def __len__(self) -> int:
        return 1

    def key(self, index: int) -> str:
        return "one"

    def sample(self, index: int) -> Sample:
        return Sample(Image.new("L", (4, 4)), 1)


def test_an_object_with_a_fingerprint_is_a_source_already(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_models

    monkeypatch.setattr(tiny_models, "own", Own, raising=False)
    source = open_source("tiny_models:own")
    assert isinstance(source, Own) and isinstance(source, Source) and source.fingerprint == "abc"


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
    return Rows([(Image.new("L", (2, 2), 9 * index), target) for index, target in enumerate(given)], **attributes)


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
def test_classes_are_found_where_data_sets_keep_them(attributes: dict[str, Any], classes: int) -> None:
    assert opened(rows([0, 1, 1], **attributes)).classes == classes


def test_a_data_set_that_does_not_say_its_classes_is_told() -> None:
    with pytest.raises(SourceError, match="does not say how many classes it has; give the data set an attribute `classes`"):
        opened(rows([0, 1]))


@pytest.mark.parametrize("target", [3, -1, "cat", None, 1.0, (1, 2), torch.tensor([0, 1])])
def test_a_target_that_is_no_class_names_its_sample(target: Any) -> None:
    source = opened(rows([0, target], classes=3, targets=[0, 1]))
    with pytest.raises(SourceError, match=r"sample 1 \(00000001\) of rows has target .*must be a class index from 0 to 2"):
        source.sample(1)


@pytest.mark.parametrize("target", [2, np.int64(2), torch.tensor(2)])
def test_targets_of_any_integer_type_are_taken(target: Any) -> None:
    sample = opened(rows([target], classes=3)).sample(0)
    assert sample.target == 2 and type(sample.target) is int


@pytest.mark.parametrize("image", [np.full((4, 5, 3), 7, np.uint8), torch.full((3, 4, 5), 7, dtype=torch.uint8)])
def test_arrays_and_tensors_become_images(image: Any) -> None:
    sample = opened(Rows([(image, 0)], classes=1)).sample(0)
    assert sample.image.size == (5, 4) and sample.image.getpixel((0, 0)) == (7, 7, 7)


def test_a_data_set_without_lists_is_fingerprinted_by_some_samples() -> None:
    one = opened(rows([0, 1, 1], classes=2)).fingerprint
    assert opened(rows([0, 1, 1], classes=2)).fingerprint == one
    assert opened(rows([0, 1, 0], classes=2)).fingerprint != one
    assert opened(rows([0, 1, 1, 1], classes=2)).fingerprint != one
    assert DatasetSource(Noise(10, size=8), Spec("n")).fingerprint != DatasetSource(Noise(10, size=9), Spec("n")).fingerprint


def test_a_listing_of_paths_gives_keys() -> None:
    source = opened(rows([0, 1], classes=2, root="/data", _image_files=["/data/x/1.png", "/data/y/2.png"]))
    assert [source.key(0), source.key(1)] == ["x/1.png", "y/2.png"]
    other = opened(rows([0, 1], classes=2, root="/data", _image_files=["/data/x/1.png", "/data/y/3.png"]))
    relabelled = opened(rows([0, 0], classes=2, root="/data", _image_files=source._paths, _labels=[0, 0]))
    assert len({source.fingerprint, other.fingerprint, relabelled.fingerprint}) == 3
    pairs = [rows([0, 1], classes=2, samples=[("x/1.png", 0), ("x/2.png", label)]) for label in (0, 1)]
    assert opened(pairs[0]).fingerprint != opened(pairs[1]).fingerprint


@pytest.mark.parametrize("root", ["{0}", "{0}/", "{0}/../{1}", None])
def test_keys_do_not_depend_on_how_a_path_is_written(tmp_path: Path, root: str | None) -> None:
    paths = [str(tmp_path / "a" / "1.png"), tmp_path / "b" / ".." / "b" / "2.png"]
    attributes = {} if root is None else {"root": root.format(tmp_path, tmp_path.name)}
    source = opened(rows([0, 1], samples=[(path, at) for at, path in enumerate(paths)], classes=2, **attributes))
    assert [source.key(0), source.key(1)] == ["a/1.png", "b/2.png"]


def test_a_split_that_is_named_twice_is_told() -> None:
    with pytest.raises(UsageError, match="names its split twice"):
        open_source("digits:train,split=test")
