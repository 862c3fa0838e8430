"""What a cache was asked to hold: documents with a digest, one a request, written once."""

import json
from pathlib import Path
from typing import Any

import pytest
from caches import contents, fill

from kdcache.cache import Cache
from kdcache.cache.documents import extent as module
from kdcache.cache.documents.document import with_digest
from kdcache.cache.documents.extent import Extent, publish_extent, read_extents
from kdcache.errors import CacheError, UsageError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return fill(tmp_path / "cache")


def forge(cache: Cache, content: dict[str, Any]) -> None:
    """Write a request whose digest is right and that says what none may say, under its right name."""
    document = with_digest(content)
    cache.storage.publish(f"extents/{document['digest'][:16]}.json", json.dumps(document).encode())


def test_a_request_comes_back_as_it_was_and_is_written_once(cache: Cache) -> None:
    request = Extent.of([5, 1, 0, 2, 5], [7, 3])
    assert (request.seeds, request.units) == (((0, 3), (5, 6)), ((3, 4), (7, 8)))
    assert [*request.all_seeds()] == [0, 1, 2, 5] and [*request.all_units()] == [3, 7]
    publish_extent(cache.storage, request)
    before = contents(Path(str(cache)))
    publish_extent(cache.storage, Extent.of([0, 1, 2, 5], [3, 7]))
    assert contents(Path(str(cache))) == before and read_extents(cache.storage) == [request]


def test_requests_that_were_read_before_are_not_read_again(cache: Cache) -> None:
    publish_extent(cache.storage, Extent.of([0]))
    known: dict[str, Extent] = {}
    assert read_extents(cache.storage, known) == [Extent.of([0])] == [*known.values()]
    (file,) = Path(str(cache)).glob("extents/*.json")
    file.write_bytes(b"damaged meanwhile")
    publish_extent(cache.storage, Extent.of([4]))
    assert {*read_extents(cache.storage, known)} == {Extent.of([0]), Extent.of([4])}
    file.unlink()
    assert read_extents(cache.storage, known) == [Extent.of([4])], "what was removed does not count"


def test_foreign_files_beside_requests_are_passed_over(cache: Cache) -> None:
    for name in (".DS_Store", "0.json", "._0123456789abcdef.json", "0123456789ABCDEF.json"):
        cache.storage.publish(f"extents/{name}", b"?")
    assert read_extents(cache.storage) == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"seeds": [[0, 1]], "rows": 3}, r"newer kdcache.*\(rows\): upgrade kdcache"),
        ({"seeds": "0:4"}, "it must be a list"),
        ({"seeds": [[0, 4, 9]]}, "it must be a list of 2"),
        ({"seeds": [[4, 4]]}, "the span 4 to 4, which is empty"),
        (
            {"seeds": [[0, 2**32 + 1]]},
            r"seeds is 4294967297; it must be an integer from 1 to 4294967296",
        ),
        ({"seeds": [[0, 1]], "units": [[-1, 3]]}, r"units is -1; it must be an integer from"),
        ({"units": [[0, 1]]}, "it has no seeds"),
        ({"seeds": [[0, 262_145]]}, r"holds 262145 seeds, more than the 262144 that are counted"),
        ({"seeds": [[0, 2**32]]}, r"holds 4294967296 seeds and units, more than the 4000000 that"),
        ({"seeds": [[0, 1]], "units": [[0, 1_000_000]] * 5}, r"holds 5000001 seeds and units"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_request_may_say_is_refused(
    cache: Cache, content: dict[str, Any], named: str
) -> None:
    forge(cache, content)
    with pytest.raises(CacheError, match=named) as raised:
        read_extents(cache.storage)
    assert len(str(raised.value)) < 500


def test_a_flipped_byte_and_another_name_are_told(cache: Cache) -> None:
    publish_extent(cache.storage, Extent.of(range(7)))
    (file,) = Path(str(cache)).glob("extents/*.json")
    data = file.read_bytes()
    file.write_bytes(data.replace(b"7", b"8"))
    told = (
        r"extents/\w{16}\.json is damaged: its digest does not match its content; delete it and run"
        r" the dump again"
    )
    with pytest.raises(CacheError, match=told):
        read_extents(cache.storage)
    file.unlink()
    file.with_name(f"{'0' * 16}.json").write_bytes(data)
    with pytest.raises(CacheError, match="its name is that of another request"):
        read_extents(cache.storage)


def test_more_than_can_be_counted_is_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match="262145 seeds are asked for; a cache may hold at most 262144"
    ):
        Extent.of(range(262_145))
    monkeypatch.setattr(module, "_MOST_REQUESTS", 3)
    monkeypatch.setattr(module, "MOST_SPANS", 5)
    publish_extent(cache.storage, Extent.of(range(0, 12, 2)))
    with pytest.raises(CacheError, match="holds 6 spans of seeds and units, more than the 5"):
        read_extents(cache.storage)
    for seed in range(3):
        publish_extent(cache.storage, Extent.of([seed]))
    with pytest.raises(CacheError, match="holds 4 requests, more than the 3 that are counted"):
        read_extents(cache.storage)
