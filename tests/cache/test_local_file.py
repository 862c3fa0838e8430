"""Files of the folder of slabs: what is written is read back, and damage is noticed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache import local_file
from kdcache.cache.local_file import DamagedFileError, LocalFile, write_local


@given(st.lists(st.binary(max_size=70), max_size=12))
def test_what_is_written_in_any_parts_is_read_back_and_checked(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_file, "_BLOCK", 64)
        path = tmp_path_factory.mktemp("local") / "file.slab"
        write_local(path, parts)
        file = LocalFile(path)
        file.check()
        assert file.read() == b"".join(parts) and file.size == len(b"".join(parts))


def test_every_byte_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_file, "_BLOCK", 64)
    path = tmp_path / "file.slab"
    write_local(path, [np.random.default_rng(0).bytes(150)])
    honest = path.read_bytes()
    for position in range(len(honest)):
        path.write_bytes(honest[:position] + bytes([honest[position] ^ 1]) + honest[position + 1 :])
        with pytest.raises(DamagedFileError):
            LocalFile(path).check()
    for length in range(len(honest)):
        path.write_bytes(honest[:length])
        with pytest.raises(DamagedFileError):
            LocalFile(path).check()


def test_a_file_that_outlives_its_module_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python sets what a module has to None before it takes the last objects away."""
    path = tmp_path / "file.slab"
    write_local(path, [b"some"])
    file = LocalFile(path)
    with monkeypatch.context() as end:
        for name in [name for name in vars(local_file) if not name.startswith("__")]:
            end.setattr(local_file, name, None)
        file.__del__()
    file.close()
