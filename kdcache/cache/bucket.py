"""A bucket's prefix as objects that are written once, through obstore.

A put with mode "create" is atomic and durable (S3 `If-None-Match: *`, GCS generation 0). What it does not tell is whether it
was stored when the response is lost: so the object is read back, and is ours if it has our bytes.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from kdcache.cache.objects import MOST_BYTES, Entry
from kdcache.errors import CacheError, LargeObjectError, UsageError

WAITS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds before another try, beside the tries of obstore itself; half a minute of trouble with all of them."""
T = TypeVar("T")
_FINAL = (PermissionDeniedError, UnauthenticatedError, FileNotFoundError)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_NO_BUCKET = "NoSuchBucket"
_CREDENTIAL_HOST = "169.254.169.254"
"""Where obstore looks for credentials, as on a machine of the cloud, if the environment has none."""


class Bucket:
    """Objects under the prefix of a bucket; credentials and endpoint come from the environment, as for other tools."""

    def __init__(self, url: str, *, waits: tuple[float, ...] = WAITS) -> None:
        """Open the bucket; no request is sent.

        Args:
            url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
            waits: seconds before each further try.

        Raises:
            UsageError: an address that names no bucket, or an environment that does not make sense.
        """
        self._url, self._waits = url.rstrip("/"), waits
        self._process = os.getpid()
        try:
            self._store = from_url(self._url, client_options={"allow_http": True} if _is_plain_http() else None)
        except (BaseError, ValueError) as error:
            raise UsageError(f"{url} is no bucket that can be opened: {_reason(error)}") from error

    def publish(self, key: str, data: bytes) -> bool:
        """Store `data` as `key`; return False if the key exists with other bytes.

        Raises:
            CacheError: it cannot be written, or whether it was cannot be found out.
        """
        self._check_process()
        for wait in (*self._waits, None):
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
                return True
            except (BaseError, OSError) as error:
                if _is_final(error):
                    raise self._cannot("write", key, error) from error
                held = self._held(key, len(data))
                if held is not None:
                    return held == data
                if wait is None or isinstance(error, AlreadyExistsError):
                    raise self._cannot("write", key, error) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def get(self, key: str, *, most: int = MOST_BYTES) -> bytes:
        """Return the bytes of `key`.

        Raises:
            FileNotFoundError: there is no such object.
            CacheError: it is there and cannot be read, or has more than `most` bytes.
        """
        return self._tried("read", key, lambda: self._get(key, most))

    def exists(self, key: str) -> bool:
        """Return whether `key` has been published."""
        try:
            self._tried("read", key, lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under `prefix`, sorted."""
        found = self._tried("list", prefix, lambda: obstore.list_with_delimiter(self._store, prefix or None))
        names = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        yield from sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object under `prefix`."""
        pages = self._tried("list", prefix, lambda: [*obstore.list(self._store, prefix or None)])
        for page in pages:
            yield from (Entry(entry["path"], entry["size"], entry["last_modified"].timestamp()) for entry in page)

    def remove(self, key: str) -> None:
        """Remove `key`, if it is there.

        Raises:
            CacheError: it cannot be removed.
        """
        try:
            self._tried("remove", key, lambda: obstore.delete(self._store, key))
        except FileNotFoundError:
            return

    def __str__(self) -> str:
        """Return the address."""
        return self._url

    def _get(self, key: str, most: int) -> bytes:
        response = obstore.get(self._store, key)
        if response.meta["size"] > most:
            raise LargeObjectError(
                f"{self._url}/{key} has {response.meta['size']} bytes, more than the {most} that it may have"
            )
        return bytes(response.bytes())

    def _held(self, key: str, size: int) -> bytes | None:
        """Return what is there after a put that did not succeed: nothing, our bytes, or another's, if only of another size."""
        try:
            if self._tried("read", key, lambda: obstore.head(self._store, key))["size"] != size:
                return b""
            return self.get(key)
        except FileNotFoundError:
            return None

    def _tried(self, verb: str, key: str, action: Callable[[], T]) -> T:
        self._check_process()
        for wait in (*self._waits, None):
            try:
                return action()
            except (BaseError, OSError) as error:
                if isinstance(error, FileNotFoundError) and _NO_BUCKET not in str(error):
                    raise
                if wait is None or _is_final(error):
                    raise self._cannot(verb, key, error) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _check_process(self) -> None:
        # its threads are not there in a forked child: a request would wait for ever
        assert os.getpid() == self._process, "a bucket that was opened before a fork"

    def _cannot(self, verb: str, key: str, error: Exception) -> CacheError:
        way_out = "see that the bucket exists and that the credentials may use it, and run the same command again"
        if _CREDENTIAL_HOST in str(error):
            way_out = (
                "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a "
                "bucket that is open to all"
            )
        return CacheError(f"cannot {verb} {self._url}/{key}: {_reason(error)}; {way_out}")


def _is_final(error: Exception) -> bool:
    """Return whether another try would change nothing."""
    return isinstance(error, _FINAL) or _NO_BUCKET in str(error)


def _is_plain_http() -> bool:
    """Return whether the environment names an endpoint without TLS, which is then meant."""
    return any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)


def _reason(error: Exception) -> str:
    """Return the first line of obstore's message, which goes on with the source of the error; of XML what it says."""
    text = str(error)
    if said := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL):
        return f"{said[1]}: {said[2]}"[:300]
    return " ".join(text.partition("\n\n")[0].split())[:300]
