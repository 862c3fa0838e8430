"""How the settings of a run differ from those that it was begun with."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdcache.config.differences import config_differences, differing_values
from kdcache.config.seeds import parse_seeds
from kdcache.config.spec import Spec, normal_spec
from kdcache.losses import open_loss
from kdcache.models.registry import FAMILIES
from kdcache.models.weight_record import without_idle_options
from kdcache.train.config import TrainConfig
from kdcache.train.optim import depends_on_end
from kdcache.views import own_function, recipe_table

_HOW = (
    "log_steps",
    "checkpoint_minutes",
    "on_metrics",
    "tensorboard",
    "slab_dir",
    "slab_limit",
    "wait_for_units",
)
FREE = ("run", "compute.workers", "compute.device", "compute.keep_memory", *_HOW)
"""Settings that may change between a run and its resume: they change no result."""
PLACES = ("data", "eval_data", "cache")
"""Where things lie may change between a run and its resume; that they are the same is checked by
their fingerprints."""


def settings_differences(old: TrainConfig, new: TrainConfig, *, free: tuple[str, ...]) -> list[str]:
    """Return a line for each setting that means something else in `new` than in `old`, but for
    those that are `free` to change."""
    return config_differences(old, new, free=free, meanings=_MEANINGS)


def differing_settings(
    settings: TrainConfig, others: TrainConfig, *, free: tuple[str, ...]
) -> dict[str, tuple[Any, Any]]:
    """Return the two values of each setting that means something else in `others` than in
    `settings`, but for those that are `free` to differ, by dotted key."""
    return differing_values(settings, others, free=free, meanings=_MEANINGS)


def may_extend(old: TrainConfig, new: TrainConfig) -> bool:
    """Return whether `new` asks for more epochs, and the rates of those before are the same: the
    run is then what it would be if it had been begun with so many."""
    if new.epochs <= old.epochs or new.schedule != old.schedule:
        return False
    return not depends_on_end(new.schedule)


def _meant_caches(caches: str | tuple[str, ...]) -> list[Spec]:
    texts = caches
    if isinstance(texts, str):
        texts = (texts,)
    specs = []
    for text in texts:
        spec = normal_spec(f"cache:{text}")
        specs.append(replace(spec, options={"weight": 1, **spec.options}))
    return specs


def _meant_data(text: str) -> Spec:
    spec = normal_spec(text)
    if spec.name != "digits":
        return spec
    return Spec(spec.name, options={"split": spec.arg or "train", **spec.options})


def _meant_model(text: str) -> Spec:
    spec = without_idle_options(normal_spec(text))
    family = FAMILIES.get(spec.name)
    if family is None:
        return spec
    return replace(spec, options={"pretrained": family.is_pretrained, **spec.options})


def _meant_recipe(text: str) -> dict[str, Any]:
    """Return what decides a recipe's random draws, as its file has it: it is read without torch.

    Input size and evaluation recipe are not among it, see `Recipe.fingerprint`, which is made of
    the text of the transforms: there 1 and 1.0 differ.
    """
    function = own_function(text)
    if function is not None:
        return {"function": str(function)}
    table = {"mode": "RGB", **recipe_table(text)}
    table.pop("size", None)
    table.pop("eval", None)
    return {**table, "transforms": json.dumps(table.get("transforms"), sort_keys=True, default=str)}


_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "cache": _meant_caches,
    "data": _meant_data,
    "eval_data": _meant_data,
    "loss": open_loss,
    "recipe": _meant_recipe,
    "seeds": parse_seeds,
    "student": _meant_model,
    "teacher": _meant_model,
}
"""What the text of a setting means: two that mean the same are equal, however they are written."""
