"""Freed memory stays with the process: what is allocated next needs no new pages."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
PROGRAM = """
import resource
import sys

from kdcache.runtime.allocator import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
held = bytes(1)
for step in range(6):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = bytearray(b"x") * 80_000_000
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **variables: str) -> tuple[str, int]:
    """Return what keeping was answered with, and the page faults of 5 blocks of 80 MB."""
    words = [sys.executable, "-c", PROGRAM, mode]
    environment = {"PYTHONPATH": ":".join(sys.path), **variables}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    answer, count = done.stdout.split()
    return answer, int(count)


def test_blocks_are_used_again_without_a_fault() -> None:
    _, usual = faults("leave")
    answer, kept = faults("keep")
    assert answer == "True"
    assert usual > 5 * 15_000 and kept < usual / 10


def test_an_environment_that_sets_the_allocator_is_left_alone() -> None:
    answer, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="1000000")
    assert answer == "False"
