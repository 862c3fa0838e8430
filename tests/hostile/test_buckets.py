"""A hostile cache in a bucket takes no more memory than one in a folder."""

import hashlib
import secrets
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hostile.forge import change_commit, tars
from hostile.test_hostile import verify_all
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import open_cache
from kdcache.cache.committing import commit_unit
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.opening import open_storage
from kdcache.cache.storage.bucket import Bucket
from kdcache.cache.storage.protocol import Storage
from kdcache.errors import KdcacheError
from kdcache.tools.garbage import collect_garbage

LARGE = 32 * 2**20
MOST_GROWTH = 24 * 10**6


@contextmanager
def bounded() -> Iterator[None]:
    """Check the most memory that Python and numpy held inside the block.

    That of the process says less: what its allocator keeps differs from run to run.
    """
    tracemalloc.start(1)
    try:
        yield
        assert (growth := tracemalloc.get_traced_memory()[1]) < MOST_GROWTH, growth
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def parts_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.cache.storage.bucket.PART", 2**22)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Give a cache whose first tar is zeros behind its first member, and a second one that no
    commit vouches for."""
    path = tmp_path_factory.mktemp("cache")
    cache = tars(path)
    keys = [cache.commit_of(0, unit).key for unit in range(2)]
    data = (path / keys[0]).read_bytes()[:1024] + bytes(LARGE)
    change_commit(path, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (path / commit_key(0, 1)).unlink()
    with s3_server() as port, environ(**environment(port)):
        storage = open_storage(f"s3://{BUCKET}/{secrets.token_hex(4)}/cache")
        for file in path.rglob("*"):
            key = file.relative_to(path).as_posix()
            if file.is_file():
                storage.publish(key, data if key in keys else file.read_bytes())
        del data
        yield storage


def test_a_whole_object_would_be_noticed(bucket: Storage) -> None:
    with pytest.raises(AssertionError), bounded():
        bucket.get(open_cache(bucket).commit_of(0, 0).key)


def test_a_unit_of_zeros_is_refused_before_it_is_in_memory(bucket: Storage) -> None:
    assert isinstance(bucket, Bucket)
    with bounded():
        said = verify_all(bucket)  # type: ignore[arg-type]
    assert "unit 0" in said and "\n" not in said and len(said) <= 500, said


def test_an_object_that_nobody_committed_is_not_taken_into_memory(bucket: Storage) -> None:
    cache = open_cache(bucket)
    rows = cache.manifest.unit_range(1)
    records = np.zeros((2, len(rows)), cache.manifest.dtype)
    samples = [StoredSample(f"a/{row}", "png", b"image", b"1") for row in rows]
    with (
        bounded(),
        pytest.raises(KdcacheError, match=r"unit 1 .*delete \S+shards/.* and run the dump again"),
    ):
        commit_unit(cache, 0, 1, records, samples)
    with bounded():
        assert len(collect_garbage(cache, older_than="0s", delete=True)["keys"]) == 1
