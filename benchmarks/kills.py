"""What is left of a store whose writer was killed."""

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from measure import spread
from stores import BATCH, Entries, Reader, Variant, ViewBatch, batches, by_seed
from torch import Tensor


def kill_all(
    folder: Path, variants: dict[str, Variant], views: Tensor, kills: int
) -> dict[str, Any]:
    """Return, by variant, what was left after each of its kills; nothing if there were none."""
    cases: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for kill in range(kills):
        for name, variant in variants.items():
            path = folder / "killed"
            given = killed(variant, path, views, np.random.default_rng(kill))
            cases[name].append(what_is_left(variant, path, views, given))
            shutil.rmtree(path, ignore_errors=True)
    if not kills:
        return {}
    return {name: summary(of_variant) for name, of_variant in cases.items()}


def summary(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kills": cases,
        "kept": spread([case["right"] / case["given"] for case in cases]),
        "wrong": sum(case["wrong"] for case in cases),
        "told": sum(case["pass_raises"] for case in cases),
    }


def killed(variant: Variant, folder: Path, views: Tensor, random: np.random.Generator) -> int:
    """Kill a writer in the middle; return the views that it had been given by then."""
    num_views = views.shape[0] * views.shape[1]
    context = multiprocessing.get_context("fork")
    given = context.Value("q", 0)

    def counted() -> Iterator[ViewBatch]:
        for batch in batches(views, by_image=variant.store.by_image):
            given.value += len(batch.logits)
            yield batch

    process = context.Process(target=variant.store.write, args=(folder, counted()))
    target = random.uniform(0.2, 0.8) * num_views
    start = time.perf_counter()
    process.start()
    while given.value < target and process.is_alive():
        time.sleep(0.0001)
    batch_seconds = (time.perf_counter() - start) * BATCH / max(given.value, 1)
    time.sleep(random.uniform(0, batch_seconds))
    process.kill()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return int(given.value)
    # it was done first, on a busy machine
    shutil.rmtree(folder)
    return killed(variant, folder, views, random)


def what_is_left(variant: Variant, folder: Path, views: Tensor, given: int) -> dict[str, Any]:
    """Return how many views can be read one by one, how many of them are wrong, and whether a pass
    over the seed that the writer was at raises."""
    right = 0
    wrong = 0
    open_store = cache(lambda: variant.store.open(folder))  # again, where it cannot be opened
    for batch in batches(views, by_image=variant.store.by_image):
        expected = by_seed(batch, variant.payload.encode(batch.logits))
        for place, seed in enumerate(batch.seeds):
            for rows, entries in readable(open_store, batch.rows, seed):
                exact = expected[place, rows - batch.rows[0]]
                is_right = (raw_bytes(entries) == raw_bytes(exact)).all(1)
                right += int(is_right.sum())
                wrong += int((~is_right).sum())
    seed = 0 if variant.store.by_image else (given - 1) // views.shape[1]
    told = pass_raises(variant, folder, seed)
    return {"given": given, "right": right, "wrong": wrong, "pass_raises": told}


def raw_bytes(entries: Entries) -> np.ndarray:
    return np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), -1)


def readable(
    open_store: Callable[[], Reader], rows: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, Entries]]:
    """Yield the rows that can be read, with what is read: all, or those of either half."""
    try:
        entries = open_store().read(rows, seed)
    except Exception:  # whatever the reader of a cut file raises
        if len(rows) > 1:
            middle = len(rows) // 2
            yield from readable(open_store, rows[:middle], seed)
            yield from readable(open_store, rows[middle:], seed)
        return
    yield rows, entries


def pass_raises(variant: Variant, folder: Path, seed: int) -> bool:
    try:
        for _ in variant.store.open(folder).scan(seed):
            pass
    except Exception:
        return True
    return False
