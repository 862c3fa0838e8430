"""The one small grammar of the command line, `name:arg,key=value,...`, and its way into
dataclasses.

    imagefolder:/data/train        torchvision:FashionMNIST,root=data,train=true
    topk:k=16                      mypkg.models:build,width=2

A piece may stand in double quotes when it holds a comma. Values read as true, false, integers,
numbers or text; several of these in brackets, `mean=[0.48,0.45,0.41]`, are a list.
"""

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kdcache.config.texts import require_given, require_whole_path
from kdcache.errors import UsageError, brief, quoted

MOST_SPEC = 4096
"""Characters of a spec."""
Item = bool | int | float | str
Value = Item | tuple[Item, ...]
T = TypeVar("T")

_MOST = 2**63
_MOST_LISTED = 30
"""Names that a message lists."""
_MOST_LISTED_CHARS = 370
"""Characters of these names: a message is cut in its middle beyond `errors.MOST_MESSAGE`."""
_OPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One parsed spec: a name, at most one positional argument, and options."""

    name: str
    arg: str | None = None
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Return the text that parses back to this spec."""
        pieces: list[str] = []
        if self.arg is not None:
            is_like_option = _OPTION.fullmatch(self.arg) is not None
            pieces.append(_quoted(self.arg, is_like_option or not self.arg))
        for key, value in self.options.items():
            pieces.append(f"{key}={_value_text(value)}")
        if not pieces:
            return self.name
        return f"{self.name}:{','.join(pieces)}"


def parse_spec(text: str) -> Spec:
    """Return the spec that `text` spells.

    Raises:
        UsageError: no text, a path below `~`, an empty name, a second positional argument, an
            option given twice, a number that is not finite, or a text of more than `MOST_SPEC`
            characters.
    """
    if len(text) > MOST_SPEC:
        raise UsageError(
            f"spec {quoted(text)} has {len(text)} characters; it may have {MOST_SPEC}: write"
            " name:arg,key=value,..."
        )
    require_given(text, "spec")
    name, _, rest = text.strip().partition(":")
    if not name:
        raise UsageError(f"spec {quoted(text)} has no name; write name:arg,key=value,...")
    arg: str | None = None
    options: dict[str, Value] = {}
    for position, piece in enumerate(_split(rest, text)):
        option = _OPTION.fullmatch(piece)
        if option is None and position == 0:
            arg = piece.replace('"', "")
        elif option is None:
            raise UsageError(
                f"spec {quoted(text)}: {quoted(piece)} is not key=value; put a value that holds a"
                " comma in quotes"
            )
        elif option[1] in options:
            raise UsageError(f"spec {quoted(text)} gives {quoted(option[1])} twice")
        else:
            options[option[1]] = _value(option[2], text)
    if arg is not None:
        require_whole_path(arg, f"path of {name}")
    for key, value in options.items():
        require_finite(
            value, f"spec {quoted(text)}: {brief(key)}", "a finite number, or text in double quotes"
        )
    return Spec(name, arg, options)


def normal_spec(text: str) -> Spec:
    """Return the spec that `text` spells, equal to that of other spellings of paths, numbers and
    order.

    Raises:
        UsageError: as `parse_spec`.
    """
    spec = parse_spec(text)
    arg = spec.arg
    if arg is not None:
        arg = os.path.normpath(arg)
    options = {key: _normal_value(value) for key, value in spec.options.items()}
    return Spec(spec.name, arg, options)


def _normal_value(value: Value) -> Value:
    if isinstance(value, tuple):
        return tuple(_normal_item(item) for item in value)
    return _normal_item(value)


def _normal_item(value: Item) -> Item:
    if isinstance(value, str) and os.sep in value:
        return os.path.normpath(value)
    return value


def build(
    cls: type[T],
    values: Mapping[str, Any],
    where: str,
    *,
    called: Callable[[str], str] = str,
) -> T:
    """Return dataclass `cls` made from `values`, nested tables included, types checked.

    Args:
        cls: the dataclass.
        values: by field.
        where: they come from, for messages.
        called: gives what a user calls a field, for those that are missing.

    Raises:
        UsageError: an unknown key (the nearest is suggested), a missing one, a value of the wrong
            type, or a number anywhere in it that is not finite.
    """
    hints = typing.get_type_hints(cls)
    fields = _option_fields(cls)
    names = [field.name for field in fields]
    for key in values:
        choose(key, names, f"{where} key")
    missing = _missing_fields(fields, values)
    if missing:
        *others, last = [called(name) for name in missing]
        text = last
        if others:
            text = f"{', '.join(others)} and {last}"
        raise UsageError(f"{where} needs {text}")
    for key, value in values.items():
        require_finite(value, f"{where} {key}")
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        arguments[key] = _typed(value, hints[key], f"{where} {key}")
    return cls(**arguments)


def _option_fields(cls: type) -> "list[dataclasses.Field[Any]]":
    """Return the fields of a dataclass that a spec may set."""
    return [field for field in dataclasses.fields(cls) if is_option(field)]


def _missing_fields(fields: "list[dataclasses.Field[Any]]", values: Mapping[str, Any]) -> list[str]:
    """Return the names of fields that have neither a value nor a default."""
    names: list[str] = []
    for field in fields:
        lacks_value = field.default is dataclasses.MISSING and field.name not in values
        if lacks_value and field.default_factory is dataclasses.MISSING:
            names.append(field.name)
    return names


def require_finite(value: Any, where: str, rule: str = "a finite number") -> None:
    """Raise a UsageError if a number is infinite or NaN, also one inside tables and lists.

    Comparisons with NaN are false, so that checks of ranges would let it pass.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} is {value}; it must be {rule}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            require_finite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            require_finite(item, where)


def not_an_option(default: Any = None) -> Any:
    """Return a dataclass field that code sets, but no spec, configuration or manifest does."""
    return dataclasses.field(default=default, repr=False, compare=False, metadata={"option": False})


def is_option(field: "dataclasses.Field[Any]") -> bool:
    """Return whether a spec may set the field."""
    return field.init and field.metadata.get("option", True) is True


def choose(name: str, names: Iterable[str], what: str, *, all_in: str = "") -> str:
    """Return `name` if it is among `names`; otherwise raise a UsageError that suggests the
    nearest.

    Args:
        name: that is looked for.
        names: that there are.
        what: they name.
        all_in: the page that has all of them, told where they are too many for a message.
    """
    names = sorted(names)
    if name in names:
        return name
    hint = ""
    nearest = difflib.get_close_matches(brief(name), names, n=1)
    if nearest:
        hint = f"; did you mean {nearest[0]!r}?"
    raise UsageError(f"unknown {what} {quoted(name)}{hint} ({_choices(name, names, all_in)})")


def _choices(name: str, names: Sequence[str], all_in: str) -> str:
    """Return which names there are; of many those that hold `name`, and how many there are."""
    names_text = ", ".join(names)
    if len(names) <= _MOST_LISTED and len(names_text) <= _MOST_LISTED_CHARS:
        return f"known: {names_text or 'none'}"
    choices = f"{len(names)} are known"
    if all_in:
        choices += f", all in {all_in}"
    alike_text = ", ".join([known for known in names if name and name in known])
    if 0 < len(alike_text) <= _MOST_LISTED_CHARS:
        choices += f"; with {quoted(name)} in it: {alike_text}"
    return choices


def _split(rest: str, text: str) -> list[str]:
    """Return the pieces between commas, but not between those in quotes or in the brackets of a
    list; each character is looked at once."""
    pieces: list[str] = []
    start = 0
    is_quoted = False
    is_list = False
    for place, char in enumerate(rest):
        if char == '"':
            is_quoted = not is_quoted
        elif is_quoted:
            continue
        elif char == "[" and rest[start:place].endswith("="):
            is_list = True
        elif char == "]":
            is_list = False
        elif char == "," and not is_list:
            pieces.append(rest[start:place].strip())
            start = place + 1
    if is_quoted:
        raise UsageError(f"spec {quoted(text)} has an open quote")
    if is_list:
        raise UsageError(f"spec {quoted(text)} has a list without its closing bracket")
    if start < len(rest):  # nothing stands after a comma at the end
        pieces.append(rest[start:].strip())
    return pieces


def _value(text: str, spec: str) -> Value:
    """Return what a text of a spec stands for."""
    if not text.startswith("["):
        return _item(text)
    if not text.endswith("]"):
        raise UsageError(
            f"spec {quoted(spec)}: {quoted(text)} is no list; put text that begins with a bracket"
            " in quotes"
        )
    return tuple(_item(piece) for piece in _split(text[1:-1], spec))


def _item(text: str) -> Item:
    if '"' in text:
        return text.replace('"', "")
    if text in ("true", "false"):
        return text == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _value_text(value: Value) -> str:
    """Return the text of a value, which reads back to it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_item_text, value))}]"
    is_like_list = isinstance(value, str) and value.startswith("[")
    return _quoted(_text(value), is_like_list or _is_like_other(value))


def _item_text(item: Item) -> str:
    is_special = isinstance(item, str) and (not item or item[0] in "[" or "]" in item)
    return _quoted(_text(item), is_special or _is_like_other(item))


def _is_like_other(value: Item) -> bool:
    """Return whether a text would be read as something else."""
    return isinstance(value, str) and _item(value) != value


def _text(value: Item) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _quoted(text: str, needs_quotes: bool) -> str:
    """Return `text` in quotes if it needs them, or would be cut or trimmed without."""
    if needs_quotes or "," in text or text != text.strip():
        return f'"{text}"'
    return text


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotated type `hint`; integers pass as floats, lists as tuples, tables
    as dataclasses."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _typed_as_one(value, args, where)
    if origin is typing.Literal:
        return choose(str(value), args, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(item, args[0], where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return _typed_as_table(value, typing.cast("type[Any]", hint), where)
    return _typed_as_plain(value, origin or hint, where)


def _typed_as_table(value: Any, cls: type, where: str) -> Any:
    if isinstance(value, Mapping):
        return build(cls, value, where)
    if isinstance(value, cls):
        return value
    first = _option_fields(cls)[0].name
    raise UsageError(f"{where} is {quoted(value)}, but has keys of its own; write {first}=...")


_TYPE_WORDS: dict[type, str] = {
    bool: "true or false",
    dict: "a table",
    float: "a number",
    int: "a whole number",
    str: "text",
    tuple: "a list, such as [3,4]",
}


def _typed_as_plain(value: Any, kind: type, where: str) -> Any:
    if isinstance(value, bool):  # Python takes one for an integer
        if kind is not int and isinstance(value, kind):
            return value
    elif isinstance(value, int) and abs(value) >= _MOST and kind in (int, float):
        raise UsageError(f"{where} has {len(str(value))} digits; it must be a number below 2^63")
    elif kind is float and isinstance(value, int):
        return float(value)
    elif kind is str and isinstance(value, (int, float)):
        return str(value)
    elif isinstance(value, kind):
        return value
    text = quoted(value)
    if isinstance(value, bool):
        text = str(value).lower()  # as TOML has it
    raise UsageError(f"{where} is {text}; it must be {_TYPE_WORDS.get(kind, kind)}")


def _typed_as_one(value: Any, hints: Sequence[Any], where: str) -> Any:
    """Return `value` as one type of a union: lists and text as the one that takes them, all else as
    the first."""
    if value is None and type(None) in hints:
        return None
    first, *others = [hint for hint in hints if hint is not type(None)]
    kind: Any = None
    if isinstance(value, (list, tuple)):
        kind = tuple
    elif isinstance(value, str):
        kind = str
    for hint in others:
        if kind is not None and kind in (hint, typing.get_origin(hint)):
            return _typed(value, hint, where)
        if kind is str and typing.get_origin(hint) is typing.Literal:
            words = typing.get_args(hint)
            if value in words:
                return value
            choices = " or ".join([_TYPE_WORDS[first], *words])
            raise UsageError(f"{where} is {quoted(value)}; it must be {choices}")
    return _typed(value, first, where)
