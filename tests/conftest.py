"""What all tests share: a process that is prepared for them, and a folder of their own for slabs."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest


def pytest_collectstart() -> None:
    """Prepare the process in which tests run: one that only hands them to others collects none, and
    imports no torch."""
    import prepared  # noqa: F401


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores: a third of the time of tests is spent waiting,
    for processes, locks and servers."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Return the name of a parameter, with a number where several have it, of a value of bytes:
    those of a file may be thousands, and others in each process."""
    if isinstance(val, bytes):
        return argname
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    from checked import MOST_CALLS, MOST_OF_EXAMPLES, begin_test
    from hypothesis import is_hypothesis_test

    function = getattr(item, "obj", None)
    begin_test(MOST_OF_EXAMPLES if is_hypothesis_test(function) else MOST_CALLS)


@pytest.fixture
def unchecked() -> None:
    """Check no calls of the package: what torch compiles or exports would be the checks."""
    from checked import check_nothing

    check_nothing()


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
    """Let plans and trials of batch sizes last a moment; their figures mean nothing on tiny
    models."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("kdcache.dump.plan", "kdcache.train.plan"):
            patch.setattr(f"{module}.PLAN_SECONDS", 0.1)
        patch.setattr("kdcache.runtime.batch_size.TRIAL_SECONDS", 0.02)
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
