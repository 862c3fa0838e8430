"""Files that torch.save wrote of plain values and arrays, read without torch. Nothing in them is
run."""

import zipfile
from pathlib import Path
from typing import Any

from kdcache.errors import CacheError
from kdcache.imports.plain_pickle import plain_value
from kdcache.models.weight_formats import AGAIN, are_stored
from kdcache.runtime.user_code import exception_text

MOST_FILE = 1 << 26
"""Bytes of a file; 500 crops with ten labels each have 0.1 MB."""
_PICKLE = "/data.pkl"


def read_torch_file(path: Path) -> Any:
    """Return what a file holds; arrays and tensors in it are `PlainArray`.

    Raises:
        FileNotFoundError: there is none.
        CacheError: one that torch.save did not write, or that is damaged, or holds more than plain
            values.
    """
    try:
        size = path.stat().st_size
        if size > MOST_FILE:
            raise ValueError(f"{size:,} bytes; it may have {MOST_FILE:,}")
        with zipfile.ZipFile(path) as archive:
            return _content(archive, size)
    except FileNotFoundError:
        raise
    except zipfile.BadZipFile as error:
        raise CacheError(
            f"file {path} is damaged, or was not written by torch.save of torch 1.6 or later"
            f" ({exception_text(error)[:80]}); {AGAIN}"
        ) from error
    except OSError as error:
        raise CacheError(f"file {path} cannot be read: {error.strerror or error}") from error
    except (KeyError, ValueError, NotImplementedError, RuntimeError) as error:  # of zipfile, too
        raise CacheError(
            f"file {path} holds {str(error)[:200]}; {AGAIN}, or remove it to leave its sample out"
        ) from error


def _content(archive: zipfile.ZipFile, size: int) -> Any:
    """Return what an archive holds, of which every part has its checksum."""
    members = archive.infolist()
    if not are_stored(members, size):
        raise ValueError("compressed members, as torch.save writes none")
    pickles = [member.filename for member in members if member.filename.endswith(_PICKLE)]
    if len(pickles) != 1:
        raise ValueError(f"no single member *{_PICKLE}, as torch.save writes one")
    root = pickles[0].removesuffix(_PICKLE)

    def storage(key: str) -> bytes:
        return archive.read(f"{root}/data/{key}")

    return plain_value(archive.read(pickles[0]), storage)
