"""What the import hook puts on every function: beartype, in a context for sizes where those of a
signature have names.

jaxtyping's own wrapper binds the arguments of each call to the signature once more, which took more
time than all that was called. Functions within functions are left alone: they would be wrapped anew
at each call of the outer one. In a test the first calls of a function are checked and no more: the
thousands that render views took a sixth of the time of all tests. From then on the function is as
it was written, for even a wrapper that only passes calls on took a twelfth. A check is made when
its function is first called: many of those that a process imports are never called in it.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial, update_wrapper
from inspect import isgeneratorfunction
from types import CodeType, FunctionType
from typing import Any, ForwardRef, Literal, get_args, get_origin

from jaxtyping import AbstractArray, jaxtyped

Checker = Callable[[Any], Any]
MOST_CALLS = 8
"""Calls of a function that are checked in a test."""
MOST_OF_EXAMPLES = 50
"""The same in a test with as many examples by Hypothesis."""
_most_calls = MOST_CALLS
_NO_FILE = "<checked>"
_CALLS: dict[FunctionType, int] = {}
"""Calls that were checked since the test began."""
_CODES: dict[FunctionType, tuple[CodeType, CodeType]] = {}
"""The code of a function as it was written, and while its calls are checked."""


def begin_test(most_calls: int = MOST_CALLS) -> None:
    """Check calls anew, so many of each function."""
    global _most_calls  # noqa: PLW0603
    _most_calls = most_calls
    for function in _CALLS:
        _, function.__code__ = _CODES[function]
    _CALLS.clear()


def check_nothing() -> None:
    """Leave all functions as they were written until the next test begins."""
    for function, (own_code, _) in _CODES.items():
        function.__code__ = own_code
        _CALLS[function] = 0


def checked(*, typechecker: Checker) -> Checker:
    """Return the decorator that checks each call of a function, and the fields of a new object of a
    dataclass."""

    def decorator(target: Any) -> Any:
        if isinstance(target, type):
            if is_dataclass(target):
                target.__init__ = decorator(target.__init__)
            return target
        if "<locals>" in target.__qualname__:
            return target
        if target.__name__ == "__del__":
            return target  # it may run when Python is taken down, and the checks are gone
        twin = _twin_of(target)
        _check_at_first(target, cache(partial(_check_of, twin, typechecker)))
        target.__wrapped__ = twin  # whose signature is asked for
        return target

    return decorator


def _check_of(target: Any, typechecker: Checker) -> Any:
    """Return the function with its checks around it."""
    if not _names_sizes(target):
        return typechecker(target)
    if isgeneratorfunction(target):
        # it runs later, in the context of whoever asks for its items
        return jaxtyped(target, typechecker=typechecker)
    function = typechecker(target)

    def in_context(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):  # the same names have other sizes in the caller
            return function(*args, **kwargs)

    return _without_file(in_context)


def _twin_of(function: FunctionType) -> FunctionType:
    """Return another function that does the same."""
    twin = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    update_wrapper(twin, function)
    del twin.__wrapped__
    return twin


def _check_at_first(function: FunctionType, check: Callable[[], Any]) -> None:
    """Let a function call what checks its calls so many times in a test, and then be itself."""
    own_code = function.__code__

    def call(*args: Any, **kwargs: Any) -> Any:
        calls = _CALLS.get(function, 0) + 1
        _CALLS[function] = calls
        if calls >= _most_calls:
            function.__code__ = own_code
        return check()(*args, **kwargs)

    code = _passing_code(own_code.co_freevars).replace(
        co_name=own_code.co_name, co_filename=_NO_FILE
    )
    function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), "_call": _without_file(call)}
    function.__code__ = code
    _CODES[function] = own_code, code


@cache
def _passing_code(outer_names: tuple[str, ...]) -> CodeType:
    """Return the code of a function that calls its `_call`, with variables of outer functions of
    these names.

    A function's code can be another's with as many of them. The compiler must know them: where code
    was given their names alone, a traceback that asks for its variables ends the process.
    """
    lines = ["def outer():"]
    lines += [f"    {name} = None" for name in outer_names]
    lines.append("    def passed_on(*args, _call, **kwargs):")
    lines.append("        return _call(*args, **kwargs)")
    lines += [f"        {name}" for name in outer_names]
    lines.append("    return passed_on")
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    code: CodeType = scope["outer"]().__code__
    assert code.co_freevars == outer_names
    return code


def _without_file(function: Any) -> Any:
    """Return the function as one of no file: messages about a user's code look for its file in a
    traceback, and are not to find this one."""
    function.__code__ = function.__code__.replace(co_filename=_NO_FILE)
    return function


def _names_sizes(function: Any) -> bool:
    return any(map(_has_shape, function.__annotations__.values()))


def _has_shape(annotation: Any) -> bool:
    """Tell whether an array's shape is somewhere in an annotation; one that is still a string may
    hold one."""
    if isinstance(annotation, (str, ForwardRef)) or (
        isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    ):
        return True
    if get_origin(annotation) is Literal:
        return False
    parts = (
        annotation if isinstance(annotation, list) else get_args(annotation)
    )  # a list: the arguments of a Callable
    return any(map(_has_shape, parts))
