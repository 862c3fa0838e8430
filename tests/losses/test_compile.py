"""Losses are compiled in one piece: a break in the graph would cost a step what compiling saves."""

import os
import subprocess
import sys

from losses.compiled import LOSSES


def test_a_loss_is_one_graph_with_the_same_gradient() -> None:
    words = [sys.executable, "-c", "from losses.compiled import main; main()"]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = done.stdout.splitlines()
    assert set(compiled) == set(LOSSES)
