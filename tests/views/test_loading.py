"""Loader workers: they pass over signals, and end when the main process wants them to, whatever
they do."""

import errno
import gc
import multiprocessing
import multiprocessing.synchronize
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from nursery import Program
from PIL import Image
from tiny_models import FewDigits, SlowDigits
from torch.utils.data import get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from view_loaders import end_early, loader_of

from kdcache.errors import KdcacheError
from kdcache.runtime.stopping import SIGNALS
from kdcache.views import loading


class Unshareable(FewDigits):
    """Digits whose loader workers may make no file, in shared memory neither."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if get_worker_info() is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        return super().__getitem__(index)


def test_workers_pass_over_signals_from_their_birth_on() -> None:
    loader = loader_of(FewDigits(40))
    others = multiprocessing.active_children()
    batches = iter(loader)
    next(batches)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    assert len(workers) == 2
    for number in SIGNALS:
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, number)
        next(batches)
    assert sum(1 for _ in batches) == 39 - len(SIGNALS)
    assert all(worker.is_alive() for worker in workers), "they are used again"
    assert sum(1 for _ in loader) == 40
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert sum(1 for _ in loader) == 40, "others take their place"
    loader.close()


def test_a_worker_in_the_middle_of_a_batch_is_not_waited_for() -> None:
    loader = loader_of(SlowDigits(40, seconds=3600.0))
    loader._start()
    workers = loader._workers
    time.sleep(0.2)
    loader.close()
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for() -> None:
    """As where shared memory is full: torch's worker would go on without it."""
    loader = loader_of(Unshareable(40))
    with pytest.raises(KdcacheError, match=r"worker was killed.* more shared memory \(/dev/shm\)"):
        next(iter(loader))
    loader.close()


def test_a_worker_whose_end_the_thread_for_pinned_memory_finds_out_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(iterator: object) -> NoReturn:
        raise RuntimeError("Pin memory thread exited unexpectedly")

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_get_data", fail)
    loader = loader_of(FewDigits(4))
    with pytest.raises(KdcacheError, match="a loader worker was killed, most likely for memory"):
        next(iter(loader))
    loader.close()


def test_workers_that_cannot_be_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    unheard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", no_room)
    loader = loader_of(FewDigits(4))
    with pytest.raises(KdcacheError, match="cannot be started: No space left on device; use fewer"):
        next(iter(loader))
    loader.close()
    gc.collect()
    assert not unheard


@pytest.fixture
def no_fork() -> Iterator[None]:
    """Start workers as other systems do, in Pythons of their own."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


class Unimportable(FewDigits):
    """Digits that stand in a program which a worker cannot import."""

    def __reduce__(self) -> tuple[Callable[[int], NoReturn], tuple[int]]:
        return sys.exit, (1,)


@pytest.mark.usefixtures("no_fork")
def test_workers_that_cannot_import_the_program_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch looks every five seconds for the end of workers that another process has started
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.02,))
    loader = loader_of(Unimportable(4))
    with pytest.raises(KdcacheError, match=r"could not begin.*start method forkserver .*__main__"):
        next(iter(loader))
    loader.close()


@pytest.mark.usefixtures("no_fork")
def test_data_that_workers_cannot_be_given_are_told() -> None:
    data = FewDigits(4)
    data.transform = lambda image: image  # type: ignore[attr-defined]
    loader = loader_of(data)
    with (
        pytest.warns(UserWarning, match="pickle error"),  # of torch
        pytest.raises(KdcacheError, match=r"given the data \(Can't .*<lambda>.*num_workers=0"),
    ):
        next(iter(loader))
    loader.close()


def test_a_loader_that_outlives_its_module_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets what a module has to None before it takes the last objects away."""
    loader = loader_of(FewDigits(4))
    loader.close()
    with monkeypatch.context() as end:
        for name in [name for name in vars(loading) if not name.startswith("__")]:
            end.setattr(loading, name, None)
        loader.__del__()


def test_a_process_that_ends_does_not_hang_for_its_workers(tmp_path: Path) -> None:
    """Neither one of multiprocessing, which runs no atexit, nor any other."""
    process = Program(end_early, folder=tmp_path, method="fork")
    assert process.end(60) == (3, "", "")
    words = [sys.executable, "-c", "import view_loaders; view_loaders.end_early()"]
    folders = [str(Path(__file__).parent.parent), *filter(None, sys.path)]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)}, timeout=120, check=False
    )
    assert done.returncode == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_was_never_used_can_be_closed(workers: int) -> None:
    loader_of(FewDigits(4), workers).close()
