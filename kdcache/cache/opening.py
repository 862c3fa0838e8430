"""Opening caches, where they lie, and beginning them."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from kdcache.cache.arrays import ROOTS, arrays_digest, arrays_path, publish_arrays
from kdcache.cache.cache import Cache
from kdcache.cache.documents.document import parsed
from kdcache.cache.documents.limits import MOST_MANIFEST, MOST_MANIFEST_VALUES
from kdcache.cache.documents.manifest import CODEC, MANIFEST, SAMPLES, SOURCE, VIEWS, Manifest
from kdcache.cache.formats.zarr import root_metadata
from kdcache.cache.storage.folder import Folder
from kdcache.cache.storage.protocol import Storage, is_address
from kdcache.cache.storage.rereading import read_twice
from kdcache.cache.stored_views import read_views
from kdcache.cache.subset import samples_arrays
from kdcache.config.texts import require_text
from kdcache.errors import CacheError, DamagedError, UsageError, quoted
from kdcache.shapes import Rows
from kdcache.views.stored_views import StoredViews

_SCHEMES = ("s3", "gs", "az")
_ARRAYS = re.compile(r"[0-9a-f]{16}|zarr\.json")  # what lies below a root of arrays
_NO_MANIFEST = (
    "is not a kdcache cache: its zarr.json carries no manifest, or is damaged; if it was one,"
    " restore that file from a copy"
)
_PIPE = "pipe:"  # webdataset would run what follows it as a command


def open_storage(path: str | Path) -> Storage:
    """Return the storage at a path, or at an address `s3://BUCKET/PREFIX`, `gs://...` or
    `az://...`.

    Raises:
        UsageError: no text, `~`, an address of another kind, or obstore is not installed.
    """
    text = str(path)
    require_text(text, "cache")
    before_slash = text.partition(":/")[0]
    if before_slash in _SCHEMES and not is_address(text):
        raise UsageError(
            f"{text} is neither an address nor a likely folder; write"
            f" {before_slash}://BUCKET/PREFIX"
        )
    if not is_address(text) and not text.startswith(_PIPE):
        return Folder(path)
    scheme = text.partition(":")[0]
    if scheme not in _SCHEMES:
        addresses = ", ".join(f"{name}://" for name in _SCHEMES)
        raise UsageError(f"{text}: caches lie in folders or at {addresses}, not at {scheme}:")
    try:
        from kdcache.cache.storage.bucket import Bucket  # noqa: PLC0415 # an extra
    except ImportError:
        raise UsageError(
            f"{text}: caches in buckets need obstore; pip install 'kdcache[s3]'"
        ) from None
    return Bucket(text)


def open_cache(path: str | Path | Storage) -> Cache:
    """Return the cache at `path`, or in a storage that is open already.

    Raises:
        UsageError: no path.
        CacheError: no cache there, a format of the future, or a damaged manifest.
    """
    if not isinstance(path, str | Path | Storage):
        raise UsageError(f"cache is {quoted(path)}; give the path or the address of one")
    folder = path if isinstance(path, Storage) else open_storage(path)
    try:
        manifest = read_twice(lambda is_fresh: _read_manifest(folder, is_fresh))
        return Cache(folder, manifest)
    except FileNotFoundError:
        reason = "it has no zarr.json"
        if isinstance(path, str | Path) and not is_address(path) and not os.path.lexists(path):
            reason = "there is no such folder"
        raise CacheError(
            f"{path} is not a cache: {reason}; give the folder of one, or make one with kdcache"
            " dump-teacher"
        ) from None


def as_cache(cache: Cache | str | Path) -> Cache:
    """Return a cache as it is, or the one at a path."""
    if isinstance(cache, Cache):
        return cache
    return open_cache(cache)


def _read_manifest(folder: Storage, is_fresh: bool) -> Manifest:
    data = folder.get(MANIFEST, most=MOST_MANIFEST, is_fresh=is_fresh)
    try:
        document = parsed(data, most_values=MOST_MANIFEST_VALUES)["attributes"]["kdcache"]
    except (KeyError, TypeError):
        raise DamagedError(f"{folder} {_NO_MANIFEST}") from None
    except ValueError as error:
        raise DamagedError(f"{folder} {_NO_MANIFEST} ({error})") from None
    try:
        return Manifest.from_json(document, str(folder))
    except CacheError as error:
        if is_fresh:
            raise
        # a version of the future may be a wrong byte, too
        raise DamagedError(str(error)) from error


def require_apart(new: str | Path, caches: Iterable[str | Path]) -> None:
    """Check that a new cache is not to be made where one that it comes from is, or inside it.

    Raises:
        UsageError: it is.
    """
    for cache in caches:
        if str(new) == str(cache) or _is_inside(new, cache):
            raise UsageError(
                f"{new} is the cache itself, or inside it; give the new one a folder of its own"
            )


def _is_inside(new: str | Path, cache: str | Path) -> bool:
    if is_address(new) or is_address(cache):
        return False
    # not resolve, which raises where links go round in a circle
    return Path(os.path.realpath(new)).is_relative_to(os.path.realpath(cache))


def probe_new(storage: Storage, *, writes: bool = True) -> None:
    """Check that a cache can be begun in a place where there is none.

    Args:
        storage: the place.
        writes: whether that may be tried by writing.

    Raises:
        CacheError: it holds something else, or cannot be written.
    """
    others = [name for name in storage.list("") if not _is_left_over(storage, name)]
    # the manifest is looked for again: another worker may just have begun
    if others and not storage.exists(MANIFEST):
        raise CacheError(f"{storage} is not empty and not a cache; choose a new folder")
    storage.probe(writes=writes)


def _is_left_over(folder: Storage, name: str) -> bool:
    """Return whether a folder is what a writer leaves that was killed before the manifest came."""
    if name not in ROOTS:
        return False
    return all(_ARRAYS.fullmatch(child) for child in folder.list(name))


def create_cache(
    path: str | Path,
    manifest: Manifest,
    fit: Mapping[str, np.ndarray] | None = None,
    *,
    samples: Rows | None = None,
    source: Mapping[str, np.ndarray] | None = None,
    views: StoredViews | None = None,
    any_codec: bool = False,
) -> Cache:
    """Return the cache at `path`, made with `manifest` or, if there is one already, checked to
    match it.

    Args:
        path: the folder.
        manifest: what it holds; of a fitted codec with the digest of `fit`.
        fit: the arrays of the codec's fit. Of several writers the first decides: the others go on
            with its fit.
        samples: of a subset the numbers of its samples, rising, whose digest the manifest has.
        source: the arrays of the list of the source, whose digest the manifest has if it has one.
            A cache that is there gets them again if it has lost them.
        views: stored views, whose digest the manifest has if its recipe names them.
        any_codec: whether to go on with the codec of a cache that is there, whichever it is.

    Raises:
        MismatchError: the cache there was made otherwise; the fields that differ are printed.
        CacheError: the folder holds something else, or cannot be written.
    """
    assert (samples is None) == (manifest.samples is None), "a subset is named and listed"
    assert (views is None) == (manifest.views is None), "stored views are named and kept"
    folder = open_storage(path)
    manifest.check(str(path))
    is_new = not folder.exists(MANIFEST)
    if is_new:
        probe_new(folder)
        if fit:
            publish_arrays(folder, CODEC, fit)
        if samples is not None:
            publish_arrays(folder, SAMPLES, samples_arrays(samples))
        if source:
            publish_arrays(folder, SOURCE, source)
        if views is not None:
            publish_arrays(folder, VIEWS, views.arrays)
        folder.publish(MANIFEST, root_metadata(manifest))
    cache = open_cache(folder)
    cache.require(manifest.with_codec_of(cache.manifest, whichever=any_codec))
    if source and not is_new and arrays_digest(source) == cache.manifest.source.list:
        _restore(folder, source)
    return cache


def create_from(
    source: Cache,
    path: str | Path,
    manifest: Manifest,
    fit: Mapping[str, np.ndarray] | None,
    *,
    samples: Rows | None,
) -> Cache:
    """Return the cache at `path` as `create_cache` does, with what lies beside the units of
    `source`, whose views it has: the list of its source, and the views that are stored."""
    return create_cache(
        path,
        manifest,
        fit,
        samples=samples,
        source=source.source_arrays(),
        views=read_views(source.storage, source.manifest),
    )


def _restore(storage: Storage, source: Mapping[str, np.ndarray]) -> None:
    """Store the list of the source of a cache, if nothing of it is there."""
    if not any(storage.list(arrays_path(SOURCE, arrays_digest(source)))):
        publish_arrays(storage, SOURCE, source)
