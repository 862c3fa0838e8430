"""The C library's allocator: large tensors of a CPU are made and freed in every step.

By default glibc gives each of them back to the system, and asks for it again: the pages are then
mapped and cleared anew, which takes longer than the arithmetic of a small network.
"""

import ctypes
import os

_TRIM_THRESHOLD = -1  # of malloc.h
_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 1 << 30
_NEVER = (1 << 31) - 1
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, up to a gigabyte a tensor, for what it
    allocates next.

    Returns:
        Whether it does: the C library must be glibc, and the environment must not set its
        thresholds otherwise.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _SETTINGS):
        return False
    answers = [mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT), mallopt(_TRIM_THRESHOLD, _NEVER)]
    return answers == [1, 1]
