"""Logits that codecs can be measured on, told without torch: of which caches, of which files."""

import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kdcache.cache import Cache
from kdcache.codecs import codec_spec
from kdcache.codecs.full import EXACT_DTYPES
from kdcache.errors import CacheError, UsageError


def measured_seeds(cache: Cache, *, student: str | None, data: str | None) -> list[int]:
    """Return the seeds of a cache whose records are measured: of classification the first two
    complete ones, or the first if a student is given; of maps and boxes the first.

    Raises:
        CacheError: the cache does not hold exact logits of so many seeds.
        UsageError: a student without data, or the other way round.
    """
    if not cache.codec.is_exact:
        exact_specs = " or ".join([f"full:dtype={dtype}" for dtype in EXACT_DTYPES])
        raise CacheError(
            f"cache {cache} holds {codec_spec(cache.codec)}; codecs are measured against exact"
            f" logits: {exact_specs}; give a cache of these, or in its place --teacher, --data and"
            " --recipe"
        )
    if (student is None) != (data is None):
        raise UsageError(
            "with a cache, student and data go together: the student looks at the images of the"
            " cache's source"
        )
    num_seeds = 1
    if student is None and not cache.manifest.layout.sites:
        num_seeds = 2
    seeds = cache.complete_seeds()[:num_seeds]
    if len(seeds) < num_seeds:
        raise CacheError(_too_few_seeds(cache, len(seeds), num_seeds))
    return seeds


def require_few_rows(cache: Cache) -> None:
    """Raise a UsageError of a cache whose views have so many rows that a basis needs no teacher's
    last layer."""
    if cache.manifest.layout.sites:
        raise UsageError(
            "a teacher beside a cache helps where rows are few; this one has many in each view:"
            " leave teacher out"
        )


def _too_few_seeds(cache: Cache, found: int, needed: int) -> str:
    """Return what is wrong with a cache of too few complete seeds."""
    if needed == 1:
        return (
            f"cache {cache} holds no complete seed; run its dump-teacher command again to finish"
            " one"
        )
    return (
        f"cache {cache} holds {found} complete seeds; two are needed, for the teacher and for its"
        " proxy student: dump another seed, or give a student and data"
    )


@contextmanager
def opened_npz(path: str | Path) -> "Iterator[np.lib.npyio.NpzFile]":
    """Give an .npz file of logits, of which the names of its arrays are checked, to read them to
    the end of the block.

    Raises:
        UsageError: no such file, or arrays that are absent.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            _require_arrays(path, file.files)
            yield file
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as an .npz of plain arrays: {reason}") from error


def _require_arrays(path: str | Path, names: Collection[str]) -> None:
    """Raise a UsageError if a file lacks the logits of the teacher, or what they are compared
    with."""
    if "teacher" not in names or not {"student", "image_id"} & {*names}:
        contents = ", ".join(names) or "nothing"
        raise UsageError(
            f"{path} holds {contents}; it needs `teacher`, and `student` or `image_id`"
        )
