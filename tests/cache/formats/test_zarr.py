import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from caches import PATTERNS, fill, flipped, records
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache import Cache, Commit
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.formats.zarr import ZarrFormat, object_key
from kdcache.errors import DamagedUnitError
from kdcache.shapes import Records


def random_records(count: int, dtype: "np.dtype[Any]", seed: int = 0) -> Records:
    raw = np.random.default_rng(seed).integers(0, 256, (count, dtype.itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(count)


def decoded(shape: ZarrFormat, unit: int, data: bytes) -> bytes:
    out = np.empty(
        (1, min(shape.unit_rows, shape.rows - unit * shape.unit_rows), shape.dtype.itemsize),
        np.uint8,
    )
    shape.decode(unit, data, out)
    return out.tobytes()


@st.composite
def formats(draw: st.DrawFn) -> ZarrFormat:
    chunk_rows = draw(st.integers(1, 7))
    unit_rows = chunk_rows * draw(st.integers(1, 5))
    dtype = np.dtype(
        [
            ("logits", draw(st.sampled_from(["<f2", "<f4", "u1"])), (draw(st.integers(1, 9)),)),
            ("x", "u1"),
        ]
    )
    rows, chunk_bytes = draw(st.integers(1, 3 * unit_rows)), draw(st.integers(1, dtype.itemsize))
    return ZarrFormat(rows, unit_rows, chunk_rows, dtype, chunk_bytes, zstd_level=5)


@given(formats(), st.data())
def test_round_trip_of_any_shape(shape: ZarrFormat, data: st.DataObject) -> None:
    unit = data.draw(st.integers(0, (shape.rows - 1) // shape.unit_rows))
    rows = min(shape.unit_rows, shape.rows - unit * shape.unit_rows)
    written = random_records(rows, shape.dtype, data.draw(st.integers(0, 9)))
    encoded = shape.encode(unit, written)
    assert decoded(shape, unit, encoded) == written.tobytes()
    fresh = dataclasses.replace(shape)
    fresh.encode(unit, random_records(rows, shape.dtype, 99))
    assert fresh.encode(unit, written) == encoded, (
        "equal records are equal bytes, whatever was encoded before"
    )


def test_bytes_of_a_record_are_told_from_few_records_and_from_many() -> None:
    dtype = np.dtype([("bytes", "u1", (4000,))])
    shape = ZarrFormat(512, 256, 32, dtype, chunk_bytes=400, zstd_level=1)
    # of few values, so that each chunk has a table that counts
    generator = np.random.default_rng(0)
    raw = generator.binomial(20, 0.5, (256, 4000)).astype(np.uint8)
    written = raw.view(dtype)[:, 0]
    whole = len(shape.encode(0, written)) / 256
    for count in (16, 40, 256):
        told = shape.bytes_per_record(written[:count])
        assert told == pytest.approx(whole, rel=0.03), count
    assert shape.bytes_per_record(written) == whole


def test_a_unit_of_zeros_is_a_real_object(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    zeros = np.zeros(8, cache.manifest.dtype)
    commit = commit_unit(cache, 0, 1, zeros)
    assert commit.num_bytes == (tmp_path / object_key(0, 1)).stat().st_size > 0
    assert cache.read_unit(commit).tobytes() == zeros.tobytes()
    (tmp_path / object_key(0, 1)).unlink()
    with pytest.raises(DamagedUnitError, match=r"seed 0, unit 1 .*the object .* is missing"):
        cache.read_unit(commit)


def test_a_record_of_many_classes(tmp_path: Path) -> None:
    cache = fill(
        tmp_path, codec="full:dtype=float32", classes=150_001, rows=3, unit_rows=2, chunk_rows=1
    )
    start_seed(cache, 0)
    written = [records(cache, 0, unit) for unit in (0, 1)]
    assert [
        len(cache.read_unit(commit_unit(cache, 0, unit, written[unit]))) for unit in (0, 1)
    ] == [2, 1]
    assert cache.read(0, [2, 0]).tobytes() == written[1].tobytes() + written[0][:1].tobytes()


@pytest.mark.parametrize(
    ("rows", "unit_rows", "chunk_rows"),
    [(20, 8, 4), (20, 7, 7), (20, 9, 3), (20, 64, 16), (1, 1, 1), (21, 5, 1)],
)
@pytest.mark.parametrize("chunk_bytes", [10, 5, 4, 1])
def test_plain_zarr_reads_the_same(
    tmp_path: Path, rows: int, unit_rows: int, chunk_rows: int, chunk_bytes: int
) -> None:
    cache = fill(
        tmp_path, 3, rows=rows, unit_rows=unit_rows, chunk_rows=chunk_rows, chunk_bytes=chunk_bytes
    )
    group = zarr.open_group(tmp_path, mode="r")
    raw = np.asarray(group["seeds/00003/records"])
    assert raw.shape == (rows, cache.manifest.dtype.itemsize)
    assert raw.tobytes() == cache.read(3, range(rows)).tobytes()
    assert group.attrs["kdcache"] == cache.manifest.to_json()


def test_growth_repeats_only_the_metadata_that_all_seeds_share() -> None:
    shape = ZarrFormat(20, 8, 4, np.dtype([("logits", "<f2", (5,))]), 10, zstd_level=5)
    first, second = shape.metadata(0), shape.metadata(1)
    assert first == shape.metadata(0)
    assert set(first) == {
        "seeds/zarr.json",
        "seeds/00000/zarr.json",
        "seeds/00000/records/zarr.json",
    }
    assert (
        set(first) & set(second) == {"seeds/zarr.json"}
        and first["seeds/zarr.json"] == second["seeds/zarr.json"]
    )


@pytest.fixture
def small(tmp_path: Path) -> tuple[Cache, Commit, Path]:
    cache = fill(tmp_path, 4)
    return cache, cache.commit_of(4, 1), tmp_path / object_key(4, 1)


def damages(data: bytes) -> Iterator[bytes]:
    for pattern in PATTERNS:
        yield from (flipped(data, position, pattern) for position in range(len(data)))
    yield from (data[:length] for length in range(len(data)))
    yield from (data + bytes([byte]) for byte in (0, 0x0A, 0xFF))


def test_every_damage_of_a_unit_raises_and_names_it(small: tuple[Cache, Commit, Path]) -> None:
    cache, commit, path = small
    data = path.read_bytes()
    count = 0
    for damaged in damages(data):
        path.write_bytes(damaged)
        with pytest.raises(
            DamagedUnitError,
            match=r"seed 4, unit 1 \(rows 8 to 15\).* committed.*run the dump again",
        ):
            cache.read_unit(commit)
        count += 1
    assert count == 4 * len(data) + 3 and len(data) > 100
    path.write_bytes(data)
    assert len(cache.read_unit(commit)) == 8


def test_a_shard_alone_never_gives_other_records(small: tuple[Cache, Commit, Path]) -> None:
    cache, commit, path = small
    shape, data, written = ZarrFormat.of(cache.manifest), path.read_bytes(), cache.read_unit(commit)
    ignored = 0
    for damaged in damages(data):
        try:
            assert decoded(shape, 1, damaged) == written.tobytes()
            ignored += 1
        except ValueError as error:
            assert str(error).startswith(
                ("chunk 0 of it", "chunk 1 of it", "it has", "its index", "a chunk", "a zstd frame")
            )
    assert ignored <= len(data) // 20, "crc32c covers all but a few bytes"
    assert decoded(shape, 1, data) == written.tobytes(), (
        "nothing of the damaged bytes is left behind"
    )


def test_damage_that_has_a_matching_hash_is_found_by_the_checksums(
    small: tuple[Cache, Commit, Path],
) -> None:
    cache, commit, path = small
    damaged = flipped(path.read_bytes(), 10, 0x04)
    path.write_bytes(damaged)
    forged = Commit(**{**vars(commit), "sha256": hashlib.sha256(damaged).hexdigest()})
    with pytest.raises(
        DamagedUnitError, match=r"seed 4, unit 1 .*chunk 0 of it differs from its checksum"
    ):
        cache.read_unit(forged)


def test_threads_of_one_cache_do_not_read_each_others_units(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0, 1, 2)
    right = {seed: records(cache, seed, 0).tobytes() for seed in range(3)}
    wrong: list[int] = []

    def read(seed: int) -> None:
        commit = cache.commit_of(seed, 0)
        wrong.extend(seed for _ in range(60) if cache.read_unit(commit).tobytes() != right[seed])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
