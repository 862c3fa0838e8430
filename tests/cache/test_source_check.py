"""Whether a source is what a cache was made from, and in what it differs."""

import dataclasses
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from caches import fill, manifest
from image_files import write_images
from layouts import codec_of, manifest_fields
from PIL import Image
from runs import CONV, MLP, dump, train
from segmentation_files import write_pair

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.source_check import require_source, source_differences
from kdcache.cache.source_list import list_of, source_entry
from kdcache.config.spec import Spec
from kdcache.errors import MismatchError
from kdcache.positions import Heads
from kdcache.sources import DatasetSource, Source, open_source
from kdcache.targets import task_of
from kdcache.tools.merge import merge_caches

FOLDERS = ("ant", "bee", "cat")
TREE = {f"{FOLDERS[place // 12]}/{place % 12:02d}.png": place for place in range(36)}


class Pairs:
    """A data set that lists its files and their classes, in an order of its own."""

    classes = 3

    def __init__(self, root: Path, names: list[str], shift: int = 0) -> None:
        self.samples = [(str(root / name), (at + shift) % 3) for at, name in enumerate(names)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, target = self.samples[index]
        return Image.open(path), target


def made_from(path: Path, source: Source, *, is_listed: bool = True) -> Cache:
    """Return a cache without units that was made from a source."""
    listing = list_of(source) if is_listed else None
    entry = source_entry(source, listing)
    arrays = listing.arrays if listing else None
    changes: dict[str, Any] = {"rows": len(source), "source": entry}
    if task_of(source) == "segmentation":
        layout = Heads(((2, 2),))
        changes |= manifest_fields(layout)
        changes["codec"] = codec_of("full:dtype=float16", layout)
    return create_cache(path, manifest(**changes), source=arrays)


def tree(root: Path) -> Source:
    """Return three classes of twelve small images each, all of different sizes."""
    write_images(root, TREE)
    for number, name in enumerate(TREE):
        with (root / name).open("ab") as file:
            file.write(b" " * number)
    return open_source(f"imagefolder:{root}")


def difference(cache: Cache, source: Source | str) -> str:
    """Return what is told of a source that differs."""
    opened = open_source(source) if isinstance(source, str) else source
    with pytest.raises(MismatchError) as caught:
        require_source(cache, opened)
    text = str(caught.value)
    assert len(text) <= 500 and "\n" not in text
    assert text.endswith("; give the same data, or dump into a new cache")
    assert f"data {opened.spec}"[:20] in text and " was made from: " in text
    return text.partition(" was made from: ")[2].rpartition("; give")[0]


def remove(root: Path) -> None:
    for number in range(7):
        (root / "bee" / f"{number:02d}.png").unlink()


def add(root: Path) -> None:
    write_images(root, {"cat/new.png": 3, "ant/other.png": 7})


def rename(root: Path) -> None:
    (root / "ant" / "03.png").rename(root / "ant" / "aardvark.png")


def rename_folder(root: Path) -> None:
    (root / "ant").rename(root / "anteater")


def part_accents(root: Path) -> None:
    for path in root.iterdir():
        path.rename(root / unicodedata.normalize("NFD", path.name))


def move(root: Path) -> None:
    (root / "ant" / "03.png").rename(root / "bee" / "moved.png")


def overwrite(root: Path) -> None:
    for number in range(3, 9):
        (root / "cat" / f"{number:02d}.png").write_bytes(b"something else")


def replace(root: Path) -> None:
    (root / "ant" / "03.png").unlink()
    write_images(root, {"ant/new.png": 3})


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "gone": (
        remove,
        (
            "data has 29 samples, the cache was made from 36; "
            "7 samples are gone (bee/00.png, bee/01.png, bee/02.png, bee/03.png, bee/04.png, ...)"
        ),
    ),
    "new": (
        add,
        "data has 38 samples, the cache was made from 36; 2 samples are new (ant/other.png, cat",
    ),
    "renamed": (rename, "1 sample is renamed (ant/03.png to ant/aardvark.png)"),
    "folder": (rename_folder, "12 samples are renamed (ant/00.png to anteater/00.png, ant/01.png"),
    "moved": (move, "1 sample is renamed (ant/03.png to bee/moved.png)"),
    "overwritten": (
        overwrite,
        "6 files have another size (cat/03.png, cat/04.png, cat/05.png, cat/06.png, cat/07.png, ",
    ),
    "replaced": (replace, "1 sample is gone (ant/03.png); 1 sample is new (ant/new.png)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_in_a_folder_is_told_with_the_first_names(
    tmp_path: Path,
    change: str,
) -> None:
    cache = made_from(tmp_path / "cache", tree(tmp_path / "images"))
    spec = f"imagefolder:{tmp_path / 'images'}"
    require_source(cache, open_source(spec))
    act, told = CHANGES[change]
    act(tmp_path / "images")
    assert difference(cache, spec).startswith(told)


def test_accents_that_are_written_otherwise_are_told(tmp_path: Path) -> None:
    """As some tools of macOS do: the names look the same."""
    write_images(tmp_path, {"images/\xe9t\xe9/0.png": 3, "images/\xe9t\xe9/1.png": 3})
    spec = f"imagefolder:{tmp_path / 'images'}"
    cache = made_from(tmp_path / "cache", open_source(spec))
    part_accents(tmp_path / "images")
    told = "2 samples are named in another form of Unicode (NFC, NFD) (\xe9t\xe9/0.png, "
    assert difference(cache, spec).startswith(told)


def test_another_number_of_classes_comes_first(tmp_path: Path) -> None:
    source = tree(tmp_path / "images")
    cache = made_from(tmp_path / "cache", source)
    write_images(tmp_path / "images", {"dog/00.png": 1})
    spec = f"imagefolder:{tmp_path / 'images'}"
    told = difference(cache, spec)
    assert told.startswith("data has 4 classes, the cache was made from 3 (where labels are others")
    assert "dump this data with --teacher-classes 5, and train with a map of classes)" in told


def test_labels_and_order_of_an_own_data_set_are_told(tmp_path: Path) -> None:
    names = ["b.png", "a.png", "c.png", "d.png"]
    root = write_images(tmp_path, dict.fromkeys(names, 7))

    def own(names: list[str], shift: int = 0) -> Source:
        return DatasetSource(Pairs(root, names, shift), Spec("own"), lists_targets=True)

    cache = made_from(tmp_path / "cache", own(names))
    told = difference(cache, own(names, shift=1))
    assert told.startswith("4 samples are relabelled (b.png: class 0, now 1, a.png: class 1, ")
    told = difference(cache, own(["b.png", "c.png", "a.png", "d.png"]))
    assert "2 samples are relabelled (a.png: class 1, now 2, c.png: class 2, now 1)" in told
    twice = difference(cache, own([*names, "a.png"]))
    assert twice.startswith("data has 5 samples, the cache was made from 4")


def test_the_same_samples_in_another_order_are_told(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(6)]
    root = write_images(tmp_path, dict.fromkeys(names, 7))
    one = Pairs(root, names)
    one.samples = [(path, 1) for path, _ in one.samples]
    other = Pairs(root, names)
    other.samples = [(path, 1) for path, _ in one.samples[::-1]]
    cache = made_from(tmp_path / "cache", DatasetSource(one, Spec("own")))
    told = difference(cache, DatasetSource(other, Spec("own")))
    assert told.startswith("6 samples are in another place (sample 0 was 0.png and is 5.png, ")


def test_files_that_are_gone_behind_a_list_are_told(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(6)]
    root = write_images(tmp_path, dict.fromkeys(names, 7))
    cache = made_from(tmp_path / "cache", DatasetSource(Pairs(root, names), Spec("own")))
    (root / "3.png").unlink()
    told = difference(cache, DatasetSource(Pairs(root, names), Spec("own")))
    assert told == "1 file is gone (3.png)"
    for name in names:
        (root / name).unlink(missing_ok=True)
    told = difference(cache, DatasetSource(Pairs(root, names), Spec("own")))
    assert told.startswith("6 samples have no files any more (0.png, 1.png")


def test_an_overwritten_mask_is_told(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(4):
        write_pair(root / "images" / f"{number}.jpg", root / "masks" / f"{number}.png", [[0, 1]])
    spec = f"segfolder:{root},classes=2"
    cache = made_from(tmp_path / "cache", open_source(spec))
    Image.new("L", (2, 1), 1).save(root / "masks" / "2.png", compress_level=0)
    assert difference(cache, spec) == "1 file has another size (mask of images/2.jpg)"
    ids = tmp_path / "ids.csv"
    ids.write_text("0,1\n1,0\n")
    told = difference(made_from(tmp_path / "other", open_source(spec)), f"{spec},ids={ids}")
    assert told == "its names are the same; classes, boxes or pixels held in memory are others"


def test_names_of_any_length_and_kind_make_one_line(tmp_path: Path) -> None:
    names = [f"{'x' * 200}/{number}\n\x1b[31m{'y' * 100}.png" for number in range(20)]
    root = tmp_path / ("long" * 40)
    one = Pairs(root, names)
    source = DatasetSource(one, Spec(f"own:{'z' * 300}"))
    cache = made_from(tmp_path / "cache", source)
    told = difference(cache, DatasetSource(Pairs(root, names[3:]), source_spec(source)))
    assert "3 samples are gone (" in told and "\x1b" not in told


def source_spec(source: Source) -> Spec:
    return Spec(source.spec)


def test_of_a_cache_without_a_list_the_fingerprint_is_compared(tmp_path: Path) -> None:
    source = tree(tmp_path / "images")
    cache = made_from(tmp_path / "cache", source, is_listed=False)
    overwrite(tmp_path / "images")
    require_source(cache, open_source(source.spec))
    rename(tmp_path / "images")
    told = "samples were added, removed, renamed, reordered or relabelled"
    assert difference(cache, source.spec) == told
    remove(tmp_path / "images")
    assert difference(cache, source.spec) == "data has 29 samples, the cache was made from 36"


def test_of_the_first_caches_the_teachers_classes_are_told(tmp_path: Path) -> None:
    source = tree(tmp_path / "images")
    old = {"spec": source.spec, "fingerprint": "0" * 64}
    cache = create_cache(tmp_path / "cache", manifest(rows=36, source=old))
    assert difference(cache, source).endswith("(data has 3 classes, the teacher 5)")


def test_a_damaged_list_leaves_the_fingerprint(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tree(tmp_path / "images")
    cache = made_from(tmp_path / "cache", source)
    (chunk,) = (tmp_path / "cache").glob("source/*/names/c/0")
    chunk.write_bytes(b"no chunk")
    require_source(cache, source)
    rename(tmp_path / "images")
    assert "samples were added, removed" in difference(cache, source.spec)
    assert "the list of its source" in capsys.readouterr().err


def test_caches_of_overwritten_data_do_not_go_together(tmp_path: Path) -> None:
    root = tmp_path / "images"
    source = tree(root)
    one = made_from(tmp_path / "one", source)
    assert source_differences(one, made_from(tmp_path / "same", source)) == []
    assert source_differences(one, made_from(tmp_path / "bare", source, is_listed=False)) == []
    overwrite(root)
    other = made_from(tmp_path / "other", open_source(source.spec))
    (line,) = source_differences(one, other)
    assert "6 files have another size (cat/03.png, " in line
    with pytest.raises(MismatchError, match=r"were made otherwise \(.*6 files have another size"):
        merge_caches(tmp_path / "new", [tmp_path / "one", tmp_path / "other"])
    unlike = fill(tmp_path / "unlike", source=dataclasses.replace(one.manifest.source, classes=9))
    assert source_differences(one, unlike) == ["data of 3 classes there, of 9 here"]


def test_a_training_and_a_dump_refuse_overwritten_images(tmp_path: Path) -> None:
    spec = tree(tmp_path / "images").spec
    settings: dict[str, Any] = {"data": spec, "teacher": f"{CONV},classes=3", "seeds": "0:1"}
    dump(tmp_path / "one", **settings)
    dump(tmp_path / "tars", store="webdataset", **settings)
    assert open_cache(tmp_path / "one").manifest.source.sizes
    overwrite(tmp_path / "images")
    told = r"6 files have another size \(cat/03\.png, .*; give the same data, or dump into a new"
    student = {"data": spec, "student": f"{MLP},classes=3", "loss": "ce", "epochs": 1}
    for name in ("one", "tars"):
        with pytest.raises(MismatchError, match=told):
            train(tmp_path / "run", cache=str(tmp_path / name), batch_size=8, **student)
        with pytest.raises(MismatchError, match=told):
            dump(tmp_path / name, **{**settings, "seeds": "0:2"})
    assert not os.path.exists(tmp_path / "run")  # noqa: PTH110
