"""What killed writers left: told, removed when it is old, and never what a writer at work may
need."""

import os
import time
from pathlib import Path

import pytest
from caches import contents, fill, records

from kdcache.cache import Cache, Commit
from kdcache.cache.committing import commit_unit, encode_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.zarr import object_key
from kdcache.errors import UsageError
from kdcache.tools.garbage import collect_garbage, parse_age
from kdcache.verify.cache import verify_cache

TEMPORARY = "seeds/00000/records/c/0/.0.0123456789abcdef.tmp"


def aged(cache: Cache, days: float, *keys: str) -> None:
    """Make objects, by default all, look as if written `days` ago."""
    moment = time.time() - days * 86_400
    for key in keys or [entry.key for entry in cache.storage.walk()]:
        os.utime(cache.storage.path / key, (moment, moment))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache of long ago, with an orphaned object and a temporary file."""
    cache = fill(tmp_path / "cache", 0)
    start_seed(cache, 1)
    cache.storage.publish(object_key(1, 0), encode_unit(cache, 0, records(cache, 1, 0)))
    (cache.storage.path / TEMPORARY).write_bytes(b"half")
    for name in ("notes.txt", ".notes.tmp", ".notes.txt.0123.tmp"):
        (cache.storage.path / name).write_bytes(b"mine")
    aged(cache, 30)
    return cache


def test_it_tells_first_and_removes_when_asked(cache: Cache) -> None:
    before = contents(cache.storage.path)
    told = collect_garbage(cache)
    size = 4 + len(before[object_key(1, 0)][0])
    assert told == {
        "cache": str(cache),
        "is_deleted": False,
        "keys": [TEMPORARY, object_key(1, 0)],
        "bytes": size,
        "young": 0,
        "busy": 0,
    }
    assert contents(cache.storage.path) == before
    assert collect_garbage(cache, delete=True) == {**told, "is_deleted": True}
    assert contents(cache.storage.path) == {
        key: value for key, value in before.items() if key not in told["keys"]
    }
    assert verify_cache(cache)["faults"] == [] and collect_garbage(cache)["keys"] == []


def test_what_is_young_stays(cache: Cache) -> None:
    aged(cache, 6, TEMPORARY, object_key(1, 0))
    told = collect_garbage(cache, delete=True)
    assert told["keys"] == [] and told["young"] == 2
    assert collect_garbage(cache, older_than="5d")["keys"] == [TEMPORARY, object_key(1, 0)]


def test_while_a_dump_is_at_work_orphaned_objects_stay_for_it(cache: Cache) -> None:
    aged(cache, 0.1, commit_key(0, 2))
    told = collect_garbage(cache, delete=True)
    assert told["keys"] == [TEMPORARY] and told["busy"] == 1
    assert commit_unit(cache, 1, 0, records(cache, 1, 0, writer=1)).num_bytes == len(
        cache.storage.get(object_key(1, 0))
    )
    assert cache.read_unit(cache.commit_of(1, 0)).tobytes() == records(cache, 1, 0).tobytes(), (
        "the first writer's"
    )


@pytest.mark.parametrize("moment", ["before the removal", "after the look"])
def test_a_unit_that_is_committed_meanwhile_is_not_lost(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Let a writer take the object up at the worst moments: what is read in the end is what it
    committed."""
    key, committed = object_key(1, 0), list[Commit]()
    remove, publish = cache.storage.remove, cache.storage.publish

    def removing(name: str) -> None:
        if moment == "before the removal" and name == key:
            committed.append(commit_unit(cache, 1, 0, records(cache, 1, 0)))
        remove(name)

    def publishing(name: str, data: bytes) -> bool:
        if moment == "after the look" and name == commit_key(1, 0):
            monkeypatch.setattr(cache.storage, "publish", publish)
            assert collect_garbage(cache, delete=True, older_than="0s")["keys"] == [TEMPORARY, key]
        return publish(name, data)

    monkeypatch.setattr(cache.storage, "remove", removing)
    if moment == "after the look":
        monkeypatch.setattr(cache.storage, "publish", publishing)
        committed.append(commit_unit(cache, 1, 0, records(cache, 1, 0)))
    else:
        assert collect_garbage(cache, delete=True)["keys"] == [TEMPORARY]
    assert cache.read_unit(committed[0]).tobytes() == records(cache, 1, 0).tobytes()


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("30m", 1800), ("0s", 0)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 d", "1.5h", "7w", "9999999d"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(
        UsageError, match="is not a number of up to 6 digits and a unit, s, m, h or d; write 7d"
    ):
        parse_age(text)


def test_a_link_is_removed_and_what_it_leads_to_stays(cache: Cache) -> None:
    path = cache.storage.path
    link, nowhere = (path / object_key(1, unit) for unit in (1, 2))
    link.parent.mkdir(parents=True)
    nowhere.parent.mkdir(parents=True)
    link.symlink_to(path / object_key(0, 0))
    nowhere.symlink_to(path / "none")
    told = collect_garbage(str(path), older_than="0s", delete=True)
    assert {object_key(1, unit) for unit in range(3)} <= {*told["keys"]}
    assert not link.is_symlink() and not nowhere.is_symlink()
    assert verify_cache(path)["faults"] == []
