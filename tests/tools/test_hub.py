"""Caches on the hub, through huggingface_hub itself and a small server in the place of the hub that takes small
files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from caches import fill, flipped, manifest, records
from click.testing import CliRunner
from hub_server import HubServer, hub_server

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.coverage import ask_for
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.zarr import object_key
from kdcache.cache.source_list import list_of, read_list, source_entry
from kdcache.codecs import LowRank, open_codec
from kdcache.errors import CacheError, DamagedUnitError, MismatchError, UsageError
from kdcache.sources import open_source
from kdcache.tools import hub_sender
from kdcache.tools.hub import pull_cache, push_cache
from kdcache.tools.hub_client import parse_address
from kdcache.tools.hub_storage import HubStorage
from kdcache.verify.cache import verify_cache
from kdcache_cli.commands import main

PLACE = "hf://datasets/lab/logits"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache with a fit and a list of its source, of two seeds, one of them not complete,
    and things that are not to be published."""
    spec = open_codec("lowrank:step=0.5", classes=5)
    assert isinstance(spec, LowRank)
    codec = spec.fit(torch.randn(64, 5, generator=torch.Generator().manual_seed(0)))
    source = open_source("tiny_models:noise,length=20")
    listing = list_of(source)
    made = manifest(codec, source=source_entry(source, listing))
    cache = create_cache(tmp_path / "cache", made, codec.fit_arrays(), source=listing.arrays)
    ask_for(cache, [0, 1, 7])
    for seed, unit in ((0, 0), (0, 1), (0, 2), (1, 0)):
        start_seed(cache, seed)
        commit_unit(cache, seed, unit, records(cache, seed, unit))
    cache.storage.publish(object_key(1, 1), b"orphaned")
    cache.storage.publish("private.txt", b"mine")
    return cache


def test_a_cache_goes_there_and_comes_back(server: HubServer, cache: Cache, tmp_path: Path) -> None:
    pushed = push_cache(tmp_path / "cache", PLACE)
    assert pushed["complete_seeds"] == [0] and pushed["missing"] == {1: [1, 2]}
    (files,) = [server.files("lab/logits", pushed["revision"])]
    assert files is not None and len(files) == pushed["objects"] + 1
    assert "private.txt" not in files and object_key(1, 1) not in files
    assert "zarr.json" in server.commits[-1] and not any(
        "zarr.json" in paths for paths in server.commits[:-1]
    )
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["kdcache", "knowledge-distillation"]
    assert "| codec | `lowrank:step=0.5" in card and PLACE in card
    pulled = pull_cache(PLACE, tmp_path / "pulled")
    assert sum(path.startswith("extents/") for path in files) == 1
    assert pulled["seeds_not_begun"] == pushed["seeds_not_begun"] == [7]
    assert (
        pulled["revision"] == pushed["revision"]
        and pulled["units_written"] == 4
        and pulled["missing"] == {1: [1, 2]}
    )
    made = open_cache(tmp_path / "pulled")
    assert made.manifest == cache.manifest and verify_cache(made)["faults"] == []
    listing = read_list(made)
    assert listing is not None and listing.names[19] == "00000019"
    assert made.read(0, range(20)).tobytes() == cache.read(0, range(20)).tobytes()
    assert made.storage.get(commit_key(0, 1)) == cache.storage.get(commit_key(0, 1))
    assert pull_cache(PLACE, tmp_path / "pulled")["units_written"] == 0
    assert push_cache(tmp_path / "cache", PLACE)["objects"] == 0


def test_what_has_come_since_is_added_and_old_revisions_stay(
    server: HubServer, cache: Cache, tmp_path: Path
) -> None:
    first = push_cache(tmp_path / "cache", PLACE)["revision"]
    cache.storage.remove(object_key(1, 1))
    for unit in (1, 2):
        commit_unit(cache, 1, unit, records(cache, 1, unit))
    second = push_cache(tmp_path / "cache", PLACE)
    assert second["objects"] == 5 and second["revision"] != first, (
        "two units with their commits, and the card"
    )
    assert pull_cache(PLACE, tmp_path / "old", revision=first)["complete_seeds"] == [0]
    grown = pull_cache(PLACE, tmp_path / "old")
    assert (
        grown["complete_seeds"] == [0, 1]
        and grown["units_written"] == 2
        and grown["revision"] == second["revision"]
    )


def test_a_push_that_was_stopped_goes_on(
    server: HubServer, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_sender, "MOST_AT_ONCE", 4)
    server.fails_after = 2
    with pytest.raises(
        CacheError, match=r"hf://datasets/lab/logits: .*403.*run the same command again"
    ):
        push_cache(tmp_path / "cache", PLACE)
    sent = sum(map(len, server.commits))
    with pytest.raises(CacheError, match="is not a cache"):
        pull_cache(PLACE, tmp_path / "early")
    server.fails_after = None
    again = push_cache(tmp_path / "cache", PLACE)
    assert sent >= 8 and again["objects"] + sent == sum(map(len, server.commits)) == len(
        {path for paths in server.commits for path in paths}
    )
    assert pull_cache(PLACE, tmp_path / "pulled")["units_written"] == 4


def test_damage_is_seen_on_both_ways(server: HubServer, cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "cache" / object_key(0, 1)
    data = path.read_bytes()
    path.write_bytes(flipped(data, 40, 1))
    with pytest.raises(DamagedUnitError, match=r"seed 0, unit 1 "):
        push_cache(tmp_path / "cache", PLACE)
    path.write_bytes(data)
    push_cache(tmp_path / "cache", PLACE)
    files = server.repos["lab/logits"][-1]
    files[object_key(0, 1)] = flipped(data, 40, 1)
    with pytest.raises(
        DamagedUnitError, match=r"hf://datasets/lab/logits, seed 0, unit 1 .*SHA-256"
    ):
        pull_cache(PLACE, tmp_path / "pulled")
    files[object_key(0, 1)] = data
    assert pull_cache(PLACE, tmp_path / "pulled")["complete_seeds"] == [0]


def test_other_caches_and_what_is_not_there(
    server: HubServer, cache: Cache, tmp_path: Path
) -> None:
    push_cache(tmp_path / "cache", PLACE)
    fill(tmp_path / "other", 0, rows=12)
    with pytest.raises(MismatchError, match="rows: 20 in the cache, 12 now"):
        push_cache(tmp_path / "other", PLACE)
    twin = create_cache(tmp_path / "twin", cache.manifest, cache.codec.fit_arrays())
    start_seed(twin, 0)
    commit_unit(twin, 0, 0, records(twin, 0, 0, writer=1))
    with pytest.raises(CacheError, match="is there with other bytes, of another dump"):
        push_cache(tmp_path / "twin", PLACE)
    with pytest.raises(CacheError, match=r"hf://datasets/lab/nothing: RepositoryNotFoundError"):
        pull_cache("hf://datasets/lab/nothing", tmp_path / "new")
    with pytest.raises(CacheError, match=r"hf://datasets/lab/logits: RevisionNotFoundError"):
        pull_cache(PLACE, tmp_path / "new", revision="9" * 40)
    with pytest.raises(CacheError, match="can be read only"):
        HubStorage("lab/logits").publish("a", b"1")


@pytest.mark.parametrize(
    "address",
    ["lab/logits", "hf://lab/logits", "hf://datasets/logits", "hf://datasets/a/b/c", "s3://a/b"],
)
def test_addresses_of_another_form(address: str) -> None:
    with pytest.raises(UsageError, match="is not of the form hf://datasets/ORG/NAME"):
        parse_address(address)


def test_the_commands(server: HubServer, cache: Cache, tmp_path: Path) -> None:
    def kdcache(*words: Any) -> list[str]:
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    pushed = kdcache("push", tmp_path / "cache", PLACE, "--private")
    assert pushed[1] == f"revision   {len(server.commits):040x}"
    pulled = json.loads(
        "\n".join(kdcache("pull", PLACE, tmp_path / "new", "--revision", "main", "--json"))
    )
    assert f"revision   {pulled['revision']}" == pushed[1] and "not begun  1 of 3: seed 7" in pushed
    assert kdcache("pull", PLACE, tmp_path / "more")[3].startswith("written    4 units, ")
