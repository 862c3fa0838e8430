"""The search for a batch size, with sizes whose rates and memory are known."""

from collections.abc import Callable

import pytest
import torch

from kdcache.errors import ModelError, UsageError
from kdcache.runtime.batch_size import (
    Trials,
    fastest_size,
    largest_size,
    require_batch_size,
    usual_batch_size,
    views_at_once,
)
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Size


def saturating(half: float, *, memory: int = 1 << 30) -> Callable[[int], float | None]:
    """Return the rates of a device that is half as fast as it can be at `half` views, and holds
    `memory` of them."""

    def rate_of(size: int) -> float | None:
        if size > memory:
            return None
        return 1000.0 * size / (size + half)

    return rate_of


def noting(sizes: list[int], rate_of: Callable[[int], float | None]) -> Callable[[int], float]:
    """Return a function of the same rates, which keeps the sizes that it is asked for."""

    def noted(size: int) -> float:
        sizes.append(size)
        return rate_of(size)  # type: ignore[return-value]

    return noted


@pytest.mark.parametrize(
    ("sizes", "on_cpu"),
    [([8], 256), ([64], 256), ([128], 128), ([224], 32), ([(512, 1024)], 4), ([4096], 1)],
)
def test_a_cpu_is_usually_given_fewer_large_views(sizes: list[Size], on_cpu: int) -> None:
    assert usual_batch_size("cpu", sizes) == on_cpu
    assert usual_batch_size("cpu", [8, *sizes]) == on_cpu
    assert usual_batch_size("cuda", sizes) == 256


def test_sizes_are_doubled_until_more_are_no_faster() -> None:
    sizes: list[int] = []
    fastest = fastest_size(noting(sizes, saturating(2)), most=4096)
    assert fastest is not None
    assert (fastest.size, fastest.limit) == (32, "more at once are no faster")
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128]
    assert fastest.rate == pytest.approx(1000 * 32 / 34)


def test_a_slow_size_between_two_faster_ones_does_not_end_the_search() -> None:
    rates = {1: 10.0, 2: 20.0, 4: 19.0, 8: 40.0, 16: 40.0, 32: 40.0}
    fastest = fastest_size(rates.__getitem__, most=64)
    assert fastest is not None and fastest.size == 8


def test_a_device_that_gets_slower_keeps_a_small_size() -> None:
    fastest = fastest_size(lambda size: 100.0 - size, most=64)
    assert fastest is not None and (fastest.size, fastest.rate) == (1, 99.0)


@pytest.mark.parametrize(("memory", "size"), [(1, 1), (5, 4), (8, 8)])
def test_what_does_not_fit_ends_the_search(memory: int, size: int) -> None:
    fastest = fastest_size(saturating(100, memory=memory), most=4096)
    assert fastest is not None
    assert (fastest.size, fastest.limit) == (size, f"{2 * size} take too much memory")
    assert fastest_size(saturating(1, memory=0), most=4096) is None


@pytest.mark.parametrize(("most", "size"), [(0, 1), (1, 1), (3, 2), (64, 64), (100, 64)])
def test_no_more_views_are_tried_than_are_of_use(most: int, size: int) -> None:
    fastest = fastest_size(saturating(1e6), most=most)
    assert fastest is not None
    assert (fastest.size, fastest.limit) == (size, "no more were tried")


def test_a_slow_device_is_not_tried_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.runtime.batch_size._MOST_SECONDS", -1.0)
    sizes: list[int] = []
    fastest = fastest_size(noting(sizes, saturating(100)), most=64)
    assert fastest is not None and fastest.limit == "more take too long to try"
    assert sizes == [1]


@pytest.mark.parametrize(
    ("least", "memory", "most", "size"),
    [(2, 1, 64, None), (2, 2, 64, 2), (2, 33, 64, 32), (2, 999, 100, 64), (3, 999, 20, 12)],
)
def test_the_largest_size_that_fits(least: int, memory: int, most: int, size: int | None) -> None:
    assert largest_size(lambda tried: tried <= memory, least=least, most=most) == size


def test_a_call_that_runs_out_of_memory_does_not_fit() -> None:
    trials = Trials(torch.device("cpu"))

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert not trials.fits(fail)
    assert trials.rate(fail, 4) is None
    assert trials.fits(lambda: None)
    rate = trials.rate(lambda: torch.ones(1000).cumsum(0), 4)
    assert rate is not None and rate > 0


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_memory_that_libraries_of_cuda_lack_is_memory(message: str) -> None:
    def fail() -> None:
        with user_code("model a on a batch of 4 views", ModelError):
            raise RuntimeError(message)

    assert not Trials(torch.device("cpu")).fits(fail)


def test_other_errors_of_a_call_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        Trials(torch.device("cpu")).fits(lambda: 1 // 0)

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        Trials(torch.device("cpu")).fits(fail)


def test_a_batch_has_a_view() -> None:
    require_batch_size(1)
    require_batch_size("auto")
    with pytest.raises(UsageError, match="batch_size is 0; it must be at least 1"):
        require_batch_size(0)


def test_memory_that_runs_out_says_on_how_many_views() -> None:
    with pytest.raises(torch.OutOfMemoryError) as error, views_at_once(48):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert error.value.__notes__ == ["on a batch of 48 views"]
