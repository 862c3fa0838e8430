"""Small dumps in processes of their own, which are children of a fork server: a fresh Python would take seconds each."""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from caches import contents
from runs import dump

SETTINGS: dict[str, Any] = {
    "data": "tiny_models:noise,length=240,size=32",
    "teacher": "tiny_models:conv,classes=5,channels=3,mean=0.5,std=0.5",
    "recipe": "cifar",
    "seeds": "0:3",
    "codec": "full:dtype=float32",
    "unit_rows": 8,
    "batch_size": 4,
}
UNITS = [(seed, unit) for seed in range(3) for unit in range(30)]


@contextmanager
def fork_server() -> Iterator[ForkServerContext]:
    """Start the server, which imports everything before the first child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runs", "tiny_models", "sklearn.datasets"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("KDCACHE_HOME", os.environ["KDCACHE_HOME"])
        context.Process(target=time.monotonic).start()  # starts the server, under this environment
        yield context


def started(
    nursery: ForkServerContext, path: Path | str, environment: dict[str, str] | None = None, **changes: Any
) -> ForkServerProcess:
    """Return the process of a dump, which has just begun."""
    process = nursery.Process(target=_dump, args=(path, environment or {}, {**SETTINGS, **changes}))
    process.start()
    return process


def to_the_end(nursery: ForkServerContext, path: Path) -> None:
    process = started(nursery, path)
    process.join(60)
    assert process.exitcode == 0


def num_committed(path: Path) -> int:
    return sum(1 for _ in path.glob("commits/*/*.json"))


def objects(path: Path) -> dict[str, bytes]:
    """Return the bytes of every unit of a cache."""
    return {name: data for name, (data, _) in contents(path / "seeds").items()}


def _dump(path: Path | str, environment: dict[str, str], settings: dict[str, Any]) -> None:
    os.environ.update(environment)
    dump(path, **settings)
