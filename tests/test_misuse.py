"""Mistakes in a program of one's own are told in one line, by a KdcacheError."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import FEW

TESTS = Path(__file__).parent
TOLD = {
    "batch size": "UsageError: DistillationLoader: batch_size is '8'; it must be of type int",
    "no batch": "UsageError: batch_size is 0; it must be at least 1",
    "workers": "UsageError: DistillationLoader: workers is 1.5; it must be of type int",
    "memory format": "UsageError: DistillationLoader: channels_last is 1; it must be of type bool",
    "tail": r"UsageError: unknown DistillationLoader: tail 'prior' \(known: ghost, none, uniform",
    "mean": "UsageError: mean and std must be numbers",
    "mean alone": "UsageError: mean and std belong together; give both, or neither",
    "seeds": r"UsageError: seeds is \[0.5\]; it must be text such as '0:90', or whole numbers",
    "epochs": "UsageError: DistillationLoader: epochs is nan",
    "state": "UsageError: the state lacks epoch, .*; give what state_dict",
    "epoch below": "UsageError: epoch is -1; it must be a whole number, 0 or more",
    "epoch": "UsageError: epoch is 'a'; it must be a whole number, 0 or more",
    "no path": "UsageError: cache is None; give the path or the address of one",
    "number for a path": "UsageError: cache is 5; give the path or the address of one",
    "recipe": "UsageError: recipe is 5; give a name, or the path of a .toml file",
    "rows": r"UsageError: rows are \[1.5\]; they must be whole numbers",
    "seed": "UsageError: seeds are 'a'; they must be whole numbers",
    "row of views": f"UsageError: row is 9999; rows are from 0 to {FEW - 1}",
    "rows of views": r"UsageError: views are asked for by \[5\]; give pairs \(row, seed\)",
    "other classes": "ModelError: the model gives 7 classes, and digits:test has 10; give data of",
    "no model": "UsageError: model is a NoneType; give a torch.nn.Module",
    "no teacher": "UsageError: teacher is a int; give a torch.nn.Module or a spec",
    "seeds of a dump": r"UsageError: seeds is \[0.5\]; it must be text",
    "merge": "UsageError: .*/link is the cache itself; give the new one a folder of its own",
    "export": "UsageError: .*/cache is the cache itself; give the new one a folder of its own",
    **{
        f"{what} of {loss}": message
        for loss in ("dist", "kl", "dkd", "nkd")
        for what, message in {
            "tau": "UsageError: tau is 0; it must be above 0, and finite",
            "finite tau": "UsageError: tau is nan; it must be above 0, and finite",
            "classes": r"UsageError: the student's logits are of shape \(3, 4\), .*\(3, 5\)",
            "rows": r"UsageError: the student's logits are of shape \(3, 4\), .*\(4, 4\)",
        }.items()
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    paths = os.pathsep.join(map(str, (TESTS, TESTS.parent, TESTS.parent / "cli")))
    program = [sys.executable, str(TESTS / "misuse.py"), str(tmp_path_factory.mktemp("misuse"))]
    done = subprocess.run(
        program, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=True, text=True
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert found.keys() == TOLD.keys()
    return found


@pytest.mark.parametrize("name", TOLD)
def test_a_mistake_is_told(outcomes: dict[str, list[str]], name: str) -> None:
    kind, message = outcomes[name]
    assert re.match(TOLD[name], f"{kind}: {message}"), f"{kind}: {message}"
    assert "\n" not in message and len(message) <= 500
