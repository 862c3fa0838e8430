"""The one small grammar of the command line, `name:arg,key=value,...`.

    imagefolder:/data/train        torchvision:FashionMNIST,root=data,train=true
    topk:k=16                      mypkg.models:build,width=2

A piece may stand in double quotes when it holds a comma. Values read as true, false, integers,
numbers or text; several of these in brackets, `mean=[0.48,0.45,0.41]`, are a list.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kdcache.config.fields import require_finite
from kdcache.config.texts import require_given, require_whole_path
from kdcache.errors import UsageError, brief, quoted

MOST_SPEC = 4096
"""Characters of a spec."""
Item = bool | int | float | str
Value = Item | tuple[Item, ...]
_OPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """One parsed spec: a name, at most one positional argument, and options."""

    name: str
    arg: str | None = None
    options: Mapping[str, Value] = field(default_factory=dict)

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
