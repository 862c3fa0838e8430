"""Optimisers and schedules do what their settings say."""

import math
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from torch import nn

from kdcache.errors import UsageError
from kdcache.train.optim import (
    _SCHEDULES,
    OptimizerConfig,
    ScheduleConfig,
    check_optimizer,
    check_schedule,
    make_optimizer,
    make_schedule,
)

EPOCHS, STEPS = 5, 4


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def rates(**settings: Any) -> list[float]:
    """Return the learning rate that each step of five epochs of four steps is taken with."""
    optimizer = make_optimizer(network(), OptimizerConfig(lr=1.0))
    schedule = make_schedule(
        optimizer, ScheduleConfig(**settings), epochs=EPOCHS, steps_per_epoch=STEPS
    )
    found = []
    for step in range(EPOCHS * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step_update(step + 1)
    return found


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "rmsproptf", "lamb"])
@pytest.mark.parametrize("everything", [False, True])
def test_weight_decay_spares_norms_and_biases_by_default(name: str, everything: bool) -> None:
    model = network()
    optimizer = make_optimizer(
        model, OptimizerConfig(name=name, weight_decay=0.3, decay_norm_and_bias=everything)
    )
    decayed = {
        id(p)
        for group in optimizer.param_groups
        if group["weight_decay"] == 0.3
        for p in group["params"]
    }
    for parameter in model.parameters():
        assert (id(parameter) in decayed) == (everything or parameter.ndim > 1)
    covered = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(covered) == sorted(map(id, model.parameters()))


def test_settings_reach_the_optimizer() -> None:
    sgd = make_optimizer(network(), OptimizerConfig(lr=0.3, momentum=0.8)).param_groups[0]
    assert (sgd["lr"], sgd["momentum"], sgd["nesterov"]) == (0.3, 0.8, True)
    plain = make_optimizer(network(), OptimizerConfig(name="momentum", momentum=0.0)).param_groups[
        0
    ]
    assert (plain["momentum"], plain["nesterov"]) == (0.0, False)
    adamw = make_optimizer(network(), OptimizerConfig(name="AdamW", options={"betas": [0.7, 0.8]}))
    assert isinstance(adamw, torch.optim.AdamW) and list(adamw.param_groups[0]["betas"]) == [
        0.7,
        0.8,
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimizerConfig(name="adamww"), "unknown optimizer.name 'adamww'; did you mean 'adamw'"),
        (OptimizerConfig(options={"betta": 1}), "unknown option of optimizer sgd, 'betta'"),
    ],
)
def test_a_wrong_optimizer_is_told(config: OptimizerConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_optimizer(network(), config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"optimizer\.lr is 0\.0; it must be above 0"),
        ({"lr": -1.0}, r"optimizer\.lr is -1\.0; it must be above 0"),
        ({"lr": math.nan}, r"optimizer\.lr is nan; it must be above 0"),
        ({"lr": math.inf}, r"optimizer\.lr is inf; it must be above 0"),
        ({"momentum": 1.0}, r"optimizer\.momentum is 1\.0; it must be from 0 to below 1"),
        ({"momentum": -0.1}, r"optimizer\.momentum is -0\.1; it must be from 0 to below 1"),
        ({"weight_decay": -1e-4}, r"optimizer\.weight_decay is -0\.0001; it must be 0 or more"),
        ({"layer_decay": 0.0}, r"optimizer\.layer_decay is 0\.0; it must be above 0"),
        ({"options": {"lr": 1}}, r"optimizer\.options has lr; say optimizer\.lr"),
    ],
)
def test_numbers_that_no_optimizer_can_use_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OptimizerConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_epochs": -1.0}, r"schedule\.warmup_epochs is -1\.0; it must be 0 or more"),
        ({"min_lr": math.nan}, r"schedule\.min_lr is nan; it must be 0 or more"),
        ({"warmup_lr": -1e-5}, r"schedule\.warmup_lr is -1e-05; it must be 0 or more"),
        ({"decay_rate": math.inf}, r"schedule\.decay_rate is inf; it must be 0 or more"),
        ({"decay_milestones": (3, -1)}, r"decay_milestones is \[3, -1\]; they must be 0 or more"),
        ({"options": {"min_lr": 1}}, r"schedule\.options has min_lr; say schedule\.min_lr"),
    ],
)
def test_numbers_that_no_schedule_can_use_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ScheduleConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamw", "options": {"betas": 3}}, "optimizer adamw: TypeError"),
        ({"name": "adamw", "options": {"betas": [0.9, 2.0]}}, "Invalid beta parameter"),
        ({"name": "adamw", "options": {"eps": "small"}}, "optimizer adamw: .*; check its settings"),
        (
            {"name": "adamw", "options": {"betta": 1}},
            r"unknown option of optimizer adamw, 'betta'; did you mean 'betas'\? \(known: ams",
        ),
        ({"options": {"opt": "adamw"}}, "unknown option of optimizer sgd, 'opt'"),
    ],
)
def test_arguments_of_an_optimizer_are_tried_before_a_model_is_there(
    settings: Any,
    message: str,
) -> None:
    state = torch.get_rng_state()
    check_optimizer(OptimizerConfig(name="adamw", layer_decay=0.5))
    with pytest.raises(UsageError, match=message):
        check_optimizer(OptimizerConfig(**settings))
    assert torch.equal(state, torch.get_rng_state()), "the student is drawn as before"


def test_arguments_of_a_schedule_are_tried_before_a_model_is_there() -> None:
    for name in _SCHEDULES:
        check_schedule(ScheduleConfig(name=name, warmup_epochs=1.0, decay_epochs=1.0), epochs=5)
    with pytest.raises(UsageError, match="schedule cosine, 'noice'; did you mean 'noise'"):
        check_schedule(ScheduleConfig(options={"noice": 1}), epochs=5)
    with pytest.raises(UsageError, match=r"schedule cosine: .*; check its settings"):
        check_schedule(ScheduleConfig(options={"k_decay": "much"}), epochs=5)


@pytest.mark.parametrize("name", _SCHEDULES)
def test_every_schedule_steps_and_never_rises(name: str) -> None:
    warmup = 1.0 if name == "rsqrt" else 0.0  # which cannot do without
    found = rates(name=name, decay_epochs=2.0, decay_milestones=(1, 3), warmup_epochs=warmup)[
        4 * round(warmup) :
    ]
    assert found[0] == 1.0 and all(0 <= later <= before for before, later in pairwise(found))
    assert (found[-1] < 1.0) == (name not in ("none", "constant"))


def test_cosine_is_the_formula() -> None:
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert rates(name="cosine", min_lr=0.1) == pytest.approx(expected)


def test_step_decays_every_so_many_epochs() -> None:
    expected = [0.5 ** (step // 8) for step in range(20)]
    assert rates(name="step", decay_epochs=2.0, decay_rate=0.5) == pytest.approx(expected)


def test_multistep_decays_at_its_milestones() -> None:
    found = rates(name="multistep", decay_milestones=(1, 3), decay_rate=0.5)
    expected = [0.5 ** ((step >= 4) + (step >= 12)) for step in range(20)]
    ends = (3, 11)  # timm decays one step early
    assert [rate for step, rate in enumerate(found) if step not in ends] == pytest.approx(
        [rate for step, rate in enumerate(expected) if step not in ends]
    )


def test_polys_power_is_its_decay_rate() -> None:
    expected = [(1 - step / 20) ** 0.9 for step in range(20)]
    assert rates(name="poly", decay_rate=0.9) == pytest.approx(expected)


def test_warmup_rises_in_a_line_to_the_schedule() -> None:
    found = rates(warmup_epochs=2.0, warmup_lr=0.1)
    assert found[:8] == pytest.approx([0.1 + 0.9 * step / 8 for step in range(8)])
    assert found[8:] == pytest.approx(rates()[8:])


def test_a_wrong_schedule_is_told() -> None:
    with pytest.raises(UsageError, match=r"unknown schedule\.name 'cosin'; did you mean 'cosine'"):
        rates(name="cosin")


def test_decay_epochs_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule\.decay_epochs is 0; it must be above 0"):
        ScheduleConfig(name="step", decay_epochs=0)


def test_layers_nearer_to_the_image_learn_slower() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    config = OptimizerConfig(name="adamw", lr=1.0, layer_decay=0.5)
    groups = make_optimizer(model, config).param_groups
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    names = (
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.1.attn.qkv.weight",
        "head.weight",
    )
    found = [scales[id(dict(model.named_parameters())[name])] for name in names]
    assert found == sorted(found) and found[-1] == 1.0 and found[0] < found[-2] < 1.0
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, ScheduleConfig(min_lr=0.0), epochs=4, steps_per_epoch=10)
    schedule.step_update(20)
    assert {round(group["lr"] / group["lr_scale"], 6) for group in optimizer.param_groups} == {0.5}


def test_decays_may_count_from_the_end_of_the_warm_up() -> None:
    settings: dict[str, Any] = {"name": "step", "warmup_epochs": 2, "decay_epochs": 2}
    by_epoch = rates(**settings)[::STEPS]
    after_warmup = rates(**settings, options={"warmup_prefix": True})[::STEPS]
    assert by_epoch[2:] == pytest.approx([0.1, 0.1, 0.01])
    assert after_warmup[2:] == pytest.approx([1.0, 1.0, 0.1])
