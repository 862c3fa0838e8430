"""A run's folder, held by one process, and files that replace their predecessor whole or not at
all."""

import fcntl
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kdcache.cache.file_lock import kept_from_children
from kdcache.errors import KdcacheError
from kdcache.runtime.files import name_of_temporary, plain_bytes, whole_file

_DIGEST = "digest"
_OF_A_RUN = {
    "epoch",
    "epoch_step",
    "step",
    "sums",
    "clock",
    "seeds",
    "left_out",
    "identity",
    "optimizer",
    "scaler",
    "student",
    "best",
}
"""What the checkpoint of a run holds, by which one of a kdcache before digests is known."""
_MAY_BE_THERE = {"ema", "unscored"}
_FILE = re.compile(r"config\.toml|metrics\.jsonl|result\.json|[a-z]+\.(pt|safetensors)")
"""Files of a run."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace `path` by `state`, a tree of tensors and plain values, with a digest of it; the file
    before it stays beside it.

    Raises:
        KdcacheError: the folder cannot be written or is full; both files stay.
    """
    document = {**state, _DIGEST: state_digest(state)}
    replace_file(path, lambda file: torch.save(document, file), kept_as=path_before(path))


def load_checkpoint(
    path: Path,
    *,
    tell: Callable[[str], object] = print,
) -> dict[str, Any] | None:
    """Return the state in `path`, or None if there is none yet; nothing in it is executed.

    Args:
        path: of the checkpoint.
        tell: is called with a note if an older kdcache wrote it, which knew no digests: it is taken
            as it is.

    Raises:
        KdcacheError: a file that is not a checkpoint, or not the one that was written. The message
            says whether the one before it is whole.
    """
    try:
        state, is_compared = _loaded(path)
        if not is_compared:
            tell(f"note: {path} is of an older kdcache and has no digest; the next one has")
        return state
    except FileNotFoundError:
        if not path_before(path).exists():
            return None
        reason = "is not there"
    except OSError as error:
        raise KdcacheError(
            f"checkpoint {path} cannot be read: {error.strerror}; run again when it can"
        ) from error
    except _DamagedError as error:
        reason = f"is damaged ({error})"
    raise KdcacheError(f"checkpoint {path} {reason}; {_way_out(path)}")


def path_before(path: Path) -> Path:
    """Return where the checkpoint before the one in `path` is kept."""
    return path.with_name(f"previous{path.suffix}")


def state_digest(state: Any) -> str:
    """Return the SHA-256 over all tensors and values of a state, and over where they stand in
    it."""
    digest = hashlib.sha256()
    _add_to(digest, state)
    return digest.hexdigest()


class _DamagedError(Exception):
    """What is wrong with a file."""


def _loaded(path: Path) -> tuple[dict[str, Any], bool]:
    """Return a state, and whether it was compared with a digest: older ones have none."""
    data = plain_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of damaged bytes is said by the error
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and its unpickler raise what they like on damaged bytes
        raise _DamagedError(" ".join(str(error).split())[:120] or type(error).__name__) from error
    if not isinstance(state, dict):
        raise _DamagedError("another program wrote it")
    digest = state.pop(_DIGEST, None)
    if digest is None:
        # a name that was damaged is none of these, also if it was that of the digest
        if not _OF_A_RUN <= state.keys() <= _OF_A_RUN | _MAY_BE_THERE:
            raise _DamagedError("it has no digest, and is not what an older kdcache wrote")
        return state, False
    if digest != state_digest(state):
        raise _DamagedError("its content differs from its digest")
    return state, True


def _way_out(path: Path) -> str:
    """Return what a user can do about a checkpoint that cannot be read."""
    before = path_before(path)
    anew = "delete it to train from the start"
    try:
        state, _ = _loaded(before)
    except (OSError, _DamagedError):
        return anew
    return (
        f"the one before it, of step {state.get('step')}, is whole: mv {before} {path}, and run"
        f" again; or {anew}"
    )


def _add_to(digest: Any, value: Any) -> None:
    """Add a value, its type, and all that is in it to a digest."""
    if isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        # an empty one from numpy has a stride of 0, and cannot be viewed as bytes
        if value.numel():
            plain = value.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"table {len(value)};".encode())
        for key, item in value.items():
            _add_to(digest, key)
            _add_to(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__} {len(value)};".encode())
        for item in value:
            _add_to(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", "surrogateescape"))


def make_folder(path: Path) -> None:
    """Make `path` and what is above it, unless it is there.

    Raises:
        KdcacheError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdcacheError(
            f"cannot make folder {path}: {error.strerror}; choose one that can be written"
        ) from error


@contextmanager
def held_folder(path: Path) -> Iterator[None]:
    """Keep other processes out of `path` for a while, and remove the temporary files that killed
    ones left in it.

    Raises:
        KdcacheError: another process holds the folder, or it cannot be written.
    """
    try:
        lock = (path / ".lock").open("ab")  # not emptied: the folder's hidden files may be a user's
    except OSError as error:
        raise KdcacheError(
            f"cannot write in {path}: {error.strerror}; choose a folder that can be written"
        ) from error
    with lock, kept_from_children(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KdcacheError(
                f"another process is at work in {path}; wait for it, or choose a new folder"
            ) from error
        except OSError:  # a file system without locks
            pass
        for temporary in path.glob(".*.tmp"):
            if _FILE.fullmatch(name_of_temporary(temporary.name) or ""):
                temporary.unlink(missing_ok=True)
        yield


def replace_file(
    path: Path, write: Callable[[BinaryIO], object], *, kept_as: Path | None = None
) -> None:
    """Let `write` fill a new file and put it, synced, in the place of `path`.

    Args:
        path: the file.
        write: fills the new one.
        kept_as: what the old one is called from now on; by default it is gone.

    Raises:
        KdcacheError: the folder cannot be written or is full; the old file stays.
    """
    try:
        with whole_file(path, kept_as=kept_as) as file:
            write(file)
    except (OSError, RuntimeError) as error:
        # of a file that cannot be written on, torch says at which byte of its own
        reason = "the disk may be full"
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        way_out = f"{what_is_kept(path.parent)}: make room and run again"
        raise KdcacheError(f"cannot write {path}: {reason}; {way_out}") from error


def what_is_kept(run: Path) -> str:
    """Return in words what is left of a run that ends now."""
    if (run / "last.pt").exists():
        return "the last checkpoint is kept"
    return "no checkpoint was written yet"
