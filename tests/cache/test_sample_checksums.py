"""Checksums of contents: an overwritten file of the same size is seen by whoever reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google_crc32c import value as crc32c
from image_files import write_shards
from PIL import Image
from runs import CONV, IN_PROCESS, MLP, dump, train
from segmentation_files import write_pair

from kdcache.cache import Cache, open_cache
from kdcache.cache.sample_checksums import CheckedSource, changed_samples, checksums_of
from kdcache.cache.source import views_of
from kdcache.cache.source_list import read_list
from kdcache.config.spec import Spec
from kdcache.dump.job import prepare
from kdcache.dump.plan import plan_dump
from kdcache.dump.run import DumpConfig
from kdcache.errors import MismatchError, SourceError, UsageError
from kdcache.runtime.device import ComputeConfig
from kdcache.sources import DatasetSource, open_source
from kdcache.sources.imagefolder import ImageFolder
from kdcache.sources.protocol import Contents
from kdcache.tools.convert import convert_cache
from kdcache.verify.cache import verify_cache

COUNT = 24


def picture(path: Path, seed: int) -> None:
    """Write a picture that takes as many bytes whatever the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=0)


def folder(root: Path) -> str:
    for place in range(COUNT):
        picture(root / "abc"[place % 3] / f"{place:02d}.png", place)
    return f"imagefolder:{root}"


def settings_of(root: Path) -> dict[str, Any]:
    return {"data": folder(root / "images"), "teacher": f"{CONV},classes=3", "seeds": "0:1"}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache with content digests, one of whose images was overwritten after the dump."""
    dump(tmp_path / "cache", content_digests=True, **settings_of(tmp_path))
    cache = open_cache(tmp_path / "cache")
    path = tmp_path / "images" / "b" / "07.png"
    size = path.stat().st_size
    picture(path, 100)
    assert path.stat().st_size == size
    return cache


CHANGED = r"sample \d+ \(b/07\.png\) of imagefolder:.* is not what cache .*: its contents are other"


def test_a_dump_keeps_the_checksums_of_all_files(tmp_path: Path) -> None:
    dump(tmp_path / "cache", content_digests=True, **settings_of(tmp_path))
    cache = open_cache(tmp_path / "cache")
    listing = read_list(cache)
    assert listing is not None and listing.crc32c is not None
    files = [tmp_path / "images" / name for name in listing.names]
    assert listing.crc32c.tolist() == [[crc32c(file.read_bytes())] for file in files]
    data = settings_of_changed(tmp_path)["data"]
    found = verify_cache(cache, contents=True, views=4, data=data)
    assert found["faults"] == [] and found["contents"] == {"checked": COUNT, "changed": 0}
    assert dump(tmp_path / "cache", **settings_of(tmp_path))["units_written"] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_stops_at_an_overwritten_image(
    cache: Cache,
    tmp_path: Path,
    workers: int,
) -> None:
    student = {"student": f"{MLP},classes=3", "loss": "ce", "epochs": 1, "batch_size": 8}
    compute = ComputeConfig(workers=workers, device="cpu")
    data = f"imagefolder:{tmp_path / 'images'}"
    with pytest.raises(MismatchError, match=CHANGED):
        train(tmp_path / "run", cache=str(cache), data=data, compute=compute, **student)


def test_whatever_reads_the_data_of_a_cache_sees_it(cache: Cache, tmp_path: Path) -> None:
    data = f"imagefolder:{tmp_path / 'images'}"
    with pytest.raises(MismatchError, match=CHANGED):
        dump(cache.storage.path, **{**settings_of_changed(tmp_path), "seeds": "0:2"})
    with pytest.raises(MismatchError, match=CHANGED):
        convert_cache(str(cache), tmp_path / "tars", store="webdataset", data=data)
    views = views_of(cache, data)
    row = int(np.flatnonzero(cache.order == [*names(cache)].index("b/07.png"))[0])
    with pytest.raises(MismatchError, match=CHANGED):
        views.batch([(row, 0)])
    assert views.batch([((row + 1) % COUNT, 0)]).labels.first.shape == (1,)


def settings_of_changed(root: Path) -> dict[str, Any]:
    """Return the settings of the dump, without writing the images anew."""
    spec = f"imagefolder:{root / 'images'}"
    return {"data": spec, "teacher": f"{CONV},classes=3", "seeds": "0:1"}


def names(cache: Cache) -> list[str]:
    listing = read_list(cache)
    assert listing is not None
    return [*listing.names]


def test_verify_names_all_that_changed(cache: Cache, tmp_path: Path) -> None:
    for place in range(2, 20, 3):
        picture(tmp_path / "images" / "c" / f"{place:02d}.png", 200 + place)
    found = verify_cache(cache, contents=True, data=settings_of_changed(tmp_path)["data"])
    (fault,) = found["faults"]
    assert found["contents"] == {"checked": COUNT, "changed": 7}
    told = "7 samples have other contents than at the dump (b/07.png, c/02.png, c/05.png, c/08.png"
    assert told in fault and fault.endswith("c/11.png, ...)")
    with pytest.raises(UsageError, match="none are asked for; give --views N, --contents or"):
        verify_cache(cache, data="digits:train")


def test_an_overwritten_file_of_the_same_size_needs_them(tmp_path: Path) -> None:
    """What the README says is not checked without content digests is not."""
    dump(tmp_path / "cache", **settings_of(tmp_path))
    picture(tmp_path / "images" / "b" / "07.png", 100)
    cache = open_cache(tmp_path / "cache")
    views_of(cache, f"imagefolder:{tmp_path / 'images'}")
    with pytest.raises(UsageError, match=r"was made without content digests.*--content-digests"):
        verify_cache(cache, contents=True, data=f"imagefolder:{tmp_path / 'images'}")
    with pytest.raises(MismatchError, match=r"content_digests is true, and cache .* without them"):
        dump(tmp_path / "cache", content_digests=True, **settings_of_changed(tmp_path))


def test_digests_cannot_be_left_out_of_a_cache_that_has_them(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"content_digests is false, and cache .* with them"):
        dump(cache.storage.path, content_digests=False, **settings_of_changed(tmp_path))


def test_a_cache_with_its_own_images_has_other_bytes_to_check(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    dump(tmp_path / "tars", content_digests=True, store="webdataset", **settings)
    cache = open_cache(tmp_path / "tars")
    with pytest.raises(UsageError, match=r"holds its images itself.*give --data SPEC"):
        verify_cache(cache, contents=True)
    assert verify_cache(cache, contents=True, data=settings["data"])["contents"]["changed"] == 0
    picture(tmp_path / "images" / "a" / "03.png", 50)
    assert changed_samples(cache, open_source(settings["data"])) == ["a/03.png"]


def test_a_plan_reads_no_contents(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    config = DumpConfig(
        cache=str(tmp_path / "new"),
        recipe="digits",
        content_digests=True,
        compute=IN_PROCESS,
        **settings,
    )
    assert prepare(config, is_plan=True).manifest.source.contents is None
    assert plan_dump(config)["files"] == 2 + 2 + 2 + 2 + 2 * 3 + 1, (
        "names, sizes, targets, and what was asked for"
    )


@pytest.mark.parametrize("kind", ["masks", "tars", "memory"])
def test_every_kind_of_source_is_compared(tmp_path: Path, kind: str) -> None:
    source: Any = KINDS[kind](tmp_path)
    checksums = checksums_of(source, skip_unreadable=False)
    assert checksums.shape[0] == len(source)
    checked = CheckedSource(source, checksums, "here")
    for index in range(len(source)):
        sample = source.sample(index)
        assert checked.sample(index).image.tobytes() == sample.image.tobytes()
        assert checked.stored(index) == source.stored(index)
    for column in range(checksums.shape[1]):
        other = checksums.copy()
        other[2, column] ^= 1
        spoiled = CheckedSource(source, other, "here")
        spoiled.sample(1)
        with pytest.raises(MismatchError, match=r"sample 2 .* is not what cache here was"):
            spoiled.sample(2)


def masks(root: Path) -> Any:
    for number in range(4):
        ids = [[number % 2, 1]]
        write_pair(root / "images" / f"{number}.jpg", root / "masks" / f"{number}.png", ids)
    return open_source(f"segfolder:{root},classes=2")


KINDS: dict[str, Callable[[Path], Any]] = {
    "masks": masks,
    "tars": lambda root: open_source(f"tars:{write_shards(root, 3, 2)}"),
    "memory": lambda root: open_source("tiny_models:noise,length=5"),
}


def test_of_a_mask_the_file_counts_too(tmp_path: Path) -> None:
    source = masks(tmp_path)
    checked = CheckedSource(source, checksums_of(source, skip_unreadable=False), "here")
    checked.sample(3)
    Image.new("L", (2, 1), 0).save(tmp_path / "masks" / "3.png")
    with pytest.raises(MismatchError, match=r"sample 3 \(images/3\.jpg\)"):
        checked.sample(3)
    with pytest.raises(MismatchError, match=r"sample 3 \(images/3\.jpg\)"):
        checked.stored(3)


def test_what_is_decoded_are_the_bytes_that_were_compared(tmp_path: Path) -> None:
    class Vanishing(DatasetSource):
        def contents(self, index: int) -> Contents | None:
            contents = super().contents(index)
            (tmp_path / self.key(index)).unlink()
            return contents

    spec = folder(tmp_path)
    checksums = checksums_of(open_source(spec), skip_unreadable=False)
    image = open_source(spec).sample(5).image
    vanishing = Vanishing(ImageFolder(str(tmp_path)), Spec("vanishing"))
    checked = CheckedSource(vanishing, checksums, "here")
    assert checked.sample(5).image.tobytes() == image.tobytes()


def test_what_cannot_be_read_stops_or_has_no_checksum(tmp_path: Path) -> None:
    source: Any = open_source(folder(tmp_path))
    (tmp_path / "a" / "03.png").unlink()
    for skips in (False, True):  # a file that is gone is no unreadable sample: more may be gone
        with pytest.raises(SourceError, match=r"sample 1 \(a/03\.png\).*was it moved"):
            checksums_of(source, skip_unreadable=skips)


def test_a_data_set_that_draws_its_images_has_no_contents() -> None:
    from tiny_models import Drawing

    source = DatasetSource(Drawing(4), Spec("drawing"))
    with pytest.raises(UsageError, match=r"gives another image each time .*--content-digests out"):
        checksums_of(source, skip_unreadable=False)
