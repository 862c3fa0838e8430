"""What all tests share: shape checks, Hypothesis' profile, and a folder of their own for slabs.

Shapes in signatures are checked here and nowhere else: the hook wraps each function of the package
as it is imported.
"""

import functools
import gc
import os
import random
import sys
import typing
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from checked import begin_test, checked
from hypothesis import settings

# beartype looks at random items of containers, and would draw them from the generator that views
# are drawn from, in whichever
# thread: it gets a generator of its own
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(random, "getrandbits", random.Random(0).getrandbits)
    import beartype.door

    assert beartype.door.is_bearable([0], list[int])  # imports the rest of it

# whether an object is of a protocol is asked at each checked call: Python 3.12 keeps a protocol's
# members, earlier ones look for them each time
if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)

# the numeric tower is PEP 484's: an int passes for a float
jaxtyping.jaxtyped = checked  # what the hook puts on every function
jaxtyping.install_import_hook(
    "kdcache",
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=TypeError))",
)

settings.register_profile("kdcache", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("kdcache")

# The models are tiny: threads cost more than they bring. Subprocesses do the same, for sums depend
# on the number of threads.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


# What is imported and collected lives to the end: half a million objects, which the collector of
# garbage need not look at again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores: a third of the time of tests is spent waiting,
    for processes, locks and servers."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_runtest_logstart() -> None:
    begin_test()


@pytest.fixture(scope="session", autouse=True)
def slab_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the slabs of the tests' caches in a temporary folder, also in subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCACHE_HOME", str(tmp_path_factory.mktemp("home")))
        if (
            "nursery" in sys.modules
        ):  # before a loader starts the one fork server, which would have imported nothing
            sys.modules["nursery"].fork_server()
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waits_for_the_disk() -> Iterator[None]:
    """Let fsync look at its descriptor alone: no test cuts the power, and the disk would take more
    than half of the time of many.

    Processes of their own still wait for it; tests of when it is called, and of what happens when
    it fails, put their own in its place.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _looked_at)
        yield


def _looked_at(descriptor: int) -> None:
    os.fstat(descriptor)  # as fsync, it refuses one that is closed


@pytest.fixture(scope="session", autouse=True)
def short_plans() -> Iterator[None]:
    """Let plans probe for a moment; their figures mean nothing on tiny models."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("kdcache.dump.plan", "kdcache.train.plan"):
            patch.setattr(f"{module}.PLAN_SECONDS", 0.1)
        yield


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of the recipe that small caches of maps have."""
    from map_caches import RECIPE

    file = tmp_path_factory.mktemp("recipe") / "shapes.toml"
    file.write_text(RECIPE)
    return str(file)


@pytest.fixture(scope="session")
def box_recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of the recipe that small caches of detectors have."""
    from box_caches import RECIPE

    file = tmp_path_factory.mktemp("recipe") / "boxes.toml"
    file.write_text(RECIPE)
    return str(file)
