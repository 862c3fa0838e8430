"""Merging and exporting: units copied as they are, checked on the way."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import contents, fill, flipped, manifest, records
from runs import dump, train
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, encode_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.extent import is_extent
from kdcache.cache.formats.zarr import object_key
from kdcache.codecs import LowRank, open_codec
from kdcache.errors import CacheError, DamagedUnitError, MismatchError, MissingUnitError, UsageError
from kdcache.tools.export import export_cache
from kdcache.tools.merge import merge_caches
from kdcache.verify.cache import verify_cache


def part(path: Path | str, units: dict[int, list[int]], writer: int = 0, **changes: Any) -> Cache:
    """Return a cache with some units of some seeds, as one of several that dump apart from each
    other has it."""
    cache = create_cache(path, manifest(made_by={"writer": writer}, **changes))
    for seed, numbers in units.items():
        start_seed(cache, seed)
        for unit in numbers:
            commit_unit(cache, seed, unit, records(cache, seed, unit, writer), absent=[])
    return cache


def test_units_of_several_caches_become_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (
        part(tmp_path / "one", {0: [0, 1]}),
        part(tmp_path / "two", {0: [1, 2], 4: [0, 1, 2]}, writer=1),
    )
    result = merge_caches(tmp_path / "new", [tmp_path / "one", tmp_path / "two"])
    assert (
        result["complete_seeds"] == [0, 4]
        and result["missing"] == {}
        and result["units_written"] == 6
    )
    assert [(told["units"], told["elsewhere"]) for told in result["from"]] == [(2, 0), (5, 1)]
    assert f"1 unit of {two} is in an earlier cache, too" in capsys.readouterr().err
    made = open_cache(tmp_path / "new")
    assert made.manifest == one.manifest and verify_cache(made)["faults"] == []
    for unit, cache in {
        (0, 0): one,
        (0, 1): one,
        (0, 2): two,
        (4, 0): two,
        (4, 1): two,
        (4, 2): two,
    }.items():
        assert made.storage.get(commit_key(*unit)) == cache.storage.get(commit_key(*unit))
        assert made.storage.get(object_key(*unit)) == cache.storage.get(object_key(*unit))
    before = contents(tmp_path / "new")
    again = merge_caches(tmp_path / "new", [tmp_path / "one", tmp_path / "two"])
    assert again["units_written"] == 0 and contents(tmp_path / "new") == before
    part(tmp_path / "three", {7: [2]})
    assert merge_caches(tmp_path / "new", [tmp_path / "three"])["missing"] == {7: [0, 1]}, (
        "into a cache that is there"
    )


def test_a_merge_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 0, 1)
    damaged = tmp_path / "whole" / object_key(1, 1)
    data = damaged.read_bytes()
    damaged.write_bytes(flipped(data, 30, 1))
    with pytest.raises(DamagedUnitError, match=r"seed 1, unit 1 .*SHA-256"):
        merge_caches(tmp_path / "new", [tmp_path / "whole"])
    assert (1, 1) not in open_cache(tmp_path / "new").units() and not (
        tmp_path / "new" / object_key(1, 1)
    ).exists()
    damaged.write_bytes(data)
    done = len(open_cache(tmp_path / "new").units())
    assert (
        done >= 4
        and merge_caches(tmp_path / "new", [tmp_path / "whole"])["units_written"] == 6 - done
    )
    assert verify_cache(open_cache(tmp_path / "new"))["units"] == 6 == len(whole.units())


def test_an_object_that_a_killed_writer_left_is_taken_if_it_is_the_same(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 0)
    made = part(tmp_path / "new", {})
    made.storage.publish(object_key(0, 0), whole.storage.get(object_key(0, 0)))
    made.storage.publish(object_key(0, 1), encode_unit(made, 1, records(made, 0, 1, writer=5)))
    with pytest.raises(
        CacheError,
        match=r"records/c/1/0 is there with other bytes and without a commit.*kdcache gc",
    ):
        merge_caches(tmp_path / "new", [tmp_path / "whole"])
    made.storage.remove(object_key(0, 1))
    merge_caches(tmp_path / "new", [tmp_path / "whole"])
    assert verify_cache(made)["faults"] == [] and made.complete_seeds() == [0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rows": 12}, "rows: 20"),
        ({"teacher": replace(manifest().teacher, sha256="3" * 64)}, "teacher.sha256"),
        ({"codec": "topk:k=2"}, "codec.name"),
    ],
)
def test_caches_that_differ_are_refused_and_the_fields_named(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    fill(tmp_path / "one", 0)
    fill(tmp_path / "two", 1, **changes)
    with pytest.raises(MismatchError, match=named):
        merge_caches(tmp_path / "new", [tmp_path / "one", tmp_path / "two"])
    assert not (tmp_path / "new").exists(), "nothing is begun"


def test_fits_go_along_and_those_that_differ_are_refused(tmp_path: Path) -> None:
    spec = open_codec("lowrank:step=0.5", classes=5)
    assert isinstance(spec, LowRank)
    for number in range(2):
        codec = spec.fit(torch.randn(64, 5, generator=torch.Generator().manual_seed(number)))
        cache = create_cache(tmp_path / str(number), manifest(codec), codec.fit_arrays())
        for unit in range(3):
            commit_unit(cache, number, unit, records(cache, number, unit))
    merge_caches(tmp_path / "same", [tmp_path / "0"])
    one = open_cache(tmp_path / "0")
    assert (
        open_cache(tmp_path / "same").read(0, range(20)).tobytes()
        == one.read(0, range(20)).tobytes()
    )
    with pytest.raises(MismatchError, match=r"codec\.fit"):
        merge_caches(tmp_path / "new", [tmp_path / "0", tmp_path / "1"])


def test_seeds_are_exported_as_they_are(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 0, 1, 2)
    result = export_cache(tmp_path / "whole", tmp_path / "new", seeds="1:3")
    assert (
        result["complete_seeds"] == [1, 2]
        and result["units_written"] == 6
        and result["missing"] == {}
    )
    made, copies = open_cache(tmp_path / "new"), contents(tmp_path / "new")
    assert made.manifest == whole.manifest and verify_cache(made)["faults"] == []
    originals = contents(tmp_path / "whole")
    copied = {key: data for key, (data, _) in copies.items() if not is_extent(key)}
    assert len(copied) == len(copies) - 1 and all(
        data == originals[key][0] for key, data in copied.items()
    )
    assert merge_caches(tmp_path / "whole", [tmp_path / "new"])["units_written"] == 0
    with pytest.raises(MissingUnitError, match="does not hold seed 3"):
        export_cache(tmp_path / "whole", tmp_path / "more", seeds="2:4")
    with pytest.raises(UsageError, match=r"units 3:9 go past the last one.*units 0:3"):
        export_cache(tmp_path / "whole", tmp_path / "more", units="3:9")


def test_seeds_that_share_units_go_together(tmp_path: Path) -> None:
    dump(
        tmp_path / "tars",
        data="tiny_models:few_digits,length=40",
        store="webdataset",
        seeds="0:4",
        seeds_per_unit=2,
        unit_rows=20,
    )
    with pytest.raises(
        UsageError,
        match=r"2 seeds of cache .* share each unit; ask for whole groups \(3 are missing\)",
    ):
        export_cache(tmp_path / "tars", tmp_path / "new", seeds="2:3")
    assert export_cache(tmp_path / "tars", tmp_path / "new", seeds="2:4")["complete_seeds"] == [
        2,
        3,
    ]
    assert verify_cache(open_cache(tmp_path / "new"))["faults"] == []


def test_a_student_trains_on_exported_units(tmp_path: Path) -> None:
    dump(tmp_path / "whole", unit_rows=8, seeds="0:2")
    result = export_cache(tmp_path / "whole", tmp_path / "new", seeds="0:1", units="2:6")
    assert result["missing"] == {} and result["units_written"] == 4
    assert (
        result["complete_seeds"] == [] and result["seeds_in_part"] == [0] and result["is_complete"]
    )
    with pytest.raises(MissingUnitError):
        train(tmp_path / "run", cache=str(tmp_path / "new"), loss="kl:tau=2", seeds="0:1", epochs=1)
    done = train(
        tmp_path / "skips",
        cache=str(tmp_path / "new"),
        loss="kl:tau=2",
        seeds="0:1",
        epochs=1,
        batch_size=16,
        on_miss="skip",
    )
    assert done["steps"] == 2


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


def test_from_a_bucket_and_into_one(tmp_path: Path, server: int) -> None:
    with environ(**environment(server)):
        url = f"s3://{BUCKET}/{secrets.token_hex(4)}"
        fill(tmp_path / "one", 0)
        assert export_cache(tmp_path / "one", f"{url}/one")["complete_seeds"] == [0]
        part(f"{url}/two", {1: [0, 1, 2]})
        result = merge_caches(tmp_path / "new", [f"{url}/one", f"{url}/two"])
        assert (
            result["complete_seeds"] == [0, 1]
            and verify_cache(open_cache(tmp_path / "new"))["faults"] == []
        )
