"""How ml-dr's views were made, as `config.pth.tar` says it."""

from collections.abc import Mapping
from typing import Any

from kdcache.errors import quoted
from kdcache.imports.ml_dr_views import (
    AUGMENT,
    CROP,
    CUTMIX,
    DRAWING,
    ERASE,
    FLIP,
    MIXUP,
    Augmentation,
)

CONFIG_FILE = "config.pth.tar"
_SETTINGS: Mapping[str, frozenset[str]] = {
    "uint8": frozenset(),
    CROP: frozenset({"size", "scale", "ratio"}),
    FLIP: frozenset({"p"}),
    AUGMENT: frozenset({"p", "num_ops", "magnitude", "num_magnitude_bins"}),
    "to_tensor": frozenset(),
    ERASE: frozenset({"p", "scale", "ratio"}),
    "normalize": frozenset({"mean", "std"}),
    MIXUP: frozenset({"alpha", "p", "div_by"}),
    CUTMIX: frozenset({"alpha", "p"}),
}
"""Transforms, and those of their settings that change nothing once views were drawn, but for the
size and the number of operations."""
_MOST_SIZE = 1000
"""Of a view: in 16 bits a share of more pixels may be that of the next one."""
_MOST_OPERATIONS = 16


def read_augmentation(config: Any) -> Augmentation:
    """Return how views were made.

    Args:
        config: what `config.pth.tar` holds.

    Raises:
        ValueError: nothing that says it, or views that cannot be rendered.
    """
    settings = _settings(config)
    _require_known(settings)
    size = settings[CROP].get("size")
    if type(size) is not int or not 1 <= size <= _MOST_SIZE:
        raise ValueError(f"views of size {quoted(size)}; it is read from 1 to {_MOST_SIZE}")
    num_operations = 0
    if AUGMENT in settings:
        num_operations = settings[AUGMENT].get("num_ops", 2)
    if type(num_operations) is not int or not 0 <= num_operations <= _MOST_OPERATIONS:
        raise ValueError(f"num_ops {quoted(num_operations)}; it is from 0 to {_MOST_OPERATIONS}")
    return Augmentation(
        size=size,
        names=tuple(name for name in DRAWING if name in settings),
        num_operations=num_operations,
    )


def _settings(config: Any) -> dict[Any, dict[Any, Any]]:
    """Return the settings of each transform that was enabled."""
    table = config
    for key in ("reinforce", "image_augmentation"):
        table = table.get(key) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise ValueError("no settings of reinforce.image_augmentation")
    settings = {}
    for name, options in table.items():
        if not isinstance(options, dict):
            raise ValueError(f"settings {quoted(options)} of {quoted(name)}")
        if options.get("enable", True):
            settings[name] = {key: value for key, value in options.items() if key != "enable"}
    return settings


def _require_known(settings: Mapping[Any, Mapping[Any, Any]]) -> None:
    """Raise a ValueError if views are made by something that is not rendered here."""
    for name, options in settings.items():
        if name not in _SETTINGS:
            raise ValueError(
                f"views that {quoted(name)} made; what is read is {', '.join(_SETTINGS)}"
            )
        others = [key for key in options if key not in _SETTINGS[name]]
        if others:
            raise ValueError(
                f"{name} with {quoted(others[0])}; what is read of it is"
                f" {', '.join(sorted(_SETTINGS[name])) or 'nothing'}"
            )
    if CROP not in settings:
        raise ValueError(f"no {CROP}, and only views that it made are read")
