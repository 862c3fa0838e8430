"""timm's optimisers and schedules, behind two small tables of settings."""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from kdcache.config.library_sources import LibrarySources
from kdcache.config.names import choose
from kdcache.deferred import Module, torch
from kdcache.errors import UsageError
from kdcache.runtime.user_code import exception_text

_OPTIMIZERS = LibrarySources(
    "timm",
    files=("optim/*.py",),
    registered=re.compile(r"(?:OptimInfo\(\s*(?:name=)?|register_alias\()['\"](\w+)['\"]"),
)
_SCHEDULES = ("cosine", "step", "multistep", "poly", "tanh", "constant", "wsd", "rsqrt", "none")
_WITHOUT_END = ("constant", "step", "multistep", "none")
"""Schedules that are not told how many epochs there are, or make no use of it."""
_OF_OPTIMIZERS = frozenset(("opt", "filter_bias_and_bn", "param_group_fn"))
_OF_SCHEDULES = frozenset(("sched", "num_epochs", "updates_per_epoch", "step_on_epochs"))
"""Arguments of timm's functions that settings have under another name, or not at all."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of timm.optim.create_optimizer_v2."""

    name: str = "sgd"
    """Any of timm.optim.list_optimizers(): sgd (with Nesterov momentum), momentum (without), adamw,
    rmsproptf, lamb, ..."""
    lr: float = 0.1
    """Learning rate, after the warm-up."""
    momentum: float = 0.9
    """Of optimisers that have one."""
    weight_decay: float = 1e-4
    """Of all weights but norms and biases."""
    decay_norm_and_bias: bool = False
    """Whether weight decay also applies to norms and biases."""
    layer_decay: float | None = None
    """Factor of the rate from each group of layers to the one before it, such as 0.75; of models
    whose groups timm knows."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimiser."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UsageError(f"optimizer.lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"optimizer.momentum is {self.momentum}; it must be from 0 to below 1")
        _require_from_zero("optimizer", self, "weight_decay")
        if self.layer_decay is not None and not 0 < self.layer_decay < math.inf:
            raise UsageError(f"optimizer.layer_decay is {self.layer_decay}; it must be above 0")
        _require_own("optimizer", self)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Settings of timm.scheduler.create_scheduler_v2; lengths are in epochs, the rate changes each
    step."""

    name: str = "cosine"
    """One of timm's: cosine, step, multistep, poly, tanh, in newer versions constant, wsd, rsqrt
    (with a warm-up); or none."""
    warmup_epochs: float = 0.0
    """Over which the rate rises from `warmup_lr`."""
    warmup_lr: float = 1e-5
    """Rate at the beginning of the warm-up."""
    min_lr: float = 0.0
    """Rate at which cosine, tanh and poly end."""
    decay_epochs: float = 30.0
    """Of step: epochs between decays. Of wsd and rsqrt: the length of the decay at the end, below 1
    as a share of all."""
    decay_milestones: tuple[int, ...] = (90, 180, 270)
    """Of multistep: epochs after which it decays."""
    decay_rate: float = 0.1
    """Of step and multistep: the factor of a decay. Of poly: the power, 0.9 in most papers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's create_scheduler_v2, such as cycle_limit, k_decay or noise;
    `warmup_prefix = true` counts decays from the end of the warm-up."""

    def __post_init__(self) -> None:
        choose(self.name, _SCHEDULES, "schedule.name")
        if not 0 < self.decay_epochs < math.inf:
            raise UsageError(f"schedule.decay_epochs is {self.decay_epochs}; it must be above 0")
        _require_from_zero("schedule", self, "warmup_epochs", "warmup_lr", "min_lr", "decay_rate")
        if min(self.decay_milestones, default=0) < 0:
            milestones = list(self.decay_milestones)
            raise UsageError(f"schedule.decay_milestones is {milestones}; they must be 0 or more")
        _require_own("schedule", self)


def _require_from_zero(table: str, config: Any, *names: str) -> None:
    """Raise a UsageError if one of these settings is below 0, or no finite number."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise UsageError(f"{table}.{name} is {value}; it must be 0 or more")


def _require_own(table: str, config: Any) -> None:
    """Raise a UsageError if the further arguments name a setting that has a key of its own."""
    own_names = {setting.name for setting in fields(config)}
    for name in config.options:
        if name in own_names:
            raise UsageError(f"{table}.options has {name}; say {table}.{name}")


def _require_known(table: str, config: Any, *takers: Callable[..., Any]) -> None:
    """Raise a UsageError if timm takes no further argument of a name that is given; it names the
    nearest.

    Args:
        table: of the settings.
        config: the settings.
        takers: timm's functions and classes that take further arguments.
    """
    own_names = {setting.name for setting in fields(config)}
    names: set[str] = set()
    for taker in takers:
        for parameter in inspect.signature(taker).parameters.values():
            if parameter.default is not parameter.empty:
                names.add(parameter.name)
    names -= own_names | _OF_OPTIMIZERS | _OF_SCHEDULES
    for name in config.options:
        choose(name, names, f"option of {table} {config.name},")


def check_optimizer_name(config: OptimizerConfig) -> None:
    """Check that timm's sources have an optimiser of that name, without importing timm.

    Raises:
        UsageError: they do not; the nearest is suggested.
    """
    _OPTIMIZERS.require(config.name.lower(), "optimizer.name")


def check_optimizer(config: OptimizerConfig) -> None:
    """Check settings by a step of the optimiser on a small network, before anything is opened.

    Raises:
        UsageError: an unknown optimiser (the nearest is suggested) or argument, or a wrong value.
    """
    with torch.random.fork_rng(devices=[]):
        nn = torch.nn
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        optimizer = make_optimizer(network, replace(config, layer_decay=None))
        with _one_line_errors("optimizer", config.name):
            network(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()


def check_schedule(config: ScheduleConfig, *, epochs: int) -> None:
    """Check settings by some steps of the schedule, before anything is opened.

    Raises:
        UsageError: an unknown schedule (the nearest is suggested) or argument, or a wrong value.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, config, epochs=epochs, steps_per_epoch=1)
    with _one_line_errors("schedule", config.name):
        for epoch in range(min(epochs, _TRIED_EPOCHS) + 1):
            schedule.step_update(epoch)


def make_optimizer(model: Module, config: OptimizerConfig) -> "torch.optim.Optimizer":
    """Return the optimiser of `model`'s parameters.

    Raises:
        UsageError: an unknown optimiser (the nearest is suggested) or argument.
    """
    from timm.optim import (  # noqa: PLC0415
        create_optimizer_v2,
        get_optimizer_class,
        list_optimizers,
    )

    name = choose(config.name.lower(), list_optimizers(), "optimizer.name")
    with _one_line_errors("optimizer", config.name):
        optimizer_class = get_optimizer_class(name, bind_defaults=False)
    _require_known("optimizer", config, create_optimizer_v2, optimizer_class)
    with _one_line_errors("optimizer", config.name):
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
    return optimizer


def make_schedule(
    optimizer: "torch.optim.Optimizer", config: ScheduleConfig, *, epochs: int, steps_per_epoch: int
) -> Any:
    """Return timm's schedule; `step_update(step)` sets the rate after each step.

    Raises:
        UsageError: an unknown schedule (the nearest is suggested) or argument.
    """
    from timm.scheduler import create_scheduler_v2  # noqa: PLC0415

    if config.name == "none":
        return _Constant()
    _require_known("schedule", config, create_scheduler_v2)
    settings = {"warmup_prefix": False, **asdict(config), **config.options}
    del settings["name"]
    del settings["options"]
    with _one_line_errors("schedule", config.name):
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.name,
            num_epochs=epochs,
            updates_per_epoch=steps_per_epoch,
            step_on_epochs=False,
            **settings,
        )
    if schedule is None:
        raise UsageError(
            f"schedule {config.name} is not in this version of timm; upgrade it, or choose another"
        )
    return schedule


def depends_on_end(config: ScheduleConfig) -> bool:
    """Return whether the rates of a schedule depend on how many epochs there are in all: with more
    of them those before are then others, too.

    Noise does, whatever the schedule: timm has it begin and end at shares of all epochs.
    """
    return config.name not in _WITHOUT_END or config.options.get("noise") is not None


@contextmanager
def _one_line_errors(what: str, name: str) -> Iterator[None]:
    """Run timm's code on settings of the user: whatever it raises is a UsageError."""
    try:
        yield
    except Exception as error:
        reason = exception_text(error).rstrip(".")
        raise UsageError(f"{what} {name}: {reason}; check its settings") from error


_TRIED_EPOCHS = 1000


class _Constant:
    def step_update(self, num_updates: int) -> None:
        """Leave the learning rate as it is."""
