"""Pickles of plain values: numbers, texts, lists, tuples, dictionaries and arrays.

A pickle is a program. Here only those of its instructions are followed that build such values; the
few functions that it may name stand for arrays of numpy and torch, and are our own. So nothing in a
file is run, and memory grows with the bytes of the file, whatever numbers it says.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import quoted

Storages = Callable[[str], bytes]
"""Returns the bytes of a storage of torch, which lie outside of the pickle, by its key."""
_MOST_AXES = 8
_DTYPES = ("b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_STORAGES = {
    "BoolStorage": "b1",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "ShortStorage": "i2",
}
"""numpy's name of what a storage of torch holds."""


class PlainArray:
    """An array in a pickle; `value` is set once its content was read."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value


def plain_value(data: bytes, storages: Storages | None = None) -> Any:
    """Return the value of a pickle; arrays in it are `PlainArray`.

    Args:
        data: the pickle.
        storages: of the file, where torch.save wrote it.

    Raises:
        ValueError: it holds anything else than plain values, or is damaged.
    """
    try:
        return _Reader(data, storages).load()
    except _NotPlainError:
        raise
    except Exception as error:  # what reads damaged bytes raises what it likes
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from error


def array_of(value: Any) -> np.ndarray:
    """Return the array that a value of a pickle is.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, PlainArray) or value.value is None:
        raise ValueError(f"{quoted(value)} where an array is to be")
    return value.value


class _NotPlainError(ValueError):
    """A pickle that asks for more than plain values."""


class _Name:
    """What a pickle may name: a function that makes a plain value of its arguments."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class _Dtype:
    """A type of numpy, to which a pickle then adds the order of its bytes."""

    __slots__ = ("name",)

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in _DTYPES:
            raise _NotPlainError(f"an array of {quoted(name)}")
        self.name = name


class _StorageType:
    """A type of torch's storages."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _NotPlainError(f"text in {quoted(encoding)}")
    return text.encode("latin-1")


def _scalar(dtype: Any, data: Any) -> Any:
    """Return a number that numpy pickled."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise _NotPlainError("a number of no plain type")
    (number,) = np.frombuffer(data, dtype.name)
    return number.item()


def _of_numpy(shape: Any, dtype: Any, is_fortran: Any, data: Any) -> np.ndarray:
    """Return the array that the state of one of numpy's says."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise _NotPlainError("an array of objects")
    values = np.frombuffer(data, dtype.name)
    sides = _sides(shape)
    if is_fortran:
        return values.reshape(sides[::-1]).T
    return values.reshape(sides)


def _of_torch(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> PlainArray:
    """Return the array that torch's rebuilding of a tensor gives: one whose values lie in the
    storage line by line, as those of all tensors do that were not turned."""
    if not isinstance(storage, np.ndarray) or type(offset) is not int:
        raise _NotPlainError("a tensor without a storage")
    sides = _sides(size)
    steps = [prod(sides[axis + 1 :]) for axis in range(len(sides))]
    is_plain = all(
        step == told or side < 2
        for step, told, side in zip(steps, _sides(stride, most_axes=len(sides)), sides, strict=True)
    )
    count = prod(sides)
    if not is_plain or not 0 <= offset <= len(storage) - count:
        raise _NotPlainError("a tensor that is a part or a turn of another; save it by itself")
    return PlainArray(storage[offset : offset + count].reshape(sides))


def _sides(shape: Any, most_axes: int = _MOST_AXES) -> tuple[int, ...]:
    is_shape = isinstance(shape, tuple) and len(shape) <= most_axes
    if not is_shape or not all(type(side) is int and side >= 0 for side in shape):
        raise _NotPlainError(f"an array of shape {quoted(shape)}")
    sides: tuple[int, ...] = shape
    return sides


def _names() -> dict[str, Any]:
    """Return what a pickle may name."""
    names: dict[str, Any] = {
        "__builtin__ bytes": _Name(lambda: b""),  # how protocol 2 says no bytes
        "_codecs encode": _Name(_encoded),
        "collections OrderedDict": _Name(dict),
        "numpy dtype": _Name(_Dtype),
        "numpy ndarray": None,
        "torch._utils _rebuild_tensor_v2": _Name(_of_torch),
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        # its arguments are the type and an empty shape; all else comes with the state
        names[f"{module} _reconstruct"] = _Name(lambda *_: PlainArray())
        names[f"{module} scalar"] = _Name(_scalar)
    for name, dtype in _STORAGES.items():
        names[f"torch {name}"] = _StorageType(dtype)
    return names


_NAMES: Mapping[str, Any] = _names()
_INSTRUCTIONS = (
    *("APPEND", "APPENDS", "BINBYTES", "BINBYTES8", "BINFLOAT", "BINGET", "BININT", "BININT1"),
    *("BININT2", "BINPERSID", "BINPUT", "BINUNICODE", "BINUNICODE8", "BUILD", "EMPTY_DICT"),
    *("EMPTY_LIST", "EMPTY_TUPLE", "FRAME", "GLOBAL", "LONG1", "LONG_BINGET", "LONG_BINPUT"),
    *("MARK", "MEMOIZE", "NEWFALSE", "NEWTRUE", "NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS"),
    *("SHORT_BINBYTES", "SHORT_BINUNICODE", "STACK_GLOBAL", "STOP", "TUPLE", "TUPLE1", "TUPLE2"),
    "TUPLE3",
)
"""Those that build plain values."""


_PythonReader: Any = pickle._Unpickler
"""Python's own reader that is written in Python. The other makes a table as long as the largest
number by which a pickle remembers a value."""


class _Reader(_PythonReader):  # type: ignore[misc]
    """Python's own reader, with fewer instructions."""

    def __init__(self, data: bytes, storages: Storages | None) -> None:
        super().__init__(io.BytesIO(data))
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        whole = f"{module} {name}"
        if whole not in _NAMES:
            raise _NotPlainError(f"an object of {quoted(f'{module}.{name}')}, and nothing is run")
        return _NAMES[whole]

    def persistent_load(self, pid: Any) -> Any:
        """Return the values of a storage of torch."""
        if self._storages is None:
            raise _NotPlainError("a reference to something outside of it")
        _, kind, key, _, length = pid
        if not isinstance(kind, _StorageType) or not isinstance(key, str):
            raise _NotPlainError("a tensor of no plain type")
        values = np.frombuffer(self._storages(key), f"<{kind.name}")
        if len(values) != length:
            raise _NotPlainError(f"a storage of {len(values)} values that says {quoted(length)}")
        return values

    def load_reduce(self) -> None:
        """Follow REDUCE: call what stands for a name."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _NotPlainError("a call of something that is no plain value")
        self.stack[-1] = function.call(*arguments)

    def load_build(self) -> None:
        """Follow BUILD: give an array or a type its content."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, PlainArray):
            _, shape, dtype, is_fortran, data = state
            target.value = _of_numpy(shape, dtype, is_fortran, data)
        elif isinstance(target, _Dtype):
            if state[1] not in ("<", "|"):
                raise _NotPlainError(f"numbers in byte order {quoted(state[1])}")
        else:
            raise _NotPlainError("an object with a state")

    def _refuse(self) -> None:
        raise _NotPlainError("more than plain values, and nothing is run")

    dispatch: ClassVar[dict[int, Any]] = dict.fromkeys(range(256), _refuse)


for _instruction in _INSTRUCTIONS:
    _code = getattr(pickle, _instruction)[0]
    _Reader.dispatch[_code] = _PythonReader.dispatch[_code]
_Reader.dispatch[pickle.REDUCE[0]] = _Reader.load_reduce
_Reader.dispatch[pickle.BUILD[0]] = _Reader.load_build
