"""One student, however it is trained: resumed at any step, in parts, by several processes, beside
an average of its weights."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import launch
from runs import CONV, DIGITS, IN_PROCESS, MLP, Lines, dump, run_epoch, train_config
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from kdcache.errors import KdcacheError, MismatchError, UsageError
from kdcache.runtime.device import ComputeConfig
from kdcache.runtime.generators import seed_generators
from kdcache.train.config import EmaConfig
from kdcache.train.optim import OptimizerConfig, ScheduleConfig
from kdcache.train.parts import synchronised
from kdcache.train.plan import probed_steps
from kdcache.train.run import TrainConfig, Trainer
from kdcache.train.side_by_side import scores_of, start_epoch

SAMPLES, STEPS = 48, 3
FEW = f"{DIGITS},length={SAMPLES}"
"""Three batches of 16."""
STRONG = """
mode = "L"
size = 8
eval = "eval-whole"

[[transforms]]
name = "RandAugment"
magnitude = 5

[[transforms]]
name = "timm.AutoAugment"
policy = "rand-m9-mstd0.5-inc1"

[[transforms]]
name = "timm.RandomErasing"
probability = 0.5
mode = "pixel"
canvas = 8

[mixing]
mixup = 0.8
cutmix = 1.0
block = 16
"""
"""Of everything that draws."""
HARD: dict[str, Any] = {
    "data": FEW,
    "student": f"{MLP},dropout=0.3",
    "loss": "dist:tau=4",
    "batch_size": 16,
    "epochs": 3,
    "label_smoothing": 0.1,
    "clip_grad": 5.0,
    "ema": EmaConfig(decay=0.9, warmup=True),
    "schedule": ScheduleConfig(warmup_epochs=1),
}
"""Of everything that has a state."""


class StoppedError(Exception):
    """In the place of a kill."""


def stop_at(trainer: Trainer, step: int) -> Callable[[], None]:
    def after_step() -> None:
        if trainer.step == step:
            raise StoppedError

    return after_step


def run(trainer: Trainer, lines: Lines, *, stop: int | None = None) -> None:
    """Train to the end, or until after step `stop`."""
    while trainer.epoch < trainer.config.epochs:
        run_epoch(trainer, lines, stop_at(trainer, stop or -1))


def state_at(config: TrainConfig, step: int) -> tuple[dict[str, Any], list[float]]:
    """Return the state of a run after `step`, as its checkpoint would bring it back, and the losses
    so far."""
    trainer, lines = Trainer(config), Lines()
    with pytest.raises(StoppedError):
        run(trainer, lines, stop=step)
    return trainer.state(), lines.losses()


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in trainer.weights().items()
        for key, value in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "strong.toml"
    path.write_text(STRONG)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, strong: Path) -> str:
    path = tmp_path_factory.mktemp("trainer") / "cache"
    dump(path, data=FEW, recipe=str(strong), codec="full:dtype=float32", seeds="0:6")
    return str(path)


def test_strong_views_give_a_cached_run_the_losses_of_the_teacher_in_the_loop(
    tmp_path: Path, strong: Path, cache: str
) -> None:
    """RandAugment, erasing, mixup and CutMix, with a stop in the middle of the cached run."""
    settings = {**HARD, "epochs": 6}
    cached = train_config(tmp_path, cache=cache, **settings)
    state, found = state_at(cached, 3 * STEPS + 2)
    resumed, rest = Trainer(cached), Lines()
    resumed.load_state(state)
    run(resumed, rest)
    found += rest.losses()
    online, lines = (
        Trainer(
            train_config(
                tmp_path, teacher=f"{CONV},seed=7", recipe=str(strong), seeds="0:6", **settings
            )
        ),
        Lines(),
    )
    run(online, lines)
    assert len(found) == len(lines.losses()) == 6 * STEPS
    np.testing.assert_allclose(found, lines.losses(), rtol=0, atol=2e-6)
    assert max(found) - min(found) > 0.1, "a loss that does not move would prove nothing"


@pytest.fixture(scope="module")
def unbroken(cache: str) -> Callable[..., tuple[Trainer, Lines]]:
    """Return what trains in a precision without a stop, once for all tests, which only look."""

    @functools.cache
    def trained(precision: Any = "float32") -> tuple[Trainer, Lines]:
        compute = ComputeConfig(workers=0, device="cpu", precision=precision)
        trainer = Trainer(train_config(Path("none"), cache=cache, **HARD, compute=compute))
        run(trainer, lines := Lines())
        return trainer, lines

    return trained


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS - 1])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_stopped_after_any_step_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
    cache: str,
    unbroken: Callable[..., tuple[Trainer, Lines]],
    step: int,
    precision: Any,
) -> None:
    compute = ComputeConfig(workers=0, device="cpu", precision=precision)
    config = train_config(tmp_path, cache=cache, **HARD, compute=compute)
    whole, expected = unbroken(precision)
    if step % STEPS:
        state, found = state_at(config, step)
    else:  # the end of an epoch, where the checkpoint comes after the evaluation
        trainer, lines = Trainer(config), Lines()
        run_epoch(trainer, lines)
        state, found = trainer.state(), lines.losses()
    torch.manual_seed(1)  # a new process has other generators
    resumed, lines = Trainer(config), Lines()
    resumed.load_state(state)
    run(resumed, lines)
    assert found + lines.losses() == expected.losses()
    mine, theirs = weights(resumed), weights(whole)
    assert mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )
    epochs = [
        [line["loss"] for line in one.lines if line["kind"] == "epoch"] for one in (lines, expected)
    ]
    np.testing.assert_allclose(epochs[0], epochs[1][-len(epochs[0]) :], rtol=1e-6)


def test_workers_may_change_in_the_middle_of_an_epoch(
    tmp_path: Path, cache: str, unbroken: Callable[..., tuple[Trainer, Lines]]
) -> None:
    config = train_config(tmp_path, cache=cache, **HARD)
    _, expected = unbroken()
    state, found = state_at(config, STEPS + 2)
    resumed, lines = (
        Trainer(
            train_config(
                tmp_path, cache=cache, **HARD, compute=ComputeConfig(workers=2, device="cpu")
            )
        ),
        Lines(),
    )
    resumed.load_state(state)
    run(resumed, lines)
    assert found + lines.losses() == expected.losses()


def joined_run(
    settings: dict[str, Any], path: str, stop: int | None, state: dict[str, Any] | None
) -> Any:
    """Train in one of several processes, from a state or to one; return losses, the state, and the
    weights."""
    trainer, lines = Trainer(train_config(Path(path), **settings)), Lines()
    if state is not None:
        trainer.load_state(state)
    try:
        run(trainer, lines, stop=stop)
    except StoppedError:
        return lines.losses(), trainer.state(), None
    return lines.losses(), None, weights(trainer)


NO_DROPOUT = {**HARD, "student": MLP}
"""Each process draws its own dropout, so that runs with it differ by world size."""


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "processes"), [("dist:tau=4", 4), ("kl:tau=4", 2)])
def test_the_number_of_processes_does_not_matter(
    tmp_path: Path, cache: str, loss: str, processes: int
) -> None:
    settings = {**NO_DROPOUT, "cache": cache, "loss": loss, "epochs": 2}
    one, _, expected = joined_run(settings, str(tmp_path), None, None)
    found = launch(joined_run, processes, settings, str(tmp_path), None, None)
    for losses, _, mine in found:
        np.testing.assert_allclose(losses, one, rtol=2e-4)
        assert all(
            torch.allclose(mine[name], expected[name], rtol=0, atol=2e-4) for name in expected
        )
    assert len({tuple(losses) for losses, _, _ in found}) == 1, "all processes know the mean"


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, cache: str) -> None:
    settings = {**NO_DROPOUT, "cache": cache, "epochs": 2}
    expected, _, _ = joined_run(settings, str(tmp_path), None, None)
    first, state, _ = joined_run(settings, str(tmp_path), STEPS + 2, None)
    for rest, _, _ in launch(joined_run, 4, settings, str(tmp_path), None, state):
        np.testing.assert_allclose(first + rest, expected, rtol=2e-4)
    begun = launch(joined_run, 2, settings, str(tmp_path), STEPS + 2, None)[0]
    rest, _, _ = joined_run(settings, str(tmp_path), None, begun[1])
    np.testing.assert_allclose(begun[0] + rest, expected, rtol=2e-4)


def scores(settings: dict[str, Any], path: str) -> dict[str, float]:
    return scores_of([Trainer(train_config(Path(path), **settings))])[0]


def test_an_evaluation_is_divided_among_processes(tmp_path: Path) -> None:
    """Of 250 images, which neither two nor four divide, and with an average beside the student."""
    settings = {
        "data": FEW,
        "recipe": "digits",
        "loss": "ce",
        "eval_data": f"{DIGITS},length=250",
        "ema": EmaConfig(decay=0.9),
    }
    expected = scores(settings, str(tmp_path))
    assert len(expected) == 6 and expected["top1"] not in (0.0, 100.0)
    for found in launch(scores, 4, settings, str(tmp_path)):
        assert found == pytest.approx(expected)


def test_local_columns_are_another_loss_with_several_processes(tmp_path: Path, cache: str) -> None:
    settings = {**NO_DROPOUT, "cache": cache, "epochs": 1}
    alone, _, _ = joined_run(settings, str(tmp_path), None, None)
    local, _, _ = launch(
        joined_run, 2, {**settings, "loss": "dist:tau=4,columns=local"}, str(tmp_path), None, None
    )[0]
    assert abs(local[0] - alone[0]) > 3e-4 * alone[0], "the tolerance above would tell"


def test_a_batch_in_parts_is_the_same_step_for_a_loss_of_rows(tmp_path: Path, cache: str) -> None:
    """KL is a mean over rows; the perceptron has no batch norm."""
    found = []
    for parts in (1, 2, 4):
        trainer, lines = (
            Trainer(
                train_config(
                    tmp_path,
                    cache=cache,
                    **{**NO_DROPOUT, "loss": "kl:tau=4", "epochs": 2},
                    accumulate=parts,
                )
            ),
            Lines(),
        )
        run(trainer, lines)
        found.append((lines.losses(), weights(trainer)))
    for losses, mine in found[1:]:
        np.testing.assert_allclose(losses, found[0][0], rtol=1e-4)
        assert all(
            torch.allclose(mine[name], value, atol=1e-4) for name, value in found[0][1].items()
        )


def test_parts_have_columns_of_their_own(tmp_path: Path, cache: str) -> None:
    found = []
    for parts in (1, 2):
        lines = Lines()
        run(
            Trainer(
                train_config(tmp_path, cache=cache, **{**NO_DROPOUT, "epochs": 1}, accumulate=parts)
            ),
            lines,
        )
        found.append(lines.losses()[0])
    assert abs(found[0] - found[1]) > 3e-4 * found[0], "the tolerance above would tell"


def test_the_average_is_timms_and_is_evaluated(tmp_path: Path) -> None:
    decay = 0.8
    config = train_config(
        tmp_path,
        recipe="digits",
        loss="ce",
        data=FEW,
        epochs=2,
        batch_size=16,
        eval_data=FEW,
        ema=EmaConfig(decay=decay),
    )
    trainer, lines, expected = Trainer(config), Lines(), None
    start = [parameter.detach().clone() for parameter in trainer.student.module.parameters()]
    expected = start
    step = trainer.train_step

    def watched(parts: Any) -> dict[str, Tensor]:
        nonlocal expected
        found = step(parts)
        share = (
            decay if trainer.step > 1 else 0.0
        )  # timm's begins with the student after its first step
        now = trainer.student.module.parameters()
        expected = [
            share * old + (1 - share) * new.detach() for old, new in zip(expected, now, strict=True)
        ]
        return found

    trainer.train_step = watched  # type: ignore[method-assign]
    run(trainer, lines)
    average = list(trainer.weights()["ema"].parameters())
    for mine, theirs in zip(average, expected, strict=True):
        torch.testing.assert_close(mine.detach(), theirs)
    last = lines.lines[-1]
    assert {"top1", "top5", "eval_loss", "ema_top1", "ema_top5", "ema_eval_loss"} <= last.keys()
    assert last["ema_eval_loss"] != last["eval_loss"]


def test_repeated_augmentation_shows_a_sample_under_several_seeds(
    tmp_path: Path, cache: str
) -> None:
    trainer = Trainer(train_config(tmp_path, cache=cache, **{**HARD, "epochs": 2}, repeats=3))
    seen: list[list[tuple[int, int]]] = []
    for _ in range(2):
        start_epoch([trainer])
        seen.append(
            [
                (int(row), int(seed))
                for batch in trainer.loader.rendered()
                for row, seed in zip(batch.rows, batch.seeds, strict=True)
            ]
        )
        trainer.epoch += 1
    for views, seeds in zip(seen, ({0, 1, 2}, {3, 4, 5}), strict=True):
        assert (
            len(views) == SAMPLES
            and {seed for _, seed in views} == seeds
            and len({row for row, _ in views}) == SAMPLES // 3
        )
    lines = Lines()
    run(Trainer(train_config(tmp_path, cache=cache, **{**HARD, "epochs": 2}, repeats=3)), lines)
    assert all(math.isfinite(loss) for loss in lines.losses())
    with pytest.raises(UsageError, match="repeats is 7, and there are 6 seeds"):
        Trainer(train_config(tmp_path, cache=cache, **HARD, repeats=7))


def test_the_schedule_ends_where_it_should_also_when_epochs_lack_rows(
    tmp_path: Path, cache: str
) -> None:
    settings = {
        **HARD,
        "epochs": 3,
        "schedule": ScheduleConfig(min_lr=0.0),
        "optimizer": OptimizerConfig(lr=1.0),
    }
    rates = []
    for samples in (None, "0:33"):
        trainer, lines = (
            Trainer(train_config(tmp_path, cache=cache, **settings, samples=samples)),
            Lines(),
        )
        run(trainer, lines)
        rates.append([line["lr"] for line in lines.lines if line["kind"] == "epoch"])
    assert rates[0] == pytest.approx(rates[1], abs=1e-6) and rates[0][-1] < 1e-3 < rates[0][0]


def test_a_loss_of_single_labels_refuses_views_that_are_mixed(tmp_path: Path, cache: str) -> None:
    with pytest.raises(
        UsageError,
        match=r"loss dkd needs one label a view, and recipe strong mixes; use dist or kl",
    ):
        Trainer(train_config(tmp_path, cache=cache, **{**HARD, "loss": "dkd"}))


def test_a_state_of_another_teacher_is_refused(tmp_path: Path, strong: Path) -> None:
    settings = {**HARD, "recipe": str(strong), "epochs": 1}
    state, _ = state_at(train_config(tmp_path, teacher=f"{CONV},seed=7", **settings), 2)
    other = Trainer(train_config(tmp_path, teacher=f"{CONV},seed=8", **settings))
    with pytest.raises(MismatchError, match="was trained with another teacher"):
        other.load_state(state)


def test_batch_norms_over_all_processes_are_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sync_batch_norm is for CUDA only; leave it out"):
        Trainer(train_config(tmp_path, recipe="digits", loss="ce", data=FEW, sync_batch_norm=True))


def test_a_batch_norm_over_all_processes_keeps_its_activation() -> None:
    """timm's batch norms of EfficientNets and others end with one."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.BatchNorm2d(4)).eval()
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        expected = module(images)
        converted = synchronised(module)
        assert torch.equal(converted(images), expected)
    norms = [part for part in converted if isinstance(part, nn.SyncBatchNorm)]
    assert len(norms) == 2
    assert converted.state_dict().keys() == module.state_dict().keys()


def test_what_a_training_would_take_is_found_by_a_trial(tmp_path: Path, cache: str) -> None:
    trainer = Trainer(train_config(tmp_path, cache=cache, **HARD, log_steps=1))
    found = probed_steps([trainer], seconds=60)
    assert found["steps_per_epoch"] == trainer.epoch_step == STEPS
    assert found["views_per_second"] > 0 and 0 < found["data_share"] < 1


def test_dropout_is_drawn_by_step_alone(tmp_path: Path) -> None:
    config = train_config(
        tmp_path,
        recipe="digits",
        loss="ce",
        data=FEW,
        student=f"{MLP},dropout=0.5",
        compute=IN_PROCESS,
    )
    found = []
    for noise in (0, 1):
        trainer = Trainer(config)
        seed_generators(noise)
        start_epoch([trainer])
        found.append(
            float(
                trainer.train_step([trainer.loader.placed(next(trainer.loader.rendered()))])["loss"]
            )
        )
    assert found[0] == found[1]


def test_a_loss_that_is_not_finite_is_told_with_the_epoch(tmp_path: Path) -> None:
    trainer = Trainer(
        train_config(
            tmp_path,
            recipe="digits",
            loss="ce",
            data=FEW,
            batch_size=16,
            optimizer=OptimizerConfig(lr=1e30),
        )
    )
    with pytest.raises(KdcacheError, match=r"the loss of epoch 1 is (nan|inf)"):
        run_epoch(trainer, Lines())


def test_an_optimizer_that_fails_is_told_in_one_line(tmp_path: Path, cache: str) -> None:
    """As those do that keep more beside each weight than memory has."""
    trainer = Trainer(train_config(tmp_path, cache=cache, data=FEW))

    def fail(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nat alloc_cpu.cpp")

    trainer.optimizer.register_step_pre_hook(fail)
    with pytest.raises(KdcacheError, match=r"optimizer sgd fails: .* memory at .*take another one"):
        run_epoch(trainer, Lines())


def test_the_weight_of_a_loss_rises_over_its_warm_up(tmp_path: Path, cache: str) -> None:
    settings: dict[str, Any] = {**HARD, "epochs": 2, "optimizer": OptimizerConfig(lr=1e-12)}
    settings["accumulate"] = 1
    found = []
    for num_epochs in (0, 2):
        lines = Lines()
        config = train_config(
            tmp_path, cache=cache, **settings, log_steps=1, loss_warmup_epochs=num_epochs
        )
        run(Trainer(config), lines)
        steps = [line for line in lines.lines if line["kind"] == "step"]
        found.append([(line["inter"], line["task"]) for line in steps])
    for number, ((plain, task), (warm, other)) in enumerate(zip(*found, strict=True)):
        weight = 0.5 if number < STEPS else 1.0
        assert warm == pytest.approx(weight * plain, rel=1e-4) and other == pytest.approx(task)
