"""Configuration: one TOML file, flags over it, `--set section.key=value` over both; checked into frozen dataclasses."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from kdcache.errors import UsageError
from kdcache.spec import build, choose

COMMANDS = ("dump-teacher", "train-student")
T = TypeVar("T")
_MOST_SEEDS = 1_000_000
_SETTINGS = resources.files("kdcache") / "settings"


def load_config(cls: type[T], command: str, *, file: str | None, flags: Mapping[str, Any], settings: Sequence[str] = ()) -> T:
    """Return the configuration of `command`.

    Args:
        cls: the command's dataclass.
        command: the table of the TOML file that is read; the file may hold the other command's too.
        file: path of a TOML file or the name of shipped settings, or None.
        flags: values by dotted key (`compute.workers`); None means not given.
        settings: `key=value` texts, the value as TOML or, if that fails, as plain text.

    Raises:
        UsageError: a file that is absent or not TOML, no settings of that name, an unknown key, a value of the wrong type.
    """
    table = _read(file, command) if file else {}
    for key, value in flags.items():
        if value is not None:
            _put(table, key, value)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r} is not key=value; write for example --set optimizer.lr=0.1")
        _put(table, key.strip(), _toml_value(text))
    return build(cls, table, command)


def dump_config(config: Any, command: str) -> str:
    """Return the TOML text that `load_config` reads back to the same configuration."""
    return tomli_w.dumps({command: _without_none(dataclasses.asdict(config))})


def config_differences(old: Any, new: Any, *, free: Sequence[str]) -> list[str]:
    """Return one line per dotted key in which two configurations differ, but for the keys and tables in `free`."""
    mine, theirs = flat_settings(dataclasses.asdict(old)), flat_settings(dataclasses.asdict(new))
    return [
        f"{key}: {mine.get(key)!r} there, {theirs.get(key)!r} now"
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key) and key not in free and not key.startswith(tuple(f"{table}." for table in free))
    ]


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that `A:B` (B left out), `A`, or several of these joined by commas name.

    Raises:
        UsageError: another text, an empty range, a negative seed or one past 32 bits.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        if not first.isdecimal() or (colon and not last.isdecimal()):
            raise UsageError(f"seeds {text!r} are not of the form A:B or A,B,...; 0:4 means 0, 1, 2 and 3")
        named = range(int(first), int(last) if colon else int(first) + 1)
        if not 0 < len(named) <= _MOST_SEEDS or named[-1] >= 2**32:
            raise UsageError(f"seeds {text!r} are none, too many, or past 2^32 - 1; 0:4 means 0, 1, 2 and 3")
        seeds += named
    return list(dict.fromkeys(seeds))


def shipped_settings() -> list[str]:
    """Return the names of the settings that come with kdcache: those of the DIST paper's trainings."""
    return sorted(file.name.removesuffix(".toml") for file in _SETTINGS.iterdir() if file.name.endswith(".toml"))


def _read(file: str, command: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(_text(file))
    except OSError as error:
        raise UsageError(f"config file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config file {file} is not TOML: {error}") from error
    for name in tables:
        choose(name, COMMANDS, f"table in {file}")
    if command not in tables:
        raise UsageError(f"config file {file} has no table [{command}]")
    table = tables[command]
    if not isinstance(table, dict):
        raise UsageError(f"config file {file}: {command} must be a table")
    return table


def _text(file: str) -> str:
    if Path(file).suffix == ".toml" or Path(file).exists():
        return Path(file).read_text()
    return (_SETTINGS / f"{choose(file, shipped_settings(), 'settings (and no file)')}.toml").read_text()


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"key {key!r}: {section} is a value, not a section")
        table = inner
    table[last] = value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def flat_settings(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
