"""Batches of views, rendered in this process or in loader workers."""

import atexit
import multiprocessing
import os
import pickle
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader

from kdcache.errors import KdcacheError, brief
from kdcache.runtime.generators import plain_defaults
from kdcache.runtime.stopping import outlive_signals, starting_apart
from kdcache.runtime.waiting import waiting
from kdcache.sources.sample_warnings import tell_warnings
from kdcache.views.dataset import Batch, Request, ViewDataset

T = TypeVar("T")
_WAY_OUT = (
    "use fewer --workers or a smaller --batch-size, or give the container more shared memory"
    " (/dev/shm)"
)
PREFETCHED = 2
"""Batches that each loader worker is ahead."""


class ViewLoader:
    """Iterates over batches of views in the order of `requests`, which is walked anew each time.

    Its workers pass over signals that ask to stop: these go to all processes of a group, or of a
    job, and the main process needs its workers until it has come to a good end. It ends them
    itself.
    """

    def __init__(
        self, dataset: ViewDataset, requests: Iterable[Request], *, workers: int, pin_memory: bool
    ) -> None:
        self.dataset = dataset
        self._owner = os.getpid()
        self._workers: list[BaseProcess] = []
        prefetch_factor = PREFETCHED if workers else None  # torch takes none without workers
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=requests,  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=prefetch_factor,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else each epoch would draw from the student's generator
        )
        _open_loaders.add(self)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches.

        Raises:
            KdcacheError: what a view raised, as the same class, or a worker that was killed.
        """
        try:
            batches = self._start()
            while True:
                with waiting("the next views"):
                    batch = next(batches, None)
                if batch is None:
                    return
                if isinstance(batch, KdcacheError):
                    raise batch
                tell_warnings(batch.warnings)
                yield batch
        except RuntimeError as error:
            if not str(error).startswith(_OF_WORKERS):
                raise
            raise KdcacheError(self._what_ended_one()) from error

    def close(self) -> None:
        """End the workers: they are told to, and killed in a batch, since they hold nothing."""
        if os.getpid() != self._owner:
            return  # a copy in a worker of another loader
        iterator = self._loader._iterator
        workers = self._workers
        self._loader._iterator = None
        self._workers = []
        try:
            if iterator is not None and all(worker.is_alive() for worker in workers):
                _dismiss(iterator)
                end = time.monotonic() + _END_SECONDS
                for worker in workers:
                    worker.join(max(end - time.monotonic(), 0.0))
        finally:
            if iterator is not None:
                _forget(iterator)
            for worker in workers:
                worker.kill()  # SIGTERM, which multiprocessing would send, is passed over
                worker.join()

    def __del__(self) -> None:
        try:  # noqa: SIM105 # when Python is taken down, anything may be gone, `suppress` too
            self.close()
        except Exception:
            pass

    def _start(self) -> Iterator[Batch | KdcacheError]:
        """Return an iterator over what the workers give; it knows those that it starts.

        Raises:
            KdcacheError: they cannot be started.
        """
        if self._loader.num_workers == 0:
            return self._iterator()
        others = set(multiprocessing.active_children())
        try:
            with starting_apart():
                multiprocessing.Lock()  # of torch's iterator, half made, a traceback would be told
                return self._iterator()
        except _UNPICKLABLE as error:
            method = multiprocessing.get_start_method()
            if method == "fork":  # which hands over nothing
                raise
            raise KdcacheError(
                f"loader workers cannot be given the data ({brief(error)}): {_given(method)}"
            ) from error
        except OSError as error:  # a semaphore is a file there
            raise KdcacheError(
                f"loader workers cannot be started: {error.strerror or error}; {_WAY_OUT}"
            ) from error
        finally:
            processes = set(multiprocessing.active_children())
            self._workers.extend(processes - others)
            _close_at_exit()

    def _what_ended_one(self) -> str:
        """Return why a worker ended that was not to, and the way out."""
        method = multiprocessing.get_start_method()
        # torch's list has those, too, that ended before they were counted
        codes = [worker.exitcode for worker in getattr(self._loader._iterator, "_workers", ())]
        if method != "fork" and _RAISED in codes:
            return f"a loader worker could not begin, as it says above: {_given(method)}"
        return f"a loader worker was killed, most likely for memory; {_WAY_OUT}"

    def _iterator(self) -> Iterator[Batch | KdcacheError]:
        """Return torch's iterator, which draws a number that nothing depends on: on the CPU."""
        with plain_defaults():
            return iter(self._loader)


def _given(method: str) -> str:
    """Return how workers come to what they need that are no forks, and the way out."""
    return (
        f"under start method {method} each imports the program anew; write it as a file, with what"
        " it does under `if __name__ == '__main__':`, its classes and functions above, and none of"
        " them a lambda or inside a function; or use num_workers=0"
    )


_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
"""What Python raises for an object that no other process can be given."""
_OF_WORKERS = ("DataLoader worker", "Pin memory thread")
"""How torch's errors begin of a worker that is gone; the thread, which is there where batches go to
a GPU, may be the first to find out."""
_RAISED = 1
"""Exit code of a process that ended by an exception: a worker hands over those of its views."""
_HANDS_OVER_NOTHING = 3
_END_SECONDS = 1.0
_FIRST = 1000
_processes: set[int] = set()
"""Those, forked one from the other, that end their loaders' workers when they end."""
_open_loaders: "weakref.WeakSet[ViewLoader]" = weakref.WeakSet()


def _close_loaders() -> None:
    """End all workers before multiprocessing does, which would wait for ever for them."""
    for loader in [*_open_loaders]:
        loader.close()


def _close_at_exit() -> None:
    """Have all loaders closed when this process ends, before torch and multiprocessing try."""
    atexit.unregister(_close_loaders)
    atexit.register(_close_loaders)
    if os.getpid() not in _processes:  # one that multiprocessing started runs no atexit
        _processes.add(os.getpid())
        Finalize(None, _close_loaders, exitpriority=_FIRST)


def _begin_worker(worker: int) -> None:
    """Make a loader worker pass over signals, and end without a word when the main process does."""
    outlive_signals()
    sys.excepthook = _tell_but_not_of_the_end
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, batch: object) -> None:
    """End a loader worker that cannot hand over a batch, as where shared memory is full: it would
    go on without it, and the main process would wait for it for ever."""
    os._exit(_HANDS_OVER_NOTHING)


def _tell_but_not_of_the_end(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    # a thread of multiprocessing hands over batches, and tells if the main process ends in one
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _dismiss(iterator: Any) -> None:
    """Tell the workers of torch's loader to end, as it does; it would wait ten seconds for each."""
    _forget(iterator)
    if hasattr(iterator, "_pin_memory_thread"):
        iterator._worker_result_queue.put((None, None))  # wakes it
        iterator._pin_memory_thread.join(_END_SECONDS)
        iterator._worker_result_queue.cancel_join_thread()
    iterator._workers_done_event.set()
    for requests in iterator._index_queues:
        requests.put(None)
        requests.cancel_join_thread()


def _forget(iterator: Any) -> None:
    """Have torch's loader look no more after its workers: their end would be an error."""
    iterator._shutdown = True
    if hasattr(iterator, "_pin_memory_thread"):
        iterator._pin_memory_thread_done_event.set()
    if iterator._worker_pids_set:
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def _unchanged(batch: T) -> T:
    return batch
