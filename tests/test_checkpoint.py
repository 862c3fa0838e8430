"""Files that are replaced whole or not at all."""

import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from runs import largest_file

from kdcache.checkpoint import load_checkpoint, replace_file, save_checkpoint
from kdcache.errors import KdcacheError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    assert load_checkpoint(path) is None
    for epoch in (1, 2):
        state = {"epoch": epoch, "student": {"w": torch.full((3,), epoch)}, "identity": {"cache": "none"}, "lr": [0.1, None]}
        save_checkpoint(path, state)
        again: Any = load_checkpoint(path)
        assert torch.equal(again["student"].pop("w"), state["student"].pop("w")) and again == state  # type: ignore[attr-defined]
    assert names(tmp_path) == ["last.pt"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("torch cannot\nwrite"), ZeroDivisionError()]
)
def test_the_old_file_stays_when_writing_fails(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the ne")
        raise error

    expected = type(error) if isinstance(error, ZeroDivisionError) else KdcacheError
    with pytest.raises(expected) as caught:
        replace_file(path, write)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]
    if expected is KdcacheError:
        assert str(caught.value).startswith(f"cannot write {path}: ") and "\n" not in str(caught.value)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    with largest_file(10_000), pytest.raises(KdcacheError, match="the last checkpoint is kept: make room and run again"):
        save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(path) == {"epoch": 1} and names(tmp_path) == ["last.pt"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"cannot write .*No such file or directory"):
        replace_file(tmp_path / "none" / "file", lambda file: file.write(b""))


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.arange(1000)})
    content = path.read_bytes()
    for damaged in (b"", b"x", b"not a checkpoint at all", *(content[:size] for size in range(10, len(content), 371))):
        path.write_bytes(damaged)
        with pytest.raises(
            KdcacheError, match=r"checkpoint .*last\.pt is damaged .*; delete it to train from the start"
        ) as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


class Attack:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2))])
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, writer: Any) -> None:
    writer({"epoch": Attack(str(tmp_path / "attacked"))}, tmp_path / "last.pt")
    with pytest.raises(KdcacheError, match="is damaged"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "attacked").exists()
