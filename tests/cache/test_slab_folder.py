"""The folder of slabs: who may remove what, what is in use, and what damage does."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.cache.file_lock import one_at_a_time
from kdcache.cache.local_file import LocalFile, write_local
from kdcache.cache.slab_folder import SlabFolder
from kdcache.errors import CacheError


def named(number: int) -> str:
    return f"{number:032x}.slab"


def folder(path: Path, limit: int = 10**9) -> SlabFolder:
    """Return a folder of slabs that is `path` itself."""
    slabs = SlabFolder(limit=limit)
    slabs.path = path
    return slabs


def filled(path: Path, ages: list[int], size: int = 100) -> list[Path]:
    """Write a file for each age, the one of age 0 used last."""
    for number, age in enumerate(ages):
        folder(path).write(named(number), bytes(size)).close()
        file = path / named(number)
        os.utime(file, (10_000 - age, file.stat().st_mtime))
    return [path / named(number) for number in range(len(ages))]


def size_of(count: int) -> int:
    """Return the bytes of so many files of 100 bytes, with checksum and trailer."""
    return 136 * count


def forked(*works: Callable[[], bool]) -> list[int]:
    """Return the status of a process for each, all at once."""
    return [os.waitpid(process, 0)[1] for process in [*map(_begun, works)]]


def _begun(work: Callable[[], bool]) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = int(not work())
        finally:
            os._exit(code)
    return process


# only kdcache's own files are removed


FOREIGN = {
    "a.npy": b"\x93NUMPY...",
    "train.tar": bytes(1024),
    f"{'0' * 32}.npy": b"\x93NUMPY...",  # a name that is a digest, as other tools give them
    f"{'0' * 31}1.slab": bytes(500),  # our name, and another's content
    f"{'0' * 24}-00000-000001.tar": bytes(10_240),
    f"{'0' * 24}-00000-000001.index": b"index",
    ".notes.tmp": b"mine",
    f".{'0' * 32}.slab.old.tmp": b"mine",
    ".project.lock": b"mine",
}


def test_files_that_kdcache_did_not_make_stay_whatever_their_names(tmp_path: Path) -> None:
    for name, content in FOREIGN.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / f"{'a' * 32}.slab").symlink_to(tmp_path / "a.npy")
    (tmp_path / f"{'b' * 32}.slab").mkdir()
    (own,) = filled(tmp_path, [0])
    folder(tmp_path, limit=0).evict()
    assert not own.exists()
    assert {name: (tmp_path / name).read_bytes() for name in FOREIGN} == FOREIGN
    assert (tmp_path / f"{'a' * 32}.slab").is_symlink() and (tmp_path / f"{'b' * 32}.slab").is_dir()


def test_below_a_folder_that_a_user_names_there_is_one_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(bytes(1000))
    slabs = SlabFolder(tmp_path, limit=0)
    slabs.write(named(0), b"content").close()
    slabs.evict()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.tar"]
    assert slabs.path.parent == tmp_path and list(slabs.path.iterdir()) == []


def test_what_killed_processes_left_half_made_goes_after_a_day(tmp_path: Path) -> None:
    old, young = (tmp_path / f".{named(0)}.{number:016x}.tmp" for number in range(2))
    for path in (old, young):
        path.touch()
    os.utime(old, (1, 1))
    folder(tmp_path).evict()
    assert list(tmp_path.iterdir()) == [young]


def test_locks_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    held, left = tmp_path / named(0), tmp_path / f".{named(1)}.lock"
    left.touch()
    with one_at_a_time(held):
        folder(tmp_path).evict()
        assert [path.name for path in tmp_path.iterdir()] == [f".{named(0)}.lock"]
    assert list(tmp_path.iterdir()) == []


# which go first, and which are in use


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    paths = filled(tmp_path, [0, 1, 2, 3])
    for limit, left in ((size_of(4), 4), (size_of(4) - 1, 3), (size_of(1), 1), (0, 0)):
        folder(tmp_path, limit=limit).evict()
        assert sorted(tmp_path.iterdir()) == paths[:left]


def test_opening_a_file_makes_it_recent_and_does_not_change_it(tmp_path: Path) -> None:
    old, new = filled(tmp_path, [5, 1])
    before = old.stat().st_mtime_ns
    LocalFile(old).close()
    assert old.stat().st_mtime_ns == before
    folder(tmp_path, limit=size_of(1)).evict()
    assert list(tmp_path.iterdir()) == [old] and not new.exists()


def test_what_another_process_has_open_stays(tmp_path: Path) -> None:
    old, new = filled(tmp_path, [5, 1])
    in_use = LocalFile(old)
    assert forked(lambda: folder(tmp_path, limit=0).evict() is None) == [0]
    assert list(tmp_path.iterdir()) == [old] and not new.exists()
    assert in_use.read() == bytes(100)
    in_use.close()
    assert forked(lambda: folder(tmp_path, limit=0).evict() is None) == [0]
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_closes_its_copy_does_not_let_go_of_the_file(tmp_path: Path) -> None:
    (path,) = filled(tmp_path, [0])
    in_use = LocalFile(path)
    assert forked(lambda: in_use.close() is None) == [0]
    folder(tmp_path, limit=0).evict()
    assert path.exists()
    in_use.close()
    folder(tmp_path, limit=0).evict()
    assert not path.exists()


def test_where_files_cannot_be_locked_those_used_of_late_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, new = filled(tmp_path, [5, 1])
    LocalFile(new).close()
    folder(tmp_path, limit=0).evict()
    assert list(tmp_path.iterdir()) == [new] and not old.exists()


def test_a_file_is_read_though_its_time_may_not_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of another user's file in a folder that several share."""

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "operation not permitted")

    (path,) = filled(tmp_path, [0])
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    file = folder(tmp_path, limit=0).make(named(0), 100, lambda: pytest.fail("it is there"))
    assert file.read() == bytes(100)
    file.close()
    folder(tmp_path, limit=0).evict()
    assert path.exists()


def test_two_that_make_room_at_once_do_not_trip_over_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            folder(tmp_path, limit=0).evict()
        except BaseException as error:
            errors.append(error)

    for _ in range(10):
        for number in range(30):
            write_local(tmp_path / named(number), [b"x"])
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors and list(tmp_path.iterdir()) == []


def test_of_many_that_take_turns_never_two_are_at_it(tmp_path: Path) -> None:
    """Locks are made, removed by their holder and removed by evictions all the time: a race would
    show as two at once."""
    slab, inside = tmp_path / named(0), tmp_path / "inside"

    def work() -> bool:
        for _ in range(300):
            with one_at_a_time(slab):
                inside.touch(exist_ok=False)
                inside.unlink()
            folder(tmp_path).evict()
        return True

    assert forked(work, work, work, work) == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_says_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="--slab-dir, or KDCACHE_HOME"):
        SlabFolder(tmp_path / "file").write(named(0), b"content")
