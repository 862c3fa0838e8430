"""A user's own data set: whatever it gives or raises is one line that names the sample, what came
and what is wanted."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from kdcache.cache.source_list import list_of, source_entry
from kdcache.errors import KdcacheError, SourceError, UnreadableSampleError, UsageError
from kdcache.runtime.image_items import as_image
from kdcache.runtime.images import UndecodableError
from kdcache.sources import Sample, open_source
from kdcache.views import load_recipe

PICTURE = Image.new("RGB", (4, 4), (9, 9, 9))
LEVELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class Items:
    """A data set that gives one item."""

    def __init__(self, item: Any, **attributes: Any) -> None:
        self.classes: Any = 3
        self.targets: Any = [0, 0]  # so that no item is looked at when it is opened
        self._item = item
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        if isinstance(self._item, BaseException):
            raise self._item
        return self._item() if callable(self._item) else self._item


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Return what opens the source `mine:build` of what a function `build` gives, or does."""

    def opened(made: Any) -> Any:
        module = ModuleType("mine")
        module.__spec__ = sys.__spec__  # which find_spec asks for
        module.build = made if callable(made) else lambda: made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mine", module)
        return open_source("mine:build")

    return opened


@pytest.mark.parametrize(
    ("image", "came", "way_out"),
    [
        (LEVELS.astype(np.int64), r"an array int64 \[4, 4, 3\] from 0 to 47", "make it uint8"),
        (
            LEVELS.astype(np.uint16) * 900,
            r"an array uint16 \[4, 4, 3\] from 0 to 42300",
            "keep the upper eight bits",
        ),
        (LEVELS > 3, r"an array bool \[4, 4, 3\] from 0 to 1", "multiply by 255 as uint8"),
        (LEVELS.astype(object), r"an array object \[4, 4, 3\]", ""),
        (LEVELS.astype(np.float32), r"an array float32 \[4, 4, 3\] from 0 to 47", "divide by 255"),
        (
            torch.from_numpy(LEVELS).permute(2, 0, 1) / 24 - 1,
            r"a tensor float32 \[3, 4, 4\] from -1 to 0.95",
            "normalisation",
        ),
        (np.full((4, 4), np.nan), r"an array float64 \[4, 4\] from nan to nan", ""),
        (
            torch.zeros(3, 4, 4, dtype=torch.int32),
            r"a tensor int32 \[3, 4, 4\] from 0 to 0",
            "make it uint8",
        ),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), r"a tensor complex64 \[3, 4, 4\]", ""),
        (
            np.zeros((3, 5, 6), np.uint8),
            r"an array uint8 \[3, 5, 6\] from 0 to 0",
            r"transpose\(1, 2, 0\)",
        ),
        (
            torch.zeros(5, 6, 3, dtype=torch.uint8),
            r"a tensor uint8 \[5, 6, 3\] from 0 to 0",
            r"permute\(2, 0, 1\)",
        ),
        (np.zeros((4, 4, 2), np.uint8), r"an array uint8 \[4, 4, 2\]", ""),
        (
            np.zeros((1, 4, 4, 3), np.uint8),
            r"an array uint8 \[1, 4, 4, 3\]",
            "give one image, not a batch",
        ),
        (np.zeros((0, 4), np.uint8), r"an array uint8 \[0, 4\]", ""),
        (Image.new("RGB", (0, 4)), "an image of 0x4 pixels, mode RGB", ""),
        (b"\x89PNG", r"bytes b'.x89PNG'", r"decode them: PIL.Image.open\(io.BytesIO"),
        ("a.png", "str 'a.png'", r"open the file: PIL.Image.open\(path\)"),
        (Path("a.png"), r"PosixPath PosixPath\('a.png'\)", "open the file"),
        (None, "None", "cv2.imread gives None"),
        ({"image": PICTURE}, "a dict with 'image'", "give the image in it"),
        ([[1, 2], [3, 4]], r"a list of 2 \(list, list\)", ""),
        (object(), "an object of class object", ""),
    ],
)
def test_an_image_that_is_none_says_what_came_and_what_is_wanted(
    give: Any, image: Any, came: str, way_out: str
) -> None:
    source = give(Items((image, 0)))
    with pytest.raises(
        SourceError,
        match=rf"^sample 1 \(00000001\) of mine:build has {came}.* as its image; wanted is",
    ) as caught:
        source.sample(1)
    message = str(caught.value)
    assert not isinstance(caught.value, UnreadableSampleError), "which would be skipped"
    assert (
        "uint8 array [height, width]" in message
        and "floats from 0 to 1" in message
        and len(message) < 500
    )
    assert re.search(way_out, message)


@pytest.mark.parametrize(
    ("image", "levels"),
    [
        (PICTURE, [9, 9, 9]),
        (LEVELS, [0, 1, 2]),
        (LEVELS[:, :, :1], [0]),
        (LEVELS[:, :, 0], [0]),
        (np.dstack([LEVELS, LEVELS[:, :, 0]]), [0, 1, 2, 0]),
        (torch.from_numpy(LEVELS).permute(2, 0, 1), [0, 1, 2]),
        (torch.from_numpy(LEVELS)[:, :, 1], [1]),
        (LEVELS.astype(np.float32) / 255, [0, 1, 2]),
        (torch.from_numpy(LEVELS).permute(2, 0, 1).double() / 255, [0, 1, 2]),
        (torch.ones(1, 4, 4, dtype=torch.bfloat16) * 1.001, [255]),
    ],
)
def test_images_of_these_kinds_are_taken(give: Any, image: Any, levels: list[int]) -> None:
    pixel = give(Items((image, 0))).sample(0).image.getpixel((0, 0))
    assert ([pixel] if isinstance(pixel, int) else list(pixel)) == levels


def test_a_level_as_a_share_of_255_is_that_level() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for share in (levels.astype(np.float32) / 255, torch.from_numpy(levels)[None].double() / 255):
        assert (np.asarray(as_image(share, "x")) == levels).all()


@pytest.mark.parametrize(
    ("target", "came", "way_out"),
    [
        (1.0, "float 1.0", r"give int\(target\)"),
        (np.float32(1), "float32", r"give int\(target\)"),
        (torch.tensor(1.0), r"a tensor float32 \[\]", r"give int\(target\)"),
        (True, "True", r"give int\(target\)"),
        (np.bool_(True), "bool", r"give int\(target\)"),
        (torch.tensor(True), "a tensor bool", r"give int\(target\)"),
        ("cat", "str 'cat'", "place in the list of classes"),
        (None, "None", "leave out samples without a class"),
        (np.eye(3)[1], r"an array float64 \[3\]", r"one-hot row .*int\(row.argmax\(\)\)"),
        (torch.tensor([0, 1, 0]), r"a tensor int64 \[3\]", "one-hot row"),
        ([0, 1, 0], r"a list of 3 \(int, int, int\)", "one-hot row"),
        (3, "3", ""),
        (PICTURE, "an image of 4x4 pixels", 'task = "segmentation"'),
        (np.zeros((4, 4), int), r"an array int64 \[4, 4\]", 'task = "segmentation"'),
    ],
)
def test_a_target_that_is_no_class_says_what_came(
    give: Any, target: Any, came: str, way_out: str
) -> None:
    source = give(Items((PICTURE, target)))
    with pytest.raises(
        SourceError,
        match=(
            rf"^sample 0 \(00000000\) of mine:build has target {came}.*; it must be a class index"
        ),
    ):
        source.sample(0)
    with pytest.raises(SourceError, match=rf"a class index from 0 to 2.*{way_out}"):
        source.sample(0)


@pytest.mark.parametrize(
    "target", [2, np.uint8(2), np.array(2), np.array([2]), torch.tensor(2), torch.tensor([[2]])]
)
def test_integers_of_any_kind_are_taken(give: Any, target: Any) -> None:
    assert give(Items((PICTURE, target))).sample(0).target == 2


@pytest.mark.parametrize(
    ("item", "came"),
    [
        ((PICTURE, 0, "a.png"), r"a tuple of 3 \(Image, int, str\)"),
        ({"image": PICTURE, "label": 0}, "a dict with 'image', 'label'"),
        (PICTURE, "an image of 4x4 pixels, mode RGB"),
        (torch.zeros(2, 4, 4), r"a tensor float32 \[2, 4, 4\] from 0 to 0"),
        ("ab", "str 'ab'"),
        (0, "0"),
    ],
)
def test_an_item_that_is_no_pair_says_what_it_is(give: Any, item: Any, came: str) -> None:
    with pytest.raises(
        SourceError,
        match=(
            rf"^sample 0 \(00000000\) of mine:build is {came}; an item of a data set is a pair:"
            r" \(im"
        ),
    ):
        give(Items(item)).sample(0)


@pytest.mark.parametrize(
    "raised",
    [
        KeyError("label"),
        ValueError("no"),
        AssertionError(),
        OSError("no"),
        StopIteration(),
        RuntimeError("x\ny"),
    ],
)
def test_what_an_item_raises_is_no_unreadable_image(give: Any, raised: Exception) -> None:
    expected = (
        rf"^sample 1 \(00000001\) of mine:build fails: {type(raised).__name__}.*\(test_own.py, line"
        r" \d+\); mend the data"
    )
    with pytest.raises(SourceError, match=expected) as caught:
        give(Items(raised)).sample(1)
    assert not isinstance(caught.value, UnreadableSampleError)


def test_what_the_system_could_not_read_is_no_unreadable_image(give: Any, tmp_path: Path) -> None:
    for raised, way_out in (
        (
            OSError(5, "Input/output error", "/mnt/a.png"),
            "the disk or mount is at fault, not the image",
        ),
        (OSError(116, "Stale file handle"), "the disk or mount is at fault"),
        (PermissionError(13, "Permission denied"), "the disk or mount is at fault"),
        (lambda: Image.open(tmp_path / "gone.png"), "is a disk or mount gone"),
    ):
        with pytest.raises(
            SourceError, match=rf"sample 0 .* of mine:build cannot be read: .*{way_out}"
        ) as caught:
            give(Items(raised)).sample(0)
        assert not isinstance(caught.value, UnreadableSampleError)


def test_a_file_that_cannot_be_decoded_is_unreadable_whoever_decodes_it(
    give: Any, tmp_path: Path
) -> None:
    import torchvision

    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:4000])
    (tmp_path / "text.png").write_text("no image", "utf-8")

    def own() -> None:
        raise UndecodableError("it is of another planet")

    for read in (
        lambda: (Image.open(path), 0),  # opened, and not decoded
        lambda: (Image.open(path).convert("RGB"), 0),
        lambda: (Image.open(tmp_path / "text.png"), 0),
        lambda: (torchvision.io.decode_image(str(tmp_path / "text.png")), 0),
        own,
    ):
        with pytest.raises(
            UnreadableSampleError,
            match=r"sample 0 \(00000000\) of mine:build cannot be read: .*repair it or rem",
        ):
            give(Items(read)).sample(0)


def test_mistakes_with_images_are_no_unreadable_files(give: Any, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")

    def closed() -> Any:
        with (tmp_path / "a.png").open("rb") as file:
            return Image.open(file), 0

    def cropped() -> Any:
        return Image.open(tmp_path / "a.png").crop((3, 3, 1, 1)), 0

    def saved() -> Any:
        return PICTURE.convert("RGBA").save(tmp_path / "a.jpg"), 0

    for read, message in (
        (closed, "has an image whose file was closed before it was read; call image.load"),
        (cropped, "fails: ValueError: Coordinate"),
        (saved, "fails: OSError: cannot write mode RGBA as JPEG"),
        (lambda: (Image.fromarray(np.zeros((2, 2, 7))), 0), "fails: TypeError: Cannot handle"),
    ):
        with pytest.raises(SourceError, match=f"sample 0 .*{message}") as caught:
            give(Items(read)).sample(0)
        assert not isinstance(caught.value, UnreadableSampleError)


class Stream(IterableDataset[Any]):
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        yield PICTURE, 0


class Broken(Items):
    def __len__(self) -> int:
        raise RuntimeError("no length")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Stream(), "gives an object of class Stream, which cannot be asked for sample i; it must give a map-style data set"),
        (type("NoLength", (), {"__getitem__": lambda self, at: 0})(), "an object of class NoLength, which has no __len__;"),
        (type("NoItems", (), {"__len__": lambda self: 1})(), "gives an object of class NoItems, which has no __getitem__;"),
        (Dataset[Any](), "gives an object of class Dataset, which has no __len__;"),
        (DataLoader(Items((PICTURE, 0))), "gives an object of class DataLoader, which has no __getitem__;"),  # type: ignore[arg-type]
        (lambda: Items, "gives an object of class type, which has no"),
        (lambda: None, "gives None, which has no __len__ and no __getitem__;"),
        ({"train": Items((PICTURE, 0))}, "gives a dict with 'train', which cannot be asked"),
        ([], "is empty; name a data set with at least one sample"),
        (Broken(0), r"its __len__ fails: RuntimeError: no length \(test_own.py, line"),
        (lambda: {}["x"], r"source mine:build fails: KeyError: 'x' \(test_own.py, line"),
        (lambda: sys.exit("usage"), "source mine:build fails: SystemExit: usage"),
        (Items(0, classes={"cat": 0}, targets=None), "says that its classes are a dict with 'cat'; give the data"),
        (Items(0, classes="cats", targets=None), "says that its classes are str 'cats'; give"),
        (Items(0, classes=0, targets=None), "says that its classes are 0; give"),
        (Items(0, task="segmentation", classes=3.0), "says that its classes are float 3.0; give .* names or a number"),
        (Items(0, task="segmentation", classes=["a", "b", "a"]), "has 2 classes of one name, 'a'; give each its own"),
        (Items(0, task="segmentation", ids=[1, 2]), r"its ids are a list of 2 \(int, int\); they must be a dict of id: class"),
        (Items(0, task="segmentation", ids={7: 3}), "its ids have 7: 3; ids are from 0 to 65535, classes from 0 to 2, or 255"),
        (Items(0, task="segmentation", ids={-1: 0}), "its ids have -1: 0; ids are from 0"),
        (Items(0, task="segmentation", ids={0: "sky"}), "its ids have 0: 'sky'; ids are from 0"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_told(give: Any, made: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        give(made)


class Whole:
    """A whole source."""

    spec, classes, fingerprint = "whole", 2, "abc"

    def __init__(self, sample: Any = None, **attributes: Any) -> None:
        self._sample = sample
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 1

    def key(self, index: int) -> str:
        return "one"

    def sample(self, index: int) -> Any:
        if isinstance(self._sample, Exception):
            raise self._sample
        return self._sample

    def stored(self, index: int) -> bytes:
        return {}["stored"]  # type: ignore[no-any-return]


class Bare(Whole):
    """A whole source without a sample."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(LEVELS.astype(np.int64), 0), "has an array int64"),  # type: ignore[arg-type]
        (Sample(PICTURE, 2), "has target 2; it must be a class index from 0 to 1"),
        (None, "fails: TypeError: cannot unpack"),
        (KeyError("x"), r"fails: KeyError: 'x' \(test_own.py"),
        (OSError(5, "Input/output error"), "cannot be read: OSError: Input/output error"),
    ],
)
def test_a_whole_source_of_ones_own_is_checked_too(give: Any, sample: Any, message: str) -> None:
    with pytest.raises(SourceError, match=rf"^sample 0 \(one\) of whole {message}"):
        give(Whole(sample)).sample(0)


def test_a_whole_source_lacks_nothing(give: Any) -> None:
    with pytest.raises(
        SourceError,
        match=(
            r"an object of class Print, which has a fingerprint and no spec, classes, .*, sample; a"
        ),
    ):
        give(type("Print", (), {"fingerprint": "x"})())
    with pytest.raises(SourceError, match=r"sample 0 \(one\) of whole fails: KeyError: 'stored'"):
        give(Whole(Sample(PICTURE, 0))).stored(0)
    for classes, what in (
        (0, "0"),
        (-2, "-2"),
        (("a", "b"), r"a tuple of 2 \(str, str\)"),
        (None, "None"),
    ):
        with pytest.raises(
            SourceError,
            match=rf"^source mine:build says that its classes are {what}; .* at least 1$",
        ):
            give(Whole(Sample(PICTURE, 0), classes=classes))
    assert give(Whole(Sample(PICTURE, 0), classes=np.int64(2))).classes == 2
    with pytest.raises(
        SourceError, match=r"^source mine:build is empty; name a data set with at least one sample$"
    ):
        give(Bare())
    masked = give(Whole(Sample(PICTURE, Image.new("L", (3, 4))), task="segmentation"))
    with pytest.raises(
        SourceError,
        match="has target an image of 3x4 pixels, mode L; it must be an image of mode L as large",
    ):
        masked.sample(0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{0}/pairs", "write segfolder:{0}/pairs,classes=N, or imagefolder:{0}/pairs if masks is a class"),
        ("{0}/shares", "write yolo:{0}/shares,classes=N, or imagefolder:{0}/shares if labels is a class"),
        ("d/instances.json", "a file of COCO's is written coco:IMAGES,annotations=d/instances.json; of others"),
        ("x.parquet", "'x.parquet': there is no such file or folder; check the path"),
        ("train.csv,label=y", "'train.csv': there is no such file"),
        ("train.npz", "a file of arrays is no source; give a function of yours .*: mypkg.data:build"),
        ("/data/a,b", "'/data/a,b': there is no such file"),
        ("a/b.png", "give the folder that holds one folder per class"),
        ("json:train.json", "json is a module of Python itself, and 'train.json' is no function of a module; known are coco, csv, digits, hf"),
        ("json:train", "json is a module of Python itself; known are coco, csv, digits, hf.*, and a function of yours"),
        ("zip:/x.zip", "zip is no source, and '/x.zip' is no function of a module; known are"),
        ("s3://bucket/x", "s3 is no source, and '//bucket/x' is no function"),
        ("webdataset:/d/*.tar", r"webdataset is called tars here: write tars:/d/\*.tar"),
        ("datasets:cifar10", "kdcache's own is hf:cifar10"),
        ("folder:/x", "folder is called imagefolder here: write imagefolder:/x"),
    ],
)  # fmt: skip
def test_a_path_or_a_name_of_another_tool_is_answered_with_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    for name in ("pairs/masks/a.png", "shares/labels/train/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message.format(tmp_path)) as caught:
        open_source(spec.format(tmp_path))
    assert len(str(caught.value)) < 500


def test_a_tilde_behind_a_colon_is_told(tmp_path: Path) -> None:
    for kind in ("imagefolder:~/x", "segfolder:~/x,classes=2"):
        with pytest.raises(KdcacheError, match=r"~ stays as it is here: write /.*/x"):
            open_source(kind)


def test_a_source_of_kdcaches_own_stays_what_it_is(give: Any, tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        PICTURE.save(tmp_path / name)
    spec = f"imagefolder:{tmp_path}"
    source, plain = give(lambda: open_source(spec)), open_source(spec)
    assert source_entry(source, list_of(source)) == source_entry(plain, list_of(plain))
    assert source.file_sizes().tolist() == plain.file_sizes().tolist()  # type: ignore[attr-defined]
    assert source.contents(0) == ((tmp_path / "a" / "1.png").read_bytes(),)
    with pytest.raises(
        SourceError, match="has a fingerprint and no spec, classes, __len__, sample"
    ):
        give(lambda: load_recipe("digits"))


def test_labels_that_are_all_absent_say_no_number_of_classes(give: Any) -> None:
    for targets in ([-1, -1], [float("nan")] * 2):
        with pytest.raises(SourceError, match="does not say how many classes it has"):
            give(Items((PICTURE, 0), classes=None, targets=targets))
