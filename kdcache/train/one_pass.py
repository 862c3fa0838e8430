"""What students that train side by side must have in common: all that decides their views."""

import dataclasses
from collections.abc import Sequence

from kdcache.config.differences import flat_settings
from kdcache.errors import UsageError
from kdcache.loader.config import LoaderConfig
from kdcache.runtime.contrast import contrasted, joined
from kdcache.train.config import TrainConfig

_OWN = ("run_seed", "order_seed")
"""Settings of the loader that each student may have its own of."""
_COMMON = (
    "eval_data",
    "eval_every",
    "eval_recipe",
    "eval_window",
    "align_corners",
    "sync_batch_norm",
)
"""Settings of a training that all have in common, besides those of the loader."""


def require_one_pass(configs: Sequence[TrainConfig]) -> None:
    """Check that students can train from one pass over the views.

    Raises:
        UsageError: there is none, two have one folder, or a setting differs that decides the views.
    """
    if not configs:
        raise UsageError("configs is an empty list; give one run at least")
    first, *others = configs
    folders = {first.run}
    for other in others:
        if other.run in folders:
            raise UsageError(f"two runs have the folder {other.run}; give each one of its own")
        folders.add(other.run)
        if other.order != first.order:
            raise UsageError(
                f"runs {first.run} and {other.run} take samples in other orders (run_seed"
                f" {first.run_seed} and {other.run_seed}); give all the same order_seed"
            )
        if lines := _differences(first, other):
            raise UsageError(
                f"runs {first.run} and {other.run} cannot see the same views side by side"
                f" ({joined(lines)}); give both the same, or train them one after the other"
            )


def _differences(config: TrainConfig, other: TrainConfig) -> list[str]:
    """Return a line for each setting that decides the views, and that two runs do not share."""
    names = {field.name for field in dataclasses.fields(LoaderConfig)} - {*_OWN} | {*_COMMON}
    settings = flat_settings(dataclasses.asdict(config))
    other_settings = flat_settings(dataclasses.asdict(other))
    lines = []
    for key, value in settings.items():
        if key.partition(".")[0] not in names:
            continue  # their own: tables of options may have other keys
        other_value = other_settings[key]
        if value != other_value:
            text, other_text = contrasted(repr(value), repr(other_value))
            lines.append(f"{key}: {text} and {other_text}")
    return lines
