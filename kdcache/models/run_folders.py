"""Folders of runs in the place of a model's spec: the student of the run, with its best weights."""

import os
import tomllib
from pathlib import Path
from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import KdcacheError, UsageError
from kdcache.models.weight_record import ORIGINS, without_idle_options, without_options
from kdcache.runtime.text_files import read_text

CONFIG_FILE = "config.toml"
STUDENT_FILE = "student.safetensors"
BEST_FILE = "best.safetensors"
_MOST_RUNS = 5
"""That a message names."""
COMMAND = "train-student"
"""The command that makes a run, and the table of its settings."""


def model_spec(text: str) -> str:
    """Return the spec of a model from a spec, which stays as it is, or from the folder of a run.

    A folder means the student of the run with its best weights, or its last ones. Options may
    follow it, as they follow a spec: `runs/a,head=new`.

    Raises:
        UsageError: there is no such folder, or it is no run.
        KdcacheError: the run has no weights yet.
    """
    named = _named_folder(text)
    if named is None:
        return text
    folder = run_folder(str(named.arg))
    spec = without_idle_options(parse_spec(_student_of(folder)))
    spec = without_options(spec, ORIGINS | {"weights_backbone"})
    options = {**spec.options, "weights": str(weights_in(folder)), **named.options}
    return str(Spec(spec.name, spec.arg, options))


def folder_of_run(text: str) -> Path | None:
    """Return the folder of the run that a text names in the place of a model's spec; None of a
    spec.

    Raises:
        UsageError: there is no such folder, or it is no run.
    """
    named = _named_folder(text)
    if named is None:
        return None
    return run_folder(str(named.arg))


def run_folder(text: str) -> Path:
    """Return the folder of a run.

    Raises:
        UsageError: there is no such folder, or it is no run.
    """
    folder = Path(text)
    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {text}; give that of a run, or a model's spec, such as"
            " timm:resnet18,weights=FILE"
        )
    if not (folder / CONFIG_FILE).is_file():
        runs = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
        way_out = "give the folder of a run, or a model's spec"
        if runs:
            way_out = f"give one of the runs in it: {', '.join(map(str, runs[:_MOST_RUNS]))}"
        raise UsageError(f"{folder} is no run: it has no {CONFIG_FILE}; {way_out}")
    return folder


def _named_folder(text: str) -> Spec | None:
    """Return the path of a folder and the options after it; None of a model's spec.

    A run that is there may have any name, such as `runs/2026-11-30T14:00`.
    """
    if os.path.isfile(os.path.join(text, CONFIG_FILE)):  # noqa: PTH113, PTH118 # take any text
        return Spec("run", text, {})
    if ":" in text or not text.strip():
        return None
    named = parse_spec(f"run:{text}")
    path = str(named.arg)
    if "/" not in path and not Path(path).is_dir():
        return None
    return named


def _student_of(folder: Path) -> str:
    """Return the spec of a run's student, as its settings have it.

    Raises:
        UsageError: they cannot be read.
    """
    file = folder / CONFIG_FILE
    try:
        settings: dict[str, Any] = tomllib.loads(read_text(file, "settings of a run"))
        return str(settings[COMMAND]["student"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} names no student of a run ({error}); give the model's spec, such as"
            f" timm:resnet18,weights={folder / STUDENT_FILE}"
        ) from error


def weights_in(folder: Path) -> Path:
    """Return the file of a run's best weights, or of the last ones.

    Raises:
        KdcacheError: it has none yet.
    """
    for name in (BEST_FILE, STUDENT_FILE):
        if (folder / name).is_file():
            return folder / name
    raise KdcacheError(
        f"run {folder} has no weights yet: neither {BEST_FILE} nor {STUDENT_FILE}; wait for its"
        " first epoch with evaluation, or its end; if it has stopped, run its command again"
    )
