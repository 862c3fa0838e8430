"""Data sets of images with boxes as sources: of files, and of one's own."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_files import (
    Things,
    noise,
    voc_object,
    write_coco,
    write_noise,
    write_voc_boxes,
    write_yolo,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError, UnreadableSampleError, UsageError
from kdcache.runtime.images import decode_image
from kdcache.sources import BoxSource, DatasetSource, as_source, open_source
from kdcache.sources.as_files import stored_image, stored_target
from kdcache.sources.boxes import ROW, BoxedImages, ObjectRows
from kdcache.sources.protocol import Filed, Listed
from kdcache.targets import target_kind, task_of
from kdcache.targets.boxes import ClassBoxes
from kdcache.targets.objects import ObjectBoxes


def same(first: Any, second: Any) -> bool:
    return ClassBoxes().encode(first) == ClassBoxes().encode(second)


def voc(root: Path) -> str:
    objects = {"b": voc_object("cat", (3, 2, 10, 6)), "a": voc_object("dog", (1, 1, 20, 10))}
    return f"voc:{write_voc_boxes(root, objects)}"


def yolo(root: Path) -> str:
    return f"yolo:{write_yolo(root, {'b': '1 0.5 0.5 0.2 0.2', 'a': None})},classes=2"


@pytest.fixture(params=[write_coco, voc, yolo], ids=["coco", "voc", "yolo"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    made: str = request.param(tmp_path / "set")
    return made


def test_each_image_is_one_file_and_its_objects_go_with_it(spec: str, tmp_path: Path) -> None:
    source: Any = open_source(spec)
    assert isinstance(source, BoxSource) and isinstance(source, Listed | Filed)
    assert task_of(source) == "detection" and source.known_targets() is None
    assert source.file_sizes().shape == (len(source), 1)
    assert len(list(source.files())) == len(source)
    seen = 0
    for index in range(len(source)):
        contents = source.contents(index)
        sample = source.sample(index)
        assert isinstance(sample.target, ObjectBoxes)
        assert source.stored(index) == contents[0]
        again = source.sample(index, contents)
        assert again.image.tobytes() == sample.image.tobytes()
        assert same(again.target, sample.target)
        kind = target_kind("detection")
        file = stored_target(source, index)
        stored = decode_image(stored_image(source, index)[1])
        assert same(kind.decode(file, stored, source.classes, "x"), sample.target)
        seen += len(sample.target)
    assert seen


def test_it_is_the_same_elsewhere_and_in_a_worker(spec: str, tmp_path: Path) -> None:
    source: Any = open_source(spec)
    (tmp_path / "set").rename(tmp_path / "moved")
    moved: Any = open_source(spec.replace(f"{tmp_path}/set", f"{tmp_path}/moved"))
    assert moved.fingerprint == source.fingerprint and list(moved.keys()) == list(source.keys())
    worker = pickle.loads(pickle.dumps(moved))  # noqa: S301 # our own bytes
    for index in range(len(moved)):
        assert same(worker.sample(index).target, moved.sample(index).target)


def test_an_image_that_cannot_be_decoded_is_named(spec: str) -> None:
    source: Any = open_source(spec)
    path = Path(next(iter(source.files())))
    path.write_bytes(b"no image")
    with pytest.raises(
        UnreadableSampleError, match=r"^sample 0 \(.*\) of .* cannot be read: it is"
    ):
        source.sample(0)
    assert open_source(spec).fingerprint == source.fingerprint, "no image is opened for it"


def test_contents_are_what_is_decoded(spec: str) -> None:
    source: Any = open_source(spec)
    # of another image: its size decides which boxes are within it
    contents = (Path(list(source.files())[-1]).read_bytes(),)
    if spec.startswith("coco"):
        with pytest.raises(SourceError, match=r"has 5x5 pixels, and .* says 8x6"):
            source.sample(0, contents)
        return
    assert source.sample(0, contents).image.tobytes() == source.sample(1).image.tobytes()


finite = st.floats(-1e6, 1e6, width=32)
rows = st.lists(
    st.lists(st.tuples(st.tuples(*[finite] * 4), st.integers(0, 9), finite, st.booleans())),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=50)
@given(rows)
def test_the_objects_of_an_image_are_found_again(parts: list[Any]) -> None:
    objects = ObjectRows.joined(np.array(part, ROW) for part in parts)
    for place, part in enumerate(parts):
        found = objects.of(place)
        assert found.boxes.shape == (len(part), 4) and found.boxes.dtype == torch.float32
        assert found.boxes.tolist() == [list(box) for box, *_ in part]
        assert found.classes.tolist() == [number for _, number, *_ in part]
        assert found.areas.tolist() == [area for *_, area, _ in part]
        assert found.is_crowd.tolist() == [crowd for *_, crowd in part]


def boxed(root: Path, counts: list[int], boxes: list[list[float]]) -> BoxSource:
    """Return images with these boxes, all of class 0."""
    table = np.zeros(len(boxes), ROW)
    table["box"] = boxes
    objects = ObjectRows(np.array(counts), table)
    names = [f"{number}.png" for number in range(len(counts))]
    for name in names:
        write_noise(root / name, 9, 9)
    return BoxSource(BoxedImages(str(root), names, objects), Spec("boxed"), classes=1)


def test_the_fingerprint_knows_whose_a_box_is(tmp_path: Path) -> None:
    first, second = [0.0, 0, 1, 1], [0.0, 0, 2, 2]
    made = [
        boxed(tmp_path, [1, 1], [first, second]),
        boxed(tmp_path, [1, 1], [second, first]),
        boxed(tmp_path, [2, 0], [first, second]),
        boxed(tmp_path, [0, 2], [first, second]),
    ]
    assert len({source.fingerprint for source in made}) == 4
    assert boxed(tmp_path, [1, 1], [first, second]).fingerprint == made[0].fingerprint


def test_boxes_are_kept_within_the_image(tmp_path: Path) -> None:
    source = boxed(tmp_path, [3], [[-5, 2, 4, 99], [10, 0, 12, 5], [3, 3, 3, 5]])
    target: Any = source.sample(0).target
    assert target.boxes.tolist() == [[0, 2, 4, 9]], "those without a pixel in it are left out"


def test_torchvisions_coco_is_answered_with_the_spec() -> None:
    with pytest.raises(
        UsageError, match=r"kdcache reads COCO itself; write coco:IMAGES,annotations=FILE.json"
    ):
        open_source("torchvision:CocoDetection")
    with pytest.raises(UsageError, match=r"write coco:/d/train,annotations=/d/i.json"):
        open_source("torchvision:CocoDetection,root=/d/train,annFile=/d/i.json")


def test_an_own_data_set_gives_dictionaries() -> None:
    source = open_source("box_files:Things")
    assert isinstance(source, DatasetSource)
    assert (task_of(source), source.classes) == ("detection", 3)
    assert source.class_names == ("cup", "bowl", "spoon")
    for index in range(6):
        sample = source.sample(index)
        wanted = Things()[index][1]
        assert isinstance(sample.target, ObjectBoxes)
        assert sample.target.boxes.tolist() == wanted["boxes"].tolist()
        assert sample.target.classes.tolist() == wanted["labels"].tolist()
    assert source.fingerprint == as_source(Things()).fingerprint
    assert source.fingerprint != as_source(Things(7)).fingerprint


class Moved(Things):
    """The same images with another box."""

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        image, target = super().__getitem__(index)
        if index == 3:
            target["boxes"][1] += 1
        return image, target


Moved.__name__ = "Things"


class OnDisk(Things):
    """A data set that lists its files."""

    def __init__(self, root: Path, *, more: float = 0) -> None:
        super().__init__()
        self.images = [root / f"{index}.png" for index in range(len(self))]
        self.boxes = [item[1]["boxes"] + more for item in map(super().__getitem__, range(6))]
        self.labels = [item[1]["labels"] for item in map(super().__getitem__, range(6))]
        for path in self.images:
            write_noise(path, 32, 32)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        target = {"boxes": self.boxes[index], "labels": self.labels[index]}
        return Image.open(self.images[index]), target


def test_the_fingerprint_of_an_own_data_set_covers_its_boxes(tmp_path: Path) -> None:
    assert as_source(Things()).fingerprint != as_source(Moved()).fingerprint
    listed: Any = as_source(OnDisk(tmp_path))
    assert listed.key(1) == "1.png" and listed.known_targets() is None
    assert listed.fingerprint != as_source(OnDisk(tmp_path, more=0.5)).fingerprint
    noise(32, 32, seed=9).save(tmp_path / "1.png")
    again: Any = DatasetSource(listed._dataset, Spec("x"))
    assert again.fingerprint == listed.fingerprint, "pixels are no part of it"


BOXES = torch.tensor([[0.0, 0, 4, 4]])
LABELS = torch.tensor([1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"has target 3; it must be a dictionary with boxes, \[objects, 4\] as left"),
        ({"boxes": BOXES}, "has target a dict with 'boxes'; it must be a dictionary with boxes"),
        ({"boxes": BOXES, "labels": [1, 2]}, "has 1 boxes and 2 classes; it must have one of each"),
        ({"boxes": [[1, 2, 3]], "labels": [1]}, r"has boxes that are no numbers \[objects, 4\]: "),
        ({"boxes": BOXES * float("nan"), "labels": LABELS}, "has a box that is not finite"),
        ({"boxes": BOXES, "labels": LABELS + 2}, "has a box of class 3; known are 0 to 2, without"),
        ({"boxes": BOXES, "labels": LABELS.float()}, "has labels of torch.float32; they must be"),
    ],
)
def test_an_item_that_is_wrong_is_one_line(target: Any, message: str) -> None:
    class Wrong(Things):
        def __getitem__(self, index: int) -> Any:
            return noise(8, 8), target

    with pytest.raises(
        SourceError, match=rf"^sample 0 \(00000000\) of .*Wrong {message}"
    ) as caught:
        as_source(Wrong())
    assert len(str(caught.value)) < 500


def test_an_item_that_is_no_pair_is_told() -> None:
    class Single(Things):
        def __getitem__(self, index: int) -> Any:
            return noise(8, 8)

    with pytest.raises(SourceError, match=r"an item of a data set is a pair: \(image, boxes\)$"):
        as_source(Single())


def test_what_an_own_data_set_does_not_say_is_told() -> None:
    class Unsaid(Things):
        task = "classification"

    source = as_source(Things())
    with pytest.raises(
        SourceError, match=r'if it is of objects, give the data set an attribute task = "detection"'
    ):
        as_source(Unsaid())

    class Uncounted(Things):
        classes: Any = None

    with pytest.raises(SourceError, match=r"does not say how many classes it has; give the data"):
        as_source(Uncounted())
    assert source.spec == "box_files:Things"
