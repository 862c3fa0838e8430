"""Files that a user names: checked before the work, written whole."""

from pathlib import Path

import pytest

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
