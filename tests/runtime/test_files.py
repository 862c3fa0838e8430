"""Files that a user names: checked before the work, written whole."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from kdcache.cache.storage.new_file import create_file
from kdcache.errors import KdcacheError, UsageError
from kdcache.runtime.files import require_writable, write_file


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new.txt")
    with pytest.raises(UsageError, match="it is a folder; name a file"):
        require_writable(tmp_path)
    with pytest.raises(UsageError, match="does not exist; make it first"):
        require_writable(tmp_path / "below" / "new.txt")


def test_a_file_is_written_whole_or_the_old_one_stays(tmp_path: Path) -> None:
    write_file(tmp_path / "a.txt", b"first")
    write_file(tmp_path / "a.txt", b"second")
    assert (tmp_path / "a.txt").read_bytes() == b"second"
    with pytest.raises(KdcacheError, match="write elsewhere, or make room"):
        write_file(tmp_path / "below" / "a.txt", b"third")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_where_fsync_stops_at_the_disks_own_memory_the_systems_call_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, whose other file systems know fsync only."""
    calls: list[int | str] = []
    code = 0

    def full_sync(descriptor: int, call: int) -> None:
        calls.append(call)
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full_sync)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    write_file(tmp_path / "a.txt", b"first")
    assert calls == [51]
    code = errno.ENOTSUP
    assert create_file(tmp_path / "b.txt", b"first")
    assert calls == [51, 51, "fsync"]
    code = errno.EIO
    with pytest.raises(KdcacheError, match="Input/output error"):
        write_file(tmp_path / "a.txt", b"second")
    assert (tmp_path / "a.txt").read_bytes() == b"first"
