"""What is told of several runs before they train: what all have in common, and how each differs."""

import dataclasses
import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.config.differences import flat_settings
from kdcache.runtime.wording import without_common_folder
from kdcache.train.config import TrainConfig
from kdcache.train.variants import folder_name

WIDTH = 80
"""Columns of what is told."""
_INDENT = "  "


def overview(configs: Sequence[TrainConfig]) -> list[str]:
    """Return lines that tell what several runs have in common, and a table of how they differ;
    none where there is one run.

    Settings at their usual values are left out of what they have in common.
    """
    if len(configs) == 1:
        return []
    settings = [flat_settings(dataclasses.asdict(config)) for config in configs]
    differing = _differing_keys(configs, settings)
    folder, names = without_common_folder([config.run for config in configs])
    place = f" in {folder}" if folder else ""
    lines = [f"{len(configs)} runs side by side{place}"]
    lines += _wrapped(f"all have {' '.join(_shared_texts(settings, differing))}")
    columns = {key: [_text(values.get(key)) for values in settings] for key in differing}
    if not columns or not _say_what_differs(names, columns):
        columns = {"run": names, **columns}
    return lines + _table(columns)


def run_names(configs: Sequence[TrainConfig]) -> list[str]:
    """Return what sets the folder of each run apart; nothing where there is one run."""
    if len(configs) == 1:
        return [""]
    return without_common_folder([config.run for config in configs])[1]


def _differing_keys(
    configs: Sequence[TrainConfig], settings: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the settings that are not the same in all runs, but for their folders."""
    # tables of options may have keys of their own
    keys = [key for key in dict.fromkeys(itertools.chain(*settings)) if key != "run"]
    if len({config.order for config in configs}) == 1:
        keys.remove("order_seed")  # it only undoes what another run seed would do
    differing: list[str] = []
    for key in keys:
        first, *others = [values.get(key) for values in settings]
        if any(other != first for other in others):
            differing.append(key)
    return differing


def _shared_texts(settings: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> list[str]:
    """Return `key=value` for each setting that all have in common and that was chosen."""
    usual = _usual_settings()
    texts: list[str] = []
    for key, value in settings[0].items():
        if key in ("run", "order_seed", *differing) or usual.get(key) == value:
            continue
        texts.append(f"{key}={_text(value)}")
    return texts


def _usual_settings() -> dict[str, Any]:
    """Return the value of each setting that has one where nothing is said."""
    chosen: dict[str, Any] = {"run": "", "data": "", "student": "", "cache": "", "epochs": 1}
    values = flat_settings(dataclasses.asdict(TrainConfig(**chosen)))
    return {key: value for key, value in values.items() if key not in chosen}


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " and ".join(map(str, value))
    return str(value)


def _say_what_differs(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the names of folders say all that differs, as those of --vary do."""
    for place, name in enumerate(names):
        texts = [folder_name([f"{key}={values[place]}"]) for key, values in columns.items()]
        if not set(texts).issubset(name.split("+")):
            return False
    return True


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=2 * _INDENT,
        break_on_hyphens=False,
    )


def _table(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the lines of a table, which fold what is too wide."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for key in columns:
        table.add_column(Text(key), overflow="fold")
    for values in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, values))
    file = io.StringIO()
    Console(file=file, width=WIDTH - len(_INDENT), color_system=None).print(table)
    return [f"{_INDENT}{line}".rstrip() for line in file.getvalue().splitlines()]
