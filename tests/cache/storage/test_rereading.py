"""Wrong bytes that come once are read again; what is wrong twice is damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import fill, flipped, manifest, records
from s3_server import BUCKET, environ, environment, faulty_proxy, s3_server

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.extent import Extent, publish_extent, read_extents
from kdcache.cache.formats.zarr import object_key, seed_path
from kdcache.cache.storage.folder import Folder
from kdcache.cache.storage.protocol import MOST_BYTES
from kdcache.cache.subset import samples_arrays
from kdcache.codecs import open_codec
from kdcache.errors import CacheError, DamagedError
from kdcache.tools.unit_copies import copy_units

HELD = np.array([1, 2, 3, 5, 8, 13])
KEYS = {
    "extents/": lambda cache: read_extents(cache.storage),
    "zarr.json": lambda cache: cache.manifest.digest,
    commit_key(0, 1): lambda cache: cache.whole_commit(0, 1).digest,
    object_key(0, 1): lambda cache: cache.read_unit(cache.commit_of(0, 1)).tobytes(),
    "codec/": lambda cache: arrays_digest(cache.codec.fit_arrays()),
    "samples/": lambda cache: cache.samples.tolist(),
    f"{seed_path(0)}/zarr.json": lambda cache: cache.array_faults(0),
}
"""By the beginning of the keys that are read wrong: what is read."""


class Faltering(Folder):
    """A folder behind a network that gives other bytes for some keys, a number of times each."""

    def __init__(
        self, path: Path, key: str, wrong: Callable[[bytes], bytes], *, times: int = 1
    ) -> None:
        super().__init__(path)
        self._key, self._wrong, self._times = key, wrong, times
        self.reads: dict[str, int] = {}

    def get(self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False) -> bytes:
        data = super().get(key, most=most, is_fresh=is_fresh)
        self.reads[key] = self.reads.get(key, 0) + 1
        is_wrong = key.startswith(self._key) and self.reads[key] <= self._times
        return self._wrong(data) if is_wrong else data


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: flipped(data, len(data) // 2, 0xFF),
    "short": lambda data: data[:-1],
    "page": lambda data: b"<html>this is a proxy</html>",
    "empty": lambda data: b"",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that has everything: a fit, a list of samples, units."""
    path = tmp_path_factory.mktemp("cache") / "cache"
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    codec = open_codec("lowrank:step=0.5", classes=5).fit(logits)
    samples = {"count": len(HELD), "sha256": arrays_digest(samples_arrays(HELD))}
    cache = create_cache(path, manifest(codec, samples=samples), codec.fit_arrays(), samples=HELD)
    publish_extent(cache.storage, Extent.of([0]))
    start_seed(cache, 0)
    for unit in range(cache.manifest.num_units):
        commit_unit(cache, 0, unit, records(cache, 0, unit))
    return path


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("key", KEYS)
def test_what_is_read_wrong_once_is_read_again(
    path: Path, key: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert KEYS[key](open_cache(Faltering(path, key, WRONG[kind]))) == KEYS[key](open_cache(path))
    notes = capsys.readouterr().err.splitlines()
    assert notes and all(
        note.startswith("note: read again, and right this time: ") for note in notes
    )
    assert not any(way_out in note for note in notes for way_out in ("delete", "restore")), (
        "there is nothing to be done"
    )


@pytest.mark.parametrize("key", KEYS)
def test_what_is_wrong_twice_is_damaged_and_the_message_says_so(path: Path, key: str) -> None:
    folder = Faltering(path, key, WRONG["flipped"], times=99)
    if "seeds" in key and key.endswith("zarr.json"):
        (told,) = open_cache(folder).array_faults(0)
    else:
        with pytest.raises(DamagedError) as caught:
            KEYS[key](open_cache(folder))
        told = str(caught.value)
    assert told.endswith("It was read twice")
    assert {number for name, number in folder.reads.items() if name.startswith(key)} == {2}


def test_an_object_that_seems_to_be_missing_or_too_large_is_looked_for_again(path: Path) -> None:
    commit = open_cache(path).commit_of(0, 0)
    right = open_cache(path).unit_bytes(commit)

    def absent(data: bytes) -> bytes:
        raise FileNotFoundError

    for wrong in (absent, lambda data: data + b"1"):
        assert open_cache(Faltering(path, object_key(0, 0), wrong)).unit_bytes(commit) == right


def test_a_storage_that_cannot_be_read_is_not_asked_twice(path: Path) -> None:
    def broken(data: bytes) -> bytes:
        raise CacheError("cannot read")

    folder = Faltering(path, object_key(0, 0), broken)
    cache = open_cache(folder)
    with pytest.raises(CacheError, match=r"^cannot read$"):
        cache.read_unit(cache.commit_of(0, 0))
    assert folder.reads[object_key(0, 0)] == 1


def test_an_object_that_a_killed_writer_left_is_adopted_as_it_is(tmp_path: Path) -> None:
    """Nothing vouches for it yet: of its bytes two readings in a row must agree."""
    cache = fill(tmp_path / "cache", 0)
    (tmp_path / "cache" / commit_key(0, 1)).unlink()
    other = cache.storage.get(object_key(0, 0))  # whole, and of another unit
    again = open_cache(Faltering(tmp_path / "cache", object_key(0, 1), lambda data: other))
    commit_unit(again, 0, 1, records(cache, 0, 1, writer=2))
    assert cache.read_unit(cache.commit_of(0, 1)).tobytes() == records(cache, 0, 1).tobytes()


def test_a_copy_compares_bytes_that_agree(tmp_path: Path) -> None:
    source = fill(tmp_path / "source", 0)
    copy = create_cache(tmp_path / "copy", source.manifest)
    copy.storage.publish(object_key(0, 0), source.storage.get(object_key(0, 0)))
    folder = Faltering(tmp_path / "copy", object_key(0, 0), WRONG["flipped"])
    assert len(copy_units(source, Cache(folder, source.manifest), source.units())) == 3


def test_a_wrong_body_from_a_bucket_is_fetched_again(capsys: pytest.CaptureFixture[str]) -> None:
    with s3_server() as port, faulty_proxy(port) as proxy, environ(**environment(proxy.port)):
        cache = fill(f"s3://{BUCKET}/cache", 0)
        seen: set[str] = set()

        def fault(method: str, path: str, number: int) -> str | None:
            is_first = method == "GET" and "list-type" not in path and path not in seen
            seen.add(path)
            return "wrong" if is_first else None

        proxy.fault = fault
        again = open_cache(f"s3://{BUCKET}/cache")
        for unit in range(3):
            found = again.read_unit(again.commit_of(0, unit)).tobytes()
            assert found == records(cache, 0, unit).tobytes()
        assert (
            proxy.injected.count("wrong") == 7
            and capsys.readouterr().err.count("right this time") == 7
        )
