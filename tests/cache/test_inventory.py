"""What lies in a cache by its listing, of both stores and every kind of place."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import manifest, records
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import Cache, create_cache
from kdcache.cache.committing import commit_unit, encode_unit, start_seed
from kdcache.cache.coverage import coverage_of
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.extent import Extent, publish_extent
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.inventory import take_inventory
from kdcache.codecs import LowRank, open_codec
from kdcache.tools.garbage import collect_garbage
from kdcache.tools.info import describe
from kdcache.verify.cache import verify_cache

FOREIGN = [
    ".DS_Store",
    "commits/00000/._000000.json",
    "commits/0/000001.json",
    "commits/00000/1.json",
    "extents/00.json",
    "notes.txt",
    "seeds/00000/records/c/00/0",
    "seeds/00000/records/c/1/1",
    "seeds/0/records/c/1/0",
    "shards/00000-00002/000000.tar",
]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


def make(path: str | Path, **changes: Any) -> Cache:
    """Return a cache with units 0 to 2 of seeds 0 and 2 but for unit 1 of seed 2, and an object
    there that is not committed."""
    cache = create_cache(path, manifest(**changes))
    for seed in (0, 2):
        start_seed(cache, seed)
        for unit in range(3):
            rows = cache.manifest.unit_range(unit)
            samples = [StoredSample(str(row)) for row in rows]
            grouped = [records(cache, one, unit) for one in cache.manifest.unit_seeds(seed)]
            stacked = np.stack(grouped)
            if (seed, unit) == (2, 1):
                cache.storage.publish(
                    cache.format.key(seed, unit), encode_unit(cache, unit, stacked, samples)
                )
            else:
                commit_unit(cache, seed, unit, stacked, samples)
    return cache


@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize("store", ["zarr", "webdataset"])
def test_what_lies_in_a_cache(
    place: str, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    variables = environment(request.getfixturevalue("server")) if place == "bucket" else {}
    with environ(**variables):
        group = 2 if store == "webdataset" else 1
        path = f"s3://{BUCKET}/{secrets.token_hex(4)}" if place == "bucket" else tmp_path / "cache"
        cache = make(path, store=store, seeds_per_unit=group)
        orphan = cache.format.key(2, 1)
        others = [*FOREIGN, *([commit_key(1, 0)] if group == 2 else [])]
        for key in others:
            cache.storage.publish(key, b"?")
        cache.storage.publish("README.md", b"a card")
        publish_extent(cache.storage, Extent.of([0, 2]))
        inventory = take_inventory(cache)
        units = [(0, 0), (0, 1), (0, 2), (2, 0), (2, 2)]
        assert (
            list(inventory.commits) == list(inventory.objects) == units
            and cache.committed() == inventory.commits
        )
        assert [entry.key for entry in inventory.orphaned] == [orphan] and inventory.temporary == []
        assert [entry.key for entry in inventory.foreign] == sorted(others)
        coverage = coverage_of(cache, inventory.commits)
        assert coverage.missing == ({2: [1]} if group == 1 else {2: [1], 3: [1]})
        assert coverage.complete_seeds == cache.complete_seeds() and coverage.seeds == cache.seeds()
        told = describe(cache)
        commits = [cache.commit_of(*unit) for unit in units]
        assert told["bytes"] == sum(commit.num_bytes for commit in commits) and told["units"] == 5
        assert told["bytes_per_view"] == told["bytes"] / (32 * group)
        report = verify_cache(cache)
        assert (
            report["faults"] == []
            and report["orphaned"] == [orphan]
            and report["foreign"] == sorted(others)
        )
        assert collect_garbage(cache, older_than="0s", delete=True)["keys"] == [orphan]
        assert not cache.storage.exists(orphan) and cache.storage.exists("notes.txt")


def test_fits_of_writers_that_came_second_are_orphaned(tmp_path: Path) -> None:
    spec = open_codec("lowrank:step=0.5", classes=5)
    assert isinstance(spec, LowRank)
    fits = [
        spec.fit(torch.randn(64, 5, generator=torch.Generator().manual_seed(seed)))
        for seed in range(2)
    ]
    made = [
        create_cache(tmp_path / str(at), manifest(codec), codec.fit_arrays())
        for at, codec in enumerate(fits)
    ]
    others = {entry.key: made[1].storage.get(entry.key) for entry in made[1].storage.walk("codec")}
    for key, data in others.items():
        made[0].storage.publish(key, data)
    orphaned = {entry.key for entry in take_inventory(made[0]).orphaned}
    assert orphaned == set(others) - {"codec/zarr.json"} and len(orphaned) > 5
    assert take_inventory(made[0]).foreign == [] == take_inventory(made[1]).orphaned
