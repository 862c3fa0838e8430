"""Every attack is refused with one line, by a reader that neither runs its code nor its machine out of memory."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import hostile.documents
import hostile.fits
import hostile.objects
import hostile.subsets
import hostile.tar_members  # noqa: F401 # all five fill ATTACKS
import numcodecs.pickles
import numpy as np
import pytest
from hostile.forge import ATTACKS, lowrank, tars, zarr

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.verify import verify_cache

MOST_GROWTH = 200 * 10**6
MOST_SECONDS = 10.0  # each takes well under one on a machine that does nothing else
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@pytest.fixture(autouse=True)
def old_numcodecs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let numcodecs unpickle, as its older versions do without being told."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    yield


def read_all(path: Path) -> str:
    """Read all that a training would of the cache, and return the error."""
    try:
        cache = open_cache(path)
        _ = cache.codec
        for seed in cache.seeds():
            cache.commits(seed)
            cache.codec.decode(cache.read(seed, np.arange(cache.manifest.rows))).probs(1.0)
    except KdcacheError as error:
        return str(error)
    return ""


def verify_all(path: Path) -> str:
    """Return the first fault that verify finds, or its error."""
    try:
        return "".join(verify_cache(open_cache(path))["faults"][:1])
    except KdcacheError as error:
        return str(error)


def peak(*, anew: bool = False) -> int:
    """Return the most memory that this process had, in bytes; with `anew` since now. Only Linux tells."""
    if not _RESET.exists():
        return 0
    if anew:
        _RESET.write_text("5")
    found = _PEAK.search(_STATUS.read_text())
    assert found
    return int(found[1]) * 1024


def test_honest_caches_are_taken(tmp_path: Path) -> None:
    for make in (zarr, lowrank, tars):
        make(tmp_path / make.__name__)
        assert read_all(tmp_path / make.__name__) == verify_all(tmp_path / make.__name__) == ""


def test_memory_is_measured() -> None:
    if before := peak(anew=True):
        data = np.ones(100 * 10**6, np.uint8)
        assert peak() - before > 90 * 10**6
        del data
        assert peak(anew=True) - before < 20 * 10**6


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, tmp_path: Path) -> None:
    forge, message = ATTACKS[name]
    forge(tmp_path / "cache")
    for use in (read_all, verify_all):
        before, start = peak(anew=True), time.monotonic()
        said = use(tmp_path / "cache")
        seconds, growth = time.monotonic() - start, peak() - before
        print(f"{name}, {use.__name__}: {growth / 1e6:.0f} MB, {seconds:.3f} s: {said}")
        assert re.search(message, said), said
        assert "\n" not in said and len(said) < 1000
        assert growth < MOST_GROWTH and seconds < MOST_SECONDS
    assert not list(tmp_path.rglob("owned")), "it ran code"
