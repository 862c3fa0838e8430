"""A run's folder, held by one process, and files that replace their predecessor whole or not at all."""

import fcntl
import io
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kdcache.errors import KdcacheError


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace `path` by `state`, a tree of tensors and plain values."""
    replace_file(path, lambda file: torch.save(dict(state), file))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return the state in `path`, or None if there is none yet; nothing in it is executed.

    Raises:
        KdcacheError: a file that is not a checkpoint.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KdcacheError(f"checkpoint {path} cannot be read: {error.strerror}; run again when it can") from error
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise KdcacheError(f"checkpoint {path} is damaged ({reason}); delete it to train from the start") from error
    return state


def make_folder(path: Path) -> None:
    """Make `path` and what is above it, unless it is there.

    Raises:
        KdcacheError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdcacheError(f"cannot make folder {path}: {error.strerror}; choose one that can be written") from error


@contextmanager
def held_folder(path: Path) -> Iterator[None]:
    """Keep other processes out of `path` for a while, and remove the temporary files that killed ones left in it.

    Raises:
        KdcacheError: another process holds the folder, or it cannot be written.
    """
    try:
        lock = (path / ".lock").open("wb")
    except OSError as error:
        raise KdcacheError(f"cannot write in {path}: {error.strerror}; choose a folder that can be written") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KdcacheError(f"another process is at work in {path}; wait for it, or choose a new folder") from error
        except OSError:  # a file system without locks
            pass
        for left in path.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file and put it, synced, in the place of `path`.

    Raises:
        KdcacheError: the folder cannot be written or is full; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise KdcacheError(f"cannot write {path}: {reason}; the last checkpoint is kept: make room and run again") from error
