"""The one small grammar of the command line, `name:arg,key=value,...`, and its way into
dataclasses.

    imagefolder:/data/train        torchvision:FashionMNIST,root=data,train=true
    topk:k=16                      mypkg.models:build,width=2

A piece may stand in double quotes when it holds a comma. Values read as true, false, integers,
numbers or text.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kdcache.config.texts import require_given, require_whole_path
from kdcache.errors import KdcacheError, UsageError, brief, quoted
from kdcache.runtime.user_code import user_code

MOST_SPEC = 4096
"""Characters of a spec."""
Value = bool | int | float | str
T = TypeVar("T")

_MOST = 2**63
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_OPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One parsed spec: a name, at most one positional argument, and options."""

    name: str
    arg: str | None = None
    options: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """Return the text that parses back to this spec."""
        pieces = []
        if self.arg is not None:
            is_like_option = _OPTION.fullmatch(self.arg) is not None
            pieces.append(_quoted(self.arg, is_like_option or not self.arg))
        for key, value in self.options.items():
            is_like_other = isinstance(value, str) and _value(value) != value
            pieces.append(f"{key}={_quoted(_text(value), is_like_other)}")
        return f"{self.name}:{','.join(pieces)}" if pieces else self.name


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
            options[option[1]] = _value(option[2])
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
    arg = None if spec.arg is None else os.path.normpath(spec.arg)
    options = {key: _normal_value(value) for key, value in spec.options.items()}
    return Spec(spec.name, arg, options)


def _normal_value(value: Value) -> Value:
    return os.path.normpath(value) if isinstance(value, str) and os.sep in value else value


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
    fields = {field.name: field for field in dataclasses.fields(cls) if is_option(field)}  # type: ignore[arg-type]
    for key in values:
        choose(key, fields, f"{where} key")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        *others, last = map(called, missing)
        before = f"{', '.join(others)} and " if others else ""
        raise UsageError(f"{where} needs {before}{last}")
    for key, value in values.items():
        require_finite(value, f"{where} {key}")
    return cls(
        **{key: _typed(value, hints[key], f"{where} {key}") for key, value in values.items()}
    )


def require_finite(value: Any, where: str, wanted: str = "a finite number") -> None:
    """Raise a UsageError if a number is infinite or NaN, also one inside tables and lists.

    Comparisons with NaN are false, so that checks of ranges would let it pass.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} is {value}; it must be {wanted}")
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


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return `name` if it is among `known`; otherwise raise a UsageError that suggests the
    nearest."""
    names = sorted(known)
    if name in names:
        return name
    nearest = difflib.get_close_matches(brief(name), names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = (
        f"known: {', '.join(names) or 'none'}" if len(names) <= 30 else f"{len(names)} are known"
    )
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
        table = typing.cast("type[Any]", hint)
        if isinstance(value, Mapping):
            return build(table, value, where)
        if isinstance(value, table):
            return value
        first = next(field.name for field in dataclasses.fields(table) if is_option(field))
        raise UsageError(f"{where} is {quoted(value)}, but has keys of its own; write {first}=...")
    if isinstance(value, int) and abs(value) >= _MOST and hint in (int, float):
        raise UsageError(f"{where} has {len(str(value))} digits; it must be a number below 2^63")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    plain = origin or hint
    if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
        return value
    told = str(value).lower() if isinstance(value, bool) else quoted(value)  # as TOML has it
    raise UsageError(f"{where} is {told}; it must be of type {getattr(plain, '__name__', plain)}")


def _typed_as_one(value: Any, hints: Sequence[Any], where: str) -> Any:
    """Return `value` as one type of a union: lists and text as the one that takes them, all else as
    the first."""
    if value is None and type(None) in hints:
        return None
    first, *others = (hint for hint in hints if hint is not type(None))
    wanted: Any = None
    if isinstance(value, (list, tuple)):
        wanted = tuple
    elif isinstance(value, str):
        wanted = str
    for hint in others:
        if wanted is not None and wanted in (hint, typing.get_origin(hint)):
            return _typed(value, hint, where)
    return _typed(value, first, where)


def load_function(
    spec: Spec,
    what: str,
    known: Iterable[str],
    *,
    error: type[KdcacheError] = UsageError,
) -> Any:
    """Return what the user's own `module:function,key=value` gives when called with its options.

    Args:
        spec: names the function and its options.
        what: it gives, as messages call it.
        known: names that could have been meant instead of a module's.
        error: what is raised where the module or the function fails.

    Raises:
        UsageError: no such module or function (with the nearest of `known` suggested), or options
            that do not fit.
        KdcacheError: of the class `error`: the module cannot be imported, or the function raises
            something.
    """
    function = find_function(spec, what, known, error=error)
    with user_code(f"{what} {spec.name}:{spec.arg}", error):
        return function(**spec.options)


def find_function(
    spec: Spec,
    what: str,
    known: Iterable[str],
    *,
    error: type[KdcacheError] = UsageError,
) -> Callable[..., Any]:
    """Return the user's own function that `spec` names, after checking its options against it.

    The arguments are those of `load_function`, and so are the errors, but for what the function
    raises.
    """
    function = _named_function(spec, what, known, error)
    check_options(function, spec, what)
    _require_arguments(function, spec, what)
    return function


def names_parameter(
    spec: Spec, name: str, what: str, known: Iterable[str], *, error: type[KdcacheError]
) -> bool:
    """Return whether the user's own function that `spec` names has a parameter of this very name;
    the other arguments and the errors are those of `find_function`."""
    parameters = _parameters(_named_function(spec, what, known, error)) or ()
    return any(
        parameter.name == name and parameter.kind not in _VARIABLE for parameter in parameters
    )


def _named_function(
    spec: Spec, what: str, known: Iterable[str], error: type[KdcacheError]
) -> Callable[..., Any]:
    """Return the user's own function that `spec` names; modules are also looked for in the working
    directory."""
    if (cwd := str(Path.cwd())) not in sys.path:
        sys.path.append(cwd)
    if not _is_module(spec.name, error):
        where = "and no module of that name in this folder or on PYTHONPATH"
        if spec.name.endswith(".py"):
            where += f"; write {Path(spec.name).stem}:function, without .py"
        choose(spec.name, known, f"{what} ({where})")
    if spec.arg is None:
        raise UsageError(
            f"{what} {str(spec)!r} names no function; write {spec.name}:function,key=value,..."
        )
    with _import_of(spec.name, error):
        module = importlib.import_module(spec.name)
    functions = [name for name, value in vars(module).items() if callable(value)]
    name = choose(spec.arg, functions, f"function of module {spec.name}")
    function: Callable[..., Any] = getattr(module, name)
    return function


def _is_module(name: str, error: type[KdcacheError]) -> bool:
    """Return whether there is a module of that name; the packages above it are imported."""
    if not all(name.split(".")):
        return False
    try:
        with _import_of(name, error):
            return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _import_of(name: str, error: type[KdcacheError]) -> Iterator[None]:
    """Import the user's module `name` in the block: what it raises becomes one line.

    That there is no such module, nor a package above it, is raised as it is.
    """
    what = f"import of module {name}"
    try:
        yield
    except ModuleNotFoundError as missing:
        if f"{name}.".startswith(f"{missing.name}."):
            raise
        with user_code(what, error, way_out="install what it needs, or mend it"):
            raise
    except SystemExit as ended:
        way_out = 'put what it does as a program under if __name__ == "__main__"'
        raise error(f"{what} ends the program (SystemExit: {ended}); {way_out}") from ended
    except Exception:
        with user_code(what, error):
            raise


def check_options(function: Callable[..., Any], spec: Spec, what: str) -> None:
    """Raise a UsageError if an option of `spec` is no parameter of `function`."""
    parameters = _parameters(function)
    if parameters is None:
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.name != "self"]
    name = f"{spec.name}:{spec.arg}" if spec.arg else spec.name
    for option in spec.options:
        choose(option, known, f"option of {what} {name},")


def _require_arguments(function: Callable[..., Any], spec: Spec, what: str) -> None:
    """Raise a UsageError if a parameter of `function` has neither a default nor an option."""
    needed = []
    for parameter in _parameters(function) or ():
        is_filled = parameter.default is not parameter.empty or parameter.name in spec.options
        if not is_filled and parameter.kind not in _VARIABLE:
            needed.append(parameter.name)
    if needed:
        example = ",".join(f"{name}=..." for name in [*spec.options, *needed])
        place = f"{spec.name}:{spec.arg}"
        told = f"needs a value of {', '.join(needed)}, which has no default"
        raise UsageError(f"{what} {place} {told}; write {place},{example}")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a function; None if it does not say, as some written in C."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
