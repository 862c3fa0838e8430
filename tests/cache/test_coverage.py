"""What a cache was asked to hold and what of it is there: one account for dumps, copies,
conversions and old caches."""

import json
from pathlib import Path

import pytest
from caches import fill, manifest, records
from runs import dump

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.coverage import Coverage, ask_for, ask_for_units, coverage_of, note_left_out
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.extent import Extent, publish_extent
from kdcache.errors import CacheError, CodecError, MissingUnitError
from kdcache.tools.convert import convert_cache
from kdcache.tools.export import export_cache
from kdcache.tools.merge import merge_caches
from kdcache.tools.recode import recode_cache
from kdcache.verify.cache import verify_cache

OLD = {"config": '[dump-teacher]\nseeds = "0:4"\n'}
"""What a cache of before there were requests says of its first dump."""


def begun(path: Path, *seeds: int, units: int = 2) -> Cache:
    """Return a cache that was asked for `seeds`, of which the first has some units of three."""
    cache = create_cache(path, manifest())
    ask_for(cache, seeds)
    start_seed(cache, seeds[0])
    for unit in range(units):
        commit_unit(cache, seeds[0], unit, records(cache, seeds[0], unit))
    return cache


def told(coverage: Coverage) -> tuple[list[int], list[int], dict[int, list[int]], list[int]]:
    return coverage.seeds, coverage.complete_seeds, coverage.missing, coverage.seeds_not_begun


def test_seeds_that_nobody_began_count_if_they_were_asked_for(tmp_path: Path) -> None:
    cache = begun(tmp_path, 3, 4, 5)
    coverage = coverage_of(cache)
    assert told(coverage) == ([3, 4, 5], [], {3: [2]}, [4, 5])
    assert (coverage.units_done, coverage.units_asked, coverage.is_complete) == (2, 9, False)
    assert coverage.what_is_missing() == "seed 3 lacks 1 of 3 units, seeds 4 to 5 are not begun"
    ask_for(cache, [3, 9])
    assert coverage_of(cache).seeds == [3, 4, 5, 9], "requests add up"
    assert coverage_of(cache, seeds=[3]).units_asked == 3
    assert (
        verify_cache(cache)["seeds_not_begun"] == [4, 5, 9] and verify_cache(cache)["faults"] == []
    )
    (fault,) = verify_cache(cache, complete=True)["faults"]
    assert (
        "is not complete: seed 3 lacks 1 of 3 units, seeds 4 to 5, 9 are not begun; run the command"
        in fault
    )


def test_an_old_cache_was_asked_for_what_its_first_dump_was_told_and_what_was_begun(
    tmp_path: Path,
) -> None:
    cache = create_cache(tmp_path / "old", manifest(made_by=OLD))
    start_seed(cache, 7)
    commit_unit(cache, 9, 1, records(cache, 9, 1))
    assert told(coverage_of(cache)) == ([0, 1, 2, 3, 7, 9], [], {9: [0, 2]}, [0, 1, 2, 3, 7])
    ask_for(cache, [1])
    assert coverage_of(cache).seeds == [
        1,
        7,
        9,
    ], "the request counts from then on, and what was begun"
    empty = create_cache(tmp_path / "empty", manifest())
    assert not coverage_of(empty).is_complete and coverage_of(empty).seeds == []


def test_a_dump_says_what_it_was_asked_for_before_its_first_unit(tmp_path: Path) -> None:
    few = {"data": "tiny_models:few_digits", "unit_rows": 64}
    with pytest.raises(CodecError, match="NaN or infinite"):
        dump(
            tmp_path / "stopped", teacher="tiny_models:poisoned,mean=0,std=1", seeds="0:200", **few
        )
    coverage = coverage_of(open_cache(tmp_path / "stopped"))
    assert coverage.seeds == [*range(200)] and coverage.units_done < coverage.units_asked
    dump(tmp_path / "done", seeds="4:6", **few)
    done = open_cache(tmp_path / "done")
    assert told(coverage_of(done)) == ([4, 5], [4, 5], {}, []) and coverage_of(done).is_complete
    assert [path.name for path in (tmp_path / "done").glob("extents/*")] != []
    (tmp_path / "done" / commit_key(5, 0)).unlink()
    convert_cache(tmp_path / "done", tmp_path / "tars", store="webdataset", data=few["data"])
    assert coverage_of(open_cache(tmp_path / "tars")).seeds == [4], "of the complete ones"
    recode_cache(tmp_path / "done", tmp_path / "small", codec="topk:k=2")
    assert coverage_of(open_cache(tmp_path / "small")).seeds == [4]


def test_copies_are_as_unfinished_as_what_they_are_copied_from(tmp_path: Path) -> None:
    begun(tmp_path / "one", 0, 1)
    begun(tmp_path / "two", 5, 6, units=3)
    export_cache(tmp_path / "one", tmp_path / "copy")
    assert told(coverage_of(open_cache(tmp_path / "copy"))) == ([0, 1], [], {0: [2]}, [1])
    merge_caches(tmp_path / "both", [tmp_path / "one", tmp_path / "two"])
    assert told(coverage_of(open_cache(tmp_path / "both"))) == ([0, 1, 5, 6], [5], {0: [2]}, [1, 6])
    export_cache(tmp_path / "two", tmp_path / "five", seeds="5")
    assert coverage_of(open_cache(tmp_path / "five")).is_complete
    with pytest.raises(MissingUnitError, match="does not hold seed 6"):
        export_cache(tmp_path / "two", tmp_path / "six", seeds="6")


def test_some_units_of_each_seed_can_be_all_that_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 0, 1)
    export_cache(tmp_path / "whole", tmp_path / "part", units="1:3")
    part = coverage_of(open_cache(tmp_path / "part"))
    assert (
        part.is_complete
        and part.complete_seeds == []
        and part.seeds_in_part == [0, 1]
        and part.units_asked == 4
    )
    export_cache(tmp_path / "part", tmp_path / "again", units="0:2")
    assert coverage_of(open_cache(tmp_path / "again")).units_asked == 2
    export_cache(tmp_path / "whole", tmp_path / "part", units="0:1", seeds="0")
    part = coverage_of(open_cache(tmp_path / "part"))
    assert part.complete_seeds == [0] and part.seeds_in_part == [1], "two parts make a whole"


def test_seeds_that_share_units_count_together(tmp_path: Path) -> None:
    cache = create_cache(tmp_path, manifest(store="webdataset", seeds_per_unit=2))
    ask_for(cache, [0, 1, 4, 5])
    coverage = coverage_of(cache, [(0, 0), (0, 1), (0, 2)])
    assert told(coverage) == ([0, 1, 4, 5], [0, 1], {}, [4, 5]) and coverage.units_asked == 6
    assert told(coverage_of(cache, [(4, 1)]))[2] == {4: [0, 2], 5: [0, 2]}
    crowd = create_cache(tmp_path / "crowd", manifest(store="webdataset", seeds_per_unit=60_000))
    publish_extent(crowd.storage, Extent.of(range(0, 300_000, 60_000)))
    with pytest.raises(CacheError, match="is asked for 300000 seeds; at most 262144 are counted"):
        coverage_of(crowd)


def test_a_finished_cache_that_can_only_be_read_is_asked_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(tmp_path, 0)

    def read_only(key: str, data: bytes) -> bool:
        raise CacheError("read-only file system")

    monkeypatch.setattr(cache.storage, "publish", read_only)
    ask_for(cache, [0])
    with pytest.raises(CacheError, match="read-only file system"):
        ask_for(cache, [0, 1])
    with pytest.raises(CacheError, match="read-only file system"):
        ask_for_units(cache, {0: [0], 3: [1]})


def test_more_missing_units_than_anyone_lists_are_counted_and_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coverage = coverage_of(begun(tmp_path, 0, 1))
    monkeypatch.setattr("kdcache.cache.coverage._MOST_LISTED", 0)
    assert coverage.what_is_missing() == "seed 0 lacks 1 of 3 units, seed 1 is not begun"
    with pytest.raises(CacheError, match="1 units are missing; at most 0 are listed"):
        coverage.to_json()


def test_what_is_left_out_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = fill(tmp_path, 0, 2)
    note_left_out(cache, [0, 2])
    assert capsys.readouterr().err == ""
    for seed in range(20, 26):
        commit_unit(cache, seed, 0, records(cache, seed, 0))
    ask_for(cache, range(10))
    note_left_out(cache, [0, 2])
    lacks = ", ".join(f"seed {seed} lacks 2 of 3 units" for seed in range(20, 24))
    assert (
        capsys.readouterr().err
        == f"note: seeds 1, 3 to 9, 20 to 25 of cache {tmp_path} are left out: {lacks}, 2 more"
        " seeds lack some, seeds 1, 3 to 9 are not begun\n"
    )
    note_left_out(cache, [0, 1, 2, *range(3, 10), *range(20, 25)])
    assert (
        capsys.readouterr().err
        == f"note: seed 25 of cache {tmp_path} is left out: seed 25 lacks 2 of 3 units\n"
    )
    (file,) = tmp_path.glob("extents/*.json")
    file.write_bytes(b"damaged")
    note_left_out(cache, [0])
    assert "note: seeds 20 to 25 of cache" in capsys.readouterr().err, (
        "a note is no place for another fault"
    )
    assert "is damaged" in verify_cache(cache)["faults"][0]


def test_everything_that_commands_tell_is_json(tmp_path: Path) -> None:
    found = json.loads(json.dumps(coverage_of(begun(tmp_path, 3, 4)).to_json()))
    assert found == {
        "seeds": [3, 4],
        "complete_seeds": [],
        "missing": {"3": [2]},
        "seeds_not_begun": [4],
        "seeds_in_part": [],
        "units_asked": 6,
        "units_done": 2,
        "is_complete": False,
        "units_per_seed": 3,
    }
