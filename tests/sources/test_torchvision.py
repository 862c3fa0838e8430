"""torchvision's data sets, from files in their own layouts."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from kdcache.errors import SourceError
from kdcache.sources import open_source
from kdcache.sources.own import as_source


def write_idx(
    root: Path, images: Any, labels: Any, *, prefix: str = "train", name: str = "FashionMNIST"
) -> Path:
    """Write raw files of MNIST or a set of its kind: IDX headers in big-endian 32-bit words, then
    bytes."""
    raw = root / name / "raw"
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


def test_download_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision.datasets import FashionMNIST

    asked = []
    monkeypatch.setattr(FashionMNIST, "download", lambda self: asked.append(self.root))
    for words in ("", ",download=false", ",download=true"):
        with pytest.raises(SourceError, match="not found"):
            open_source(f"torchvision:FashionMNIST,root={tmp_path}{words}")
    assert asked == [str(tmp_path)]


def test_the_fingerprint_of_existing_caches_stays(tmp_path: Path) -> None:
    images, labels = (np.arange(12 * 784) % 256).reshape(12, 28, 28), np.arange(12) % 10
    for prefix in ("train", "t10k"):
        write_idx(tmp_path, images, labels, prefix=prefix)
    known = "ac99af4f67aeed188cb7c65c2eebe5c324803e7c579b1c72abe23b952e06d92b"
    assert open_source(f"torchvision:FashionMNIST,root={tmp_path}").fingerprint == known


@pytest.mark.parametrize("name", ["MNIST", "KMNIST"])
def test_other_sets_in_idx_files_are_read(tmp_path: Path, name: str) -> None:
    images = np.arange(3 * 784).reshape(3, 28, 28) % 256
    for prefix in ("train", "t10k"):
        write_idx(tmp_path, images, np.array([4, 0, 9]), prefix=prefix, name=name)
    source = open_source(f"torchvision:{name},root={tmp_path},train=false")
    assert (len(source), source.classes, source.sample(2).target) == (3, 10, 9)
    assert (np.asarray(source.sample(2).image) == images[2]).all()


def write_cifar(root: Path, fine: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Write tiny files in the layout of CIFAR-10 or, if `fine`, CIFAR-100, and return the pixels of
    each, `[n, 3, 32, 32]`."""
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir()
    generator = np.random.default_rng(0)
    pixels = {}
    for name in (
        ("train", "test")
        if fine
        else (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    ):
        pixels[name] = generator.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
        labels = (
            {"fine_labels": [0, 99, 5, 7], "coarse_labels": [0, 1, 2, 3]}
            if fine
            else {"labels": [0, 9, 5, 7]}
        )
        (folder / name).write_bytes(pickle.dumps({"data": pixels[name].reshape(4, 3072), **labels}))
    names = [f"class {index}" for index in range(100 if fine else 10)]
    meta = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))
    return pixels


@pytest.mark.parametrize("fine", [False, True], ids=["CIFAR10", "CIFAR100"])
def test_cifar_is_read_from_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine: bool
) -> None:
    pixels = write_cifar(tmp_path, fine)
    spec = f"torchvision:CIFAR{100 if fine else 10},root={tmp_path}"
    with pytest.raises(SourceError, match="not found or corrupted"):
        open_source(spec)  # torchvision knows the MD5 of the real files
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file()
    )
    train, test = open_source(spec), open_source(f"{spec},train=false")
    assert (len(train), len(test), train.classes) == ((4, 4, 100) if fine else (20, 4, 10))
    sample = train.sample(1)
    assert sample.target == (99 if fine else 9) and train.class_names[3] == "class 3"  # type: ignore[attr-defined]
    first = pixels["train" if fine else "data_batch_1"]
    assert (
        sample.image.mode == "RGB"
        and (np.asarray(sample.image) == first[1].transpose(1, 2, 0)).all()
    )
    assert (train.key(3), test.key(3)) == (
        "00000003",
        "00000003",
    ) and train.fingerprint != test.fingerprint
    assert open_source(spec).fingerprint == train.fingerprint


def test_a_program_s_data_set_of_torchvision_is_seeded_only_if_it_runs_the_program_s_code(
    fashion: Path,
) -> None:
    def may_draw(dataset: Any) -> bool:
        return as_source(dataset).may_draw  # type: ignore[attr-defined, no-any-return]

    # the folder has the name of the class
    own = type("FashionMNIST", (datasets.FashionMNIST,), {})
    assert not may_draw(datasets.FashionMNIST(str(fashion)))
    assert may_draw(own(str(fashion)))
    assert may_draw(datasets.FashionMNIST(str(fashion), transform=v2.RandomHorizontalFlip()))
    assert may_draw(datasets.FashionMNIST(str(fashion), target_transform=int))
    assert may_draw(datasets.FakeData(4))
    image = fashion / "images" / "a" / "1.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(image)
    assert not may_draw(datasets.ImageFolder(str(fashion / "images")))
    assert may_draw(datasets.ImageFolder(str(fashion / "images"), loader=Image.open))
