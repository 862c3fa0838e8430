"""A data set on the hub as a place that holds a cache's objects, to be read only."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.protocol import MOST_BYTES, Entry
from kdcache.errors import CacheError, LargeObjectError
from kdcache.tools.hub_client import address_of, one_line_errors, open_api


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
        with one_line_errors(address_of(repo)):
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
            with one_line_errors(f"{self}/{key}"):
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
        return address_of(self.repo)


def _start_of_keys(prefix: str) -> str:
    """Return what all keys under `prefix` start with."""
    if not prefix:
        return ""
    return f"{prefix}/"
