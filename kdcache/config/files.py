"""Configuration: one TOML file, and over it flags and `--set section.key=value`; checked into
frozen dataclasses."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from kdcache.config.fields import build
from kdcache.config.names import choose
from kdcache.config.texts import require_text
from kdcache.errors import UsageError, quoted
from kdcache.runtime.files import plain_bytes
from kdcache.runtime.text_files import path_text, read_text

COMMANDS = ("dump-teacher", "train-student")
T = TypeVar("T")
_PLAIN = re.compile(r'[a-z_]{1,40} = ("[^"\\\x00-\x1f\x7f]*"|true|false|0|[1-9][0-9]{0,17})')
"""A line of a setting that is text, a number or a truth."""
_SETTINGS = resources.files("kdcache.config") / "presets"


def load_config(
    cls: type[T],
    command: str,
    *,
    file: str | None,
    flags: Mapping[str, Any],
    settings: Sequence[str] = (),
    is_ours: bool = False,
) -> T:
    """Return the configuration of `command`.

    Args:
        cls: the command's dataclass.
        command: the table of the TOML file that is read; the file may hold the other command's too.
        file: path of a TOML file or the name of shipped settings, or None.
        flags: values by dotted key (`compute.workers`); None means not given.
        settings: `key=value` texts, the value as TOML or, if that fails, as plain text.
        is_ours: whether `dump_config` has written the file: paths in it may be of any bytes.

    Raises:
        UsageError: a file that is absent or not TOML, no settings of that name, an unknown key, a
            value of the wrong type, an empty text, a path below `~`.
    """
    table: dict[str, Any] = {}
    if file:
        table = _read_table(file, command, is_ours=is_ours)
    if not is_ours:  # an older kdcache took what is refused now
        for key, value in table.items():
            _require_texts(value, f"{command} {key}")
    for key, value in flags.items():
        if value is not None:
            _put(table, key, value, file)
    for setting in settings:
        key, value = _parse_setting(setting)
        flag_value = flags.get(key)
        if flag_value is not None:
            raise UsageError(
                f"{key} is given twice: {quoted(flag_value)}, and by --set {quoted(setting)}; give"
                " it once"
            )
        _require_texts(value, f"--set {key}")
        _put(table, key, value, file)
    return build(cls, table, command, called=_flag, way_out=f"; see kdcache {command} --help")


def _parse_setting(setting: str) -> tuple[str, Any]:
    """Return the key and the value of `key=value`."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(
            f"--set {setting!r} is not key=value; write for example --set optimizer.lr=0.1"
        )
    return key.strip(), _toml_value(text)


def _require_texts(value: Any, what: str) -> None:
    """Raise a UsageError if a setting is, or lists, a text that `require_text` refuses."""
    items = [value]
    if isinstance(value, list):
        items = value
    for item in items:
        if isinstance(item, str):
            require_text(item, what)


def _flag(name: str) -> str:
    """Return what the command line calls a setting that must be given: an argument, or a flag."""
    if name in ("cache", "run"):
        return name.upper()
    return f"--{name.replace('_', '-')}"


def parse_config(cls: type[T], command: str, text: str) -> T:
    """Return the configuration that `dump_config` told.

    Raises:
        UsageError: it is of another version, which had other settings.
    """
    return build(cls, tomllib.loads(text)[command], command)


def dump_config(config: Any, command: str) -> str:
    """Return the TOML text that `load_config` reads back to the same configuration."""
    return tomli_w.dumps({command: _without_none(dataclasses.asdict(config))})


def recorded_settings(config: str | None) -> dict[str, Any]:
    """Return the plain settings of the first dump into a cache, from the configuration that its
    manifest keeps; none of others.

    Single lines are looked for: the text may come from anywhere, and can be such that TOML's parser
    takes minutes.
    """
    settings: dict[str, Any] = {}
    if config is None:
        return settings
    table = ""
    for line in config.splitlines():
        if line.startswith("["):
            table = line
        elif table == "[dump-teacher]" and _PLAIN.fullmatch(line):
            with suppress(tomllib.TOMLDecodeError):  # the text may be of any writer
                settings |= tomllib.loads(line)
    return settings


def shipped_settings() -> list[str]:
    """Return the names of the settings that come with kdcache: those of the DIST paper's
    trainings."""
    names: list[str] = []
    for file in _SETTINGS.iterdir():
        name = file.name
        if name.endswith(".toml"):
            names.append(name.removesuffix(".toml"))
    return sorted(names)


def _read_table(file: str, command: str, *, is_ours: bool) -> dict[str, Any]:
    """Return the table of a command in a file of settings."""
    try:
        if is_ours:
            text = path_text(plain_bytes(file))
        else:
            text = _text(file)
        tables = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"config file {file}: {error.strerror}") from error
    except ValueError as error:
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
        return read_text(file, "config file")
    name = choose(file, shipped_settings(), "settings (and no file)")
    return (_SETTINGS / f"{name}.toml").read_text("utf-8")


def _put(table: dict[str, Any], key: str, value: Any, file: str | None) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            where = "there"
            if file:
                where = f"in {file}"
            raise UsageError(
                f"{quoted(key)}: {quoted(section)} is {quoted(inner)} {where}, which has no keys;"
                f" make it a table [{section}]"
            )
        table = inner
    table[last] = value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # no TOML, or a number of thousands of digits
        return text.strip()


def _without_none(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, Mapping):
        return value
    table: dict[str, Any] = {}
    for key, item in value.items():
        if item is not None:
            table[key] = _without_none(item)
    return table
