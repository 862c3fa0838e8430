import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import contents, fill, manifest, records

from kdcache.cache import create_cache, open_cache
from kdcache.cache.committing import commit_unit, encode_unit, start_seed
from kdcache.cache.documents.parts import Absence
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.formats.zarr import object_key
from kdcache.errors import CacheError, DamagedUnitError, MissingUnitError, UsageError


def test_what_was_committed_comes_back(tmp_path: Path) -> None:
    fill(tmp_path, 0, 4, codec="topk:k=3")
    cache = open_cache(tmp_path)
    assert cache.seeds() == cache.complete_seeds() == [0, 4]
    for seed in (0, 4):
        whole = np.concatenate([records(cache, seed, unit) for unit in range(3)])
        assert cache.read(seed, range(20)).tobytes() == whole.tobytes()
        rows = np.array([19, 0, 7, 8, 8])
        assert cache.read(seed, rows).tobytes() == whole[rows].tobytes()
        assert len(cache.read(seed, [])) == 0


def test_rows_are_read_under_a_seed_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.cache.open_slabs._MOST_OPEN", 2)
    cache = fill(tmp_path, 0, 4, 6)
    seeds = [4, 0, 6, 4, 6]
    rows = [19, 19, 3, 0, 3]
    found = cache.read(seeds, rows)
    for record, seed, row in zip(found, seeds, rows, strict=True):
        assert record.tobytes() == cache.read(seed, [row]).tobytes()
    assert cache.read(np.array(seeds), np.array(rows)).tobytes() == found.tobytes()
    assert len(cache.read([], [])) == 0
    with pytest.raises(UsageError, match=r"seeds are of shape \(2,\), rows of \(3,\)"):
        cache.read([0, 4], [1, 2, 3])
    with pytest.raises(MissingUnitError, match="seed 5"):
        cache.read([0, 5], [1, 2])


@pytest.mark.parametrize(
    "changes", [{}, {"store": "webdataset", "seeds_per_unit": 2}, {"codec": "topk:k=3"}]
)
def test_all_that_is_read_was_written(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = create_cache(tmp_path, manifest(**{"rows": 19, "chunk_bytes": None, **changes}))
    seeds = cache.manifest.unit_seeds(0)
    empty = np.empty

    def used_before(*settings: Any, **more: Any) -> np.ndarray:
        array = empty(*settings, **more)
        array.view(np.uint8)[...] = 0xAB
        return array

    for unit in range(3):
        made = np.stack([records(cache, seed, unit) for seed in seeds])
        commit_unit(
            cache,
            0,
            unit,
            made,
            [StoredSample(str(row)) for row in cache.manifest.unit_range(unit)],
        )
        with monkeypatch.context() as patch:
            patch.setattr(np, "empty", used_before)
            found = cache.decode_unit(
                cache.commit_of(0, unit), cache.unit_bytes(cache.commit_of(0, unit))
            )
        assert found.tobytes() == made.tobytes()


def test_absent_is_absent(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest())
    for seed in (0, 2):
        start_seed(cache, seed)
    commit_unit(cache, 2, 1, records(cache, 2, 1))
    assert (
        cache.seeds() == [2] and cache.complete_seeds() == [] and cache.missing_units(2) == [0, 2]
    )
    with pytest.raises(
        MissingUnitError, match=r"does not hold seed 2, unit 2 \(rows 16 to 19\); run dump-teacher"
    ):
        cache.commit_of(2, 2)
    with pytest.raises(
        MissingUnitError,
        match=r"lacks 2 of 3 units of seed 2, the first is seed 2, unit 0 \(rows 0 to 7\)",
    ):
        cache.read(2, [9])
    with pytest.raises(MissingUnitError, match=r"does not hold seed 0 \(it holds: 2\)"):
        cache.read(0, [9])
    (tmp_path / object_key(2, 1)).unlink()
    with pytest.raises(
        DamagedUnitError,
        match=r"seed 2, unit 1 .*c/1/0 is missing; delete \S+commits/00002/000001\.json and",
    ):
        cache.read_unit(cache.commit_of(2, 1))


def test_an_object_without_a_commit_is_absent(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest())
    cache.storage.publish(object_key(0, 0), encode_unit(cache, 0, records(cache, 0, 0)))
    assert (
        cache.seeds() == [] and cache.missing_units(0) == [0, 1, 2] and not cache.is_committed(0, 0)
    )
    with pytest.raises(MissingUnitError):
        cache.commit_of(0, 0)


@pytest.mark.parametrize("rows", [[-1], [20], [0, 5, 20], [2**40]])
def test_rows_out_of_range_are_refused(tmp_path: Path, rows: list[int]) -> None:
    cache = fill(tmp_path, 0)
    with pytest.raises(MissingUnitError, match="holds rows 0 to 19"):
        cache.read(0, rows)


def test_the_first_object_counts_and_the_loser_adopts_it(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest())
    first = commit_unit(cache, 0, 0, records(cache, 0, 0, writer=1))
    before = contents(tmp_path)
    assert commit_unit(cache, 0, 0, records(cache, 0, 0, writer=2)) == first
    assert contents(tmp_path) == before
    assert cache.read_unit(first).tobytes() == records(cache, 0, 0, writer=1).tobytes()


def test_the_object_of_a_killed_writer_is_adopted_whole(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest())
    killed = records(cache, 0, 0, writer=1)
    cache.storage.publish(object_key(0, 0), encode_unit(cache, 0, killed))
    commit = commit_unit(cache, 0, 0, records(cache, 0, 0, writer=2))
    assert commit == cache.commit_of(0, 0) and cache.read_unit(commit).tobytes() == killed.tobytes()


@pytest.mark.parametrize("length", [0, 1, 60, -1])
def test_a_damaged_object_is_never_adopted(tmp_path: Path, length: int) -> None:
    cache = create_cache(tmp_path, manifest())
    data = encode_unit(cache, 0, records(cache, 0, 0))
    cache.storage.publish(object_key(0, 0), data[:length])
    with pytest.raises(
        DamagedUnitError,
        match=r"seed 0, unit 0 .*; delete \S+seeds/00000/records/c/0/0 and run the dump again",
    ):
        commit_unit(cache, 0, 0, records(cache, 0, 0))
    assert cache.missing_units(0) == [0, 1, 2]


def test_rows_that_the_killed_writer_could_not_read_stay_absent(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest(skip_unreadable=True, rows=8))
    mine = records(cache, 0, 0)
    theirs = mine.copy()
    theirs[[2, 5]] = np.zeros((), mine.dtype)
    cache.storage.publish(object_key(0, 0), encode_unit(cache, 0, theirs))
    mine[2] = np.zeros((), mine.dtype)  # unreadable for both; row 5 has been repaired meanwhile
    commit = commit_unit(cache, 0, 0, mine, absent=[Absence(row=2, reason="not an image")])
    assert [absence.row for absence in commit.absent] == [2, 5]
    with pytest.raises(MissingUnitError, match="row 5 is recorded as absent"):
        cache.read(0, [4, 5])


def test_growth_changes_nothing_that_is_there(tmp_path: Path) -> None:
    fill(tmp_path, 0, 1)
    before = contents(tmp_path)
    fill(tmp_path, 2)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1] for name in set(after) - set(before)} == {"00002"}


def test_seeds_and_units_are_in_numerical_order(tmp_path: Path) -> None:
    cache = fill(tmp_path, 100_000, 99_999, 2**32 - 1, 3, rows=1)
    assert cache.seeds() == [3, 99_999, 100_000, 2**32 - 1]
    for unit in (1_000_000, 999_999):
        cache.storage.publish(f"commits/00003/{unit:06d}.json", b"")
    assert cache.committed_units(3) == [0, 999_999, 1_000_000]


def test_files_that_an_operating_system_strews_are_no_units(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0)
    (tmp_path / "commits" / "notes").mkdir()
    for name in (
        ".DS_Store",
        "00000/.DS_Store",
        "00000/._000001.json",
        "00000/notes.txt",
        "00000/000007.json.orig",
    ):
        (tmp_path / "commits" / name).write_bytes(b"mine")
    assert (
        cache.seeds() == [0]
        and cache.committed_units(0) == [0, 1, 2]
        and cache.complete_seeds() == [0]
    )


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CacheError, match="not empty and not a cache"):
        create_cache(tmp_path, manifest())
    assert set(contents(tmp_path)) == {"thesis.txt"}


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (None, "is not a cache: it has no zarr.json"),
        (b"", "carries no manifest, or is damaged"),
        (b"\xff\xfe", "carries no manifest, or is damaged"),
        (b"[]", "carries no manifest, or is damaged"),
        (
            b'{"zarr_format": 3, "node_type": "group", "attributes": {}}',
            "carries no manifest, or is damaged",
        ),
        (b'{"attributes": {"kdcache": {}}}', "its manifest .* is damaged: it has no digest"),
        (b'{"attributes": {"kdcache": 3}}', "its manifest .* is damaged"),
    ],
)
def test_what_is_no_cache_says_so(tmp_path: Path, root: bytes | None, message: str) -> None:
    if root is not None:
        (tmp_path / "zarr.json").write_bytes(root)
    with pytest.raises(CacheError, match=message):
        open_cache(tmp_path)


def test_a_path_that_leads_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="gone is not a cache: there is no such folder; give"):
        open_cache(tmp_path / "gone")


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(CacheError, match="is not a cache"):
        open_cache(tmp_path / "file")
    with pytest.raises(CacheError, match="a file stands where a folder is needed"):
        create_cache(tmp_path / "file", manifest())


def test_order_is_a_permutation_keyed_by_the_manifest(tmp_path: Path) -> None:
    orders = [
        create_cache(tmp_path / str(seed), manifest(order_seed=seed, rows=300)).order
        for seed in (0, 1)
    ]
    assert all(np.array_equal(np.sort(order), np.arange(300)) for order in orders)
    assert not np.array_equal(*orders) and not np.array_equal(orders[0], np.arange(300))
    assert orders[0][:5].tolist() == [
        293,
        151,
        167,
        0,
        280,
    ], "what caches that exist were made with"


def test_the_manifest_stands_in_plain_json(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    assert (
        json.loads((tmp_path / "zarr.json").read_bytes())["attributes"]["kdcache"]
        == cache.manifest.to_json()
    )
