"""A bucket's prefix as objects that are written once, through obstore.

A put with mode "create" is atomic and durable (S3 `If-None-Match: *`, GCS generation 0). What it
does not tell is whether it was stored when the response is lost: so the object is read back, and is
ours if it has our bytes.

obstore's own tries are switched off, since they say nothing. Each request has a timeout, and is
tried again here.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import IO, Any, TypeVar

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import from_url

from kdcache.cache.storage.blocks import Blocks
from kdcache.cache.storage.bucket_errors import (
    check_environment,
    code_of,
    endpoint_from_environment,
    is_about_credentials,
    is_final,
    is_of_no_bucket,
    is_plain_http,
    is_timeout,
    is_unreachable,
    reason_of,
    status_of,
    way_out_of,
)
from kdcache.cache.storage.patience import Patience, Tries
from kdcache.cache.storage.protocol import MOST_BYTES, PROBE, Entry, lasting_names
from kdcache.errors import CacheError, LargeObjectError, UsageError

PART = 8 * 2**20
"""Bytes that are read at once: of a large object one lost connection costs no more than that."""
T = TypeVar("T")
_PUT_RATE = 2**18  # bytes per second of a link that is slow; a put may take longer the larger it is
_MOST_SLOWNESS = 16
_WHOLE_PART = 20  # times the patience for a first byte
_MOST_VERSIONS = 3
_reached: set[str] = set()
"""Buckets that have answered this process: trouble with them is waited out; with others it is most
likely a mistake."""


class Bucket:
    """Objects under the prefix of a bucket; credentials and endpoint come from the environment."""

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        """Open the bucket; no request is sent.

        Args:
            url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
            patience: how long requests are waited for.

        Raises:
            UsageError: an address that names no bucket, or an environment that does not make sense.
        """
        self._url = url.rstrip("/")
        self._patience = patience or Patience()
        self._process = os.getpid()
        self._scheme, _, path = url.partition("://")
        bucket, _, _ = path.partition("/")
        self._place = f"{self._scheme}://{bucket} {endpoint_from_environment()}"
        self._putters: dict[float, Any] = {}
        self._slowness = 1
        self._is_probed = False
        check_environment(self._scheme)
        try:
            answer = self._patience.answer
            self._store = self._opened(whole=_WHOLE_PART * answer, silence=answer)
        except (BaseError, ValueError) as error:
            reason = reason_of(error)
            raise UsageError(f"{url} is no bucket that can be opened: {reason}") from error

    def publish(self, key: str, data: bytes) -> bool:
        """Store `data` as `key`; return False if the key exists with other bytes.

        Raises:
            CacheError: it cannot be written, or whether it was cannot be found out.
        """
        self._check_process()
        tries = Tries(f"write {self._url}/{key}", self._patience)
        while True:
            try:
                tries.run(lambda: self._put(key, data))
            except (BaseError, OSError) as error:
                if is_timeout(error):
                    self._slowness = min(2 * self._slowness, _MOST_SLOWNESS)
                is_ours = None
                if not self._is_final(error):
                    is_ours = self._holds(key, data)
                if is_ours is None:
                    self._go_on(tries, "write", key, error)
                    continue
            else:
                is_ours = True
            self._end(tries)
            return is_ours

    def get(self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False) -> bytes:
        """Return the bytes of `key`, which are fresh in any case.

        Raises:
            FileNotFoundError: there is no such object.
            CacheError: it is there and cannot be read, or has more than `most` bytes.
        """

        def whole() -> bytes:
            return b"".join(self._parts(key, most))

        return self._of_one_version(key, whole)

    @contextmanager
    def blocks(
        self, key: str, *, most: int = MOST_BYTES, is_fresh: bool = False
    ) -> Iterator[Blocks]:
        """Give the bytes of `key`, to read parts of them to the end of the block; see `get`.

        They lie in a temporary file meanwhile, which has no name.

        Raises:
            CacheError: also where there is no room for the file.
        """
        try:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 # closed below
        except OSError as error:
            raise self._no_room(key, error) from error

        def fill() -> None:
            self._write(file, key, self._parts(key, most))

        with file:
            self._of_one_version(key, fill)
            yield Blocks(f"{self._url}/{key}", file.fileno())

    def exists(self, key: str) -> bool:
        """Return whether `key` has been published."""
        return self.stamp(key) is not None

    def stamp(self, key: str) -> Hashable | None:
        """Return what tells this object from others that had this key; None if it is not there."""
        try:
            meta = self._head(key)
        except FileNotFoundError:
            return None
        return meta["e_tag"], meta["size"], meta["last_modified"]

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under `prefix`, sorted, temporary objects left out."""
        listing = self._tried(
            "list", prefix, lambda: obstore.list_with_delimiter(self._store, prefix or None)
        )
        paths = [*listing["common_prefixes"]]
        paths += [meta["path"] for meta in listing["objects"]]
        yield from lasting_names(_last_name(path) for path in paths)

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object under `prefix`, temporary ones too."""

        def pages() -> list[Any]:
            return [*obstore.list(self._store, prefix or None)]

        for page in self._tried("list", prefix, pages):
            for meta in page:
                yield Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())

    def remove(self, key: str) -> None:
        """Remove `key`, if it is there.

        Raises:
            CacheError: it cannot be removed.
        """
        with suppress(FileNotFoundError):
            self._tried("remove", key, lambda: obstore.delete(self._store, key))

    def probe(self, *, writes: bool = True) -> None:
        """Check that objects can be listed here, put, and not replaced; nothing is left behind.

        Args:
            writes: whether to try more than listing.

        Raises:
            CacheError: they cannot.
        """
        [*self.list("")]
        if self._is_probed or not writes:
            return
        # one name for all, so that where nothing may be removed only one object stays
        if self.publish(PROBE, secrets.token_bytes(8)):
            is_replaced = self.publish(PROBE, secrets.token_bytes(9))
            with suppress(CacheError):  # who may not remove may dump all the same
                self.remove(PROBE)
            if is_replaced:
                raise CacheError(
                    f"cannot use {self._url}: its store replaces objects that are there, whatever "
                    "a put says; a cache needs a store that knows conditional writes "
                    "(If-None-Match: *)"
                )
        self._is_probed = True

    def __str__(self) -> str:
        """Return the address."""
        return self._url

    def _put(self, key: str, data: bytes) -> None:
        """Put the object, in a time that grows with its size."""
        least_seconds = self._patience.answer + self._slowness * len(data) / _PUT_RATE
        seconds = self._patience.answer
        while seconds < least_seconds:
            seconds *= 2  # few different ones: each has connections of its own
        putter = self._putters.get(seconds)
        if putter is None:
            putter = self._opened(whole=seconds, silence=seconds)
            self._putters[seconds] = putter
        obstore.put(putter, key, data, mode="create", use_multipart=False)

    def _of_one_version(self, key: str, reader: Callable[[], T]) -> T:
        """Return what `reader` gives, which reads the parts of one and the same object.

        Raises:
            CacheError: each time another takes its place meanwhile.
        """
        for _ in range(_MOST_VERSIONS):
            with suppress(PreconditionError):  # it was removed and written again between two parts
                return reader()
        raise CacheError(
            f"cannot read {self._url}/{key}: it is written anew again and again; see who does"
        )

    def _parts(self, key: str, most: int) -> Iterator[bytes]:
        """Yield the bytes of one and the same object.

        Raises:
            PreconditionError: another has taken its place meanwhile.
        """
        meta, first = self._tried("read", key, lambda: self._part(key, most, 0, None))
        yield first
        for start in range(len(first), meta["size"], PART):
            request = partial(self._part, key, most, start, meta["e_tag"])
            _, part = self._tried("read", key, request)
            yield part

    def _write(self, file: IO[bytes], key: str, parts: Iterator[bytes]) -> None:
        """Have a file hold these bytes, and nothing else."""
        file.seek(0)
        file.truncate()
        for part in parts:
            rest = memoryview(part)
            try:
                while rest:
                    num_bytes = file.write(rest)  # which may write less than it was given
                    rest = rest[num_bytes:]
            except OSError as error:
                raise self._no_room(key, error) from error

    def _no_room(self, key: str, error: OSError) -> CacheError:
        return CacheError(
            f"cannot keep {self._url}/{key} in a temporary file while it is checked:"
            f" {error.strerror or error}; name a folder with room in TMPDIR"
        )

    def _part(self, key: str, most: int, start: int, tag: str | None) -> tuple[Any, bytes]:
        """Return what is said of an object, and a part of its bytes, or all if there are no
        parts."""
        options: dict[str, Any] = {"range": (start, start + PART)}
        if tag is not None:
            options["if_match"] = tag
        try:
            response = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
        except BaseError as error:
            is_empty = status_of(error) == 416  # of no bytes there is no first part
            is_whole = "non-partial response" in str(error)
            if start or not (is_empty or is_whole):
                raise
            response = obstore.get(self._store, key)
        size = response.meta["size"]
        if size > most:
            raise LargeObjectError(
                f"{self._url}/{key} has {size} bytes, more than the {most} that it may have"
            )
        return response.meta, bytes(response.bytes())

    def _head(self, key: str) -> Any:
        return self._tried("read", key, lambda: self._telling_head(key))

    def _telling_head(self, key: str) -> Any:
        """Return what is said of an object.

        An error of it says why: that of a HEAD does not, since the answer has no body.
        """
        try:
            return obstore.head(self._store, key)
        except (BaseError, OSError) as error:
            is_unclear = status_of(error) is not None and not code_of(error)
            is_absent = isinstance(error, FileNotFoundError)
            if is_unclear and not (is_absent and self._place in _reached):
                obstore.get(self._store, key, options={"range": (0, 1)})
            raise

    def _holds(self, key: str, data: bytes) -> bool | None:
        """Return whether our bytes are there after a put that failed; None if nothing is."""
        try:
            size = self._head(key)["size"]
            return size == len(data) and self.get(key) == data
        except FileNotFoundError:
            return None

    def _tried(self, verb: str, key: str, action: Callable[[], T]) -> T:
        """Return what `action` gives, after as many tries as it takes.

        Raises:
            FileNotFoundError, PreconditionError: the answer to `action`.
            CacheError: trouble that does not end.
        """
        self._check_process()
        tries = Tries(f"{verb} {self._url}/{key}", self._patience)
        while True:
            try:
                result = tries.run(action)
            except (BaseError, OSError) as error:
                is_answer = isinstance(error, FileNotFoundError | PreconditionError)
                if is_answer and not is_of_no_bucket(error):
                    self._end(tries)
                    raise
                self._go_on(tries, verb, key, error)
            else:
                self._end(tries)
                return result

    def _end(self, tries: Tries) -> None:
        _reached.add(self._place)
        tries.end()

    def _go_on(self, tries: Tries, verb: str, key: str, error: Exception) -> None:
        """Wait before another try, or raise the CacheError if there is none."""
        reason = reason_of(error)
        is_first_contact = self._place not in _reached and is_unreachable(error)
        if self._is_final(error) or not tries.can_go_on(is_first_contact=is_first_contact):
            way_out = way_out_of(error, self._scheme)
            raise CacheError(f"cannot {verb} {self._url}/{key}: {reason}; {way_out}") from error
        tries.pause(reason)

    def _is_final(self, error: Exception) -> bool:
        """Return whether another try would change nothing: credentials will not come later."""
        is_without_credentials = is_about_credentials(error) and self._place not in _reached
        return is_without_credentials or is_final(error)

    def _opened(self, *, whole: float, silence: float) -> Any:
        """Return the bucket as obstore knows it.

        Args:
            whole: seconds of a whole request.
            silence: seconds without a byte of the answer.
        """
        options: Any = {
            "connect_timeout": timedelta(seconds=self._patience.connect),
            "read_timeout": timedelta(seconds=silence),
            "timeout": timedelta(seconds=whole),
            "allow_http": is_plain_http(),
        }
        retries: Any = {"max_retries": 0}
        return from_url(self._url, client_options=options, retry_config=retries)

    def _check_process(self) -> None:
        # its threads are not there in a forked child: a request would wait for ever
        assert os.getpid() == self._process, "a bucket that was opened before a fork"


def _last_name(path: str) -> str:
    """Return the name of an object, or of a folder of them, without those before it."""
    return path.rstrip("/").rpartition("/")[2]
