"""Groups: runs that differ in nothing but their seeds are repeats, and are told as one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.config.differences import flat_settings
from kdcache.config.names import choose
from kdcache.errors import UsageError
from kdcache.losses import open_loss
from kdcache.report.estimates import Estimate, estimate
from kdcache.report.names import OF_CACHE, names_of
from kdcache.report.runs import Numbers, Run
from kdcache.train.config import TrainConfig
from kdcache.train.differences import FREE, differing_settings

_BROUGHT = ("data", "recipe")
"""Settings that a run need not say where its cache brings them."""
_SEEDS = ("run_seed", "order_seed")
"""Settings in which repeats differ."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Repeats: runs that differ in nothing but their seeds."""

    name: str
    runs: Sequence[Run]
    differing: Mapping[str, Any]
    """The settings that set it apart from other groups, by dotted key."""

    @property
    def config(self) -> Any:
        """The settings of its first run."""
        return self.runs[0].config

    @property
    def finished(self) -> list[Run]:
        """The runs that have a result."""
        return [run for run in self.runs if run.result is not None]

    @property
    def is_of_labels_alone(self) -> bool:
        """Whether its loss asks no teacher."""
        return "teacher" not in open_loss(self.config.loss).requires

    def values(self, name: str) -> dict[tuple[int, int], float]:
        """Return a number of the results of its finished runs, by repeat."""
        values: dict[tuple[int, int], float] = {}
        for run in self.finished:
            value = run.number(name)
            if value is not None:
                values[run.repeat] = value
        return values

    def estimate(self, name: str) -> Estimate | None:
        """Return the mean of a number of the results; None if no run has it."""
        return estimate([*self.values(name).values()])

    def curve(self, name: str) -> dict[int, Estimate]:
        """Return the means of a number by epoch, of the epochs that all its runs have."""
        return self.curve_of(lambda numbers: numbers.get(name))

    def curve_of(self, measure: Callable[[Numbers], float | None]) -> dict[int, Estimate]:
        """Return the means by epoch of what is measured of an epoch's numbers."""
        curve: dict[int, Estimate] = {}
        for epoch in self.runs[0].epochs:
            values: list[float] = []
            for run in self.runs:
                value = measure(run.epochs.get(epoch, {}))
                if value is not None:
                    values.append(value)
            point = estimate(values)
            if point is not None and len(values) == len(self.runs):
                curve[epoch] = point
        return curve


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Return the groups of some runs, in the order of their first runs.

    Raises:
        UsageError: two runs of the same settings and seeds, which are no repeats of each other.
    """
    members: list[list[Run]] = []
    for run in runs:
        for others in members:
            if not _differences(others[0], run):
                _require_other_seed(others, run)
                others.append(run)
                break
        else:
            members.append([run])
    tables = _differing_tables(members)
    names = [members[0][0].config.loss]
    if len(members) > 1:
        names = names_of(tables)
    groups: list[Group] = []
    for name, group_runs, differing in zip(names, members, tables, strict=True):
        group_runs.sort(key=lambda run: run.repeat)
        groups.append(Group(name=name, runs=group_runs, differing=differing))
    return groups


def told_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a run by dotted key, with what its cache brings."""
    settings = flat_settings(dataclasses.asdict(config))
    for key in _BROUGHT:
        if config.caches and settings[key] is None:
            settings[key] = OF_CACHE
    return settings


def reference_of(groups: Sequence[Group], against: str | None) -> Group:
    """Return the group that others are compared with.

    Args:
        groups: all of them.
        against: the name of a group, or a part of it that no other name has; a setting as it is
            written, of which the name may be short; or the folder of one of its runs. By default
            the one that learns from labels alone, else the first.

    Raises:
        UsageError: there is no such group, or there are several.
    """
    if against is None:
        for group in groups:
            if group.is_of_labels_alone:
                return group
        return groups[0]
    for group in groups:
        if against == group.name:
            return group
    place = Path(against).resolve()
    for group in groups:
        if any(run.folder.resolve() == place for run in group.runs):
            return group
    meant = [group for group in groups if against in _setting_texts(group)]
    if not meant:
        meant = [group for group in groups if against in group.name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        names = " and ".join(group.name for group in meant)
        raise UsageError(
            f"{against!r} may be each of the lines {names}; give the whole name of one, or the"
            " folder of one of its runs"
        )
    choose(against, [group.name for group in groups], "line to compare with")
    raise AssertionError


def _setting_texts(group: Group) -> set[str]:
    """Return the values that set a group apart, as they are written, alone and after their keys."""
    texts: set[str] = set()
    for key, value in group.differing.items():
        texts |= {str(value), f"{key}={value}"}
    return texts


def _differences(run: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    return differing_settings(run.config, other.config, free=FREE + _SEEDS)


def _require_other_seed(others: Sequence[Run], run: Run) -> None:
    for other in others:
        if other.repeat == run.repeat:
            raise UsageError(
                f"runs {other.folder} and {run.folder} have the same settings and run seed,"
                f" {run.config.run_seed}: they are no repeats; leave one of them out"
            )


def _differing_tables(members: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """Return of each group the settings in which groups differ."""
    keys: dict[str, None] = {}
    for others in members[1:]:
        keys |= dict.fromkeys(_differences(members[0][0], others[0]))
    tables: list[dict[str, Any]] = []
    for runs in members:
        settings = told_settings(runs[0].config)
        tables.append({key: settings.get(key) for key in keys})
    return tables
