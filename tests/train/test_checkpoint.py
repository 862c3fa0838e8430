"""Files that are replaced whole or not at all."""

import errno
import os
import pickle
import signal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from caches import flipped
from nursery import script
from runs import largest_file

from kdcache.errors import KdcacheError
from kdcache.train.checkpoint import (
    held_folder,
    load_checkpoint,
    path_before,
    replace_file,
    save_checkpoint,
    state_digest,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    assert load_checkpoint(path) is None
    for epoch in (1, 2):
        state = {
            "epoch": epoch,
            "student": {"w": torch.full((3,), epoch)},
            "identity": {"cache": "none"},
            "lr": [0.1, None],
        }
        save_checkpoint(path, state)
        again: Any = load_checkpoint(path)
        assert torch.equal(again["student"].pop("w"), state["student"].pop("w")) and again == state  # type: ignore[attr-defined]
    assert sorted(names(tmp_path)) == ["last.pt", "previous.pt"]


def test_any_state_has_a_digest() -> None:
    empty = torch.from_numpy(np.setdiff1d([0], [0]))
    tensors = [
        empty,
        torch.zeros(()),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, 3).T,
    ]
    states = [
        *tensors,
        {"a": 1},
        {"a": 1.0},
        {"b": 1},
        {1: "a"},
        [],
        (),
        None,
        True,
        1,
        "1",
        ["1", "2"],
        ["12"],
        [["1"], "2"],
    ]
    assert len({state_digest(state) for state in states}) == len(states)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("torch cannot\nwrite"),
        ZeroDivisionError(),
    ],
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
        assert str(caught.value).startswith(f"cannot write {path}: ") and "\n" not in str(
            caught.value
        )


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    with (
        largest_file(10_000),
        pytest.raises(KdcacheError, match="the last checkpoint is kept: make room and run again"),
    ):
        save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100_000)})
    assert load_checkpoint(path) == {"epoch": 1} and names(tmp_path) == ["last.pt"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"cannot write .*No such file or directory"):
        replace_file(tmp_path / "none" / "file", lambda file: file.write(b""))


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.arange(1000)})
    content = path.read_bytes()
    for damaged in (
        b"",
        b"x",
        b"not a checkpoint at all",
        *(content[:size] for size in range(10, len(content), 371)),
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            KdcacheError,
            match=r"checkpoint .*last\.pt is damaged .*; delete it to train from the start",
        ) as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_no_flipped_bit_goes_by(tmp_path: Path) -> None:
    """Where the bytes are not those of a tensor or a value, the state that is read is the one that
    was written."""
    path, state = (
        tmp_path / "last.pt",
        {"epoch": 3, "student": {"weight": torch.randn(50)}, "sums": {"loss": 0.25}},
    )
    save_checkpoint(path, state)
    content, refused = path.read_bytes(), 0
    for position in range(0, len(content), 3):
        path.write_bytes(flipped(content, position, 1 << position % 8))
        try:
            again = load_checkpoint(path)
        except KdcacheError:
            refused += 1
        else:
            assert again is not None and state_digest(again) == state_digest(state)
    assert refused > len(content) // 12, "some bytes are padding, and names that nobody reads"


@pytest.mark.parametrize("other", [{"epoch": 1}, [1, 2], torch.zeros(3), None])
def test_what_another_program_saved_is_no_checkpoint(tmp_path: Path, other: Any) -> None:
    torch.save(other, tmp_path / "last.pt")
    with pytest.raises(
        KdcacheError, match=r"another program wrote it|not what an older kdcache wrote"
    ):
        load_checkpoint(tmp_path / "last.pt")


def of_a_run() -> dict[str, Any]:
    """Return a state with the keys of a run's."""
    weights = {"w": torch.arange(100)}
    counts = {"epoch": 1, "epoch_step": 0, "step": 20, "seeds": [0], "left_out": torch.zeros(0)}
    parts: dict[str, Any] = {"sums": {}, "clock": {}, "identity": {}, "optimizer": {}, "scaler": {}}
    return {**counts, **parts, "student": weights, "best": {"top1": 0.5}}


def test_a_checkpoint_of_an_older_kdcache_is_taken(tmp_path: Path) -> None:
    path, state = tmp_path / "last.pt", of_a_run()
    torch.save(state, path)
    notes: list[str] = []
    again = load_checkpoint(path, tell=notes.append)
    assert again is not None and state_digest(again) == state_digest(state)
    (note,) = notes
    assert note == f"note: {path} is of an older kdcache and has no digest; the next one has"
    save_checkpoint(path, again)
    assert "digest" in torch.load(path, weights_only=True)
    load_checkpoint(path, tell=notes.append)
    assert len(notes) == 1


def test_a_digest_whose_name_is_damaged_does_not_make_a_checkpoint_an_older_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, of_a_run())
    content = path.read_bytes()
    path.write_bytes(flipped(content, content.index(b"digest"), 1))
    with pytest.raises(KdcacheError, match=r"is damaged \(it has no digest, and"):
        load_checkpoint(path)


def test_the_checkpoint_before_a_damaged_one_is_offered(tmp_path: Path) -> None:
    path, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (10, 20):
        save_checkpoint(path, {"step": step, "weights": torch.arange(100)})
    content = path.read_bytes()
    offer = (
        rf"the one before it, of step 10, is whole: mv {before} {path}, and run again; or delete it"
    )
    path.write_bytes(flipped(content, content.index(torch.arange(100).numpy().tobytes()) + 8, 0xFF))
    with pytest.raises(
        KdcacheError, match=rf"is damaged \(its content differs from its digest\); {offer}"
    ):
        load_checkpoint(path)
    path.unlink()
    with pytest.raises(KdcacheError, match=f"checkpoint {path} is not there; {offer}"):
        load_checkpoint(path)
    before.replace(path)
    again = load_checkpoint(path)
    assert again is not None and again["step"] == 10


def test_where_both_are_damaged_nothing_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for step in (10, 20):
        save_checkpoint(path, {"step": step})
    for file in (path, path_before(path)):
        file.write_bytes(b"damaged")
    with pytest.raises(
        KdcacheError, match=r"last\.pt is damaged \([^;]*\); delete it to train from the start$"
    ):
        load_checkpoint(path)


def test_the_checkpoint_before_is_kept_without_hard_links_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for step in (10, 20, 30):
        save_checkpoint(tmp_path / "last.pt", {"step": step})
    assert load_checkpoint(tmp_path / "last.pt") == {"step": 30}
    assert load_checkpoint(tmp_path / "previous.pt") == {"step": 20}


def test_a_users_hidden_files_in_the_folder_of_a_run_stay(tmp_path: Path) -> None:
    files = {
        ".notes.tmp": "mine",
        ".lock": "mine",
        ".last.pt.old.tmp": "mine",
        ".data.csv.0123456789abcdef.tmp": "mine",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / f".last.pt.{'0' * 16}.tmp").touch()
    with held_folder(tmp_path):
        pass
    assert {name: (tmp_path / name).read_text() for name in sorted(names(tmp_path))} == dict(
        sorted(files.items())
    )


class Attack:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "writer", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2))]
)
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, writer: Any) -> None:
    writer({"epoch": Attack(str(tmp_path / "attacked"))}, tmp_path / "last.pt")
    with pytest.raises(KdcacheError, match="is damaged"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "attacked").exists()


HOLDER = """
import os, sys, time
from pathlib import Path
from kdcache.train.checkpoint import held_folder
with held_folder(Path(sys.argv[1])):
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


def held_by_a_process_with_a_child(path: Path, folder: Path) -> int:
    """Have a process hold a folder and fork a child that outlives it; return the child's number."""
    program = folder / "holder.py"
    program.write_text(HOLDER)
    process = script(program, str(path), folder=folder)
    printed = process.first_line()
    with pytest.raises(KdcacheError, match="another process is at work"), held_folder(path):
        pass
    process.stop(signal.SIGKILL)
    process.process.join()
    return int(printed)


def test_a_loader_worker_of_a_killed_process_holds_no_folder(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    child = held_by_a_process_with_a_child(held, tmp_path)
    try:
        with held_folder(held):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
