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

from kdcache.cache import Cache, open_cache
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
from kdcache.runtime.downloads import asking_hub, network_reason
from kdcache.runtime.stopping import heeding, look, until_stopped
from kdcache.runtime.text_files import path_bytes
from kdcache.tools.hub_card import card_text
from kdcache.tools.unit_copies import copied_result, copied_units, created_from

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
        self.files: dict[str, Any] = {}
        with _one_line_errors(f"hf://datasets/{repo}"):
            info = self._api.repo_info(repo, repo_type="dataset", revision=revision)
            self.revision = str(info.sha)
            entries = self._api.list_repo_tree(
                repo, recursive=True, revision=self.revision, repo_type="dataset"
            )
            for entry in entries:
                if hasattr(entry, "size"):  # a folder has none
                    self.files[entry.path] = entry

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
        size = self.files[key].size
        if size > most:
            raise LargeObjectError(
                f"{self}/{key} has {size} bytes, more than the {most} that it may have"
            )
        with tempfile.TemporaryDirectory() as folder:
            with _one_line_errors(f"{self}/{key}"):
                path = self._api.hf_hub_download(
                    self.repo,
                    key,
                    repo_type="dataset",
                    revision=self.revision,
                    local_dir=folder,
                )
            with Path(path).open("rb") as file:
                yield Blocks(f"{self}/{key}", file.fileno())

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return key in self.files

    def stamp(self, key: str) -> str | None:
        """Return the digest of an object that is there."""
        if key not in self.files:
            return None
        return str(self.files[key].blob_id)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under `prefix`, sorted."""
        start = _start_of_keys(prefix)
        names = set()
        for key in self.files:
            if key.startswith(start):
                names.add(key.removeprefix(start).partition("/")[0])
        yield from sorted(names)

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object under `prefix`; the hub does not say when one was written."""
        start = _start_of_keys(prefix)
        for key, file in self.files.items():
            if key.startswith(start):
                yield Entry(key, file.size, 0.0)

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
        blob = b"blob %d\0" % len(data) + data  # as git names it
        return bool(file.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest())

    def __str__(self) -> str:
        """Return the address."""
        return f"hf://datasets/{self.repo}"


def _start_of_keys(prefix: str) -> str:
    """Return what all keys under `prefix` start with."""
    if not prefix:
        return ""
    return f"{prefix}/"


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
    source = open_cache(cache)
    start = time.monotonic()
    with _one_line_errors(f"hf://datasets/{repo}"):
        open_api().create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    storage = HubStorage(repo)
    if storage.exists(_MANIFEST):
        open_cache(storage).require(source.manifest)
    sender = _Sender(storage)
    units = list(take_inventory(source).commits)
    with heeding(lambda: f": {sender.num_objects} objects sent"):
        _send_units(sender, source, units)
    coverage = coverage_of(source, units)
    card = card_text(source, address, coverage.complete_seeds)
    sender.add({CARD: path_bytes(card)}, replaces=True)
    if not storage.exists(_MANIFEST):
        sender.add({_MANIFEST: agreed_bytes(source.storage, _MANIFEST, most=MOST_MANIFEST)})
    sender.flush()
    return {
        "address": address,
        "revision": sender.revision,
        "objects": sender.num_objects,
        "bytes": sender.num_bytes,
        "seconds": time.monotonic() - start,
        **coverage.to_json(),
    }


def _send_units(sender: "_Sender", cache: Cache, units: Sequence[Unit]) -> None:
    """Send units, each with its commit, after what readers need beside them; until the process is
    told to stop."""
    with progress("push", len(units), "units") as bar:
        for key in until_stopped(_keys_beside(cache, units)):
            sender.add({key: agreed_bytes(cache.storage, key, most=_most_beside(cache))})
        for unit in until_stopped(units):
            commit = cache.whole_commit(*unit)
            data = cache.unit_bytes(commit)
            sender.add({cache.format.key(*unit): data, commit_key(*unit): commit.to_bytes()})
            bar.advance(1)
        sender.flush()
        look()


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
    storage = HubStorage(parse_address(address), revision)
    source = open_cache(storage)
    target = created_from(new, source, source.manifest, source.samples)
    units = source.committed()
    ask_for_units(target, coverage_of(source, units).asked)
    sizes = copied_units(source, target, units)
    require_written(target, units)
    return {
        "cache": str(target),
        "address": address,
        "revision": storage.revision,
        **copied_result(target, len(sizes), sum(sizes), start),
    }


def parse_address(address: str) -> str:
    """Return `ORG/NAME` of `hf://datasets/ORG/NAME`.

    Raises:
        UsageError: another address.
    """
    match = re.fullmatch(r"hf://datasets/([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)/?", address)
    if not match:
        raise UsageError(f"address {address!r} is not of the form hf://datasets/ORG/NAME")
    return match[1]


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

    def __init__(self, storage: HubStorage) -> None:
        self._storage = storage
        self._waiting: dict[str, bytes] = {}
        self.revision = storage.revision
        self.num_objects = 0
        self.num_bytes = 0

    def add(self, objects: dict[str, bytes], *, replaces: bool = False) -> None:
        """Send objects that belong together, sooner or later and at once, but those that are there
        already.

        Raises:
            CacheError: one is there with other bytes, or cannot be sent.
        """
        new = {}
        for key, data in objects.items():
            if self._storage.holds(key, data):
                continue
            if self._storage.exists(key) and not replaces:
                raise CacheError(
                    f"{self._storage}/{key} is there with other bytes, of another dump; push to"
                    " another place"
                )
            new[key] = data
        self._waiting |= new
        if len(self._waiting) >= MOST_AT_ONCE or self._waiting_bytes() >= MOST_BYTES_AT_ONCE:
            self.flush()

    def _waiting_bytes(self) -> int:
        return sum(map(len, self._waiting.values()))

    def flush(self) -> None:
        """Send what waits.

        Raises:
            CacheError: it cannot be sent.
        """
        if not self._waiting:
            return
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 # an extra

        additions = []
        for key, data in self._waiting.items():
            additions.append(CommitOperationAdd(path_in_repo=key, path_or_fileobj=data))
        message = f"kdcache: {len(additions)} objects"
        with _one_line_errors(str(self._storage)):
            commit = open_api().create_commit(
                self._storage.repo, additions, commit_message=message, repo_type="dataset"
            )
        self.revision = str(commit.oid)
        self.num_objects += len(additions)
        self.num_bytes += self._waiting_bytes()
        self._waiting = {}


def _keys_beside(cache: Cache, units: Sequence[Unit]) -> list[str]:
    """Return the keys of all that readers need beside units and manifest."""
    keys: list[str] = []
    for root, digest in cache.manifest.arrays.items():
        keys += [entry.key for entry in cache.storage.walk(arrays_path(root, digest))]
    metadata: set[str] = set()
    for seed, _ in units:
        metadata |= cache.format.metadata(seed).keys()
    keys += sorted(metadata)
    keys += [extent.key for extent in read_extents(cache.storage)]
    return keys


def _most_beside(cache: Cache) -> int:
    """Return the bytes that an object beside the units has at most: one of an array, or what
    plain zarr needs."""
    most = MOST_METADATA
    for root in cache.manifest.arrays:
        most = max(most, cache.manifest.most_object(root))
    return most


@contextmanager
def _one_line_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub and back into an error of one line."""
    try:
        with asking_hub():
            yield
    except Exception as error:  # of the hub's client, and of the several libraries below it
        network = network_reason(error)
        if network is not None:
            way_out = "check the network, and run the same command again"
            raise CacheError(f"{where}: the hub cannot be reached: {network}; {way_out}") from error
        reason = " ".join(str(error).split())[:300]
        way_out = (
            "see that the name is right, that you are logged in (hf auth login), and run the same"
            " command again"
        )
        raise CacheError(f"{where}: {type(error).__name__}: {reason}; {way_out}") from error
