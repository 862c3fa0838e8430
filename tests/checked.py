"""What the import hook puts on every function: beartype, in a context for sizes where those of a
signature have names.

jaxtyping's own wrapper binds the arguments of each call to the signature once more, which took more
time than all that was called. Functions within functions are left alone: they would be wrapped anew
at each call of the outer one. In a test the first calls of a function are checked and no more: the
thousands that render views took a sixth of the time of all tests. A check is made when its function
is first called: many of those that a process imports are never called in it.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial, wraps
from inspect import isgeneratorfunction
from typing import Any, ForwardRef, Literal, get_args, get_origin

from jaxtyping import AbstractArray, jaxtyped

Checker = Callable[[Any], Any]
MOST_CALLS = 50
"""Calls of a function that are checked in a test: as many as Hypothesis has examples."""
_CALLS: dict[int, int] = {}
"""Calls that were checked since the test began, by the function's identity."""


def begin_test() -> None:
    """Check calls anew."""
    _CALLS.clear()


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
        return _at_first(target, cache(partial(_check_of, target, typechecker)))

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


def _at_first(target: Any, check: Callable[[], Any]) -> Any:
    """Return what calls the function with its checks so many times in a test, and then without."""
    number = id(target)

    @wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        calls = _CALLS.get(number, 0)
        if calls >= MOST_CALLS:
            return target(*args, **kwargs)
        _CALLS[number] = calls + 1
        return check()(*args, **kwargs)

    return _without_file(call)


def _without_file(function: Any) -> Any:
    """Return the function as one of no file: messages about a user's code look for its file in a
    traceback, and are not to find this one."""
    function.__code__ = function.__code__.replace(co_filename="<checked>")
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
