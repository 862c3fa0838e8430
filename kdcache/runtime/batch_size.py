"""How many views at once: a number that a user gives, or `auto`, for which sizes are tried on the
device."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from kdcache.deferred import torch
from kdcache.errors import KdcacheError, UsageError
from kdcache.shapes import Size, sides

AUTO: Literal["auto"] = "auto"
BatchSize = int | Literal["auto"]

_USUAL = 256
_PIXELS_ON_CPU = 1 << 21
"""Of the views that a CPU is given at once: more take memory, and are no faster."""
ROOM = 0.8
"""Share of the device's memory that a size may take: the rest is for what a trial does not see,
such as memory in pieces."""
_GAIN = 1.05
"""By which factor a larger size has to be faster to be worth its memory."""
_PATIENCE = 2
"""Doublings without a gain after which no more are tried."""
TRIAL_SECONDS = 0.3
_MOST_SECONDS = 10.0
"""After which no other size is tried."""
_WORDS_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "unable to find an engine")
"""Of the CUDA runtime, of cuBLAS and cuDNN, and of torch where no algorithm of cuDNN has room."""


def require_batch_size(size: BatchSize | None) -> None:
    """Raise a UsageError if a batch would have no view."""
    if size is not None and size != AUTO and size < 1:
        raise UsageError(f"batch_size is {size}; it must be at least 1")


def usual_batch_size(device: str, sizes: Sequence[Size]) -> int:
    """Return how many views at once a model is run on, not trained on, if the user does not say.

    Args:
        device: its type, `cpu` or `cuda`.
        sizes: that each view is rendered at.
    """
    if device != "cpu":
        return _USUAL
    pixels = 1
    for size in sizes:
        height, width = sides(size)
        pixels = max(pixels, height * width)
    num_views = max(_PIXELS_ON_CPU // pixels, 1)
    power_of_two = 1 << (num_views.bit_length() - 1)
    return min(power_of_two, _USUAL)


def limited_on_cpu(size: BatchSize, device: str, sizes: Sequence[Size]) -> BatchSize:
    """Return a size that was chosen for something else, as the batch of a loss: on a CPU it is no
    larger than what is usual there.

    Args:
        size: that was chosen; `auto` stays.
        device: its type, `cpu` or `cuda`.
        sizes: that each view is rendered at.
    """
    if size == AUTO or device != "cpu":
        return size
    return min(size, usual_batch_size(device, sizes))


def chosen(size: BatchSize | None) -> int:
    """Return a batch size that is a number by now."""
    assert size is not None and size != AUTO, "it is a number before the first batch"
    return size


@dataclass(frozen=True)
class Fastest:
    """The size that was found fastest."""

    size: int
    rate: float
    """Views per second."""
    limit: str
    """Why it is no larger one, as the end of a sentence."""


def fastest_size(rate_of: Callable[[int], float | None], *, most: int) -> Fastest | None:
    """Return the smallest power of two that is about as fast as any; None if not even one view
    fits.

    Sizes are doubled until one does not fit, or two in a row are no faster.

    Args:
        rate_of: gives the views per second of a size; None of one that does not fit.
        most: the largest size that is of use.
    """
    best: Fastest | None = None
    without_gain = 0
    start = time.monotonic()
    for size in _doubled(1, most):
        if best is not None and time.monotonic() - start > _MOST_SECONDS:
            return Fastest(best.size, best.rate, "more take too long to try")
        rate = rate_of(size)
        if rate is None:
            if best is None:
                return None
            return Fastest(best.size, best.rate, f"{size} take too much memory")
        if best is None or rate > _GAIN * best.rate:
            best = Fastest(size, rate, "no more were tried")
            without_gain = 0
            continue
        without_gain += 1
        if without_gain == _PATIENCE:
            return Fastest(best.size, best.rate, "more at once are no faster")
    return best


def largest_size(fits: Callable[[int], bool], *, least: int, most: int) -> int | None:
    """Return the largest of `least`, doubled as often as it fits; None if not even that does.

    Args:
        fits: gives whether a size fits.
        least: the first size that is tried.
        most: the largest size that is of use.
    """
    largest = None
    for size in _doubled(least, most):
        if not fits(size):
            break
        largest = size
    return largest


def _doubled(first: int, most: int) -> Iterator[int]:
    """Yield `first`, doubled again and again up to `most`."""
    size = first
    while size == first or size <= most:
        yield size
        size *= 2


class Trials:
    """Calls with more and more views on one device, looked at for their memory and their time."""

    def __init__(self, device: "torch.device", *, kept_bytes: int = 0) -> None:
        """Begin.

        Args:
            device: that the calls use.
            kept_bytes: of its memory, which are needed besides what the calls take.
        """
        self._device = device
        self._kept_bytes = kept_bytes
        if device.type == "cuda":
            # without it there is no memory to ask about
            torch.cuda.init()  # type: ignore[no-untyped-call]

    def fits(self, call: Callable[[], object]) -> bool:
        """Return whether a call leaves some of the device's memory free; of a CPU only whether it
        runs at all."""
        room = self._room()
        try:
            call()
            self._wait()
        except (RuntimeError, KdcacheError) as error:
            if not _is_of_memory(error):
                raise
            is_out_of_memory = True
        else:
            is_out_of_memory = False
        if self._device.type != "cuda":
            return not is_out_of_memory
        if is_out_of_memory:  # what the call held is free now that the error is gone
            torch.cuda.empty_cache()
            return False
        return torch.cuda.max_memory_allocated(self._device) + self._kept_bytes <= room

    def rate(self, call: Callable[[], object], size: int) -> float | None:
        """Return the views per second of a call with `size` views, by the fastest of some; None if
        it does not fit."""
        if not self.fits(call):  # which is also the first call, and slower than others
            return None
        total = fastest = self._seconds(call)
        while total < TRIAL_SECONDS:
            seconds = self._seconds(call)
            total += seconds
            fastest = min(fastest, seconds)
        return size / fastest

    def _seconds(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _room(self) -> float:
        """Return the bytes that a call may come to, of all that this process could have."""
        if self._device.type != "cuda":
            return float("inf")
        torch.cuda.reset_peak_memory_stats(self._device)
        free, _ = torch.cuda.mem_get_info(self._device)
        return ROOM * (free + torch.cuda.memory_reserved(self._device))

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.get_device_module(self._device).synchronize()


def _is_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or what it was raised from, is that memory ran out; torch's
    allocator says it by a class, and libraries of CUDA by their words."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS_OF_MEMORY):
            return True
        error = error.__cause__
    return False


@contextmanager
def views_at_once(count: int) -> Iterator[None]:
    """Run the block, which has so many views on the device; where its memory runs out, the error
    says how many."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        error.add_note(f"on a batch of {count} views")
        raise
