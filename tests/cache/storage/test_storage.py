"""One contract for every kind of place, and what a bucket does when its responses are lost, late,
repeated or refused."""

import hashlib
import resource
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import obstore
import pytest
from caches import temporaries
from s3_server import BUCKET, FaultyProxy, environ, environment, faulty_proxy, s3_server

from kdcache.cache.opening import open_storage
from kdcache.cache.storage import bucket as buckets
from kdcache.cache.storage.bucket import Bucket
from kdcache.cache.storage.patience import Patience
from kdcache.cache.storage.protocol import Storage
from kdcache.errors import CacheError, UsageError

QUICK = Patience(pauses=(0.01, 0.01))
HASTY = Patience(pauses=(0.01, 0.01), answer=0.4, trouble=0.5, silence=0.1, repeats=0.1)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[FaultyProxy]:
    with faulty_proxy(server) as proxy, environ(**environment(proxy.port)):
        yield proxy


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield open_storage(tmp_path / "cache")
        return
    with environ(**environment(request.getfixturevalue("server"))):
        yield open_storage(new_url())


def new_url() -> str:
    return f"s3://{BUCKET}/{secrets.token_hex(4)}/cache"


def test_an_object_is_written_once(storage: Storage) -> None:
    assert (
        not storage.exists("a/b") and list(storage.list("a")) == [] and list(storage.walk()) == []
    )
    assert storage.publish("a/b", b"first") and not storage.publish("a/b", b"second")
    assert storage.get("a/b") == b"first" and storage.exists("a/b") and not storage.exists("a")


def test_names_are_listed_one_level_deep_and_objects_at_any(storage: Storage) -> None:
    start = time.time()
    for key in ("a/2", "a/10/x", "a/1", "b", "a/10/y"):
        storage.publish(key, key.encode())
    assert list(storage.list("a")) == ["1", "10", "2"] and list(storage.list("")) == ["a", "b"]
    assert {(entry.key, entry.size) for entry in storage.walk("a/10")} == {
        ("a/10/x", 6),
        ("a/10/y", 6),
    }
    assert len(found := list(storage.walk())) == 5 and all(
        abs(entry.time - start) < 60 for entry in found
    )
    assert list(temporaries(storage)) == []


def test_what_is_not_there_and_what_is_too_large(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.get("a")
    storage.publish("a", b"1234")
    assert storage.get("a", most=4) == b"1234"
    with pytest.raises(CacheError, match="has 4 bytes, more than the 3 that it may have"):
        storage.get("a", most=3)


def test_an_object_is_read_in_parts_also_after_it_was_removed(storage: Storage) -> None:
    data = secrets.token_bytes(3000)
    storage.publish("a", data)
    with storage.blocks("a", most=3000) as blocks:
        storage.remove("a")
        assert (blocks.size, blocks.read(1000, 500)) == (3000, data[1000:1500])
        assert blocks.read(2900, 500) == data[2900:] and blocks.read(3000, 1) == b""
        assert blocks.sha256() == hashlib.sha256(data).hexdigest()
    with pytest.raises(FileNotFoundError), storage.blocks("a"):
        pass
    storage.publish("b", data)
    with pytest.raises(CacheError, match="more than the 2999"), storage.blocks("b", most=2999):
        pass


def test_no_room_for_what_is_checked_is_told(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), patience=QUICK)
    bucket.publish("a", b"1234")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))  # bytes that a file may have
    try:
        room = "File too large; name a folder with room in TMPDIR"
        with pytest.raises(CacheError, match=room), bucket.blocks("a"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_bucket_that_is_not_there_is_told(server: int) -> None:
    with environ(**environment(server)):
        bucket = Bucket("s3://nobody/cache", patience=QUICK)
        for action in (
            lambda: bucket.exists("a"),
            lambda: bucket.get("a"),
            lambda: [*bucket.list("")],
            bucket.probe,
        ):
            with pytest.raises(
                CacheError,
                match=(
                    r"s3://nobody/cache.*: NoSuchBucket: The specified bucket.*see that the bucket"
                ),
            ):
                action()


def test_a_slash_too_few_is_no_folder() -> None:
    with pytest.raises(
        UsageError,
        match=(
            r"s3:/bucket/cache is neither an address nor a likely folder; write s3://BUCKET/PREFIX"
        ),
    ):
        open_storage("s3:/bucket/cache")


def test_an_object_can_be_removed_twice(storage: Storage) -> None:
    storage.publish("a/b", b"1")
    for _ in range(2):
        storage.remove("a/b")
        assert not storage.exists("a/b")
    assert storage.publish("a/b", b"2")


def test_an_object_may_be_empty(storage: Storage) -> None:
    assert storage.publish("a", b"") and storage.get("a") == b"" and storage.exists("a")


def test_a_stamp_tells_an_object_from_the_one_that_follows_it(storage: Storage) -> None:
    assert storage.stamp("a") is None
    storage.publish("a", b"1")
    stamp = storage.stamp("a")
    assert stamp == storage.stamp("a") is not None
    storage.remove("a")
    storage.publish("a", b"23")
    assert storage.stamp("a") not in (stamp, None)


def test_what_is_tried_out_leaves_nothing_behind(storage: Storage) -> None:
    storage.probe(writes=False)
    storage.probe()
    assert list(storage.walk()) == [] and storage.publish("a", b"1")
    storage.probe()
    assert [entry.key for entry in storage.walk()] == ["a"]


def test_of_many_writers_one_wins(storage: Storage) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        if storage.publish("a", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [storage.get("a")]


@pytest.mark.parametrize("lost", [1, 10**6])
def test_a_put_whose_response_is_lost_is_known_to_be_ours(proxy: FaultyProxy, lost: int) -> None:
    bucket = Bucket(new_url(), patience=QUICK)
    proxy.fault = lambda method, path, number: (
        "drop" if method == "PUT" and number <= lost else None
    )
    assert bucket.publish("a", b"mine")
    assert "drop" in proxy.injected
    proxy.fault = lambda method, path, number: None
    assert not bucket.publish("a", b"other"), "of another size"
    assert not bucket.publish("a", b"hers"), "of the same size"
    assert bucket.get("a") == b"mine"


def test_a_put_that_was_refused_is_tried_again(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), patience=QUICK)
    proxy.fault = lambda method, path, number: "refuse" if number <= 2 else None
    assert bucket.publish("a", b"mine") and bucket.get("a") == b"mine"
    assert len(proxy.injected) >= 2


def test_a_put_that_arrives_twice_is_ours(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "repeat" if method == "PUT" else None
    assert Bucket(new_url(), patience=QUICK).publish("a", b"mine")


def test_reads_and_listings_are_tried_again(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), patience=QUICK)
    bucket.publish("a/b", b"mine")
    proxy.fault = lambda method, path, number: "drop" if len(proxy.log) % 2 else None
    assert bucket.get("a/b") == b"mine" and list(bucket.list("a")) == ["b"] and bucket.exists("a/b")
    assert "drop" in proxy.injected


def test_what_cannot_be_written_is_one_line_with_the_way_out(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "deny"
    bucket = Bucket(new_url(), patience=QUICK)
    for verb in (
        lambda: bucket.publish("a", b"1"),
        lambda: bucket.get("a"),
        lambda: list(bucket.list("")),
    ):
        with pytest.raises(
            CacheError, match=r"cannot (write|read|list) s3://.*see that the bucket exists"
        ) as caught:
            verb()
        assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_told_of_and_given_up(
    proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.fault = lambda method, path, number: "hang"
    bucket = Bucket(new_url(), patience=HASTY)
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: bucket.get("a"),
        "list": lambda: [*bucket.list("a")],
        "write": lambda: bucket.publish("a", b"1"),
        "remove": lambda: bucket.remove("a"),
    }
    for verb, action in actions.items():
        with pytest.raises(
            CacheError, match=r"cannot \w+ s3://.*/a: no answer in time; the store is out of order"
        ):
            action()
        told = capsys.readouterr().err
        assert f"note: {verb} {bucket}/a: still waiting, 0 s so far (try 1)" in told


def test_the_user_is_told_of_trouble_and_of_its_end(
    proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    hasty = Patience(pauses=(0.1, 0.1), silence=0.01, repeats=0.0)
    bucket = Bucket(new_url(), patience=hasty)
    bucket.publish("a", b"1")
    proxy.fault = lambda method, path, number: "refuse" if number == 1 else None
    assert bucket.get("a") == b"1"
    told = capsys.readouterr().err
    assert f"note: read {bucket}/a: the answer is 503" in told and "try 2 follows" in told
    assert "answered after" in told


def test_a_put_that_is_stored_and_never_answered_is_ours(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "mute" if method == "PUT" else None
    assert Bucket(new_url(), patience=HASTY).publish("a", b"mine")


def test_a_put_may_take_longer_the_larger_it_is(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), patience=HASTY)
    bucket.exists("a")
    proxy.fault = lambda method, path, number: "late" if method == "PUT" else None
    assert bucket.publish("large", bytes(600_000))
    assert [method for method, path in proxy.log if path.endswith("large")] == ["PUT"]
    bucket.publish("small", b"1")
    assert [method for method, path in proxy.log if path.endswith("small")][:2] == ["PUT", "HEAD"]


def test_a_conflict_of_two_puts_of_which_none_is_there_is_tried_again(proxy: FaultyProxy) -> None:
    bucket = Bucket(new_url(), patience=QUICK)
    proxy.fault = lambda method, path, number: (
        "conflict" if (method, number) == ("PUT", 1) else None
    )
    assert bucket.publish("a", b"mine") and bucket.get("a") == b"mine"
    proxy.fault = lambda method, path, number: "conflict" if method == "PUT" else None
    assert not bucket.publish("a", b"hers"), "another's is there"
    with pytest.raises(
        CacheError, match=r"cannot write .*/b: ConditionalRequestConflict: The conditional"
    ):
        bucket.publish("b", b"mine")


@pytest.mark.parametrize(
    "fault", ["conflict", "taken", "removed", "regret", "refuse", "mute", "hang"]
)
def test_whatever_is_answered_to_a_put_what_is_there_counts(proxy: FaultyProxy, fault: str) -> None:
    patience = Patience(pauses=(0.01, 0.01), answer=0.5)
    bucket = Bucket(new_url(), patience=patience)
    proxy.fault = lambda method, path, number: fault if (method, number) == ("PUT", 1) else None
    assert bucket.publish("a", b"mine") and bucket.get("a") == b"mine" and proxy.injected == [fault]
    proxy.fault = lambda method, path, number: fault if (method, number) == ("PUT", 3) else None
    assert not bucket.publish("a", b"hers") and bucket.get("a") == b"mine"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "AWS_ENDPOINT_URL",
            "localhost:9000",
            "is 'localhost:9000', which is no address; set it to http://HOST:PORT",
        ),
        ("AWS_ENDPOINT_URL", "", "is '', which is no address"),
        (
            "AWS_ENDPOINT_URL_S3",
            "http://me:secret@host:99999",
            "is 'host:99999', which is no address",
        ),
        ("AWS_ACCESS_KEY_ID", "key\n", "holds a line break, or a blank at one of its ends"),
        ("AWS_SESSION_TOKEN", " token", "holds a line break, or a blank at one of its ends"),
    ],
)
def test_variables_that_cannot_be_meant_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"^the variable {name} {message}"):
        Bucket(new_url())


def test_what_obstore_cannot_do_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = bucket_at("http://127.0.0.1:1", monkeypatch)

    class PanicException(BaseException):  # as pyo3 names it, which raises it for a panic of Rust's
        pass

    def panic(*_: object) -> None:
        raise PanicException("InvalidHeaderValue")

    monkeypatch.setattr(obstore, "head", panic)
    with pytest.raises(
        CacheError, match=r"^cannot read s3://.*/a: InvalidHeaderValue; see the variables"
    ):
        bucket.exists("a")


def test_a_large_object_is_read_in_parts_each_tried_again(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PART", 1000)
    bucket, data = Bucket(new_url(), patience=QUICK), secrets.token_bytes(3500)
    bucket.publish("a", data)
    proxy.fault = lambda method, path, number: "drop" if (method, number) == ("GET", 3) else None
    assert bucket.get("a") == data
    assert [method for method, _ in proxy.log].count("GET") == 5 and proxy.injected == ["drop"]
    with pytest.raises(CacheError, match="has 3500 bytes, more than the 3499"):
        bucket.get("a", most=3499)


def test_parts_are_those_of_one_object(
    server: int, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PART", 1000)
    bucket = Bucket(new_url(), patience=QUICK)
    with environ(**environment(server)):
        other = Bucket(str(bucket), patience=QUICK)
        other.publish("a", b"1" * 2500)

    def replace(method: str, path: str, number: int) -> None:
        if (method, number) == ("GET", 2):
            other.remove("a")
            other.publish("a", b"2" * 2500)

    proxy.fault = replace
    assert bucket.get("a") == b"2" * 2500


def test_an_endpoint_that_cannot_be_reached_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = bucket_at("http://127.0.0.1:1", monkeypatch)
    message = (
        r"endpoint http://127\.0\.0\.1:1 \(from AWS_ENDPOINT_URL\) cannot be reached: Connection"
        r" refused; see that it"
    )
    for action in (
        lambda: bucket.exists("a"),
        lambda: [*bucket.list("")],
        lambda: bucket.publish("a", b"1"),
    ):
        start = time.monotonic()
        with pytest.raises(CacheError, match=message):
            action()
        assert time.monotonic() - start < 5, "pauses of its patience would take 15 seconds"


def test_credentials_that_are_not_there_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = bucket_at("http://127.0.0.1:1", monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:2")
    bucket = Bucket(str(bucket), patience=Patience(pauses=(60.0,)))
    message = (
        r"environment holds no credentials, and http://127\.0\.0\.1:2 gives none; set"
        r" AWS_ACCESS_KEY_ID and"
    )
    with pytest.raises(CacheError, match=message):
        bucket.exists("a")


def test_an_endpoint_that_was_reached_is_waited_for(server: int) -> None:
    patience, url = Patience(pauses=(0.1,) * 50, first_contact=0.0), new_url()
    with faulty_proxy(server) as proxy, environ(**environment(proxy.port)):
        Bucket(url).exists("a")
    with environ(**environment(proxy.port)), ExitStack() as stack:
        threading.Timer(0.3, lambda: stack.enter_context(faulty_proxy(server, proxy.port))).start()
        assert not Bucket(url, patience=patience).exists("a")


def test_a_head_that_is_refused_says_why(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "skew"
    bucket = Bucket(new_url(), patience=Patience(pauses=(60.0,)))
    for action in (
        lambda: bucket.exists("a"),
        lambda: [*bucket.list("")],
        lambda: bucket.publish("a", b"1"),
    ):
        with pytest.raises(
            CacheError,
            match=r"RequestTimeTooSkewed: The difference.*; set the clock of this machine",
        ):
            action()


def test_a_store_that_replaces_objects_is_refused(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "careless" if method == "PUT" else None
    bucket = Bucket(new_url(), patience=QUICK)
    with pytest.raises(CacheError, match=r"replaces objects that are there.*If-None-Match"):
        bucket.probe()
    assert list(bucket.walk()) == []


def test_who_may_not_remove_may_write(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "deny" if method in ("POST", "DELETE") else None
    bucket = Bucket(new_url(), patience=QUICK)
    bucket.probe()
    Bucket(str(bucket), patience=QUICK).probe()
    assert len(list(bucket.walk())) == len(temporaries(bucket)) == 1 and list(bucket.list("")) == []


def test_a_bucket_that_cannot_be_written_is_told_by_trying(proxy: FaultyProxy) -> None:
    proxy.fault = lambda method, path, number: "deny" if method == "PUT" else None
    bucket = Bucket(new_url(), patience=QUICK)
    bucket.probe(writes=False)
    with pytest.raises(CacheError, match=r"cannot write s3://.*the answer is 403"):
        bucket.probe()


def bucket_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in {**environment(1), "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return Bucket(new_url(), patience=Patience(pauses=(0.25,) * 60, first_contact=0.5))


def test_a_bucket_that_does_not_exist(proxy: FaultyProxy) -> None:
    with pytest.raises(
        CacheError, match=r"cannot write s3://nowhere/cache/a: .*see that the bucket exists"
    ):
        Bucket("s3://nowhere/cache", patience=QUICK).publish("a", b"1")


def test_addresses_of_other_kinds_are_refused() -> None:
    for url in (
        "http://host/cache",
        "pipe://rm",
        "pipe:touch owned",
        "file:///tmp/cache",
        "memory://x",
    ):
        with pytest.raises(
            UsageError, match=r"caches lie in folders or at s3://, gs://, az://, not at"
        ):
            open_storage(url)
    with pytest.raises(UsageError, match="is no bucket that can be opened"):
        open_storage("s3://")
