"""What a file of weights holds: safetensors, or what torch.save wrote, read with `weights_only`.

Nothing in a file is executed.
"""

import json
import mmap
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kdcache.errors import ModelError, brief
from kdcache.models.weight_formats import (
    AGAIN,
    TRUSTED,
    are_stored,
    check_weight_file,
    is_safetensors,
)
from kdcache.runtime.user_code import exception_text


def read_weight_file(path: Path) -> tuple[Any, dict[str, str]]:
    """Return what a file of weights holds, and the metadata of safetensors; a torch file has none.

    Raises:
        ModelError: there is no such file, or it is something else, damaged or cut off.
    """
    head = check_weight_file(path)
    size = path.stat().st_size
    if is_safetensors(head):
        return _read_safetensors(path, size)
    return _read_torch(path, size), {}


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {}
            for name in file.keys():  # noqa: SIM118
                tensors[name] = file.get_tensor(name)
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        fault = _safetensors_fault(path, size, exception_text(error)[:120])
        raise ModelError(f"weights file {path} is {fault}; {AGAIN}") from error
    except Exception as error:  # a type that torch does not have, for one
        raise ModelError(f"weights file {path} cannot be read ({exception_text(error)})") from error


def _safetensors_fault(path: Path, size: int, reason: str) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    end = 8 + length + _data_length(header)
    if size < end:
        return f"cut off: it has {size:,} bytes of at least {end:,}"
    return f"damaged ({reason})"


def _data_length(header: bytes) -> int:
    """Return how many bytes of tensors a header tells of; 0 if it is cut off, or of anything."""
    ends = []
    try:
        for name, entry in json.loads(header).items():
            if name != "__metadata__":
                ends.append(int(entry["data_offsets"][1]))
    except Exception:
        return 0
    return max(ends, default=0)


def _read_torch(path: Path, size: int) -> Any:
    """Return what torch.save wrote: tensors and plain values only."""
    if _may_allocate(path):
        raise ModelError(f"weights file {path} holds a bytearray, as no weights do; {TRUSTED}")
    record = _damaged_record(path)
    if record is not None:
        raise ModelError(
            f"weights file {path} is damaged: {brief(record)} in it differs from its CRC-32;"
            f" {AGAIN} (or, if torch.save wrote no checksums, save it again with them)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on storages, about which a user can do nothing
            with path.open("rb") as file:  # of a path, torch.load believes the ending
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file it raises what it comes upon
        raise ModelError(f"weights file {path} {_torch_fault(error, size)}") from error


def _damaged_record(path: Path) -> str | None:
    """Return the first record of a zip file that differs from its checksum, at which torch does not
    look; None if there is none, or it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save compresses nothing; what does could take any time to read
            if not are_stored(archive.infolist(), path.stat().st_size):
                return None
            return archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OverflowError):
        return None  # torch says what is wrong with it


def _may_allocate(path: Path) -> bool:
    """Return whether a pickle in the file could ask for any number of bytes: torch lets it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\nbytearray\n") >= 0


def _torch_fault(error: Exception, size: int) -> str:
    text = " ".join(str(error).split())
    match = re.search(r"GLOBAL ([\w.<>]+)", text)
    if match:
        return f"holds an object of {match[1]}, and no code in a file is run; {TRUSTED}"
    if isinstance(error, EOFError) or "EOF" in text or "central directory" in text:
        return f"is cut off after {size:,} bytes; {AGAIN}"
    if "Weights only load failed" in text:
        return f"holds more than plain tensors, and no code in a file is run; {TRUSTED}"
    return f"is damaged, or torch.save did not write it ({exception_text(error)[:160]}); {AGAIN}"
