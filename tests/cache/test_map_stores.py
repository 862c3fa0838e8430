"""Maps in webdataset stores with their images and masks: what a student needs is in the tars, and
nothing else counts."""

import dataclasses
import hashlib
import io
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from map_caches import DATA, STUDENT, TEACHER, losses, made
from PIL import Image
from runs import train
from segmentation_files import write_pair, write_voc

from kdcache.cache import open_cache
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.source import CachedSource
from kdcache.errors import SourceError, UnreadableSampleError, UsageError
from kdcache.sources import open_source
from kdcache.tools.convert import convert_cache
from kdcache.tools.export import export_cache
from kdcache.tools.recode import recode_cache
from kdcache.verify.cache import verify_cache

EXACT: dict[str, Any] = {"codec": "full:dtype=float32", "seeds": "0:2"}


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    path = tmp_path_factory.mktemp("tars") / "cache"
    made(path, recipe, store="webdataset", **EXACT)
    return path


def files(path: Path) -> list[str]:
    return [str(file) for file in sorted(path.rglob("*.tar"))]


def test_training_from_tars_is_training_from_the_data(
    tars: Path, tmp_path: Path, recipe: str
) -> None:
    made(tmp_path / "zarr", recipe, **EXACT)
    common = {"loss": "dist:tau=1,beta=1,gamma=1", "student": STUDENT, "batch_size": 8, "epochs": 2}
    train(tmp_path / "data", cache=str(tmp_path / "zarr"), data=DATA, **common)
    train(tmp_path / "tars", cache=str(tars), data=None, **common)
    assert (
        losses(tmp_path / "tars") == losses(tmp_path / "data")
        and len(losses(tmp_path / "data")) == 12
    )
    for name, data in (("windows", None), ("windows-of-data", DATA)):
        train(tmp_path / name, cache=str(tars), data=data, window=2, **common)
    assert (
        losses(tmp_path / "windows")
        == losses(tmp_path / "windows-of-data")
        != losses(tmp_path / "data")
    )


def test_a_subset_keeps_its_masks_and_trains_as_the_whole_does(tars: Path, tmp_path: Path) -> None:
    export_cache(tars, tmp_path / "part", samples="8:32")
    part, source = CachedSource(open_cache(tmp_path / "part")), open_source(DATA)
    for found, wanted in zip(part.sample(9), source.sample(9), strict=True):
        assert (found.mode, found.size, found.tobytes()) == (
            wanted.mode,
            wanted.size,
            wanted.tobytes(),
        )
    with pytest.raises(UnreadableSampleError, match="is not in the subset"):
        part.sample(7)
    whole, made_part = open_cache(tars), open_cache(tmp_path / "part")
    rows = np.flatnonzero(made_part.is_held)
    assert (
        made_part.read(1, rows).tobytes() == whole.read(1, rows).tobytes()
        and verify_cache(made_part)["faults"] == []
    )
    common = {
        "loss": "dist:tau=1,beta=1,gamma=1",
        "student": STUDENT,
        "batch_size": 8,
        "epochs": 1,
        "data": None,
    }
    train(tmp_path / "one", cache=str(tars), samples="8:32", **common)
    train(tmp_path / "two", cache=str(tmp_path / "part"), **common)
    assert (
        losses(tmp_path / "one") == losses(tmp_path / "two") and len(losses(tmp_path / "two")) == 3
    )


def test_samples_are_those_of_the_source_and_tars_are_reproducible(
    tars: Path, tmp_path: Path, recipe: str
) -> None:
    cached, source = CachedSource(open_cache(tars)), open_source(DATA)
    assert (cached.task, cached.classes, len(cached)) == ("segmentation", 4, 48)
    for index in (0, 17, 47):
        for found, wanted in zip(cached.sample(index), source.sample(index), strict=True):
            assert (found.mode, found.size, found.tobytes()) == (
                wanted.mode,
                wanted.size,
                wanted.tobytes(),
            )
    made(tmp_path / "again", recipe, store="webdataset", **EXACT)
    assert [Path(file).read_bytes() for file in files(tars)] == [
        Path(file).read_bytes() for file in files(tmp_path / "again")
    ]
    assert verify_cache(open_cache(tars), views=4, data=DATA)["faults"] == []


def test_plain_webdataset_reads_images_masks_and_records(tars: Path) -> None:
    source, order = open_source(DATA), open_cache(tars).order
    samples = list(webdataset.WebDataset(files(tars), shardshuffle=False).decode("pil"))
    assert len(samples) == 48 and {*samples[0]} == {
        "__key__",
        "__url__",
        "__local_path__",
        "png",
        "mask.png",
        "records.npy",
    }
    for sample, index in zip(samples, order.tolist(), strict=True):
        assert sample["__key__"] == source.key(index) and sample["records.npy"].shape[0] == 2
    plain = next(iter(webdataset.WebDataset(files(tars)[:1], shardshuffle=False)))
    mask = Image.open(io.BytesIO(plain["mask.png"]))
    assert mask.mode == "L" and np.array_equal(mask, source.sample(int(order[0])).target)
    assert {*np.unique(mask)} <= {0, 1, 2, 3, 255}


def members(path: Path) -> list[str]:
    """Return the names of all that the tars hold, in order."""
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(Path(file).read_bytes() for file in files(path))),
        ignore_zeros=True,
    ) as tar:
        return tar.getnames()


@pytest.mark.parametrize("kind", ["segfolder", "voc"])
def test_images_are_stored_as_the_data_has_them_and_ids_as_classes(
    kind: str, tmp_path: Path, recipe: str
) -> None:
    if kind == "voc":
        data, classes = (
            f"torchvision:VOCSegmentation,root={write_voc(tmp_path, 4, 18, 26)},image_set=train",
            21,
        )
        folder, name = tmp_path / "VOCdevkit/VOC2012/JPEGImages", "2007_000002.jpg"
    else:
        folder, name, classes = tmp_path / "images", "2.jpg", 3
        for index in range(4):
            write_pair(
                folder / f"{index}.jpg",
                tmp_path / "masks" / f"{index}.png",
                np.full((18, 26), 7 + index % 2),
            )
        (tmp_path / "ids.csv").write_text("7,2\n8,\n")
        data = f"segfolder:{tmp_path},classes=3,ids={tmp_path}/ids.csv"
    made(
        tmp_path / "cache",
        recipe,
        data=data,
        teacher=f"{TEACHER},classes={classes}",
        store="webdataset",
        unit_rows=None,
    )
    cached = CachedSource(open_cache(tmp_path / "cache"))
    assert cached.stored(2) == (folder / name).read_bytes()
    target = np.asarray(cached.sample(2).target)
    assert {*np.unique(target)} == ({0, 1, 20, 255} if kind == "voc" else {2})
    assert np.array_equal(target, open_source(data).sample(2).target)


def test_a_grey_file_that_the_data_set_makes_coloured_is_stored_as_it_is_given(
    tmp_path: Path,
) -> None:
    root = write_voc(tmp_path, 2)
    Image.new("L", (7, 5), 9).save(root / "VOCdevkit/VOC2012/JPEGImages/2007_000001.jpg")
    source: Any = open_source(f"torchvision:VOCSegmentation,root={root},image_set=train")
    assert (
        source.stored(0) is not None
        and source.stored(1) is None
        and source.sample(1).image.mode == "RGB"
    )


def test_stores_are_converted_with_images_both_ways(
    tars: Path, tmp_path: Path, recipe: str
) -> None:
    made(tmp_path / "zarr", recipe, **EXACT)
    convert_cache(tmp_path / "zarr", tmp_path / "tars", store="webdataset", data=DATA)
    convert_cache(tars, tmp_path / "back", store="zarr")
    one, two, three, four = (
        open_cache(path) for path in (tars, tmp_path / "zarr", tmp_path / "tars", tmp_path / "back")
    )
    assert (
        three.manifest.has_images
        and four.manifest.store == "zarr"
        and four.manifest.layout.maps == (2, 4, 6)
    )
    for seed in (0, 1):
        assert (
            len({cache.read(seed, list(range(48))).tobytes() for cache in (one, two, three, four)})
            == 1
        )
    assert (
        CachedSource(three).sample(5).target.tobytes()
        == CachedSource(one).sample(5).target.tobytes()
    )  # type: ignore[union-attr]
    for cache in (three, four):
        assert verify_cache(cache, views=4, data=DATA)["faults"] == []
    assert members(tmp_path / "tars") == members(tars)
    result = recode_cache(tars, tmp_path / "recoded", codec="full:dtype=uint8")
    assert (
        result["after"]["codec"] == "full:dtype=uint8"
        and not open_cache(tmp_path / "recoded").manifest.has_images
    )


def test_without_images_a_student_needs_the_data(tmp_path: Path, recipe: str) -> None:
    made(tmp_path / "cache", recipe, store="webdataset", images=False, **EXACT)
    with pytest.raises(UsageError, match="holds no images"):
        train(tmp_path / "run", cache=str(tmp_path / "cache"), data=None, student=STUDENT)
    assert (
        train(
            tmp_path / "run",
            cache=str(tmp_path / "cache"),
            data=DATA,
            student=STUDENT,
            batch_size=24,
        )["steps"]
        == 4
    )


def test_a_pair_that_cannot_be_read_is_absent_from_tars_too(tmp_path: Path, recipe: str) -> None:
    for index in range(6):
        write_pair(
            tmp_path / "images" / f"{index}.jpg",
            tmp_path / "masks" / f"{index}.png",
            np.full((18, 26), index % 3),
        )
    (tmp_path / "masks" / "3.png").write_bytes(b"not an image")
    data = f"segfolder:{tmp_path},classes=4"
    made(
        tmp_path / "cache",
        recipe,
        data=data,
        store="webdataset",
        unit_rows=None,
        skip_unreadable=True,
        batch_size=2,
    )
    with pytest.raises(
        UnreadableSampleError, match=r"sample 3 .* could not be read when it was dumped"
    ):
        CachedSource(open_cache(tmp_path / "cache")).sample(3)
    assert (
        train(
            tmp_path / "run",
            cache=str(tmp_path / "cache"),
            data=None,
            student=STUDENT,
            batch_size=2,
        )["steps"]
        == 4
    )


def png(size: tuple[int, int], mode: str = "L", value: Any = 0, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value).save(out, kind)
    return out.getvalue()


def huge() -> bytes:
    data = bytearray(png((40, 24)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            png((41, 24)),
            "has a mask of 41x24 pixels and an image of 40x24; both must be of one size",
        ),
        (
            png((40, 24), "RGB"),
            r"has a mask of mode RGB; a stored mask holds 8-bit grey levels \(L\), the classes",
        ),
        (png((40, 24), "I;16"), "has a mask of mode I;16"),
        (png((40, 24), "P"), "has a mask of mode P"),
        (png((40, 24), value=4), "has a mask with class 4; known are 0 to 3, and 255 for none"),
        (
            png((40, 24), kind="BMP"),
            "cannot be read: it is a file that begins with .*images are PNG",
        ),
        (png((40, 24))[:50], "cannot be read"),
        (huge(), "cannot be read: DecompressionBombError"),
        (b"", "cannot be read"),
    ],
)
def test_a_mask_that_is_none_of_its_image_is_told(
    tars: Path, tmp_path: Path, mask: bytes, message: str
) -> None:
    shutil.copytree(tars, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    row = int(np.flatnonzero(cache.order == 5)[0])
    path = sorted((tmp_path / "cache").rglob("*.tar"))[row // 16]
    with tarfile.open(path) as tar:
        held = [(member.name, part.read()) for member in tar if (part := tar.extractfile(member))]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, old in held:
            data = mask if name == "00000005.mask.png" else old
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.fileobj.flush()  # type: ignore[union-attr]
    data = ended_as_kdcache_does(path.read_bytes())
    path.write_bytes(data)
    commit_anew(tmp_path / "cache", row // 16, data)
    source = CachedSource(cache)
    with pytest.raises(SourceError, match=message) as raised:
        source.sample(5)
    assert "\n" not in str(raised.value) and "sample 5 (00000005) of cache:" in str(raised.value)
    assert source.sample(6).image.size == (40, 24)


def ended_as_kdcache_does(data: bytes) -> bytes:
    """Return a tar with two empty blocks at its end, where Python's tarfile fills up to 10 KiB."""
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512 + 1024)


def commit_anew(path: Path, unit: int, data: bytes) -> None:
    """Let the commit of a unit speak of other bytes, as a cache of a stranger may."""
    commit = open_cache(path).whole_commit(0, unit)
    forged = dataclasses.replace(
        commit, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    (path / commit_key(0, unit)).write_bytes(forged.to_bytes())


def test_a_class_in_the_place_of_a_mask_is_refused(tars: Path, tmp_path: Path) -> None:
    shutil.copytree(tars, tmp_path / "cache")
    for unit, path in enumerate(sorted((tmp_path / "cache").rglob("*.tar"))):
        data = path.read_bytes().replace(b".mask.png", b".cls\0\0\0\0\0")
        path.write_bytes(data)
        commit_anew(tmp_path / "cache", unit, data)
    with pytest.raises(SourceError, match=r"is damaged"):
        CachedSource(open_cache(tmp_path / "cache")).sample(0)
