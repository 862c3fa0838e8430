"""Pickles of others: plain values come back, everything else is refused, and nothing is run."""

import codecs
import os
import pickle
import random
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imports.fkd_files import content, write

from kdcache.errors import CacheError
from kdcache.imports import plain_pickle, torch_files
from kdcache.imports.plain_pickle import array_of, plain_value
from kdcache.imports.torch_files import read_torch_file

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
MANY = 400
"""Damaged files that are tried."""


@given(value=PLAIN, protocol=st.integers(2, 5))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert plain_value(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["?", "<f2", "<f4", "<f8", "<i8", "u1"])
def test_arrays_of_numpy_come_back(protocol: int, dtype: str) -> None:
    for array in (np.arange(24).reshape(2, 3, 4), np.arange(6).reshape(2, 3).T, np.zeros((0, 4))):
        typed = array.astype(dtype)
        found = array_of(plain_value(pickle.dumps(typed, protocol=protocol)))
        assert found.dtype == typed.dtype
        assert np.array_equal(found, typed)


def test_arrays_of_an_older_numpy_come_back() -> None:
    data = pickle.dumps(np.arange(3.0), protocol=2)
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert array_of(plain_value(old)).tolist() == [0, 1, 2]


def test_a_number_of_numpy_is_a_number() -> None:
    assert plain_value(pickle.dumps([np.float32(0.5), np.int64(3)], protocol=2)) == [0.5, 3]


def test_what_torch_saved_comes_back(tmp_path: Path) -> None:
    value = [torch.rand(3, 4), {"a": torch.arange(5)}, OrderedDict(b=(1, None)), 0.25]
    whole, part, mapping, number = read_torch_file(write(tmp_path / "x.tar", value))
    assert np.array_equal(array_of(whole), value[0].numpy())
    assert array_of(part["a"]).tolist() == [0, 1, 2, 3, 4]
    assert (mapping, number) == ({"b": (1, None)}, 0.25)


def test_a_part_of_a_tensor_comes_back(tmp_path: Path) -> None:
    rows = torch.arange(20).reshape(5, 4)[1:3]
    (found,) = read_torch_file(write(tmp_path / "x.tar", [rows]))
    assert np.array_equal(array_of(found), rows.numpy())


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


class HasState:
    """Pickles as an object with a state."""


def owned(path: Path) -> str:
    return f"touch {path}/owned"


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_function_is_called(protocol: int, tmp_path: Path) -> None:
    for call in (
        Calls(os.system, owned(tmp_path)),
        Calls(eval, f"__import__('os').system('{owned(tmp_path)}')"),
        Calls(getattr, "text", "upper"),
        Calls(bytearray, 10**12),
        Calls(np.zeros, 10**12),
        Calls(codecs.encode, "text", "rot13"),
        HasState(),
    ):
        with pytest.raises(ValueError, match=r"nothing is run|more than plain|text in 'rot13'"):
            plain_value(pickle.dumps([call], protocol=protocol))
    assert not list(tmp_path.iterdir())


def numbered(code: bytes, number: int, form: str) -> bytes:
    return code + struct.pack(form, number)


START = pickle.PROTO + b"\x04"
NAMED = b"cnumpy.core.multiarray\n_reconstruct\n"
FORGED: dict[str, bytes] = {
    "bytes that are not there": START + numbered(pickle.BINBYTES8, 2**40, "<Q") + b"a",
    "room for bytes": START + numbered(pickle.BYTEARRAY8, 2**40, "<Q") + b"a",
    "text that is not there": START + numbered(pickle.BINUNICODE8, 2**63, "<Q") + b"a",
    "a frame without end": START + numbered(pickle.FRAME, 2**60, "<Q"),
    "nothing": b"",
    "no end": START + pickle.NONE,
    "an old class": b"(ios\nsystem\n(S'true'\no.",
    "an extension": START + pickle.EXT1 + b"\x01.",
    "a class made anew": START + b"cnumpy\nndarray\n)\x81.",
    "a state for a function": START + NAMED + b"N}\x86b.",
    "a state for a list": START + pickle.EMPTY_LIST + pickle.EMPTY_DICT + b"b.",
    "attributes of a function": START + NAMED + b"N}X\x08\x00\x00\x00__code__Ns\x86b.",
    "a call of a number": START + b"K\x01)R.",
    "a call with a list": START + NAMED + b"]R.",
    "a name out of the list": START + b"cnumpy.core.multiarray\n__dict__\n.",
    "a name with a dot": START + b"X\x05\x00\x00\x00numpyX\x0c\x00\x00\x00linalg.solve\x93.",
    "something outside": START + b"X\x01\x00\x00\x00aQ.",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_pickles_are_refused(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r".") as caught:
        plain_value(FORGED[name])
    assert len(str(caught.value)) < 300
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_large_number_makes_no_table() -> None:
    data = START + pickle.NONE + numbered(pickle.LONG_BINPUT, 2**32 - 1, "<I") + pickle.STOP
    tracemalloc.start()
    assert plain_value(data) is None
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def state(shape: Any, dtype: Any, data: Any, order: bool = False) -> Any:
    """Return what pickles as an array with a state of one's own."""

    class Array:
        def __reduce__(self) -> Any:
            make = np.zeros(1).__reduce__()[0]
            return make, (np.ndarray, (0,), b"b"), (1, shape, dtype, order, data)

    return Array()


ARRAYS: dict[str, Any] = {
    "of objects": np.array([object], object),
    "of texts": np.array(["text"]),
    "of other bytes": np.zeros(2, ">f4"),
    "of complex numbers": np.zeros(2, "c16"),
    "of fields": np.zeros(2, [("a", "f4")]),
    "of more than there is": state((3,), np.dtype("f4"), b"1234"),
    "of far more": state((10**9, 10**9), np.dtype("f4"), b"1234"),
    "of less than nothing": state((-1,), np.dtype("f4"), b"1234"),
    "of many axes": state((1,) * 40, np.dtype("f4"), b"1234"),
    "of a type by its name": state((1,), "f4", b"1234"),
    "of no bytes": state((1,), np.dtype("f4"), "1234"),
    "of no shape": state(None, np.dtype("f4"), b"1234"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        array_of(plain_value(pickle.dumps(ARRAYS[name], protocol=2)))


def test_a_value_that_is_no_array_is_told() -> None:
    for value in (pickle.dumps([1]), START + NAMED + b"cnumpy\nndarray\n)C\x01b\x87R."):
        with pytest.raises(ValueError, match="where an array is to be"):
            array_of(plain_value(value))


@pytest.mark.parametrize(
    "tensor", [torch.rand(3, 2).T, torch.zeros(1).expand(10**9), torch.rand(9)[::2]]
)
def test_tensors_that_do_not_lie_line_by_line_are_refused(
    tensor: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match="a part or a turn of another"):
        read_torch_file(write(tmp_path / "x.tar", [tensor]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged, or was not written by torch.save"),
        (b"PK\x03\x04 cut", "is damaged, or was not written by torch.save"),
        (pickle.dumps([1]), "is damaged, or was not written by torch.save"),
    ],
)
def test_other_files_are_told(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(CacheError, match=message):
        read_torch_file(path)


def test_a_file_that_calls_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", [Calls(os.system, owned(tmp_path))])
    with pytest.raises(CacheError, match=r"x.tar holds an object of 'posix.system', and nothing"):
        read_torch_file(path)
    assert not (tmp_path / "owned").exists()


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.truncate(torch_files.MOST_FILE + 1)
    with pytest.raises(CacheError, match="67,108,865 bytes; it may have 67,108,864"):
        read_torch_file(path)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "x.tar")


def test_any_flipped_byte_is_told_or_harmless(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", content(0))
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(MANY):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except CacheError as error:
            assert len(str(error)) <= 480


def test_any_damaged_pickle_is_told_or_plain() -> None:
    whole = pickle.dumps([content(0)[0], {"a": (1, 2.5, "text")}], protocol=2)
    generator = random.Random(1)
    for _ in range(MANY):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            plain_value(bytes(damaged))
        except ValueError as error:
            assert len(str(error)) < 300


def test_python_still_has_the_reader_that_is_written_in_python() -> None:
    assert issubclass(plain_pickle._Reader, pickle._Unpickler)
    assert pickle._Unpickler is not pickle.Unpickler
