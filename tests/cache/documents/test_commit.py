import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from caches import PATTERNS, fill, flipped

from kdcache.cache.documents.commit import Commit, commit_key, mean_statistics, unit_name
from kdcache.cache.documents.document import checked_content, with_digest
from kdcache.cache.documents.parts import Absence, Probe
from kdcache.errors import CacheError, DamagedUnitError

COMMIT = Commit(
    seed=3,
    unit=17,
    start=136,
    stop=144,
    key="seeds/00003/records/c/17/0",
    num_bytes=512,
    sha256="ab" * 32,
    write_id="0123456789abcdef",
    absent=[Absence(row=137, reason="not an image")],
    probes=[Probe(row=136, crc32=123456789, thumbnail="AAEC")],
    statistics={"mean": 0.25, "accuracy": 1e-9},
    versions={"numpy": "2.0"},
)


def test_round_trip() -> None:
    again = Commit.from_bytes(COMMIT.to_bytes(), "here")
    assert again == COMMIT and again.digest == COMMIT.digest
    assert COMMIT.name == unit_name(3, 17, 136, 144) == "seed 3, unit 17 (rows 136 to 143)"
    assert commit_key(3, 17) == "commits/00003/000017.json"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_flipped_byte_raises_or_means_the_same(pattern: int) -> None:
    data = COMMIT.to_bytes()
    harmless = []
    for position in range(len(data)):
        try:
            assert Commit.from_bytes(flipped(data, position, pattern), "this unit") == COMMIT, (
                position
            )
            harmless.append(data[position : position + 1])
        except DamagedUnitError as error:
            assert str(error).startswith("this unit: the commit is damaged")
    assert set(harmless) <= {b"\n", b" "}, "nothing but white space may change unnoticed"


def test_every_truncation_raises() -> None:
    data = COMMIT.to_bytes()
    for length in range(len(data)):
        with pytest.raises(DamagedUnitError, match="the commit is damaged"):
            Commit.from_bytes(data[:length], "this unit")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"seed": 3}'])
def test_what_is_no_commit_raises(data: bytes) -> None:
    with pytest.raises(DamagedUnitError, match="this unit: the commit is damaged"):
        Commit.from_bytes(data, "this unit")


def test_fields_added_later_are_left_out_where_they_say_nothing_and_refused_where_they_are_not_known() -> (
    None
):
    assert b"writer" not in COMMIT.to_bytes()
    told = dataclasses.replace(COMMIT, writer="node3:17")
    assert Commit.from_bytes(told.to_bytes(), "here") == told and told.digest != COMMIT.digest
    newer = json.dumps(
        with_digest({**checked_content(json.loads(COMMIT.to_bytes())), "later": 1})
    ).encode()
    with pytest.raises(
        CacheError,
        match=r"this unit: written by a newer kdcache, with fields .* not know \(later\): upgrade",
    ):
        Commit.from_bytes(newer, "this unit")


def test_a_changed_commit_has_another_digest() -> None:
    changes: dict[str, Any] = {"write_id": "f" * 16, "sha256": "cd" * 32, "absent": [], "stop": 143}
    digests = {
        COMMIT.digest,
        *(dataclasses.replace(COMMIT, **{name: value}).digest for name, value in changes.items()),
    }
    assert len(digests) == 1 + len(changes)


def test_a_damaged_commit_names_its_unit(tmp_path: Path) -> None:
    cache = fill(tmp_path, 5)
    path = tmp_path / commit_key(5, 1)
    path.write_bytes(flipped(path.read_bytes(), 200, 0x01))
    with pytest.raises(
        DamagedUnitError,
        match=r"seed 5, unit 1 \(rows 8 to 15\): the commit is damaged.*run the dump again",
    ):
        cache.commit_of(5, 1)


def test_the_commit_of_another_unit_is_refused(tmp_path: Path) -> None:
    cache = fill(tmp_path, 5, 6)
    (tmp_path / commit_key(5, 1)).write_bytes((tmp_path / commit_key(6, 1)).read_bytes())
    with pytest.raises(
        DamagedUnitError,
        match=r"seed 5, unit 1 .*its commit is that of seed 6, unit 1 .*; delete .*/commits/00005/"
        r"000001\.json and .*/seeds/00005/records/c/1/0 and run the dump again",
    ):
        cache.commit_of(5, 1)


def test_means_of_statistics_are_those_over_rows() -> None:
    told = [({"mean": 0.1, "accuracy": 50.0}, 30), ({"mean": 0.1, "accuracy": 80.0}, 10)]
    assert mean_statistics(told) == {"mean": 0.1, "accuracy": pytest.approx(57.5)}
    assert mean_statistics([*told, ({"mean": 0.1}, 5)]) == {"mean": 0.1}, "not all have the other"
    assert mean_statistics([*told, ({}, 5), ({"mean": 9.0}, 0)]) == mean_statistics(told)
    assert mean_statistics([]) == mean_statistics([({}, 5)]) == {}
