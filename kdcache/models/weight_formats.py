"""Files of weights: what a file is, told from its content, and what it holds.

A file is safetensors, or one that torch.save wrote, read with `weights_only`. All others are told
as what they are. Nothing in a file is executed.
"""

import difflib
import json
import mmap
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kdcache.config.texts import require_whole_path
from kdcache.errors import ModelError, brief
from kdcache.runtime.file_kinds import ZEROS, binary_kind_of
from kdcache.runtime.user_code import exception_text

_HEAD = 4096
"""Bytes that are looked at to tell what a file is."""
_MOST_HEADER = 100_000_000
"""Bytes of a safetensors header, as its own library bounds them."""
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_LFS = "version https://git-lfs"
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What the older format of torch.save begins with, after the pickle's protocol."""
_PROTOBUF_FIELDS = (b"\x12", b"\x1a", b"\x22", b"\x3a")
"""What may follow the version in an ONNX file: a field of text."""
_OF_OTHERS = ("an HDF5 file", "a GGUF file", "a TensorFlow Lite model")
"""Kinds of files with weights that are not of torch."""
_AGAIN = "copy or download it again"
_IN_PYTHON = "load it in Python with torch.load(FILE, weights_only=False)"
_TRUSTED = f"if you trust it, {_IN_PYTHON} and save the model's state_dict as safetensors"


def read_weight_file(path: Path) -> tuple[Any, dict[str, str]]:
    """Return what a file of weights holds, and the metadata of safetensors; a torch file has none.

    Raises:
        ModelError: there is no such file, or it is something else, damaged or cut off.
    """
    head = check_weight_file(path)
    size = path.stat().st_size
    return _read_safetensors(path, size) if _is_safetensors(head) else (_read_torch(path, size), {})


def check_weight_file(path: Path) -> bytes:
    """Return the first bytes of a file of weights, after checking that by these it is one.

    Raises:
        ModelError: there is no such file, or it is something else; the message says what.
    """
    try:
        _require_file(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
        what = _other_kind(path, head, path.stat().st_size)
    except OSError as error:
        raise ModelError(f"weights file {path} cannot be read: {error.strerror}") from error
    if what is not None:
        raise ModelError(f"weights file {path} is {what}")
    return head


def some_names(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(brief, names[:3])) + more


def _require_file(path: Path) -> None:
    """Raise a ModelError if `path` is no file, which says what it is, or which names are near; a
    UsageError if no shell has read its `~`."""
    if path.is_file():
        return
    if path.is_dir():
        what = f"is a folder; {_files_in(path)}"
    elif path.is_symlink():
        what = f"is a link to {path.readlink()}, which does not exist; mend the link"
    elif path.exists():
        what = "is a device or a pipe; name a file"
    else:
        require_whole_path(str(path), "weights")
        what = f"does not exist; {_near_names(path)}"
    raise ModelError(f"weights file {path} {what}")


def _files_in(folder: Path) -> str:
    """Return the advice to name one of the files of weights in a folder."""
    names = sorted(one.name for one in folder.iterdir() if one.is_file())
    weights = [name for name in names if name.endswith(_ENDINGS)]
    if weights:
        return f"name a file in it: {some_names(weights)}"
    if any(name.endswith(".distcp") for name in names):
        gather = "gather them with torch.distributed.checkpoint first"
        return f"it holds the shards of a distributed checkpoint; {gather}"
    return f"no file in it looks like weights ({some_names(names) or 'it has no files'})"


def _near_names(path: Path) -> str:
    """Return what is called nearly as the first part of a path that does not exist."""
    missing = path.absolute()
    while not missing.parent.is_dir():
        missing = missing.parent
    names = [one.name for one in missing.parent.iterdir()]
    near = difflib.get_close_matches(missing.name, names, n=3)
    found = some_names(near) if near else f"no {missing.name}"
    return f"folder {missing.parent} has {found}"


def _other_kind(path: Path, head: bytes, size: int) -> str | None:
    """Return what a file is, with the way out; None if it is safetensors or of torch.save."""
    if not size:
        return f"empty (0 bytes); {_AGAIN}"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path, size)
    if _TORCH_MAGIC in head[:32] or _is_safetensors(head):
        return None
    if kind := binary_kind_of(head):
        return f"{kind}; {_way_out(kind)}"
    return _text_kind(head) or _binary_kind(path, head)


def _way_out(kind: str) -> str:
    """Return what to do about a file of a kind that is known, and is none of weights."""
    if kind.endswith("archive"):
        return "unpack it, and name the file of weights in it"
    if kind in _OF_OTHERS:
        return "take the weights of a torch model"
    if kind == "a numpy array":
        return "save the model's state_dict as safetensors"
    return _AGAIN if kind == ZEROS else "name the file of weights"


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the length of a JSON header, and such a header."""
    return 0 < int.from_bytes(head[:8], "little") <= _MOST_HEADER and head[8:9] == b"{"


def _binary_kind(path: Path, head: bytes) -> str:
    if head.startswith(b"\x80"):
        return f"a pickle that torch.save did not write, and nothing is unpickled here; {_TRUSTED}"
    if path.suffix == ".onnx" or (head[0] == 8 and head[2:3] in _PROTOBUF_FIELDS):
        whose = "as ONNX and TensorFlow write them"
        return f"a protobuf file, {whose}; take the weights of a torch model"
    known = "neither safetensors nor a file that torch.save wrote"
    return f"{known} (its first bytes are {head[:8].hex(' ')}); {_AGAIN}"


def _text_kind(head: bytes) -> str | None:
    """Return what a file of text is; None if it is none."""
    text = head.decode("utf-8-sig", "ignore")
    is_text = len(text.encode()) > len(head) - 4  # but for a byte order mark, or a cut character
    if not is_text or not all(char.isprintable() or char.isspace() for char in text):
        return None
    begins = repr(" ".join(text.split())[:60])
    if text.startswith(_LFS):
        found = re.search(r"size (\d+)", text)
        stands_for = f" for {int(found[1]):,} bytes" if found else ""
        return f"a git-lfs pointer{stands_for}, not the weights; run git lfs pull in its folder"
    if "/annex/objects/" in text[:300]:
        return "a git-annex pointer, not the weights; run git annex get on it"
    if '"weight_map"' in text:
        return "the index of weights in several files; join these into one safetensors file first"
    if re.match(r"\s*<", text):
        return f"a web page, not weights: a download that failed ({begins}); download it again"
    is_json = re.match(r"\s*[{\[]", text) is not None
    kind = "JSON, not weights: settings" if is_json else "text, not weights: a note"
    return f"{kind}, or a download that failed ({begins}); name the file of weights"


def _zip_kind(path: Path, size: int) -> str | None:
    """Return what a zip archive is that torch.save did not write; None if it did."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # of a damaged archive it raises what it comes upon
        return f"cut off or damaged: a zip archive of {size:,} bytes without a sound end; {_AGAIN}"
    names = [member.filename for member in members]
    if not any(name.endswith("/data.pkl") for name in names):
        return _other_zip_kind(names)
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        way_out = "save the state_dict of torch.jit.load(FILE) as safetensors"
        return f"a TorchScript archive, which is code; {way_out}"
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not is_stored or sum(member.file_size for member in members) > size:
        return "a zip archive with compressed members, as torch.save writes none; save it anew"
    return None


def _other_zip_kind(names: Sequence[str]) -> str:
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy archive (.npz); save the model's state_dict as safetensors"
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return "an exported program, which is code; save the model's state_dict as safetensors"
    way_out = "unpack it and name the file of weights in it"
    return f"a zip archive of other files ({some_names(names) or 'none'}); {way_out}"


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        what = _safetensors_fault(path, size, exception_text(error)[:120])
        raise ModelError(f"weights file {path} is {what}; {_AGAIN}") from error
    except Exception as error:  # a type that torch does not have, for one
        raise ModelError(f"weights file {path} cannot be read ({exception_text(error)})") from error


def _safetensors_fault(path: Path, size: int, reason: str) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    end = 8 + length
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end += max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except Exception:  # a header that is cut off, or of anything
        entries = []
    if size < end:
        return f"cut off: it has {size:,} bytes of at least {end:,}"
    return f"damaged ({reason})"


def _read_torch(path: Path, size: int) -> Any:
    """Return what torch.save wrote: tensors and plain values only."""
    if _may_allocate(path):
        raise ModelError(f"weights file {path} holds a bytearray, as no weights do; {_TRUSTED}")
    if (record := _damaged_record(path)) is not None:
        raise ModelError(
            f"weights file {path} is damaged: {brief(record)} in it differs from its CRC-32;"
            f" {_AGAIN} (or, if torch.save wrote no checksums, save it again with them)"
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
            entries = archive.infolist()
            # torch.save compresses nothing; what does could take any time to read
            is_plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            is_small = sum(entry.file_size for entry in entries) <= path.stat().st_size
            return archive.testzip() if is_plain and is_small else None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OverflowError):
        return None  # torch says what is wrong with it


def _may_allocate(path: Path) -> bool:
    """Return whether a pickle in the file could ask for any number of bytes: torch lets it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\nbytearray\n") >= 0


def _torch_fault(error: Exception, size: int) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL ([\w.<>]+)", text):
        return f"holds an object of {found[1]}, and no code in a file is run; {_TRUSTED}"
    if isinstance(error, EOFError) or "EOF" in text or "central directory" in text:
        return f"is cut off after {size:,} bytes; {_AGAIN}"
    if "Weights only load failed" in text:
        return f"holds more than plain tensors, and no code in a file is run; {_TRUSTED}"
    return f"is damaged, or torch.save did not write it ({exception_text(error)[:160]}); {_AGAIN}"
