"""What sources tell of their samples without decoding them: names, classes, sizes, contents."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import write_images, write_shards
from PIL import Image
from segmentation_files import Shapes, write_cityscapes, write_pair, write_voc

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.sources import DatasetSource, MaskSource, Source, files, open_source
from kdcache.sources.files import NO_FILE, are_files, stat_sizes
from kdcache.sources.protocol import Listed


class OnDisk:
    """A data set of one's own that lists its files, and decodes them itself."""

    classes = 2

    def __init__(self, paths: list[Path]) -> None:
        self.samples = [(str(path), index % 2) for index, path in enumerate(paths)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, target = self.samples[index]
        return Image.open(path), target


def pairs(root: Path) -> str:
    for name, ids in {"b": [[0, 1]], "a": [[1, 1]]}.items():
        write_pair(root / "images" / f"{name}.jpg", root / "masks" / f"{name}.png", ids)
    return f"segfolder:{root},classes=2"


def tree(root: Path) -> str:
    return f"imagefolder:{write_images(root, {'x/b.png': 1, 'x/a.png': 2, 'y/c.png': 3})}"


def saved(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (5, 4), (level, 0, 9)) for level in (1, 2, 3)]
    label = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features=features)
    table.save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def own(root: Path) -> Source:
    write_images(root, {"b.png": 1, "a.png": 2, "c.png": 3})
    return DatasetSource(OnDisk([root / name for name in ("b.png", "a.png", "c.png")]), Spec("own"))


SOURCES: dict[str, Any] = {
    "imagefolder": tree,
    "tars": lambda root: f"tars:{write_shards(root, 2, 1)}",
    "hf": saved,
    "own": own,
    "segfolder": pairs,
    "cityscapes": lambda root: f"torchvision:Cityscapes,root={write_cityscapes(root)},split=train",
    "voc": lambda root: f"torchvision:VOCSegmentation,root={write_voc(root)},image_set=train",
}
MASKED = ("segfolder", "cityscapes", "voc")


@pytest.fixture(params=SOURCES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any]:
    made = SOURCES[request.param](tmp_path)
    return request.param, open_source(made) if isinstance(made, str) else made


def test_a_source_tells_names_sizes_classes_and_contents(opened: tuple[str, Any]) -> None:
    kind, source = opened
    num_files = 2 if kind in MASKED else 1
    assert isinstance(source, Listed)
    assert list(source.keys()) == [source.key(index) for index in range(len(source))]
    sizes = source.file_sizes()
    assert sizes is not None and sizes.shape == (len(source), num_files)
    targets = source.known_targets()
    for index in range(len(source)):
        contents = source.contents(index)
        assert contents is not None and [len(data) for data in contents] == sizes[index].tolist()
        stored = source.stored(index)
        assert stored in (None, contents[0])
        sample = source.sample(index)
        again = source.sample(index, contents)
        assert again.image.mode == sample.image.mode
        assert again.image.tobytes() == sample.image.tobytes()
        if kind in MASKED:
            assert targets is None and again.target.tobytes() == sample.target.tobytes()
        elif kind == "own":  # only reading tells, as a data set may keep no list of classes
            assert targets is None
        else:
            assert targets is not None and targets[index] == again.target == sample.target


@pytest.mark.parametrize("kind", ["imagefolder", "segfolder", "tars"])
def test_what_is_decoded_are_the_contents_that_were_given(tmp_path: Path, kind: str) -> None:
    source: Any = open_source(SOURCES[kind](tmp_path))
    contents = source.contents(1)
    first = source.sample(0)
    assert source.sample(0, contents).image.tobytes() != first.image.tobytes()
    assert source.sample(0, contents).image.tobytes() == source.sample(1).image.tobytes()


def test_sources_in_memory_have_no_files(tmp_path: Path) -> None:
    digits: Any = open_source("digits:test")
    assert digits.file_sizes() is None and digits.contents(0) is None
    assert digits.known_targets()[3] == digits.sample(3).target
    masks = MaskSource(Shapes(4), Spec("shapes"), classes=4)
    assert masks.file_sizes() is None and masks.contents(0) is None
    assert masks.known_targets() is None and list(masks.keys())[:2] == ["00000000", "00000001"]


def test_a_list_of_what_are_no_files_is_no_list_of_files() -> None:
    assert not are_files(["no", "such", "file"])


def test_masks_and_images_change_places_together(tmp_path: Path) -> None:
    source: Any = open_source(pairs(tmp_path))
    before = source.file_sizes()
    long = tmp_path / "masks" / "a.png"
    long.write_bytes(long.read_bytes() + b" " * 1000)
    again: Any = open_source(f"segfolder:{tmp_path},classes=2")
    assert again.key(0) == "images/a.jpg"
    assert (again.file_sizes() - before).tolist() == [[0, 1000], [0, 0]]


def test_a_file_that_is_not_there_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"123")
    paths = [tmp_path / "here", tmp_path / "gone", tmp_path / "here" / "below"]
    assert stat_sizes([paths]).tolist() == [[3], [NO_FILE], [NO_FILE]]


def test_a_size_that_cannot_be_found_out_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source: Any = open_source(tree(tmp_path))

    def stat(path: str) -> Any:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(files, "os", type("os", (), {"stat": staticmethod(stat)}))
    with pytest.raises(SourceError, match=r"file .*x/.\.png: Input/output error; its size cannot"):
        source.file_sizes()


def test_contents_that_are_gone_name_the_sample(tmp_path: Path) -> None:
    source: Any = open_source(tree(tmp_path))
    (tmp_path / "x" / "a.png").unlink()
    with pytest.raises(SourceError, match=r"sample 0 \(x/a\.png\).*cannot be read.*was it moved"):
        source.contents(0)
    assert source.file_sizes()[0, 0] == NO_FILE


def test_many_stats_are_cut_into_parts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_AT_ONCE", 7)
    paths = [tmp_path / str(number) for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(b"." * number)
    sizes = stat_sizes([paths, paths[::-1]])
    assert sizes.dtype == np.uint32
    assert sizes.tolist() == [[number, 39 - number] for number in range(40)]
    os.truncate(paths[5], 0)
    assert stat_sizes([paths])[5, 0] == 0
