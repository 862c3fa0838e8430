"""A file of settings to begin with, which says what each of them is."""

from importlib import resources
from pathlib import Path

from kdcache.errors import KdcacheError, UsageError
from kdcache.runtime.files import write_file


def starter_text() -> str:
    """Return the text of the file: TOML, with a table for each of the two commands."""
    return (resources.files("kdcache.config") / "starter.toml").read_text("utf-8")


def write_starter(path: str) -> None:
    """Write the file; the commands in it name it.

    Raises:
        UsageError: there is a file of that name, or none can be made.
        KdcacheError: it cannot be written, as on a full disk.
    """
    if not path.endswith(".toml"):
        raise UsageError(f"file {path} does not end with .toml, as files of settings do; rename it")
    text = starter_text().replace("--config FILE", f"--config {path}")
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError as error:
        raise UsageError(f"file {path} exists; give another name, or remove it") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; write elsewhere") from error
    try:
        write_file(Path(path), text.encode())
    except KdcacheError:
        Path(path).unlink()  # the empty file, which would be in the way of another try
        raise
