"""Functions of the user's own that specs name, `module:function,key=value`: found, checked and
called."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.errors import KdcacheError, UsageError, quoted
from kdcache.runtime.user_code import user_code

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load_function(
    spec: Spec,
    what: str,
    names: Iterable[str],
    *,
    error: type[KdcacheError] = UsageError,
) -> Any:
    """Return what the user's own `module:function,key=value` gives when called with its options.

    Args:
        spec: names the function and its options.
        what: it gives, as messages call it.
        names: those that could have been meant instead of a module's.
        error: what is raised where the module or the function fails.

    Raises:
        UsageError: no such module or function (with the nearest of `names` suggested), or options
            that do not fit.
        KdcacheError: of the class `error`: the module cannot be imported, or the function raises
            something.
    """
    function = find_function(spec, what, names, error=error)
    with user_code(f"{what} {spec.name}:{spec.arg}", error):
        return function(**spec.options)


def find_function(
    spec: Spec,
    what: str,
    names: Iterable[str],
    *,
    error: type[KdcacheError] = UsageError,
) -> Callable[..., Any]:
    """Return the user's own function that `spec` names, after checking its options against it.

    The arguments are those of `load_function`, and so are the errors, but for what the function
    raises.
    """
    function = _named_function(spec, what, names, error)
    check_options(function, spec, what)
    _require_arguments(function, spec, what)
    return function


def names_parameter(
    spec: Spec, name: str, what: str, names: Iterable[str], *, error: type[KdcacheError]
) -> bool:
    """Return whether the user's own function that `spec` names has a parameter of this very name;
    the other arguments and the errors are those of `find_function`."""
    for parameter in _parameters(_named_function(spec, what, names, error)) or ():
        if parameter.name == name:
            return parameter.kind not in _VARIABLE
    return False


def require_module(
    spec: Spec, what: str, names: Iterable[str], *, error: type[KdcacheError]
) -> None:
    """Check that there is a module of the name that `spec` begins with, also in the working
    directory, and that the spec names a function; the packages above it are imported.

    Raises:
        UsageError: there is none (the nearest of `names` is suggested), or no function is named.
        KdcacheError: of the class `error`: a package above it cannot be imported.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    if not _is_module(spec.name, error):
        _refuse_module(spec, what, sorted(names))
    if spec.arg is None:
        raise UsageError(
            f"{what} {str(spec)!r} names no function; write {spec.name}:function,key=value,..."
        )


def _refuse_module(spec: Spec, what: str, names: list[str]) -> None:
    """Raise a UsageError that says that there is no such module, with the nearest of `names`."""
    where = "no module of that name in this folder or on PYTHONPATH"
    if spec.name.endswith(".py"):
        where += f"; write {Path(spec.name).stem}:function, without .py"
    if not names:
        raise UsageError(f"unknown {what} {quoted(spec.name)}: {where}; check the name")
    choose(spec.name, names, f"{what} (and {where})")


def _named_function(
    spec: Spec, what: str, names: Iterable[str], error: type[KdcacheError]
) -> Callable[..., Any]:
    """Return the user's own function that `spec` names."""
    require_module(spec, what, names, error=error)
    with _import_of(spec.name, error):
        module = importlib.import_module(spec.name)
    functions = [name for name, value in vars(module).items() if callable(value)]
    name = choose(str(spec.arg), functions, f"function of module {spec.name}")
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
    except SystemExit as end:
        way_out = 'put what it does as a program under if __name__ == "__main__"'
        raise error(f"{what} ends the program (SystemExit: {end}); {way_out}") from end
    except Exception:
        with user_code(what, error):
            raise


def check_options(function: Callable[..., Any], spec: Spec, what: str) -> None:
    """Raise a UsageError if an option of `spec` is no parameter of `function`."""
    parameters = _parameters(function)
    if parameters is None:
        return
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:  # it takes any option
            return
        if parameter.name != "self":
            names.append(parameter.name)
    function_name = spec.name
    if spec.arg:
        function_name = f"{spec.name}:{spec.arg}"
    for option in spec.options:
        choose(option, names, f"option of {what} {function_name},")


def _require_arguments(function: Callable[..., Any], spec: Spec, what: str) -> None:
    """Raise a UsageError if a parameter of `function` has neither a default nor an option."""
    missing: list[str] = []
    for parameter in _parameters(function) or ():
        has_value = parameter.default is not parameter.empty or parameter.name in spec.options
        if not has_value and parameter.kind not in _VARIABLE:
            missing.append(parameter.name)
    if not missing:
        return
    example = [f"{name}=..." for name in [*spec.options, *missing]]
    place = f"{spec.name}:{spec.arg}"
    raise UsageError(
        f"{what} {place} needs a value of {', '.join(missing)}, which has no default; write"
        f" {place},{','.join(example)}"
    )


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a function; None if it does not say, as some written in C."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
