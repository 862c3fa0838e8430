"""The global random generators, torch's, numpy's and Python's: seeded for each view, and given back
afterwards."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np

from kdcache.deferred import torch

Words = np.ndarray[Any, np.dtype[np.uint32]]
Generators = frozenset[str]
"""Some of the global generators: `torch`, `numpy`, `random`."""
ALL_GENERATORS: Generators = frozenset(("torch", "numpy", "random"))


def seed_generators(*key: int) -> int:
    """Seed torch's CPU generator, numpy's and `random` from `key`, 32-bit words, and return torch's
    seed.

    The words are hashed together, never added: (seed 1, index 2) and (seed 2, index 1) share
    nothing.
    """
    return seed_from(np.random.SeedSequence(key).generate_state(4).tolist())


def seed_from(words: Sequence[int], generators: Generators = ALL_GENERATORS) -> int:
    """Seed some of the global generators from four hashed words, and return torch's seed."""
    seed = words[0] << 32 | words[1]
    if "torch" in generators:
        # torch.manual_seed would also visit every CUDA device and takes a hundred times as long
        _torch_generator().manual_seed(seed)
    if "numpy" in generators:
        np.random.seed(words[2])
    if "random" in generators:
        random.seed(words[3])
    return seed


@cache
def _torch_generator() -> Any:
    """Return torch's generator on the CPU, which is asked for at each view."""
    return torch.default_generator


def hashed_words(keys: Words) -> Words:
    """Return what `numpy.random.SeedSequence(key).generate_state(4)` gives for each of many keys.

    To hash one key takes longer than all the seeding; those of a batch take hardly more than one.
    The hash is that of O'Neill, "Developing a seed_seq Alternative" (2015), which numpy promises to
    keep.

    Args:
        keys: of four words each, uint32 `[keys, 4]`.
    """
    pool = _mixed_up(keys.T, _CONSTANTS[:4], _CONSTANTS[1:5])
    for place in range(4):
        others = [other for other in range(4) if other != place]
        first = 4 + 3 * place
        words = _mixed_up(
            pool[place], _CONSTANTS[first : first + 3], _CONSTANTS[first + 1 : first + 4]
        )
        pool[others] = _shifted(_LEFT * pool[others] - _RIGHT * words)
    return _mixed_up(pool, _STATE_CONSTANTS[:4], _STATE_CONSTANTS[1:]).T


def _mixed_up(words: Words, before: Words, after: Words) -> Words:
    return _shifted((words ^ before) * after)


def _shifted(words: Words) -> Words:
    return words ^ (words >> np.uint32(16))


def _powers(first: int, factor: int, count: int) -> Words:
    """Return a constant of the hash as it is in each step, uint32 `[count, 1]`."""
    constants = [first]
    while len(constants) < count:
        constants.append(constants[-1] * factor % 2**32)
    return np.array(constants, np.uint32)[:, None]


_LEFT = np.uint32(0xCA01F9DD)
_RIGHT = np.uint32(0x4973F715)
_CONSTANTS = _powers(0x43B0D7E5, 0x931E8875, 17)
_STATE_CONSTANTS = _powers(0x8B51F9DD, 0x58F38DED, 5)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Give the global generators back as they were: without loader workers the student's dropout
    draws from the same ones.

    Meanwhile torch draws float32 on the CPU, whatever defaults the program has set.
    """
    torch_state, numpy_state, python_state = _states()
    try:
        with plain_defaults():
            yield
    finally:
        _torch_generator().set_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Bring torch's default dtype and device back to those that it has by itself: a draw of another
    dtype is another number, and one on a GPU comes from another generator."""
    with ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        # a mode takes time at each call of torch; get_default_device would ask a GPU for its
        # number, which a forked process cannot
        if torch._C._len_torch_function_stack():
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def seeded_generators(*key: int) -> Iterator[None]:
    """Seed the global generators from `key`, 32-bit words, and give them back afterwards as they
    were."""
    with preserved_generators():
        seed_generators(*key)
        yield


def generator_states() -> tuple[Any, ...]:
    """Return the states of all global generators, equal to those before if nothing was drawn."""
    torch_state, (_, words, *place), python_state = _states()
    return torch_state.numpy().tobytes(), words.tobytes(), place, python_state


def _states() -> tuple[Any, Any, Any]:
    return _torch_generator().get_state(), np.random.get_state(), random.getstate()
