"""Image folders: keys are relative paths, the fingerprint notices changes without opening an image,
a long list is kept."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_files import LONG_AGO, age, write_images
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS as THEIR_EXTENSIONS

from kdcache.errors import SourceError, UnreadableSampleError
from kdcache.runtime.home import home_folder
from kdcache.sources import Source, open_source
from kdcache.sources.folder_files import IMG_EXTENSIONS
from kdcache.sources.imagefolder import NUM_KEPT

FILES = {"cat/a.png": 10, "cat/b.png": 20, "dog/a.png": 30, "dog/c.jpg": 40, "owl/x/deep.png": 50}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", FILES)


def fingerprint(folder: Path) -> str:
    return open_source(f"imagefolder:{folder}").fingerprint


def test_imagefolder_has_relative_paths_as_keys(folder: Path) -> None:
    source = open_source(f"imagefolder:{folder}")
    assert isinstance(source, Source)
    assert [source.key(index) for index in range(len(source))] == list(FILES)
    assert [source.sample(index).target for index in range(5)] == [
        0,
        0,
        1,
        1,
        2,
    ] and source.classes == 3
    assert source.sample(1).image.getpixel((0, 0)) == (20, 20, 20)


def test_images_have_the_extensions_that_torchvision_takes() -> None:
    assert IMG_EXTENSIONS == THEIR_EXTENSIONS


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
    with pytest.raises(
        UnreadableSampleError, match=r"sample 2 \(dog/a\.png\) of imagefolder:.* cannot be read"
    ):
        source.sample(2)
    assert source.sample(3).target == 1


def test_a_file_that_went_away_is_named(folder: Path) -> None:
    source = open_source(f"imagefolder:{folder}")
    (folder / "cat/a.png").unlink()
    with pytest.raises(
        SourceError, match=r"sample 0 \(cat/a\.png\).*FileNotFoundError.*was it moved"
    ) as caught:
        source.sample(0)
    assert not isinstance(caught.value, UnreadableSampleError), "which would be skipped"


def test_a_folder_without_classes_or_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no class folder; give a folder that holds one"):
        open_source(f"imagefolder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    with pytest.raises(SourceError, match="class folder cat holds no image"):
        open_source(f"imagefolder:{tmp_path}")
    (tmp_path / "cat" / "zarr.json").touch()
    with pytest.raises(SourceError, match="or move the folder elsewhere: it is a cache"):
        open_source(f"imagefolder:{tmp_path}")


def test_the_fingerprint_of_existing_caches_stays(folder: Path) -> None:
    assert fingerprint(folder) == "62e697cfac41af28b86f281e15586049e3bcbbb99cf793200c05f7c484af3e30"


def test_a_folder_of_few_images_keeps_no_list(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    open_source(f"imagefolder:{settle(folder)}")
    assert not home_folder().exists()


def settle(root: Path, seconds: int = LONG_AGO) -> Path:
    for folder, _, _ in os.walk(root, followlinks=True):
        age(Path(folder), seconds)
    return root


@pytest.fixture(scope="module")
def large_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write as many (empty) files as make a list that is kept, in two classes and folders below
    them."""
    root = tmp_path_factory.mktemp("large")
    for folder, count in (("cat", NUM_KEPT - 5), ("dog/x/y", 5), ("dog/empty", 0), ("dog/z", 2)):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            (root / folder / f"{index}.JPG").touch()
    (root / "dog" / "notes.txt").touch()
    return root


@pytest.fixture
def large(large_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    shutil.copytree(large_template, tmp_path / "large", copy_function=os.link)
    return settle(tmp_path / "large")


def kept() -> Path:
    (path,) = (home_folder() / "listings").iterdir()
    return path


def test_a_kept_list_is_the_same_list(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = open_source(f"imagefolder:{large}")
    theirs = ImageFolder(str(large)).samples
    before = kept().read_bytes()
    again = open_source(f"imagefolder:{large}")
    assert kept().read_bytes() == before
    for source in (listed, again):
        keys = [source.key(index) for index in range(len(source))]
        assert [str(large / key) for key in keys] == [path for path, _ in theirs]
    assert again.fingerprint == listed.fingerprint and again.classes == 2
    monkeypatch.chdir(large.parent)
    assert fingerprint(Path("large")) == fingerprint(Path("./large/")) == listed.fingerprint


def test_a_kept_list_is_used(large: Path) -> None:
    before = fingerprint(large)
    (large / "cat" / "0.JPG").unlink()
    settle(large)  # as if nothing had changed
    assert fingerprint(large) == before
    kept().unlink()
    assert fingerprint(large) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "cat" / "new.jpg").touch(),
        lambda root: (root / "dog/x/y" / "3.JPG").unlink(),
        lambda root: (root / "dog/x/y" / "3.JPG").rename(root / "dog/x/y" / "33.JPG"),
        lambda root: (root / "dog/empty" / "new.jpg").touch(),
        lambda root: write_images(root, {"dog/x/new/a.png": 1}),
        lambda root: write_images(root, {"owl/a.png": 1}),
        lambda root: shutil.rmtree(root / "dog/z"),
        lambda root: (root / "dog").rename(root / "wolf"),
    ],
    ids=[
        "added",
        "removed",
        "renamed",
        "in an empty folder",
        "in a new folder",
        "class added",
        "folder removed",
        "class renamed",
    ],
)
def test_a_change_below_the_root_makes_a_new_list(large: Path, change: Any) -> None:
    before = fingerprint(large)
    assert kept()
    change(large)
    assert fingerprint(large) != before
    theirs = ImageFolder(str(large)).samples
    source = open_source(f"imagefolder:{large}")
    assert [str(large / source.key(index)) for index in range(len(source))] == [
        path for path, _ in theirs
    ]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: b"", lambda data: data[:200] + b"?" + data[201:]],
)
def test_a_damaged_list_is_made_anew(large: Path, damage: Any) -> None:
    before = fingerprint(large)
    whole = kept().read_bytes()
    kept().write_bytes(damage(whole))
    assert fingerprint(large) == before
    assert kept().read_bytes() == whole


def test_no_list_is_kept_of_folders_that_have_just_changed(large: Path) -> None:
    (large / "dog/x/y" / "new.jpg").touch()
    open_source(f"imagefolder:{large}")
    assert not (home_folder() / "listings").exists()


def test_links_to_folders_are_followed(large: Path, tmp_path: Path) -> None:
    moved = (large / "dog").rename(tmp_path / "elsewhere")
    (large / "dog").symlink_to(moved)
    settle(large)
    before = fingerprint(large)
    assert kept()
    (moved / "z" / "new.jpg").touch()
    assert fingerprint(large) != before


def test_a_pipe_among_the_images_is_named_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "owl" / "z.png")
    source = open_source(f"imagefolder:{folder}")
    index = list(source.keys()).index("owl/z.png")  # type: ignore[attr-defined]
    for read in (source.sample, source.contents, source.stored):  # type: ignore[attr-defined]
        with pytest.raises(UnreadableSampleError, match=r"z\.png.* a named pipe, not a plain file"):
            read(index)


@pytest.mark.parametrize(
    ("number", "way_out"),
    [(13, "have its owner allow it"), (5, "see that its disk or mount is well, and run again")],
)
def test_folders_that_cannot_be_listed_are_told_with_the_way_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, way_out: str
) -> None:
    def fail(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(SourceError, match=f"cannot be listed: .*; {way_out}$"):
        open_source(f"imagefolder:{folder}")
