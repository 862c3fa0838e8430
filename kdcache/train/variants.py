"""Several runs from one command: settings that are varied, and a run for each combination."""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdcache.config.files import load_config
from kdcache.errors import UsageError, quoted
from kdcache.train.config import TrainConfig
from kdcache.train.run_files import COMMAND

_MOST_RUNS = 64
_LONGEST_NAME = 100
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.=-]+")  # a spec that names the folder has commas


def varied_configs(
    *,
    file: str | None,
    flags: Mapping[str, Any],
    settings: Sequence[str],
    varied: Sequence[str],
) -> list[TrainConfig]:
    """Return a configuration for each combination of values that settings are to take.

    Each run has a folder in that of the command, which its values name: `loss=kl-tau=4+run_seed=1`.
    Runs of other run seeds than the first get its order of samples.

    Args:
        file: of settings, see `load_config`.
        flags: by dotted key, what all runs have in common.
        settings: `key=value` texts, as these.
        varied: `key=value` texts; of a key that comes several times, each value is tried.

    Raises:
        UsageError: a text of another form, a value that comes twice, a key that is given as a flag
            too, too many runs, settings that a configuration refuses.
    """
    choices = _choices(varied, flags)
    combinations = list(itertools.product(*choices.values()))
    if len(combinations) > _MOST_RUNS:
        raise UsageError(
            f"--vary asks for {len(combinations)} runs side by side, at most {_MOST_RUNS} are"
            " possible; vary fewer settings at a time"
        )
    configs: list[TrainConfig] = []
    for texts in combinations:
        config = load_config(
            TrainConfig, COMMAND, file=file, flags=flags, settings=(*settings, *texts)
        )
        config = replace(config, run=f"{config.run}/{folder_name(texts)}")
        if configs and config.order_seed is None and config.run_seed != configs[0].order:
            config = replace(config, order_seed=configs[0].order)
        configs.append(config)
    return configs


def folder_name(texts: Sequence[str]) -> str:
    """Return the name of a run's folder, from the `key=value` texts that set it apart."""
    name = "+".join(_NOT_IN_NAMES.sub("-", text) for text in texts)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(",".join(texts).encode()).hexdigest()[:8]
    return f"{name[:_LONGEST_NAME]}-{digest}"


def _choices(varied: Sequence[str], flags: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the texts of each key that is varied, in the order in which they were given."""
    choices: dict[str, list[str]] = {}
    for text in varied:
        key, equals, _ = text.partition("=")
        if not equals:
            raise UsageError(
                f"--vary {quoted(text)} is not key=value; write for example --vary run_seed=0"
                " --vary run_seed=1"
            )
        if key == "run":
            raise UsageError("--vary run: folders get their names from what else is varied")
        if flags.get(key) is not None:
            raise UsageError(
                f"{key} is given twice: {quoted(flags[key])}, and by --vary {quoted(text)}; give"
                " it by --vary alone, once for each value"
            )
        texts = choices.setdefault(key, [])
        if text in texts:
            raise UsageError(f"--vary {quoted(text)} is given twice; give each value once")
        texts.append(text)
    return choices
