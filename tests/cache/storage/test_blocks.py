"""Parts of a file that is open."""

import os
from pathlib import Path

import pytest

from kdcache.cache.storage import blocks


def test_more_than_the_system_reads_at_once_comes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS refuses 2 GiB; Linux gives less than it was asked for."""
    sizes = []
    pread = os.pread

    def watched(descriptor: int, size: int, position: int) -> bytes:
        sizes.append(size)
        return pread(descriptor, size, position)

    (tmp_path / "a").write_bytes(b"0123456789")
    monkeypatch.setattr(os, "pread", watched)
    monkeypatch.setattr(blocks, "_MOST_AT_ONCE", 4)
    with (tmp_path / "a").open("rb") as file:
        assert blocks.Blocks("a", file.fileno()).read(1, 100) == b"123456789"
    assert max(sizes) == 4
