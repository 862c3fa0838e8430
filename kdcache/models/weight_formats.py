"""Files of weights: what a file is, told from its first bytes.

A file is safetensors, or one that torch.save wrote. All others are told as what they are.
"""

import difflib
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdcache.config.texts import require_whole_path
from kdcache.errors import ModelError, brief
from kdcache.runtime.file_kinds import ZEROS, binary_kind_of

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
AGAIN = "copy or download it again"
_IN_PYTHON = "load it in Python with torch.load(FILE, weights_only=False)"
TRUSTED = f"if you trust it, {_IN_PYTHON} and save the model's state_dict as safetensors"


def check_weight_file(path: Path) -> bytes:
    """Return the first bytes of a file of weights, after checking that by these it is one.

    Raises:
        ModelError: there is no such file, or it is something else; the message says what.
    """
    try:
        _require_file(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
        kind = _other_kind(path, head, path.stat().st_size)
    except OSError as error:
        raise ModelError(f"weights file {path} cannot be read: {error.strerror}") from error
    if kind is not None:
        raise ModelError(f"weights file {path} is {kind}")
    return head


def some_names(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    text = ", ".join(map(brief, names[:3]))
    if len(names) > 3:
        text += f" and {len(names) - 3} more"
    return text


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the length of a JSON header, and such a header."""
    length = int.from_bytes(head[:8], "little")
    return 0 < length <= _MOST_HEADER and head[8:9] == b"{"


def are_stored(members: Iterable[zipfile.ZipInfo], size: int) -> bool:
    """Return whether no member of a zip archive is compressed, and the archive's file, of `size`
    bytes, can hold them all."""
    total = 0
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            return False
        total += member.file_size
    return total <= size


def _require_file(path: Path) -> None:
    """Raise a ModelError if `path` is no file, which says what it is, or which names are near; a
    UsageError if no shell has read its `~`."""
    if path.is_file():
        return
    if path.is_dir():
        fault = f"is a folder; {_files_in(path)}"
    elif path.is_symlink():
        fault = f"is a link to {path.readlink()}, which does not exist; mend the link"
    elif path.exists():
        fault = "is a device or a pipe; name a file"
    else:
        require_whole_path(str(path), "weights")
        fault = f"does not exist; {_near_names(path)}"
    raise ModelError(f"weights file {path} {fault}")


def _files_in(folder: Path) -> str:
    """Return the advice to name one of the files of weights in a folder."""
    names = sorted([path.name for path in folder.iterdir() if path.is_file()])
    weights = _ending_with(names, _ENDINGS)
    if weights:
        return f"name a file in it: {some_names(weights)}"
    if _ending_with(names, ".distcp"):
        gather = "gather them with torch.distributed.checkpoint first"
        return f"it holds the shards of a distributed checkpoint; {gather}"
    content = some_names(names) or "it has no files"
    return f"no file in it looks like weights ({content})"


def _near_names(path: Path) -> str:
    """Return what is called nearly as the first part of a path that does not exist."""
    missing = path.absolute()
    while not missing.parent.is_dir():
        missing = missing.parent
    names = [path.name for path in missing.parent.iterdir()]
    near = difflib.get_close_matches(missing.name, names, n=3)
    content = some_names(near) or f"no {missing.name}"
    return f"folder {missing.parent} has {content}"


def _other_kind(path: Path, head: bytes, size: int) -> str | None:
    """Return what a file is, with the way out; None if it is safetensors or of torch.save."""
    if not size:
        return f"empty (0 bytes); {AGAIN}"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path, size)
    if _TORCH_MAGIC in head[:32] or is_safetensors(head):
        return None
    kind = binary_kind_of(head)
    if kind:
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
    if kind == ZEROS:
        return AGAIN
    return "name the file of weights"


def _binary_kind(path: Path, head: bytes) -> str:
    if head.startswith(b"\x80"):
        return f"a pickle that torch.save did not write, and nothing is unpickled here; {TRUSTED}"
    if path.suffix == ".onnx" or (head[0] == 8 and head[2:3] in _PROTOBUF_FIELDS):
        origin = "as ONNX and TensorFlow write them"
        return f"a protobuf file, {origin}; take the weights of a torch model"
    begins = f"its first bytes are {head[:8].hex(' ')}"
    return f"neither safetensors nor a file that torch.save wrote ({begins}); {AGAIN}"


def _text_kind(head: bytes) -> str | None:
    """Return what a file of text is; None if it is none."""
    text = head.decode("utf-8-sig", "ignore")
    is_whole = len(text.encode()) > len(head) - 4  # but for a byte order mark, or a cut character
    if not is_whole or not _is_readable(text):
        return None
    begins = repr(" ".join(text.split())[:60])
    if text.startswith(_LFS):
        pointer = f"a git-lfs pointer{_lfs_size(text)}"
        return f"{pointer}, not the weights; run git lfs pull in its folder"
    if "/annex/objects/" in text[:300]:
        return "a git-annex pointer, not the weights; run git annex get on it"
    if '"weight_map"' in text:
        return "the index of weights in several files; join these into one safetensors file first"
    if re.match(r"\s*<", text):
        return f"a web page, not weights: a download that failed ({begins}); download it again"
    kind = "text, not weights: a note"
    if re.match(r"\s*[{\[]", text):
        kind = "JSON, not weights: settings"
    return f"{kind}, or a download that failed ({begins}); name the file of weights"


def _is_readable(text: str) -> bool:
    return all(char.isprintable() or char.isspace() for char in text)


def _lfs_size(text: str) -> str:
    """Return how large the file is that a git-lfs pointer stands for, where it says so."""
    match = re.search(r"size (\d+)", text)
    if match is None:
        return ""
    return f" for {int(match[1]):,} bytes"


def _zip_kind(path: Path, size: int) -> str | None:
    """Return what a zip archive is that torch.save did not write; None if it did."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # of a damaged archive it raises what it comes upon
        return f"cut off or damaged: a zip archive of {size:,} bytes without a sound end; {AGAIN}"
    names = [member.filename for member in members]
    if not _ending_with(names, "/data.pkl"):
        return _other_zip_kind(names)
    if _ending_with(names, "/constants.pkl") or any("/code/" in name for name in names):
        way_out = "save the state_dict of torch.jit.load(FILE) as safetensors"
        return f"a TorchScript archive, which is code; {way_out}"
    if not are_stored(members, size):
        return "a zip archive with compressed members, as torch.save writes none; save it anew"
    return None


def _other_zip_kind(names: list[str]) -> str:
    if names and _ending_with(names, ".npy") == names:
        return "a numpy archive (.npz); save the model's state_dict as safetensors"
    if _ending_with(names, ("archive_format", "serialized_exported_program.json")):
        return "an exported program, which is code; save the model's state_dict as safetensors"
    way_out = "unpack it and name the file of weights in it"
    content = some_names(names) or "none"
    return f"a zip archive of other files ({content}); {way_out}"


def _ending_with(names: Sequence[str], endings: str | tuple[str, ...]) -> list[str]:
    """Return the names that end so."""
    return [name for name in names if name.endswith(endings)]
