"""Processes that are children of a fork server: a fresh Python would take seconds each.

There is one server in a process of tests, since there is one in multiprocessing; it imports
everything before the first child.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import cache, partial
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

import pytest
from caches import contents
from runs import dump
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.run import main as torchrun_main

from kdcache.runtime.files import name_of_temporary

SETTINGS: dict[str, Any] = {
    "data": "tiny_models:noise,length=128,size=32",
    "teacher": "tiny_models:conv,classes=5,channels=3,mean=0.5,std=0.5",
    "recipe": "cifar",
    "seeds": "0:3",
    "codec": "full:dtype=float32",
    "unit_rows": 8,
    "batch_size": 4,
}
UNITS = [(seed, unit) for seed in range(3) for unit in range(16)]
IMPORTED = ["imported"]


@cache
def fork_server() -> ForkServerContext:
    """Return the context of the server, which runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _search())
        patch.setenv("OMP_NUM_THREADS", "1")
        context.Process(target=time.monotonic).start()  # starts the server, under this environment
    return context


def _search() -> str:
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])


def take(environment: dict[str, str]) -> None:
    """Take a test's environment in the place of the server's."""
    os.environ.clear()
    os.environ.update(environment)


def started(
    path: Path | str, environment: dict[str, str] | None = None, **changes: Any
) -> ForkServerProcess:
    """Return the process of a dump, which has just begun."""
    process = fork_server().Process(
        target=_dump, args=(path, {**os.environ, **(environment or {})}, {**SETTINGS, **changes})
    )
    process.start()
    return process


class Program:
    """A function in a process, and a group, of its own, which has just begun; what it prints goes
    to files."""

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        folder: Path,
        environment: dict[str, str] | None = None,
        method: str = "forkserver",
    ) -> None:
        """Start it in the caller's folder; `method` is how it starts children of its own."""
        self._files = [folder / f"{uuid.uuid4()}.{name}" for name in ("out", "err")]
        everything = (
            partial(function, *arguments),
            self._files,
            Path.cwd(),
            method,
            {**os.environ, "PYTHONPATH": _search(), **(environment or {})},
        )
        self.process = fork_server().Process(target=_program, args=everything)
        self.process.start()

    def is_running(self) -> bool:
        return self.process.is_alive()

    def stop(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def stop_all(self, number: int) -> None:
        """Send a signal to its group, as terminals and schedulers do: to it and to all that it has
        started."""
        assert self.process.pid is not None
        os.killpg(self.process.pid, number)

    def worker(self, rank: int) -> int:
        """Return the process of a rank, as the launcher has started them."""
        return children(self.process.pid)[rank]

    def first_line(self, timeout: float = 60) -> str:
        """Wait until it has printed a line, and return that."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.is_running():
            if self._files[0].exists():
                line, end, _ = self._files[0].read_text().partition("\n")
                if end:
                    return line
            time.sleep(0.01)
        raise AssertionError("it prints nothing")

    def end(self, timeout: float = 120) -> tuple[int, str, str]:
        """Wait for its end; return its exit code and what it has printed to either stream."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError("it hangs")
        out, err = (file.read_text() for file in self._files)
        return self.process.exitcode, out, err


def children(parent: int | None) -> list[int]:
    """Return the processes that a process has started, in their order."""
    return [*map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())]


def is_alive(process: int) -> bool:
    """Return whether a process runs; one that nobody has asked for its exit code does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def command(
    *words: str,
    folder: Path,
    environment: dict[str, str] | None = None,
    processes: int = 0,
    restarts: int = 0,
    method: str = "forkserver",
) -> Program:
    """Start a command of kdcache; with `processes` in as many at once, as torchrun starts them."""
    if processes:
        return Program(
            _launched,
            words,
            processes,
            restarts,
            folder=folder,
            environment=environment,
            method=method,
        )
    return Program(_main, words, folder=folder, environment=environment, method=method)


def commands(lines: Sequence[Sequence[str]], *, folder: Path) -> Program:
    """Start a process that runs several commands, one after another, until one fails."""
    return Program(_mains, lines, folder=folder)


def torchrun(*words: str, folder: Path) -> Program:
    """Start torchrun itself, with two processes, each a Python of its own."""
    arguments = ["--standalone", "--nproc-per-node", "2", *words]
    return Program(torchrun_main, arguments, folder=folder)


def script(file: Path, *words: str, folder: Path) -> Program:
    """Start a file of Python."""
    return Program(_script, file, words, folder=folder)


def to_the_end(path: Path) -> None:
    process = started(path)
    process.join(60)
    assert process.exitcode == 0


def num_committed(path: Path) -> int:
    return sum(1 for _ in path.glob("commits/*/*.json"))


def storage(path: Path) -> dict[str, bytes]:
    """Return the bytes of every unit of a cache."""
    return {name: data for name, (data, _) in contents(path / "seeds").items()}


def storage_after_kill(path: Path) -> dict[str, bytes]:
    """Return `storage` without the temporary files that a killed writer may leave."""
    files = {}
    for name, data in storage(path).items():
        if name_of_temporary(Path(name).name) is None:
            files[name] = data
    return files


def _dump(path: Path | str, environment: dict[str, str], settings: dict[str, Any]) -> None:
    take(environment)
    dump(path, **settings)


def _program(
    work: Callable[[], Any],
    files: list[Path],
    folder: Path,
    method: str,
    environment: dict[str, str],
) -> None:
    take(environment)
    os.chdir(folder)
    os.setpgid(0, 0)
    # SIGINT is ignored where the tests run in the background, SIGHUP under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_forkserver_preload(
        IMPORTED
    )  # its loader workers are children of a server of its own
    work()


def _launched(words: Sequence[str], processes: int, restarts: int) -> None:
    """Do all that torchrun does, but that its processes are forks of this one."""
    places = {
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "run_id": str(uuid.uuid4()),
        "start_method": "fork",
    }
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, max_restarts=restarts, **places
    )
    elastic_launch(config, _main)(words)


def _main(words: Sequence[str]) -> NoReturn:
    from kdcache_cli import main

    main(words)
    raise AssertionError("click leaves by SystemExit")


def _mains(lines: Sequence[Sequence[str]]) -> None:
    from kdcache_cli import main

    for words in lines:
        main(words, standalone_mode=False)


def _script(file: Path, words: Sequence[str]) -> None:
    sys.argv, sys.path[0:0] = [str(file), *words], [str(file.parent)]
    runpy.run_path(str(file), run_name="__main__")
