"""What a file of weights says of its model: the task, the classes, and what it wants of an image.

It lies in the metadata of safetensors, as text, in the words of timm's model configurations.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kdcache.models.preprocessing import Preprocessing
from kdcache.models.weight_formats import check_weight_file, is_safetensors
from kdcache.shapes import Size, as_size, sides
from kdcache.targets import KINDS

_MOST_CLASSES = 1_000_000
_MOST_NAME = 1000
"""Characters of the name of a class."""


@dataclass(frozen=True, kw_only=True)
class WeightFacts:
    """What a file of weights says of its model."""

    task: str
    """Such as `classification`."""
    num_classes: int
    """Of the data; the background of a detector is none."""
    label_names: tuple[str, ...] | None
    """Of the classes, in their order; None if the data has no names."""
    input_size: tuple[int, ...]
    """Channels, height and width of an image."""
    mean: tuple[float, ...]
    """Of each channel of pixels from 0 to 1."""
    std: tuple[float, ...]
    """As `mean`."""

    @property
    def size(self) -> Size:
        """Height and width of an image."""
        return as_size(self.input_size[1:])

    @property
    def mode(self) -> str:
        """Mode of an image, RGB or L."""
        if self.input_size[0] == 1:
            return "L"
        return "RGB"

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a file of weights that says this."""
        metadata = {
            "task": self.task,
            "num_classes": str(self.num_classes),
            "input_size": json.dumps(self.input_size),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
        }
        if self.label_names is not None:
            metadata["label_names"] = json.dumps(self.label_names, ensure_ascii=False)
        return metadata


def weight_facts(
    preprocessing: Preprocessing,
    *,
    task: str,
    num_classes: int,
    label_names: tuple[str, ...] | None,
) -> WeightFacts:
    """Return what is to be said of a model that wants images of some preprocessing."""
    return WeightFacts(
        task=task,
        num_classes=num_classes,
        label_names=label_names,
        input_size=(len(preprocessing.mean), *sides(preprocessing.size)),
        mean=preprocessing.mean,
        std=preprocessing.std,
    )


def read_facts(path: Path) -> WeightFacts | None:
    """Return what a file of weights says of its model; None if it is not one that a run wrote.

    Raises:
        ModelError: there is no such file, or it is something else.
    """
    if not is_safetensors(check_weight_file(path)):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return facts_of(file.metadata() or {})
    except (SafetensorError, OSError):  # whoever opens the weights tells what is wrong
        return None


def facts_of(metadata: Mapping[str, str]) -> WeightFacts | None:
    """Return what metadata says of a model; None if it is not as a run writes it."""
    try:
        facts = WeightFacts(
            task=metadata["task"],
            num_classes=_whole_number(json.loads(metadata["num_classes"])),
            label_names=_names(metadata.get("label_names")),
            input_size=tuple(map(_whole_number, _parsed_list(metadata["input_size"]))),
            mean=tuple(map(_finite_number, _parsed_list(metadata["mean"]))),
            std=tuple(map(_finite_number, _parsed_list(metadata["std"]))),
        )
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    if not _are_possible(facts):
        return None
    return facts


def _are_possible(facts: WeightFacts) -> bool:
    """Return whether what is said goes together."""
    channels, *size = facts.input_size or (0,)
    if channels not in (1, 3) or len(size) != 2 or facts.task not in KINDS:
        return False
    if facts.num_classes > _MOST_CLASSES or {len(facts.mean), len(facts.std)} != {channels}:
        return False
    if min(facts.std) <= 0:
        return False
    names = facts.label_names
    return names is None or len(names) == facts.num_classes


def _whole_number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} is no whole number")
    if value < 1:
        raise ValueError(f"{value} is not above 0")
    return value


def _finite_number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} is no number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _parsed_list(text: str) -> list[Any]:
    values = json.loads(text)
    if not isinstance(values, list):
        raise TypeError(f"a {type(values).__name__} is no list")
    return values


def _names(text: str | None) -> tuple[str, ...] | None:
    """Return the names in a JSON list of texts."""
    if text is None:
        return None
    names = _parsed_list(text)
    for name in names:
        if not isinstance(name, str) or len(name) > _MOST_NAME:
            raise TypeError("a name of a class is a text, and short")
    return tuple(names)
