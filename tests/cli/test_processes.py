"""Steps in processes of their own, when Ctrl-C comes while these are got ready."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLOW = """
import pathlib, time
pathlib.Path("begun").touch()
while not pathlib.Path("interrupted").exists():
    time.sleep(0.01)
"""
PROGRAM = """
import pathlib, signal, sys
from kdcache_cli import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
processes._PRELOADED = ["slow_to_import"]
try:
    processes.run_command(["--version"], stdout=pathlib.Path("out"), stderr=pathlib.Path("err"))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_while_libraries_are_imported_prints_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text(SLOW)
    folders = [str(tmp_path), *filter(None, sys.path)]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists() and program.poll() is None:
        time.sleep(0.01)
    os.killpg(program.pid, signal.SIGINT)
    (tmp_path / "interrupted").touch()
    _, told = program.communicate(timeout=60)
    assert (program.returncode, told) == (130, "")


def test_a_step_runs_in_such_a_process(tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("")
    folders = [str(tmp_path), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", f"{PROGRAM}\nprint('went on')"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "went on\n"
    assert (tmp_path / "out").read_text().startswith("kdcache, version")
