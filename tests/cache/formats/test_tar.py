"""The webdataset store: units of several seeds as tars."""

import io
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset
from caches import PATTERNS, flipped, manifest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit
from kdcache.cache.documents.parts import Absence
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.formats.tar import TarFormat, member_name
from kdcache.errors import CacheError, DamagedUnitError
from kdcache.shapes import Records
from kdcache.sources.tar_reader import TarReader

STORE: dict[str, Any] = {
    "store": "webdataset",
    "seeds_per_unit": 3,
    "has_images": True,
    "chunk_rows": 8,
}


def unit(cache: Cache, number: int, writer: int = 0) -> tuple[Records, list[StoredSample]]:
    rows = cache.manifest.unit_range(number)
    generator = np.random.default_rng([writer, number])
    raw = generator.integers(
        0, 100, (cache.manifest.seeds_per_unit, len(rows), cache.manifest.dtype.itemsize), np.uint8
    )
    images = [b"" if row == 9 else bytes([row]) * (row + 1) for row in rows]
    samples = [
        StoredSample(f"class/a.{row}", "jpg", image, str(row).encode())
        for row, image in zip(rows, images, strict=True)
    ]
    return raw.view(cache.manifest.dtype)[..., 0], samples


def fill(path: Path, **changes: Any) -> Cache:
    cache = create_cache(path, manifest(**{**STORE, **changes}))
    for number in range(cache.manifest.num_units):
        commit_unit(cache, 3, number, *unit(cache, number))
    return cache


def test_records_come_back_by_seed_and_row(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    assert cache.seeds() == cache.complete_seeds() == [3, 4, 5] and cache.units() == [
        (3, 0),
        (3, 1),
        (3, 2),
    ]
    written = np.concatenate([unit(cache, number)[0] for number in range(3)], axis=1)
    for seed in (5, 3, 4):
        assert (
            open_cache(tmp_path).read(seed, np.arange(20)).tobytes() == written[seed - 3].tobytes()
        )
    assert cache.committed_units(0) == [] and cache.missing_units(2) == [0, 1, 2]


def test_plain_webdataset_reads_images_labels_and_records(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    urls = [str(path) for path in sorted((tmp_path / "shards").rglob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"class%2Fa%2E{row}" for row in range(20)]
    for row, sample in enumerate(samples):
        records, _ = unit(cache, row // 8)
        loaded = np.lib.format.read_array(io.BytesIO(sample["records.npy"]), allow_pickle=False)
        assert loaded.tobytes() == records[:, row % 8].tobytes() and loaded.shape == (
            3,
            cache.manifest.dtype.itemsize,
        )
        assert ("jpg" in sample, "cls" in sample) == (
            row != 9,
            row != 9,
        ), "one that could not be read has records only"
        assert row == 9 or (
            sample["jpg"] == bytes([row]) * (row + 1) and sample["cls"] == str(row).encode()
        )


def test_equal_content_is_equal_bytes_without_traces_of_who_wrote_it(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "1"), fill(tmp_path / "2")
    for first, number in one.units():
        assert one.unit_bytes(one.commit_of(first, number)) == two.unit_bytes(
            two.commit_of(first, number)
        )
    with tarfile.open(next((tmp_path / "1").rglob("*.tar"))) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {
            (0, 0, 0, "", "", 0o644)
        }


def test_the_index_finds_images_and_labels(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    data = cache.unit_bytes(cache.commit_of(4, 1))
    index = TarFormat.of(cache.manifest).index(1, TarReader.of(data))
    assert index.keys == [f"class/a.{row}" for row in range(8, 16)]
    targets = [target and data[target.offset :][: target.size] for target in index.targets]
    assert targets == [b"8", None, *(str(row).encode() for row in range(10, 16))]
    assert [data[at : at + size] for at, size in zip(index.offsets, index.sizes, strict=True)] == [
        b"" if row == 9 else bytes([row]) * (row + 1) for row in range(8, 16)
    ]


def test_of_two_writers_the_first_wins(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    theirs = unit(cache, 1)[0]
    assert commit_unit(cache, 3, 1, *unit(cache, 1, writer=1)) == open_cache(tmp_path).commit_of(
        3, 1
    )
    assert cache.read_unit(cache.commit_of(4, 1)).tobytes() == theirs[1].tobytes()


def test_what_a_commit_says_of_one_seed_does_not_count_for_the_others(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest(**STORE))
    entries = [Absence(row=2, reason="?", seed=4), Absence(row=3, reason="?", seed=5)]
    for number in range(3):
        commit_unit(cache, 3, number, *unit(cache, number), absent=entries if number == 0 else [])
    assert [cache.slab(seed).absent.tolist() for seed in (3, 4, 5)] == [[], [2], [3]]


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 1024, 1025])
def test_a_tar_cut_short_is_refused_even_by_its_own_checks(tmp_path: Path, cut: int) -> None:
    cache = fill(tmp_path)
    data = cache.unit_bytes(cache.commit_of(3, 0))
    shape, out = (
        TarFormat.of(cache.manifest),
        np.zeros((3, 8, cache.manifest.dtype.itemsize), np.uint8),
    )
    shape.decode(0, data, out)
    assert out.tobytes() == b"".join(cache.read(seed, range(8)).tobytes() for seed in (3, 4, 5))
    with pytest.raises(ValueError, match=r"cut short|not a tar|rows"):
        shape.decode(0, data[: len(data) - 1024 - cut] if cut else b"", out)


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    commit = cache.commit_of(3, 0)
    path = tmp_path / commit.key
    data = path.read_bytes()
    for position in range(0, len(data), 997):
        path.write_bytes(flipped(data, position, PATTERNS[position % 3]))
        with pytest.raises(DamagedUnitError, match="SHA-256"):
            cache.read_unit(commit)


@given(st.text(max_size=70))
def test_names_hold_neither_dots_nor_slashes_and_can_be_undone(key: str) -> None:
    try:
        name = member_name(key)
    except (ValueError, UnicodeEncodeError):
        return
    assert unquote(name) == key and not set(name) & set("./\\\0 ")


def test_a_name_too_long_for_a_file_is_refused() -> None:
    assert len(member_name("a" * 240)) == 240
    with pytest.raises(ValueError, match="too long for a file in a tar"):
        member_name("a" * 241)


def test_two_samples_of_one_key_are_refused_before_a_tar_is_written(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest(**STORE))
    records, samples = unit(cache, 0)
    samples[3] = samples[1]
    with pytest.raises(
        CacheError, match=r"two samples have the key 'class/a\.1'; tars name files by keys"
    ):
        commit_unit(cache, 3, 0, records, samples)
    assert not list(tmp_path.rglob("*.tar"))
