"""The one small grammar of the command line, `name:arg,key=value,...`, and its way into dataclasses.

    imagefolder:/data/train        torchvision:FashionMNIST,root=data,train=true
    topk:k=16                      mypkg.models:build,width=2

A piece may stand in double quotes when it holds a comma. Values read as true, false, integers, numbers or text.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from kdcache.errors import UsageError, brief, quoted

MOST_SPEC = 4096
"""Characters of a spec."""
_MOST_INTEGER = 1 << 1000
"""Of those that a float can stand for."""
Value = bool | int | float | str
T = TypeVar("T")

_OPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One parsed spec: a name, at most one positional argument, and options."""

    name: str
    arg: str | None = None
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Return the text that parses back to this spec."""
        pieces = [] if self.arg is None else [_quoted(self.arg, not self.arg or _OPTION.fullmatch(self.arg) is not None)]
        for key, value in self.options.items():
            pieces.append(f"{key}={_quoted(_text(value), isinstance(value, str) and _value(value) != value)}")
        return f"{self.name}:{','.join(pieces)}" if pieces else self.name


def parse_spec(text: str) -> Spec:
    """Return the spec that `text` spells.

    Raises:
        UsageError: an empty name, a second positional argument, an option given twice, or a text of more than `MOST_SPEC`
            characters.
    """
    if len(text) > MOST_SPEC:
        raise UsageError(
            f"spec {quoted(text)} has {len(text)} characters; it may have {MOST_SPEC}: write name:arg,key=value,..."
        )
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
            raise UsageError(f"spec {quoted(text)}: {quoted(piece)} is not key=value; put a value that holds a comma in quotes")
        elif option[1] in options:
            raise UsageError(f"spec {quoted(text)} gives {quoted(option[1])} twice")
        else:
            options[option[1]] = _value(option[2])
    return Spec(name, arg, options)


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return dataclass `cls` made from `values`, nested tables included, types checked.

    Raises:
        UsageError: an unknown key (the nearest is suggested), a missing one, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if is_option(field)}  # type: ignore[arg-type]
    for key in values:
        choose(key, fields, f"{where} key")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{where} needs {', '.join(missing)}")
    return cls(**{key: _typed(value, hints[key], f"{where} {key}") for key, value in values.items()})


def not_an_option(default: Any = None) -> Any:
    """Return a dataclass field that code sets, but no spec, configuration or manifest does."""
    return dataclasses.field(default=default, repr=False, compare=False, metadata={"option": False})


def is_option(field: "dataclasses.Field[Any]") -> bool:
    """Return whether a spec may set the field."""
    return field.init and field.metadata.get("option", True) is True


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return `name` if it is among `known`; otherwise raise a UsageError that suggests the nearest."""
    names = sorted(known)
    if name in names:
        return name
    nearest = difflib.get_close_matches(brief(name), names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = f"known: {', '.join(names) or 'none'}" if len(names) <= 30 else f"{len(names)} are known"
    raise UsageError(f"unknown {what} {quoted(name)}{hint} ({listed})")


def _split(rest: str, text: str) -> list[str]:
    """Return the pieces between commas, but not between those in quotes; each character is
    looked at once."""
    pieces: list[str] = []
    start = 0
    is_quoted = False
    for at, char in enumerate(rest):
        if char == '"':
            is_quoted = not is_quoted
        elif char == "," and not is_quoted:
            pieces.append(rest[start:at].strip())
            start = at + 1
    if is_quoted:
        raise UsageError(f"spec {quoted(text)} has an open quote")
    if start < len(rest):  # nothing stands after a comma at the end
        pieces.append(rest[start:].strip())
    return pieces


def _value(text: str) -> Value:
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


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str, needed: bool) -> str:
    """Return `text` in quotes if it needs them, or would be cut or trimmed without."""
    return f'"{text}"' if needed or "," in text or text != text.strip() else text


def _typed(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911
    """Return `value` as the annotated type `hint`; integers pass as floats, lists as tuples, tables as dataclasses."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        first, *others = (arg for arg in args if arg is not type(None))
        wanted = tuple if isinstance(value, (list, tuple)) else str if isinstance(value, str) else None
        fitting = (arg for arg in others if wanted is not None and wanted in (arg, typing.get_origin(arg)))
        return _typed(value, next(fitting, first), where)
    if origin is typing.Literal:
        return choose(str(value), args, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(item, args[0], where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast("type[Any]", hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > _MOST_INTEGER:
            raise UsageError(f"{where} is {quoted(value)}; it must be of type float, which holds no such number")
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    plain = origin or hint
    if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
        return value
    raise UsageError(f"{where} is {quoted(value)}; it must be of type {getattr(plain, '__name__', plain)}")


def load_function(spec: Spec, what: str, known: Iterable[str]) -> Any:
    """Return what the user's own `module:function,key=value` gives when called with its options.

    Modules are also looked for in the working directory.

    Raises:
        UsageError: no such module or function (with the nearest of `known` suggested), or options that do not fit.
    """
    if (cwd := str(Path.cwd())) not in sys.path:
        sys.path.append(cwd)
    try:
        found = importlib.util.find_spec(spec.name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        choose(spec.name, known, f"{what} (and no module of that name in this folder or on PYTHONPATH)")
    if spec.arg is None:
        raise UsageError(f"{what} {str(spec)!r} names no function; write {spec.name}:function,key=value,...")
    module = importlib.import_module(spec.name)
    functions = [name for name, value in vars(module).items() if callable(value)]
    function = getattr(module, choose(spec.arg, functions, f"function of module {spec.name}"))
    check_options(function, spec, what)
    return function(**spec.options)


def check_options(function: Callable[..., Any], spec: Spec, what: str) -> None:
    """Raise a UsageError if an option of `spec` is not a parameter of `function`; the nearest is suggested."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.name != "self"]
    for option in spec.options:
        choose(option, known, f"option of {what} {spec.name}{f':{spec.arg}' if spec.arg else ''},")
