"""timm's optimisers and schedules, behind two small tables of settings."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from kdcache.errors import UsageError
from kdcache.spec import choose


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of timm.optim.create_optimizer_v2."""

    name: str = "sgd"
    """Any of timm.optim.list_optimizers(): sgd (with Nesterov momentum), momentum (without), adamw, rmsproptf, lamb, ..."""
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = False
    """Whether weight decay also applies to norms and biases."""
    layer_decay: float | None = None
    """Factor of the rate from each group of layers to the one before it, such as 0.75; of models whose groups timm knows."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimiser."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Settings of timm.scheduler.create_scheduler_v2; lengths are in epochs, the rate changes each step."""

    name: str = "cosine"
    """One of timm's: cosine, step, multistep, poly, tanh, in newer versions constant, wsd, rsqrt (with a warm-up); or none."""
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    decay_epochs: float = 30.0
    """Of step: epochs between decays. Of wsd and rsqrt: the length of the decay at the end, below 1 as a share of all."""
    decay_milestones: tuple[int, ...] = (90, 180, 270)
    """Of multistep: epochs after which it decays."""
    decay_rate: float = 0.1
    """Of step and multistep: the factor of a decay. Of poly: the power, 0.9 in most papers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's create_scheduler_v2, such as cycle_limit, k_decay or noise."""

    def __post_init__(self) -> None:
        if not self.decay_epochs > 0:
            raise UsageError(f"schedule.decay_epochs is {self.decay_epochs}; it must be above 0")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser of `model`'s parameters.

    Raises:
        UsageError: an unknown optimiser (the nearest is suggested) or argument.
    """
    from timm.optim import create_optimizer_v2, list_optimizers  # noqa: PLC0415

    choose(config.name.lower(), list_optimizers(), "optimizer.name")
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model,
            opt=config.name,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            filter_bias_and_bn=not config.decay_norm_and_bias,
            layer_decay=config.layer_decay,
            **config.options,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer {config.name}: {' '.join(str(error).split())}") from error
    return optimizer


def make_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, *, epochs: int, steps_per_epoch: int) -> Any:
    """Return timm's schedule; `step_update(step)` sets the rate after each step.

    Raises:
        UsageError: an unknown schedule (the nearest is suggested) or argument.
    """
    from timm.scheduler import create_scheduler_v2  # noqa: PLC0415

    choose(config.name, _SCHEDULES, "schedule.name")
    if config.name == "none":
        return _Constant()
    settings = {key: value for key, value in asdict(config).items() if key not in ("name", "options")}
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.name,
            num_epochs=epochs,
            updates_per_epoch=steps_per_epoch,
            step_on_epochs=False,
            warmup_prefix=False,
            **settings,
            **config.options,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"schedule {config.name}: {' '.join(str(error).split())}") from error
    if schedule is None:
        raise UsageError(f"schedule {config.name} is not in this version of timm; upgrade it, or choose another")
    return schedule


_SCHEDULES = ("cosine", "step", "multistep", "poly", "tanh", "constant", "wsd", "rsqrt", "none")


class _Constant:
    def step_update(self, num_updates: int) -> None:
        """Leave the learning rate as it is."""
