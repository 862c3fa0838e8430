"""Caches on the Hugging Face hub: published with their manifest last, and fetched at one revision,
checked on the way."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.arrays import arrays_path
from kdcache.cache.committing import require_written
from kdcache.cache.coverage import ask_for_units, coverage_of
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.extent import read_extents
from kdcache.cache.documents.limits import MOST_MANIFEST
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.formats.zarr import MOST_METADATA
from kdcache.cache.inventory import CARD, take_inventory
from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.protocol import MOST_BYTES, Entry
from kdcache.cache.storage.rereading import agreed_bytes
from kdcache.config.arguments import checked_arguments
from kdcache.errors import CacheError, LargeObjectError, UsageError
from kdcache.runtime.console import progress
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.runtime.text_files import path_bytes
from kdcache.tools.hub_card import card_text
from kdcache.tools.merge import copied_result, copied_units

MOST_AT_ONCE = 200
MOST_BYTES_AT_ONCE = 256 * 2**20
"""Objects, and bytes of them, that go into one commit of the hub, which is not one of the cache."""
_MANIFEST = "zarr.json"


class HubStorage:
    """The files of a data set on the hub at one revision; they can be read only."""

    def __init__(self, repo: str, revision: str | None = None) -> None:
        """Look the revision up and list its files.

        Args:
            repo: `ORG/NAME`.
            revision: commit, branch or tag; by default what is newest.

        Raises:
            UsageError: huggingface_hub is not installed.
            CacheError: there is no such data set or revision, or no connection.
        """
        self.repo = repo
        self._api = open_api()
        with _told(f"hf://datasets/{repo}"):
            self.revision = str(
                self._api.repo_info(repo, repo_type="dataset", revision=revision).sha
            )
            files = self._api.list_repo_tree(
                repo, recursive=True, revision=self.revision, repo_type="dataset"
            )
            self.files = {file.path: file for file in files if hasattr(file, "size")}

    def publish(self, key: str, data: bytes) -> NoReturn:
        """Raise a CacheError."""
        raise CacheError(f"{self} can be read only; kdcache push writes to it")

    def get(self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False) -> bytes:
        """Return the bytes of `key`, which are fetched each time.

        Raises:
            FileNotFoundError: there is no such object.
            CacheError: it cannot be fetched, or has more than `most` bytes.
        """
        with self.blocks(key, most=most, is_fresh=is_fresh) as blocks:
            return blocks.read(0, blocks.size)

    @contextmanager
    def blocks(
        self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False
    ) -> Iterator[Blocks]:
        """Give the bytes of `key`, to read parts of them to the end of the block; see `get`."""
        if key not in self.files:
            raise FileNotFoundError(key)
        if self.files[key].size > most:
            size = self.files[key].size
            raise LargeObjectError(
                f"{self}/{key} has {size} bytes, more than the {most} that it may have"
            )
        with tempfile.TemporaryDirectory() as folder:
            where = {"repo_type": "dataset", "revision": self.revision, "local_dir": folder}
            with _told(f"{self}/{key}"):
                path = Path(self._api.hf_hub_download(self.repo, key, **where))
            with path.open("rb") as file:
                yield Blocks(f"{self}/{key}", file.fileno())

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return key in self.files

    def stamp(self, key: str) -> str | None:
        """Return the digest of an object that is there."""
        return str(self.files[key].blob_id) if key in self.files else None

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under `prefix`, sorted."""
        below = f"{prefix}/" if prefix else ""
        yield from sorted(
            {key[len(below) :].partition("/")[0] for key in self.files if key.startswith(below)}
        )

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object under `prefix`; the hub does not say when one was written."""
        below = f"{prefix}/" if prefix else ""
        yield from (
            Entry(key, file.size, 0.0) for key, file in self.files.items() if key.startswith(below)
        )

    def remove(self, key: str) -> NoReturn:
        """Raise a CacheError."""
        raise CacheError(f"{self} can be read only")

    def probe(self, *, writes: bool = True) -> NoReturn:
        """Raise a CacheError."""
        raise CacheError(f"{self} can be read only; kdcache push writes to it")

    def holds(self, key: str, data: bytes) -> bool:
        """Return whether `key` is there with these bytes."""
        file = self.files.get(key)
        if file is None or file.size != len(data):
            return False
        if file.lfs is not None:
            return bool(file.lfs.sha256 == hashlib.sha256(data).hexdigest())
        return bool(
            file.blob_id
            == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        )

    def __str__(self) -> str:
        """Return the address."""
        return f"hf://datasets/{self.repo}"


@checked_arguments
def push_cache(cache: str | Path, address: str, *, private: bool = False) -> dict[str, Any]:
    """Publish a cache; run again, it goes on where it stopped, and later adds what has come since.

    Every object is checked against its commit before it is sent, and goes with its commit. The
    manifest comes last: until then there is no cache to be seen.

    Args:
        cache: the cache; of one that is not complete what is there.
        address: `hf://datasets/ORG/NAME`; made if it is not there.
        private: whether it is made for its owner only.

    Returns:
        `address`, `revision` (the hub's commit), `objects` sent now and their `bytes`, the
        `seconds` it took, and what `Coverage.to_json` tells.

    Raises:
        UsageError: an address of another form, or huggingface_hub is not installed.
        MismatchError: another cache is there.
        CacheError: a damaged unit, no connection, or no right to write.
    """
    repo = parse_address(address)
    old = open_cache(cache)
    start = time.monotonic()
    with _told(f"hf://datasets/{repo}"):
        open_api().create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    there = HubStorage(repo)
    if there.exists(_MANIFEST):
        open_cache(there).require(old.manifest)
    sent = _Sender(there)
    inventory = take_inventory(old)
    units = list(inventory.commits)
    told_sent = heeding(lambda: f": {sent.objects} objects sent")
    with told_sent, progress("push", len(units), "units") as bar:
        for key in until_stopped(_beside(old, units)):
            sent.add({key: agreed_bytes(old.storage, key, most=_most_beside(old))})
        for unit in until_stopped(units):
            commit = old.whole_commit(*unit)
            sent.add(
                {
                    old.format.key(*unit): old.unit_bytes(commit),
                    commit_key(*unit): commit.to_bytes(),
                }
            )
            bar.advance(1)
        sent.flush()
        look()
    coverage = coverage_of(old, units)
    sent.add({CARD: path_bytes(card_text(old, address, coverage.complete_seeds))}, replaces=True)
    if not there.exists(_MANIFEST):
        sent.add({_MANIFEST: agreed_bytes(old.storage, _MANIFEST, most=MOST_MANIFEST)})
    sent.flush()
    facts = {"objects": sent.objects, "bytes": sent.bytes, "seconds": time.monotonic() - start}
    return {"address": address, "revision": sent.revision, **facts, **coverage.to_json()}


@checked_arguments
def pull_cache(address: str, new: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Fetch a published cache; run again, it goes on where it stopped.

    Args:
        address: `hf://datasets/ORG/NAME`.
        new: the cache that it becomes: a new one, or one with the same manifest, which grows.
        revision: the hub's commit, or a branch or tag; by default what is newest.

    Returns:
        `cache`, `address`, `revision` (the hub's commit), `units_written` now, their `bytes`, the
        `seconds` they took, and what `Coverage.to_json` tells.

    Raises:
        UsageError: an address of another form, or huggingface_hub is not installed.
        MismatchError: `new` is another cache.
        CacheError: there is no cache, a damaged unit, or no connection.
    """
    start = time.monotonic()
    source = open_cache(there := HubStorage(parse_address(address), revision))
    listed = source.source_arrays()
    made = create_cache(new, source.manifest, source.fit(), samples=source.samples, source=listed)
    made.require(source.manifest)
    units = source.committed()
    ask_for_units(made, coverage_of(source, units).asked)
    sizes = copied_units(source, made, units)
    require_written(made, units)
    origin = {"address": address, "revision": there.revision}
    return {"cache": str(made), **origin, **copied_result(made, len(sizes), sum(sizes), start)}


def parse_address(address: str) -> str:
    """Return `ORG/NAME` of `hf://datasets/ORG/NAME`.

    Raises:
        UsageError: another address.
    """
    found = re.fullmatch(r"hf://datasets/([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)/?", address)
    if not found:
        raise UsageError(f"address {address!r} is not of the form hf://datasets/ORG/NAME")
    return found[1]


def open_api() -> Any:
    """Return huggingface_hub's client; endpoint and token come from where its own tools take them.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 # an extra
        from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "caches on the hub need huggingface_hub; pip install 'kdcache[hub]'"
        ) from None
    disable_progress_bars()  # one per file, of which there may be thousands
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="kdcache")


class _Sender:
    """Gathers objects that are not there yet, and sends many of them at once."""

    def __init__(self, there: HubStorage) -> None:
        self._there = there
        self._waiting: dict[str, bytes] = {}
        self.revision = there.revision
        self.objects = 0
        self.bytes = 0

    def add(self, objects: dict[str, bytes], *, replaces: bool = False) -> None:
        """Send objects that belong together, sooner or later and at once, but those that are there
        already.

        Raises:
            CacheError: one is there with other bytes, or cannot be sent.
        """
        new = {key: data for key, data in objects.items() if not self._there.holds(key, data)}
        if taken := [key for key in new if self._there.exists(key) and not replaces]:
            raise CacheError(
                f"{self._there}/{taken[0]} is there with other bytes, of another dump; push to"
                " another place"
            )
        self._waiting |= new
        if (
            len(self._waiting) >= MOST_AT_ONCE
            or sum(map(len, self._waiting.values())) >= MOST_BYTES_AT_ONCE
        ):
            self.flush()

    def flush(self) -> None:
        """Send what waits.

        Raises:
            CacheError: it cannot be sent.
        """
        if not self._waiting:
            return
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 # an extra

        adds = [
            CommitOperationAdd(path_in_repo=key, path_or_fileobj=data)
            for key, data in self._waiting.items()
        ]
        message = f"kdcache: {len(adds)} objects"
        with _told(str(self._there)):
            done = open_api().create_commit(
                self._there.repo, adds, commit_message=message, repo_type="dataset"
            )
        self.revision = str(done.oid)
        self.objects += len(adds)
        self.bytes += sum(map(len, self._waiting.values()))
        self._waiting = {}


def _beside(cache: Cache, units: Sequence[Unit]) -> list[str]:
    """Return the keys of all that readers need beside units and manifest."""
    arrays: list[str] = []
    for root, digest in cache.manifest.arrays.items():
        arrays += [entry.key for entry in cache.storage.walk(arrays_path(root, digest))]
    metadata: set[str] = set()
    for seed, _ in units:
        metadata |= cache.format.metadata(seed).keys()
    extents = [extent.key for extent in read_extents(cache.storage)]
    return [*arrays, *sorted(metadata), *extents]


def _most_beside(cache: Cache) -> int:
    """Return the bytes that an object beside the units has at most: one of an array, or what
    plain zarr needs."""
    return max(
        [MOST_METADATA, *(cache.manifest.most_object(root) for root in cache.manifest.arrays)]
    )


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub and back into an error of one line."""
    try:
        yield
    except Exception as error:  # of the hub's client, and of the several libraries below it
        reason = " ".join(str(error).split())[:300]
        way_out = (
            "see that the name is right, that you are logged in (hf auth login), and run the same"
            " command again"
        )
        raise CacheError(f"{where}: {type(error).__name__}: {reason}; {way_out}") from error
