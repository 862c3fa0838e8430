import errno
import fcntl
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import PATTERNS, fill, flipped, manifest, records
from hypothesis import given
from hypothesis import strategies as st
from runs import largest_file

from kdcache.cache import Cache, Slab, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.parts import Absence
from kdcache.cache.formats.zarr import object_key
from kdcache.cache.slab_folder import SlabFolder
from kdcache.cache.storage.folder import Folder
from kdcache.codecs import open_codec
from kdcache.errors import CacheError, DamagedUnitError, MissingUnitError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def slabs() -> list[Path]:
    return sorted(SlabFolder().path.iterdir()) if SlabFolder().path.exists() else []


def whole(cache: Cache, seed: int) -> bytes:
    return b"".join(
        records(cache, seed, unit).tobytes() for unit in range(cache.manifest.num_units)
    )


NONE = np.empty(0, np.int64)


@given(rows=st.lists(st.integers(0, 19), max_size=40))
def test_gather_is_indexing(tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (20, 7), dtype=np.uint8)
    folder = SlabFolder(tmp_path_factory.mktemp("slab"))
    file = folder.write(f"{0:032x}.slab", stored.tobytes())
    dtype = np.dtype([("logits", "<f2", (3,)), ("x", "u1")])
    gathered = Slab(lambda: file, 20, dtype, absent=NONE, missing=NONE).gather(
        np.array(rows, dtype=np.int64)
    )
    assert gathered.dtype == dtype and gathered.shape == (len(rows),)
    assert gathered.tobytes() == stored[rows].tobytes()


def test_a_slab_is_the_units_in_order_and_is_made_once(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0, 1)
    assert len(cache.slab(0)) == 20
    assert cache.slab(0).gather(np.arange(20)).tobytes() == whole(cache, 0)
    (path,) = slabs()
    node = path.stat().st_ino
    cache.slab(0)
    assert [slab.stat().st_ino for slab in slabs()] == [node]
    assert cache.slab(1).gather(np.arange(20)).tobytes() == whole(cache, 1)
    assert len(slabs()) == 2


@pytest.mark.parametrize(
    "spec",
    [
        *(f"full:dtype={dtype}" for dtype in ("float32", "float16", "bfloat16", "uint8", "uint4")),
        *("topk:k=3", "topk:k=3,tau=4,mantissa=10", "lowrank:step=0.1"),
    ],
)
def test_what_comes_back_from_store_and_slab_decodes_as_what_was_encoded(
    tmp_path: Path, spec: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator) @ torch.randn(4, 30, generator=generator)
    codec = open_codec(spec, classes=30).fit(logits)
    cache = create_cache(tmp_path / "cache", manifest(codec, classes=30), codec.fit_arrays())
    start_seed(cache, 0)
    encoded = [
        codec.encode(logits[list(cache.manifest.unit_range(unit))])
        for unit in range(cache.manifest.num_units)
    ]
    for unit, written in enumerate(encoded):
        commit_unit(cache, 0, unit, written)

    expected = codec.decode(np.concatenate(encoded))
    there, rows = open_cache(tmp_path / "cache"), np.random.default_rng(0).permutation(20)
    for stored in (there.read(0, rows), there.slab(0).gather(rows)):
        assert stored.tobytes() == np.concatenate(encoded)[rows].tobytes()
        decoded = there.codec.decode(stored)
        for tau in (1.0, 4.0):
            torch.testing.assert_close(
                decoded.probs(tau), expected.probs(tau)[rows], rtol=0, atol=1e-6
            )


def test_a_unit_dumped_again_gives_another_slab(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0)
    cache.slab(0)
    (tmp_path / "cache" / object_key(0, 1)).unlink()
    (tmp_path / "cache" / "commits/00000/000001.json").unlink()
    with pytest.raises(
        MissingUnitError,
        match=r"lacks 1 of 3 units of seed 0, the first is seed 0, unit 1 \(rows 8 to 15\)",
    ):
        cache.slab(0)
    again = records(cache, 0, 1, writer=1)
    commit_unit(cache, 0, 1, again)
    assert cache.slab(0).gather(np.arange(8, 16)).tobytes() == again.tobytes()
    assert len(slabs()) == 2


def test_absent_rows_are_never_given_out(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", skip_unreadable=True, rows=8)
    commit_unit(cache, 0, 0, records(cache, 0, 0), absent=[Absence(row=5, reason="not an image")])
    slab = cache.slab(0)
    assert slab.absent.tolist() == [5]
    assert len(slab.gather(np.array([4, 6]))) == 2
    for rows in ([5], [0, 5, 1]):
        with pytest.raises(MissingUnitError, match="row 5 is recorded as absent"):
            slab.gather(np.array(rows))


def test_a_damaged_unit_gives_no_slab(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0)
    path = tmp_path / "cache" / object_key(0, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedUnitError, match="seed 0, unit 2 "):
        cache.slab(0)
    assert slabs() == []


def test_a_full_disk_gives_no_slab(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0, rows=400)
    with (
        largest_file(2000),
        pytest.raises(CacheError, match=r"cannot write .*\.slab .*--slab-dir, or KDCACHE_HOME"),
    ):
        cache.slab(0)
    assert slabs() == []
    assert len(cache.slab(0)) == 400


SLAB_BYTES = 20 * 10 + 4 + 32
"""20 records of 10 bytes, one checksum, the trailer."""


@pytest.mark.parametrize("length", [0, 5, 100, 199, 200, 203, 204, 235])
def test_a_slab_cut_off_is_made_again(tmp_path: Path, length: int) -> None:
    cache = fill(tmp_path / "cache", 0)
    cache.slab(0)
    (path,) = slabs()
    assert path.stat().st_size == SLAB_BYTES
    path.write_bytes(path.read_bytes()[:length])
    assert cache.slab(0).gather(np.arange(20)).tobytes() == whole(cache, 0)
    assert slabs() == [path] and path.stat().st_size == SLAB_BYTES


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("position", [0, 77, 199, 200, 204, 225, 235])
def test_a_slab_with_a_byte_changed_is_made_again(
    tmp_path: Path, position: int, pattern: int, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = whole(fill(tmp_path / "cache", 0), 0)
    open_cache(tmp_path / "cache").slab(0)
    (path,) = slabs()
    path.write_bytes(flipped(path.read_bytes(), position, pattern))
    assert open_cache(tmp_path / "cache").slab(0).gather(np.arange(20)).tobytes() == expected
    assert capsys.readouterr().err.count("it is made again") == 1


def test_a_slab_changed_while_it_is_read_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = fill(tmp_path / "cache", 0)
    slab, rows = cache.slab(0), np.arange(20)
    (path,) = slabs()
    for change in (lambda: path.write_bytes(b"\xff" * SLAB_BYTES), lambda: os.truncate(path, 0)):
        change()
        assert slab.gather(rows).tobytes() == whole(cache, 0), (
            "and a map past the end of its file ends no process"
        )
        assert "was changed while it was read" in capsys.readouterr().err
    assert slab.gather(rows).tobytes() == whole(cache, 0)
    assert capsys.readouterr().err == ""


def test_using_a_slab_is_no_change_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = fill(tmp_path / "cache", 0)
    slab = cache.slab(0)
    open_cache(tmp_path / "cache").slab(0)
    assert slab.gather(np.arange(20)).tobytes() == whole(cache, 0)
    assert capsys.readouterr().err == ""


class Watched(Folder):
    """Writes each read of a unit down in `log`, and takes its time over it."""

    def __init__(self, path: Path, log: Path, seconds: float) -> None:
        super().__init__(path)
        self.log, self.seconds = log, seconds

    def get(self, key: str, **limits: int) -> bytes:
        if key.startswith("seeds/"):
            with self.log.open("a") as file:
                file.write(f"{key}\n")
            time.sleep(self.seconds)
        return super().get(key, **limits)


def forked(work: Callable[[], bool]) -> int:
    """Return the process that does `work`; it ends with 0 if that gives True."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = int(not work())
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    return os.waitpid(process, 0)[1]


def reader(cache: Cache, log: Path, seconds: float) -> Callable[[], bool]:
    """Return what reads seed 0 through a slab, and tells whether it got the right records."""
    expected = whole(cache, 0)
    watched = Cache(Watched(cache.storage.path, log, seconds), cache.manifest)
    return lambda: watched.slab(0).gather(np.arange(cache.manifest.rows)).tobytes() == expected


def test_of_processes_that_ask_for_one_slab_at_once_one_makes_it(tmp_path: Path) -> None:
    cache, log = fill(tmp_path / "cache", 0), tmp_path / "log"
    work = reader(cache, log, 0.1)
    assert [ended(process) for process in [forked(work) for _ in range(4)]] == [0] * 4
    assert sorted(log.read_text().split()) == [object_key(0, unit) for unit in range(3)], (
        "each unit is fetched once"
    )
    assert len(slabs()) == 1, "no lock is left"


def test_of_threads_that_ask_for_one_slab_at_once_one_makes_it(tmp_path: Path) -> None:
    cache, log = fill(tmp_path / "cache", 0), tmp_path / "log"
    work = reader(cache, log, 0.05)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: work(), range(4)))
    assert len(log.read_text().split()) == 3 and len(slabs()) == 1


def test_where_files_cannot_be_locked_all_make_it_and_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_have_begun = multiprocessing.get_context("fork").Barrier(4)
    locks: list[object] = []

    def without_locks(file: object, operation: int) -> None:
        if operation == fcntl.LOCK_UN:  # of slabs that other tests had open
            return
        locks.append(file)
        if len(locks) == 1:
            all_have_begun.wait(60)
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    cache, log = fill(tmp_path / "cache", 0), tmp_path / "log"
    work = reader(cache, log, 0.1)
    assert [ended(process) for process in [forked(work) for _ in range(4)]] == [0] * 4
    assert len(log.read_text().split()) > 3 and len(slabs()) == 1


def test_a_process_killed_while_it_makes_a_slab_does_not_block_the_others(tmp_path: Path) -> None:
    cache, log = fill(tmp_path / "cache", 0), tmp_path / "log"
    log.touch()
    first = forked(reader(cache, log, 60))
    while len(log.read_text().split()) < 3:
        time.sleep(0.01)
    others = [forked(reader(cache, log, 0)) for _ in range(2)]
    time.sleep(0.3)
    assert len(log.read_text().split()) == 3, "the others wait"
    os.kill(first, signal.SIGKILL)
    assert ended(first) == signal.SIGKILL
    assert [ended(other) for other in others] == [0, 0]
    assert len(log.read_text().split()) == 3 + 3
    assert [path.suffix for path in slabs()] == [".tmp", ".slab"], "no lock is left"


def test_a_maker_that_fails_lets_the_next_one_try(tmp_path: Path) -> None:
    cache = fill(tmp_path / "cache", 0)
    path = tmp_path / "cache" / object_key(0, 1)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    for _ in range(2):
        with pytest.raises(DamagedUnitError):
            cache.slab(0)
        assert slabs() == []
    path.write_bytes(data)
    assert cache.slab(0).gather(np.arange(20)).tobytes() == whole(cache, 0)
