"""How TinyViT's views were drawn, as the configuration says that its program was run with.

That is a YAML file: the one of `--cfg`, or the `config.json` that the program writes of all
settings. What it leaves out is as in the program's `config.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdcache.errors import CacheError, UsageError, quoted
from kdcache.runtime.text_files import read_text
from kdcache.views.drawn_policy import DrawnPolicy

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "DATA": {
        "DATASET": "imagenet",
        "MEAN_AND_STD_TYPE": "default",
        "IMG_SIZE": 224,
        "INTERPOLATION": "bicubic",
        "ZIP_MODE": False,
    },
    "AUG": {
        "COLOR_JITTER": 0.4,
        "AUTO_AUGMENT": "rand-m9-mstd0.5-inc1",
        "REPROB": 0.25,
        "REMODE": "pixel",
        "RECOUNT": 1,
        "MIXUP": 0.8,
        "CUTMIX": 1.0,
        "CUTMIX_MINMAX": None,
    },
}
"""The settings that decide what a view is."""
_OTHERS: Mapping[str, frozenset[str]] = {
    "DATA": frozenset(
        (
            *("BATCH_SIZE", "DATA_PATH", "CACHE_MODE", "PIN_MEMORY", "NUM_WORKERS"),
            *("FNAME_FORMAT", "DEBUG"),
        )
    ),
    "AUG": frozenset(("MIXUP_PROB", "MIXUP_SWITCH_PROB", "MIXUP_MODE")),
}
"""Those beside them that change no view, where none is mixed."""
_MEANS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "default": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""The mean and the deviation of pixels, by their names there."""
_LEAST_SIZE = 33
"""Of a view: smaller ones are cropped by a generator whose seed is stored nowhere."""
_MOST_SIZE = 2048
_MOST_BLOCKS = 100
_MOST_CHARS = 1 << 20
_NAMED = "imagenet22k"
"""The data set whose images go by their names, not by their numbers."""


@dataclass(frozen=True, kw_only=True)
class TinyVitSettings:
    """How views were drawn, and what their keys are."""

    size: int
    """The side of a view."""
    interpolation: str
    policy: str | None
    """Of operations; None for none."""
    erase_probability: float
    erase_mode: str
    most_blocks: int
    mean: tuple[float, ...]
    """Of pixels from 0 to 1."""
    std: tuple[float, ...]
    has_names: bool
    """Whether a key is the name of an image, not its number."""

    def transform(self, digest: str, interpolation: str) -> dict[str, Any]:
        """Return the transform of the recipe.

        Args:
            digest: of the stored views.
            interpolation: of the crop and of what shifts an image.
        """
        table: dict[str, Any] = {
            "name": "kdcache.StoredDraw",
            "size": "input",
            "interpolation": interpolation,
            "pixel_mean": list(self.mean),
            "views": digest,
        }
        if self.policy is not None:
            table["policy"] = self.policy
        if self.erase_probability:
            table["erase_probability"] = self.erase_probability
            table["erase_mode"] = self.erase_mode
            table["max_count"] = self.most_blocks
            table["pixel_std"] = list(self.std)
            table["canvas"] = self.size
        return table


def read_settings(path: Path) -> TinyVitSettings:
    """Return what a configuration says.

    Raises:
        UsageError: the file cannot be read, or is no YAML.
        CacheError: views that cannot be drawn again.
    """
    table = _parsed(path)
    try:
        return _settings(_merged(table))
    except ValueError as error:
        raise CacheError(
            f"configuration {path}: {error}; labels of such views cannot be imported"
        ) from error


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """The loader of plain values, without aliases: a few lines of these are a table without end."""

    def compose_node(self, *where: Any) -> Any:
        """Return the next value, PyYAML's name.

        Raises:
            ValueError: it is an alias.
        """
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it holds an alias, *name")
        return super().compose_node(*where)


def _parsed(path: Path) -> Any:
    """Return the plain values of a YAML file.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    text = read_text(path, "configuration")
    if len(text) > _MOST_CHARS:
        raise UsageError(
            f"configuration {path} has {len(text):,} characters; it may have {_MOST_CHARS:,}"
        )
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"configuration {path} is no YAML of plain values: {str(error) or 'it is too deep'}"
        ) from error


def _merged(table: Any) -> dict[str, Any]:
    """Return all settings by their names there, those that are left out as in `config.py`.

    Raises:
        ValueError: others than are known.
    """
    if not isinstance(table, dict):
        raise ValueError(f"it holds {quoted(table)}, no table of settings")
    if table.get("BASE") not in (None, "", [], [""]):
        raise ValueError(
            f"BASE is {quoted(table['BASE'])}, and other files are not read; give the config.json"
            " that save_logits.py wrote, which has all settings"
        )
    merged: dict[str, Any] = {}
    for section, defaults in _DEFAULTS.items():
        given = table.get(section, {})
        if not isinstance(given, dict):
            raise ValueError(f"{section} is {quoted(given)}, no table of settings")
        for name in given:
            if name not in defaults and name not in _OTHERS[section]:
                raise ValueError(f"{section} has {quoted(name)}, which TinyViT does not know")
        for name, default in defaults.items():
            merged[f"{section}.{name}"] = given.get(name, default)
    return merged


def _settings(merged: Mapping[str, Any]) -> TinyVitSettings:
    """Return what settings say.

    Raises:
        ValueError: views that cannot be drawn again.
    """
    _require_unmixed(merged)
    if merged["DATA.ZIP_MODE"] is not False:
        raise ValueError("DATA.ZIP_MODE is set, and what images are numbered by is not known")
    dataset = _one_of(merged, "DATA.DATASET", ("imagenet", _NAMED))
    mean, std = _MEANS[_one_of(merged, "DATA.MEAN_AND_STD_TYPE", tuple(_MEANS))]
    erase_mode = merged["AUG.REMODE"]
    if isinstance(erase_mode, str):
        erase_mode = erase_mode.lower()
    return TinyVitSettings(
        size=_whole(merged, "DATA.IMG_SIZE", _LEAST_SIZE, _MOST_SIZE),
        interpolation=_one_of(merged, "DATA.INTERPOLATION", ("bicubic", "bilinear")),
        policy=_policy(merged),
        erase_probability=_share(merged, "AUG.REPROB"),
        erase_mode=_one_of({"AUG.REMODE": erase_mode}, "AUG.REMODE", ("pixel", "rand", "const")),
        most_blocks=_whole(merged, "AUG.RECOUNT", 1, _MOST_BLOCKS),
        mean=mean,
        std=std,
        has_names=dataset == _NAMED,
    )


def _require_unmixed(merged: Mapping[str, Any]) -> None:
    """Raise a ValueError if views are mixed: whom with hangs on the batch, which nothing tells."""
    for name in ("AUG.MIXUP", "AUG.CUTMIX"):
        value = merged[name]
        if type(value) not in (int, float) or not value <= 0:  # nor is NaN
            raise ValueError(
                f"{name} is {quoted(value)}, by default above 0, so that views are mixed; it must"
                " be 0.0, since nothing tells which views were in one batch"
            )
    if merged["AUG.CUTMIX_MINMAX"] is not None:
        raise ValueError("AUG.CUTMIX_MINMAX is set, so that views are mixed; it must be null")


def _policy(merged: Mapping[str, Any]) -> str | None:
    """Return the policy of operations; None for none.

    Raises:
        ValueError: one that is not read, or colours that are jittered in its place.
    """
    policy = merged["AUG.AUTO_AUGMENT"]
    if policy in ("none", ""):
        jitter = merged["AUG.COLOR_JITTER"]
        if type(jitter) not in (int, float) or not jitter <= 0:
            raise ValueError(
                f"AUG.COLOR_JITTER is {quoted(jitter)} without AUG.AUTO_AUGMENT, which TinyViT's"
                " generator cannot draw; it must be 0.0"
            )
        return None
    if not isinstance(policy, str):
        raise ValueError(f"AUG.AUTO_AUGMENT is {quoted(policy)}; it is a text")
    try:
        DrawnPolicy(policy)
    except ValueError as error:
        raise ValueError(f"AUG.AUTO_AUGMENT: {error}") from error
    return policy


def _one_of(merged: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = merged[name]
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} is {quoted(value)}; what is read is {', '.join(known)}")
    return value


def _whole(merged: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = merged[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {quoted(value)}; it is read from {least} to {most}")
    return value


def _share(merged: Mapping[str, Any], name: str) -> float:
    value = merged[name]
    if type(value) not in (int, float) or not 0 <= value <= 1:  # nor is NaN
        raise ValueError(f"{name} is {quoted(value)}; it is from 0 to 1")
    return float(value)
