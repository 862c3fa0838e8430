"""Losses are compiled in one piece: a break in the graph would cost a step what compiling saves."""

from pathlib import Path

from losses.compiled import LOSSES, main
from nursery import Program


def test_a_loss_is_one_graph_with_the_same_gradient(tmp_path: Path) -> None:
    # else torch starts a pool of processes that compile, each of which imports it
    alone = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    code, printed, told = Program(main, folder=tmp_path, environment=alone).end(600)
    assert code == 0, told[-3000:]
    assert set(printed.splitlines()) == set(LOSSES)
