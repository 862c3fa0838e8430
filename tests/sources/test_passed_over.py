"""Nothing is left out without a word: what a source passes over is counted, and what looks like a
sample is refused by name."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import age, picture, write_images, write_shards, write_tar
from PIL import Image
from segmentation_files import write_pair

from kdcache.errors import SourceError, UsageError
from kdcache.sources import open_source
from kdcache.sources.imagefolder import NUM_KEPT

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"cat/a.png": 1, "cat/b.png": 2, "dog/a.png": 3})


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for name in "01234":
        write_pair(
            tmp_path / "pairs" / "images" / f"{name}.jpg",
            tmp_path / "pairs" / "masks" / f"{name}.png",
            [[0, 1]],
        )
    return tmp_path / "pairs"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_that_are_no_images_are_counted_once(folder: Path, capsys: Capture) -> None:
    assert len(open_source(f"imagefolder:{folder}")) == 3 and not capsys.readouterr().err
    touch(
        folder,
        "cat/x.txt",
        "dog/y.TXT",
        "dog/.DS_Store",
        "labels.csv",
        "cat/deep/README",
        "cat/.x.swp",
    )
    assert len(open_source(f"imagefolder:{folder}")) == 3
    told = f"imagefolder {folder}: 6 files passed over that are no images (.txt 2, "
    assert capsys.readouterr().err.startswith(told)
    for name in ("cat/x.txt", "dog/y.TXT", "dog/.DS_Store", "cat/deep/README", "cat/.x.swp"):
        (folder / name).unlink()
    open_source(f"imagefolder:{folder}")
    assert (
        capsys.readouterr().err
        == f"imagefolder {folder}: 1 file passed over that is no image (.csv 1)\n"
    )


def test_what_was_passed_over_is_told_from_a_kept_list_too(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    touch(
        tmp_path / "large",
        *(f"cat/{index}.jpg" for index in range(NUM_KEPT)),
        "cat/x.txt",
        "cat/x.md",
    )
    for root, _, _ in os.walk(tmp_path / "large"):
        age(Path(root))
    for _ in range(2):
        open_source(f"imagefolder:{tmp_path}/large")
        assert "2 files passed over that are no images (.md 1, .txt 1)" in capsys.readouterr().err
        assert len(list((tmp_path / "home" / "listings").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat/x.gif", r"images/cat/x.gif would be left out: imagefolder takes \.jpg .*; convert it to PNG, or move it out"),
        ("cat/deep/x.JFIF", "cat/deep/x.JFIF would be left out"),
        ("dog/x.heic", "dog/x.heic would be left out"),
        ("dog/._a.png", "dog/._a.png is a hidden image, as editors and systems leave them; remove it"),
        ("cat/.ipynb_checkpoints/a-checkpoint.png", "cat/.ipynb_checkpoints/a-checkpoint.png is a hidden image"),
        (".ipynb_checkpoints/a.png", ".ipynb_checkpoints/a.png is a hidden image"),
        (".trash/x/a.gif", ".trash/a.gif is a hidden image"),
        ("preview.png", "image preview.png lies beside the class folders, and would be left out; move it into one, or out"),
    ],
)  # fmt: skip
def test_what_looks_like_an_image_of_a_class_is_refused_by_name(
    folder: Path, name: str, message: str
) -> None:
    touch(folder, name)
    with pytest.raises(SourceError, match=message):
        open_source(f"imagefolder:{folder}")


def test_hidden_folders_without_images_are_no_classes(folder: Path, capsys: Capture) -> None:
    before = open_source(f"imagefolder:{folder}").fingerprint
    touch(folder, ".git/config", ".ipynb_checkpoints/x.txt")
    source = open_source(f"imagefolder:{folder}")
    assert source.classes == 2 and source.fingerprint == before
    assert (
        "2 files passed over that are no images (.txt 1, no extension 1)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("cat/loop", "images/cat", "images/cat/loop is a link that leads back to .*images/cat, whose files would come again"),
        ("cat/x/up", "images", "images/cat/x/up is a link that leads back to .*images, whose"),
        ("cat/above", ".", "images/cat/above/images is a link that leads back to .*images, whose"),
        ("cat/other", "images/dog", "images/cat/other and .*images/dog are one folder, by a link: its files would come twice"),
        ("owl", "images/dog", "images/dog and .*images/owl are one folder, by a link"),
    ],
)  # fmt: skip
def test_a_folder_that_comes_twice_by_a_link_is_refused(
    folder: Path, link: str, target: str, message: str
) -> None:
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(folder.parent / target)
    with pytest.raises(SourceError, match=message):
        open_source(f"imagefolder:{folder}")


def test_a_link_to_a_folder_elsewhere_is_followed(folder: Path, tmp_path: Path) -> None:
    before = open_source(f"imagefolder:{folder}").fingerprint
    (folder / "dog").rename(tmp_path / "elsewhere")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    assert open_source(f"imagefolder:{folder}").fingerprint == before


def test_the_folder_above_train_and_val_is_noted(tmp_path: Path, capsys: Capture) -> None:
    write_images(tmp_path / "data", {"train/cat/a.png": 1, "val/cat/a.png": 2, "test/x/a.png": 3})
    open_source(f"imagefolder:{tmp_path}/data")
    assert (
        "note: imagefolder " in (told := capsys.readouterr().err)
        and "called test, train, val; if these are parts" in told
    )
    assert f"give one of them: imagefolder:{tmp_path}/data/val" in told
    shutil.rmtree(tmp_path / "data" / "val")
    shutil.rmtree(tmp_path / "data" / "test")
    write_images(tmp_path / "data", {"bus/a.png": 1})
    open_source(f"imagefolder:{tmp_path}/data")
    assert not capsys.readouterr().err, "a train may be a vehicle"


def test_a_folder_of_something_else_is_answered_with_what_to_write(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars", 2)
    write_images(tmp_path / "flat", {"a.png": 1})
    for arg, message in (
        ("tars", "holds tars and no class folder; write tars:.*/tars$"),
        ("tars/00.tar", "is not a folder; .*; write tars:.*/tars/00.tar$"),
        (
            "flat",
            (
                "holds images and no class folder; put the images of each class into a folder of"
                " their own"
            ),
        ),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(f"imagefolder:{tmp_path}/{arg}")


def test_files_beside_the_pairs_are_counted(pairs: Path, capsys: Capture) -> None:
    before = open_source(f"segfolder:{pairs},classes=2").fingerprint
    assert not capsys.readouterr().err
    touch(pairs, "images/x.txt", "masks/.DS_Store", "masks/deep/y.txt", "notes.md")
    assert open_source(f"segfolder:{pairs},classes=2").fingerprint == before
    told = (
        f"segfolder {pairs}: 3 files passed over that are neither images nor masks (.txt 2,"
        " .DS_Store 1)\n"
    )
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images/0.jpg", "images/0.JPG", r"mask masks/0.png has no image images/0.jpg; images/0.JPG is there, and"),
        ("images/1.jpg", "images/1.jpeg", r"images/1.jpeg is there, and the pattern is images/\{\}.jpg: rename it, or"),
        ("images/2.jpg", "images/2.png", "images/2.png is there"),
        ("images/2.jpg", "elsewhere/2.jpg", "mask masks/2.png has no image images/2.jpg; add it, or remove the mask"),
        ("masks/3.png", "masks/3.PNG", "image images/3.jpg has no mask masks/3.png; masks/3.PNG is there"),
        ("masks/4.png", "masks/4.tif", "masks/4.tif is there, and the pattern is"),
        ("masks/4.png", "x", "image images/4.jpg has no mask masks/4.png; add it, or remove the image"),
        (None, "images/7.jpeg", r"images/7.jpeg would be left out, the pattern is images/\{\}.jpg; rename or convert"),
        (None, "images/7.gif", "images/7.gif would be left out"),
        (None, "masks/7.bmp", "masks/7.bmp would be left out"),
        (None, "images/._0.jpg", "images/._0.jpg is hidden, as editors and systems leave files; remove it"),
        (None, "images/.ipynb_checkpoints/0-checkpoint.jpg", "images/.ipynb_checkpoints/0-checkpoint.jpg is hidden"),
        (None, "masks/.x/0.png", "masks/.x/0.png is hidden"),
    ],
)  # fmt: skip
def test_a_pair_that_would_be_left_out_is_refused_by_name(
    pairs: Path, old: str | None, new: str, message: str
) -> None:
    touch(pairs, new)
    if old is not None:
        (pairs / old).rename(pairs / new)
    with pytest.raises(SourceError, match=message):
        open_source(f"segfolder:{pairs},classes=2")


def test_masks_without_images_are_counted(pairs: Path) -> None:
    for name in "124":
        (pairs / "images" / f"{name}.jpg").unlink()
    with pytest.raises(
        SourceError, match=r"mask masks/1.png \(and 2 more\) has no image images/1.jpg; add it"
    ):
        open_source(f"segfolder:{pairs},classes=2")


def test_images_and_masks_may_share_a_folder_with_others(tmp_path: Path, capsys: Capture) -> None:
    for name in "ab":
        write_pair(tmp_path / f"{name}.jpg", tmp_path / f"{name}_ids.png", [[0, 1]])
    touch(tmp_path, "a_depth.png", "a_colour.png", "b.json")
    spec = f"segfolder:{tmp_path},images={{}}.jpg,masks={{}}_ids.png,classes=2"
    assert len(open_source(spec)) == 2
    assert (
        "3 files passed over that are neither images nor masks (.png 2, .json 1)"
        in capsys.readouterr().err
    )
    touch(tmp_path, "c.jpeg", "c_ids.png")
    with pytest.raises(SourceError, match=r"mask c_ids.png has no image c.jpg; c.jpeg is there"):
        open_source(spec)


def test_links_below_the_pairs_lead_nowhere_twice(pairs: Path) -> None:
    (pairs / "images" / "loop").symlink_to(pairs / "images")
    with pytest.raises(SourceError, match="images/loop is a link that leads back to"):
        open_source(f"segfolder:{pairs},classes=2")


def test_the_folder_above_train_and_val_of_pairs_is_noted(tmp_path: Path, capsys: Capture) -> None:
    for part in ("train", "val"):
        write_pair(
            tmp_path / "images" / part / "a.jpg", tmp_path / "masks" / part / "a.png", [[0, 1]]
        )
    open_source(f"segfolder:{tmp_path},classes=2")
    told = capsys.readouterr().err
    assert (
        "takes the images of train, val together" in told
        and "images=images/val/{}.jpg,masks=masks/val/{}.png" in told
    )


def test_a_mask_that_is_a_jpeg_is_refused_whatever_it_is_called(pairs: Path) -> None:
    shutil.copy(pairs / "images" / "3.jpg", pairs / "masks" / "3.png")
    source = open_source(f"segfolder:{pairs},classes=2")
    with pytest.raises(
        SourceError,
        match=(
            r"sample 3 \(images/3.jpg\) .* has a mask that is a JPEG; that changes ids at the edges"
        ),
    ):
        source.sample(3)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(
        pairs / "masks" / "2.png", "TIFF", compression="jpeg"
    )
    with pytest.raises(
        SourceError,
        match=r"has a mask that is a TIFF compressed as JPEG; .* make the masks anew, as PNG",
    ):
        source.sample(2)
    with pytest.raises(UsageError, match=r"masks=masks/\{\}.jpg are JPEGs; that changes ids"):
        open_source(f"segfolder:{pairs},classes=2,masks=masks/{{}}.jpg")


def test_members_that_are_no_samples_are_counted(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    sample = {"a.png": picture(1), "a.cls": b"0"}
    write_tar(
        tmp_path / "x.tar",
        {
            **sample,
            "a.json": b"{}",
            "a.depth.png": b"",
            "README": b"",
            "._a.png": b"",
            "b.txt": b"",
        },
    )
    write_tar(tmp_path / "y.tar", {**sample, "a.json": b"{}"})
    for _ in range(2):
        assert len(open_source(f"tars:{tmp_path}/x.tar")) == 1
        assert "5 files passed over that are neither images nor targets (" in (
            told := capsys.readouterr().err
        )
        assert all(
            kind in told
            for kind in (".json 1", ".png 1", "no extension 1", "hidden .png 1", ".txt 1")
        )
    open_source(f"tars:{tmp_path}/*.tar")
    assert "6 files passed over" in (told := capsys.readouterr().err) and ".json 2" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b.gif", "image b.gif would be left out: images are jpg, jpeg, png"),
        ("b.JFIF", "image b.JFIF would be left out"),
        (".ipynb_checkpoints/a.png", "image .ipynb_checkpoints/a.png is in a hidden folder"),
    ],
)
def test_a_member_that_looks_like_a_sample_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    write_tar(tmp_path / "x.tar", {"a.png": picture(1), "a.cls": b"0", name: picture(2)})
    with pytest.raises(SourceError, match=f"tar .*x.tar: {message}"):
        open_source(f"tars:{tmp_path}/x.tar")


def test_files_beside_the_tars_are_counted_or_refused(tmp_path: Path, capsys: Capture) -> None:
    write_shards(tmp_path / "set", 2, 2)
    write_shards(tmp_path / "set" / "more", 1)
    touch(tmp_path / "set", "readme.md")
    assert len(open_source(f"tars:{tmp_path}/set")) == 4
    told = capsys.readouterr().err
    assert f"tars {tmp_path}/set: 1 file passed over that is no tar (.md 1)" in told
    assert (
        f"note: tars {tmp_path}/set: {tmp_path}/set/more holds tars too, which are passed over"
        in told
    )
    for name in ("02.tar.gz", "02.TAR", "02.tgz", "._00.tar", ".02.tar"):
        touch(tmp_path / "set", name)
        with pytest.raises(
            SourceError,
            match=rf"set/{name} would be left out: a folder's tars are \*.tar, not compressed",
        ):
            open_source(f"tars:{tmp_path}/set")
        (tmp_path / "set" / name).unlink()
    (tmp_path / "set" / "02.tar").symlink_to(tmp_path / "set" / "00.tar")
    with pytest.raises(
        SourceError,
        match=r"tars .*/00.tar and .*/02.tar are one file, by a link: its samples would come twice",
    ):
        open_source(f"tars:{tmp_path}/set")


def test_a_folder_without_tars_says_where_some_are(tmp_path: Path) -> None:
    write_shards(tmp_path / "data" / "train", 2)
    (tmp_path / "none").mkdir()
    for folder, hint in (
        ("data", f"; {tmp_path}/data/train holds tars"),
        ("none", f"; a folder of images is imagefolder:{tmp_path}"),
    ):
        with pytest.raises(SourceError, match=f"names no tar; .*{hint}"):
            open_source(f"tars:{tmp_path}/{folder}")


def test_hidden_samples_of_torchvisions_sets_are_refused(tmp_path: Path) -> None:
    """Some list all that is in a folder."""
    root = tmp_path / "eurosat" / "2750"
    write_images(root, {"Forest/a.png": 1, "River/a.png": 2})
    spec = f"torchvision:EuroSAT,root={tmp_path}"
    assert len(open_source(spec)) == 2
    write_images(root, {"Forest/.ipynb_checkpoints/a.png": 1})
    with pytest.raises(
        SourceError, match=r"lists .*Forest/.ipynb_checkpoints/a.png, which is hidden, as editors"
    ):
        open_source(spec)


def test_a_file_name_of_any_bytes_is_a_key(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", {"cat/a.png": 1})
    (root / "cat" / "a.png").rename(os.fsdecode(os.fsencode(root) + b"/cat/caf\xe9.png"))
    source = open_source(f"imagefolder:{root}")
    assert (
        source.key(0) == "cat/caf\udce9.png"
        and source.sample(0).image.size == (6, 6)
        and len(source.fingerprint) == 64
    )
