"""One contract for every kind of place, and what a bucket does when its responses are lost, late, repeated or refused."""

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from caches import temporaries
from s3_server import BUCKET, FaultyProxy, environ, environment, faulty_proxy, s3_server

from kdcache.cache.bucket import Bucket
from kdcache.cache.objects import Objects
from kdcache.cache.opening import open_objects
from kdcache.errors import CacheError, UsageError

QUICK = (0.01, 0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[FaultyProxy]:
    with faulty_proxy(server) as proxy, environ(**environment(proxy.port)):
        yield proxy


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    if request.param == "folder":
        yield open_objects(tmp_path / "cache")
        return
    with environ(**environment(request.getfixturevalue("server"))):
        yield open_objects(new_url())


def new_url() -> str:
    return f"s3://{BUCKET}/{secrets.token_hex(4)}/cache"


def test_an_object_is_written_once(objects: Objects) -> None:
    assert not objects.exists("a/b") and list(objects.list("a")) == [] and list(objects.walk()) == []
    assert objects.publish("a/b", b"first") and not objects.publish("a/b", b"second")
    assert objects.get("a/b") == b"first" and objects.exists("a/b") and not objects.exists("a")


def test_names_are_listed_one_level_deep_and_objects_at_any(objects: Objects) -> None:
    start = time.time()
    for key in ("a/2", "a/10/x", "a/1", "b", "a/10/y"):
        objects.publish(key, key.encode())
    assert list(objects.list("a")) == ["1", "10", "2"] and list(objects.list("")) == ["a", "b"]
    assert {(entry.key, entry.size) for entry in objects.walk("a/10")} == {("a/10/x", 6), ("a/10/y", 6)}
    assert len(found := list(objects.walk())) == 5 and all(abs(entry.time - start) < 60 for entry in found)
    assert list(temporaries(objects)) == []


def test_what_is_not_there_and_what_is_too_large(objects: Objects) -> None:
    with pytest.raises(FileNotFoundError):
        objects.get("a")
    objects.publish("a", b"1234")
    assert objects.get("a", most=4) == b"1234"
    with pytest.raises(CacheError, match="has 4 bytes, more than the 3 that it may have"):
        objects.get("a", most=3)


def test_a_bucket_that_is_not_there_is_told(server: int) -> None:
    with environ(**environment(server)):
        bucket = Bucket("s3://nobody/cache", waits=QUICK)
        for action in (lambda: bucket.get("a"), lambda: [*bucket.list("")], lambda: bucket.publish("a", b"1")):
            with pytest.raises(
                CacheError, match=r"s3://nobody/cache.*: NoSuchBucket: The specified bucket.*see that the bucket"
            ):
                action()


def test_a_slash_too_few_is_no_folder() -> None:
    with pytest.raises(
        UsageError, match=r"s3:/bucket/cache is neither an address nor a likely folder; write s3://BUCKET/PREFIX"
    ):
        open_objects("s3:/bucket/cache")


def test_an_object_can_be_removed_twice(objects: Objects) -> None:
    objects.publish("a/b", b"1")
    for _ in range(2):
        objects.remove("a/b")
        assert not objects.exists("a/b")
    assert objects.publish("a/b", b"2")


def test_of_many_writers_one_wins(objects: Objects) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        if objects.publish("a", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [objects.get("a")]


@pytest.mark.parametrize("lost", [1, 10**6])
def test_a_put_whose_response_is_lost_is_known_to_be_ours(proxy: FaultyProxy, lost: int) -> None:
    bucket = Bucket(new_url(), waits=QUICK)
    proxy.fault = lambda method, path, number: "drop" if method == "PUT" and number <= lost else None
    assert bucket.publish("a", b"mine")
    assert "drop" in proxy.injected
    proxy.fault = lambda method, path, number: None
    assert not bucket.publish("a", b"other"), "of another size"
    assert not bucket.publish("a", b"hers"), "of the same size"
    assert bucket.get("a") == b"mine"


def test_a_put_that_was_refused_is_tried_again(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), waits=QUICK)
    proxy.fault = lambda method, path, number: "refuse" if number <= 2 else None
    assert bucket.publish("a", b"mine") and bucket.get("a") == b"mine"
    assert len(proxy.injected) >= 2


def test_a_put_that_arrives_twice_is_ours(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "repeat" if method == "PUT" else None
    assert Bucket(new_url(), waits=QUICK).publish("a", b"mine")


def test_reads_and_listings_are_tried_again(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), waits=QUICK)
    bucket.publish("a/b", b"mine")
    proxy.fault = lambda method, path, number: "drop" if len(proxy.log) % 2 else None
    assert bucket.get("a/b") == b"mine" and list(bucket.list("a")) == ["b"] and bucket.exists("a/b")
    assert "drop" in proxy.injected


def test_what_cannot_be_written_is_one_line_with_the_way_out(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "deny"
    bucket = Bucket(new_url(), waits=QUICK)
    for verb in (lambda: bucket.publish("a", b"1"), lambda: bucket.get("a"), lambda: list(bucket.list(""))):
        with pytest.raises(CacheError, match=r"cannot (write|read|list) s3://.*see that the bucket exists") as caught:
            verb()
        assert "\n" not in str(caught.value)


def test_a_bucket_that_does_not_exist(proxy: FaultyProxy) -> None:
    with pytest.raises(CacheError, match=r"cannot write s3://nowhere/cache/a: .*see that the bucket exists"):
        Bucket("s3://nowhere/cache", waits=QUICK).publish("a", b"1")


def test_addresses_of_other_kinds_are_refused() -> None:
    for url in ("http://host/cache", "pipe://rm", "pipe:touch owned", "file:///tmp/cache", "memory://x"):
        with pytest.raises(UsageError, match=r"caches lie in folders or at s3://, gs://, az://, not at"):
            open_objects(url)
    with pytest.raises(UsageError, match="is no bucket that can be opened"):
        open_objects("s3://")
