"""Shipped settings are those of the papers: each builds the optimiser, schedule, loss and views
that the tables give."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from kdcache.config.files import load_config, shipped_settings
from kdcache.dump.run import DumpConfig
from kdcache.losses import open_loss
from kdcache.train.optim import make_optimizer, make_schedule
from kdcache.train.run import TrainConfig
from kdcache.views import load_recipe

STEPS = 10
"""Of an epoch."""


def settings(name: str, **flags: Any) -> TrainConfig:
    given = {"run": "r", "cache": "c", "student": "s", **flags}
    return load_config(TrainConfig, "train-student", file=name, flags=given)


def optimizer_of(config: TrainConfig) -> torch.optim.Optimizer:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return make_optimizer(network, config.optimizer)


def rates(config: TrainConfig) -> list[float]:
    """Return the learning rate of each step, of epochs of ten steps."""
    optimizer = optimizer_of(config)
    schedule = make_schedule(
        optimizer, config.schedule, epochs=config.epochs, steps_per_epoch=STEPS
    )
    found = []
    for step in range(config.epochs * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step_update(step + 1)
    return found


RATES = {
    "cifar": {0: 0.05, 149: 0.05, 150: 5e-3, 179: 5e-3, 180: 5e-4, 210: 5e-5, 239: 5e-5},
    "imagenet-b1": {0: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 90: 1e-4, 99: 1e-4},
    "imagenet-b2": {0: 1e-6, 3: 0.048, 5: 0.048, 5.4: 0.048 * 0.97, 27: 0.048 * 0.97**10},
    "imagenet-b3": {
        0: 1e-6,
        10: (1e-6 + 1e-3) / 2,
        20: 1e-5 + 0.99e-3 * (1 + math.cos(math.pi * 20 / 300)) / 2,
        150: 1e-5 + 0.99e-3 / 2,
    },
    "cityscapes": {0: 0.02, 54: 1e-4 + 0.0199 * 0.75**0.9, 108: 1e-4 + 0.0199 * 0.5**0.9},
}
"""Learning rates by epoch."""
RATES["voc"] = {0: 0.02, 219.5: RATES["cityscapes"][108]}


@pytest.mark.parametrize("name", RATES)
def test_the_rate_of_each_epoch_is_the_papers(name: str) -> None:
    found = rates(settings(name))
    for epoch, rate in RATES[name].items():
        assert found[round(epoch * STEPS)] == pytest.approx(rate, rel=1e-6), epoch


def test_the_rate_of_two_networks_of_cifar_is_lower() -> None:
    found = rates(settings("cifar", **{"optimizer.lr": 0.01}))
    assert [found[0], found[1500], found[2399]] == pytest.approx([0.01, 1e-3, 1e-5])


OPTIMIZERS = {
    "cifar": ("SGD", {"momentum": 0.9, "nesterov": False}, 5e-4, True),
    "imagenet-b1": ("SGD", {"momentum": 0.9, "nesterov": True}, 1e-4, False),
    "imagenet-b2": ("RMSpropTF", {"momentum": 0.9, "eps": 1e-3, "alpha": 0.9}, 1e-5, False),
    "imagenet-b3": ("AdamW", {"betas": (0.9, 0.999), "eps": 1e-8}, 0.04, False),
    "cityscapes": ("SGD", {"momentum": 0.9, "nesterov": False}, 5e-4, True),
    "voc": ("SGD", {"momentum": 0.9, "nesterov": False}, 5e-4, True),
}
"""Class, options, weight decay, and whether norms and biases decay."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimiser_is_the_papers(name: str) -> None:
    kind, options, weight_decay, decays_all = OPTIMIZERS[name]
    optimizer = optimizer_of(settings(name))
    assert type(optimizer).__name__ == kind
    for group in optimizer.param_groups:
        assert {key: group[key] for key in options} == options
        for parameter in group["params"]:
            is_decayed = decays_all or parameter.ndim > 1
            assert group["weight_decay"] == (weight_decay if is_decayed else 0)


LENGTHS = {
    "cifar": (240, 64),
    "imagenet-b1": (100, 256),
    "imagenet-b2": (450, 768),
    "imagenet-b3": (300, 1024),
    "cityscapes": (216, 16),
    "voc": (439, 16),
}
"""Epochs and batch size."""
WEIGHTS = {"cifar": (4, 2, 2), "cityscapes": (1, 1, 1), "voc": (1, 1, 1)}
"""Of DIST: tau, beta and gamma, where they are not those of ImageNet."""
STRONG = {
    "imagenet-b2": {"label_smoothing": 0.1, "clip_grad": None, "average": 0.9999},
    "imagenet-b3": {"label_smoothing": 0.1, "clip_grad": 5.0, "average": 0.0},
}


@pytest.mark.parametrize("name", LENGTHS)
def test_length_batch_and_loss_are_the_papers(name: str) -> None:
    config = settings(name)
    assert (config.epochs, config.batch_size) == LENGTHS[name]
    loss: Any = open_loss(config.loss)
    assert (loss.tau, loss.beta, loss.gamma) == WEIGHTS.get(name, (1, 2, 2))
    assert (loss.ce, loss.standardize) == (1, False)
    assert config.align_corners == (name == "cityscapes")
    found = {
        "label_smoothing": config.label_smoothing,
        "clip_grad": config.clip_grad,
        "average": config.ema.decay,
    }
    plain = {"label_smoothing": 0.0, "clip_grad": None, "average": 0.0}
    assert found == STRONG.get(name, plain)


CROP = {"name": "RandomResizedCrop", "size": "input"}
FLIP = {"name": "RandomHorizontalFlip"}
RAND = {"name": "timm.AutoAugment", "policy": "rand-m9-mstd0.5", "interpolation": "bilinear"}
ERASING = {"name": "timm.RandomErasing", "mode": "pixel"}
CUT = {"name": "RandomCrop", "size": "input", "pad_if_needed": True, "fill": [124, 116, 104]}
VIEWS: dict[str, list[dict[str, Any]]] = {
    "cifar": [{"name": "RandomCrop", "size": 32, "padding": 4}, FLIP],
    "imagenet-b1": [{**CROP, "interpolation": "bilinear"}, FLIP],
    "imagenet-b2": [
        {**CROP, "interpolation": "bilinear"},
        FLIP,
        RAND,
        {**ERASING, "probability": 0.2},
    ],
    "imagenet-b3": [
        {**CROP, "interpolation": "bicubic"},
        FLIP,
        RAND,
        {**ERASING, "probability": 0.25},
    ],
    "cityscapes": [
        {"name": "kdcache.RandomScale", "scales": [number / 10 for number in range(5, 21)]},
        CUT,
        FLIP,
    ],
    "voc": [
        {"name": "kdcache.RandomScale", "scales": [number / 4 for number in range(2, 9)]},
        CUT,
        FLIP,
    ],
}
SIZES = {"cifar": 32, "cityscapes": (512, 1024), "voc": 512}


@pytest.mark.parametrize("name", VIEWS)
def test_the_views_are_the_papers(name: str) -> None:
    flags = {"cache": "c", "data": "d", "teacher": "t", "seeds": "0:1"}
    dump = load_config(DumpConfig, "dump-teacher", file=name, flags=flags)
    recipe = load_recipe(str(dump.recipe))
    resize = {"name": "Resize", "size": "input"}  # a model may wish for another size
    assert [entry for entry in recipe.transforms if entry != resize] == VIEWS[name]
    assert recipe.size == SIZES.get(name, 224)
    mixing = None
    if recipe.mixing:
        mixing = (recipe.mixing.mixup, recipe.mixing.cutmix)
    assert mixing == ((0.8, 1.0) if name == "imagenet-b3" else None)


def test_b3_is_evaluated_on_bicubic_images_of_256_and_the_others_on_bilinear_ones() -> None:
    for name, way in (("imagenet-b2", "bilinear"), ("imagenet-b3", "bicubic")):
        resize, crop = load_recipe(load_recipe(name).eval).transforms
        assert resize == {"name": "Resize", "size": "input/0.875", "interpolation": way}
        assert crop == {"name": "CenterCrop", "size": "input"}


def test_every_shipped_setting_is_held_to_a_table() -> None:
    for table in (RATES, OPTIMIZERS, LENGTHS, VIEWS):
        assert set(table) == set(shipped_settings())
