"""Shells complete commands and options."""

import os
import subprocess
import sys

import pytest

PROGRAM = "from kdcache_cli import main; main(prog_name='kdcache')"


def completions(words: str) -> list[str]:
    """Return what bash is offered for the last of some words."""
    place = str(len(words.split()) - 1)
    asked = {"_KDCACHE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": place}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kdcache tr", ["train-student"]),
        ("kdcache train-student --lo", ["--loss"]),
        ("kdcache dump-teacher --co", ["--codec", "--content-digests", "--config"]),
        ("kdcache info no-option --zzz", []),
    ],
)
def test_commands_and_options_are_completed(words: str, offered: list[str]) -> None:
    assert sorted(completions(words)) == sorted(offered)
