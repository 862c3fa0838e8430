"""The loops in `examples/`: each takes the steps of `train-student`, and goes on after any step."""

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from runs import dump, losses, train
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from kdcache.train.config import EmaConfig
from kdcache.train.optim import OptimizerConfig, ScheduleConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
DIGITS = "tiny_models:few_digits,length=100"

Losses = dict[int, float]
"""By the number of the step, to six decimals, as examples print them."""
Run = Callable[..., Losses]

PLAIN = OptimizerConfig(lr=0.05, weight_decay=0.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "own_loop": {"optimizer": PLAIN, "schedule": ScheduleConfig(name="none")},
    "lightning_module": {"optimizer": PLAIN},
    "accelerate_loop": {"optimizer": PLAIN},
    "timm_parts": {"optimizer": OptimizerConfig(lr=0.05), "ema": EmaConfig(decay=0.999)},
}
"""With which `train-student` trains as the example does."""
NEEDED = {"lightning_module": "lightning", "accelerate_loop": "accelerate"}
NORMALISED = {"timm_parts": (sum(IMAGENET_DEFAULT_MEAN) / 3, sum(IMAGENET_DEFAULT_STD) / 3)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "cache"
    dump(path, data=DIGITS, seeds="0:3", unit_rows=25, codec="full:dtype=float32")
    return path


@pytest.fixture(params=SETTINGS, scope="module")
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of an example, which is to run on the CPU."""
    loop: str = request.param
    if loop in NEEDED:
        pytest.importorskip(NEEDED[loop])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        yield loop


@pytest.fixture(scope="module")
def trained(name: str, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Return the losses of `train-student` with the weights and the settings of the example."""
    folder = tmp_path_factory.mktemp(name)
    weights = folder / "weights.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    save_file(student.state_dict(), weights)
    mean, std = NORMALISED.get(name, (0.5, 0.25))
    train(
        folder / "run",
        cache=str(cache),
        data=DIGITS,
        student=f"timm:test_resnet,weights={weights},mean={mean!r},std={std!r}",
        loss="dist:tau=4",
        batch_size=16,
        epochs=2,
        **SETTINGS[name],
    )
    return {step: round(loss, 6) for step, loss in enumerate(losses(folder / "run"), start=1)}


@pytest.fixture
def run(
    name: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Return what runs the example in a folder, and gives the losses that it prints."""
    settings = f"--data {DIGITS} --student test_resnet --epochs 2 --batch-size 16 --workers 0"

    def run_example(out: str, *more: object) -> Losses:
        words = [str(cache), str(tmp_path / out), *settings.split(), *map(str, more)]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        printed = re.findall(r"^step (\d+): (\S+)$", capsys.readouterr().out, re.MULTILINE)
        return {int(step): float(loss) for step, loss in printed}

    return run_example


def between(losses: Losses, first: int, last: int) -> Losses:
    return {step: losses[step] for step in range(first, last + 1)}


def test_an_example_takes_the_steps_of_train_student(trained: Losses, run: Run) -> None:
    assert len(trained) == 12 and max(trained.values()) - min(trained.values()) > 1
    assert run("own") == trained


def test_an_example_goes_on_after_any_step(trained: Losses, run: Run) -> None:
    # an epoch ends with the sixth step
    assert run("own", "--keep", 6, "--stop-after", 6) == between(trained, 1, 6)
    assert run("own", "--keep", 4, "--stop-after", 10) == between(trained, 7, 10)
    # as after a kill: the steps since the checkpoint of the eighth are taken once more
    assert run("own", "--keep", 12) == between(trained, 9, 12)
    assert run("own") == {}
