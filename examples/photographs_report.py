"""Print the tables of what photographs.sh left in a folder, and draw its picture: `python
photographs_report.py FOLDER`. What was not run is an empty cell."""

import json
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcache.losses import open_loss
from kdcache.report.caches import cache_facts

TITLES = {
    "ce": "labels only",
    "kl:tau=1,weight=1,ce=0.9": "KL, tau 1",
    "kl:tau=4,weight=1,ce=0.9": "KL, tau 4",
    "dkd:alpha=1,beta=0.5,tau=1": "DKD",
    "nkd:gamma=1.5,tau=1": "NKD",
    "dist:tau=1,beta=2,gamma=2": "DIST, tau 1",
    "dist:tau=4,beta=2,gamma=2": "DIST, tau 4",
    "kl:tau=4,weight=1,ce=0.9,standardize=true": "KL, tau 4, standardized",
    "dist:tau=1,beta=1,gamma=1": "DIST, tau 1, half the weight",
    "dist:tau=4,beta=0.125,gamma=0.125": "DIST, tau 4, a sixteenth of the weight",
    "kl:tau=4,weight=0.25,ce=0.9": "KL, tau 4, a quarter of the weight",
    "kl:tau=4,weight=4,ce=0.9": "KL, tau 4, four times the weight",
    "dist:tau=4,beta=0.0625,gamma=0.0625": "DIST, tau 4, a 32nd of the weight",
    "dist:tau=4,beta=0.25,gamma=0.25": "DIST, tau 4, an eighth of the weight",
}
LABELS = TITLES["ce"]
KL = "KL, tau 4"
DIST = "DIST, tau 1"
LIGHT_DIST = "DIST, tau 4, a sixteenth of the weight"
COLOURS = {
    KL: "#d55e00",
    "KL, tau 4, standardized": "#009e73",
    DIST: "#0072b2",
    LIGHT_DIST: "#cc79a7",
}
FROM_CODECS = ["KL, tau 1", KL, DIST, "DIST, tau 4", LIGHT_DIST]
WAYS = "ways-*"
LONG = "long"
NETWORKS = ["0", "1", "2"]
TRAININGS = {
    "weak": "tuned on 50 photographs a class",
    "strong": "tuned on 100 photographs a class",
    "lite": "as ImageNet trained it",
}
TAUGHT_ALL_WAYS = "strong2"
REPLACEMENTS = [
    *((f"{training}0", f"{training}2") for training in TRAININGS),
    *((f"weak{network}", f"strong{network}") for network in NETWORKS),
    *((f"lite{network}", f"strong{network}") for network in NETWORKS),
]
"""Pairs of teachers: a larger network of the same training, a better training of the same one."""
PICTURE = "photographs-teachers.png"

Scores = dict[int, float]
"""Top-1 accuracy of the student of each run seed, in percent."""
Ways = dict[str, Scores]
"""By the title of the loss."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A network after a training, and what it taught."""

    network: str
    training: str
    top1: float
    """Of its own, in percent."""
    statistics: dict[str, float]
    """`confidence` and `accuracy` on the views of its cache."""
    students: Ways

    @property
    def title(self) -> str:
        """What a line of a table calls it."""
        return f"Lite{self.network}, {TRAININGS[self.training]}"


def main(out: Path) -> None:
    """Print all tables, and write the picture beside the runs."""
    ways = ways_of(out, WAYS)
    long_ways = ways_of(out, LONG)
    teachers = teachers_of(out, ways)
    print_losses(ways)
    print_losses(long_ways)
    print_teachers(teachers, ways)
    print_stronger(teachers)
    print_codecs(out, ways)
    print_seeds(out, "seeds", ways, [KL, DIST])
    print_seeds(out, f"{LONG}-seeds", long_ways, [LABELS, LIGHT_DIST])
    draw_teachers(teachers, ways).savefig(out / PICTURE, dpi=150)


def ways_of(out: Path, folder: str) -> Ways:
    """Return the scores of the runs that have come to their end, in folders of this name."""
    titles = {open_loss(spec): title for spec, title in TITLES.items()}
    ways: Ways = defaultdict(dict)
    for file in sorted(out.glob(f"{folder}/*/result.json")):
        config = tomllib.loads((file.parent / "config.toml").read_text())["train-student"]
        title = titles[open_loss(config["loss"])]
        ways[title][config["run_seed"]] = json.loads(file.read_text())["top1"]
    return {title: ways[title] for title in TITLES.values() if title in ways}


def differences(scores: Scores, others: Scores) -> list[float]:
    """Return by how much scores are higher than others of the same run seed."""
    return [scores[seed] - others[seed] for seed in sorted(scores.keys() & others.keys())]


def error_of(values: list[float]) -> float:
    """Return the standard error of the mean; of one value 0."""
    if len(values) < 2:
        return 0.0
    return stdev(values) / len(values) ** 0.5


def spread(values: list[float], sign: str = "") -> str:
    """Return mean and standard error as text."""
    if not values:
        return ""
    return f"{mean(values):{sign}.2f} ± {error_of(values):.2f}"


def gain(students: Ways, title: str, ways: Ways) -> list[float]:
    """Return by how much students of a loss are better than those of labels."""
    return differences(students.get(title, {}), ways.get(LABELS, {}))


def change(students: Ways, title: str, ways: Ways) -> list[float]:
    """Return by how much students are better than others of the same loss."""
    return differences(students.get(title, {}), ways.get(title, {}))


def cells(values: list[list[float]]) -> str:
    """Return differences as the cells of a line."""
    return " | ".join(spread(each, "+") for each in values)


def print_losses(ways: Ways) -> None:
    """Print a line for each loss, with paired differences."""
    print("\n| trained on | n | top-1, % | to labels | to KL, tau 4 |\n|---|---|---|---|---|")
    for title, scores in ways.items():
        to_kl = differences(scores, ways.get(KL, {}))
        changes = cells([gain(ways, title, ways), to_kl])
        print(f"| {title} | {len(scores)} | {spread(list(scores.values()))} | {changes} |")


def teachers_of(out: Path, ways: Ways) -> list[Teacher]:
    """Return the teachers that have a score, by training, each from the smallest network."""
    teachers = []
    for training in TRAININGS:
        for network in NETWORKS:
            name = f"{training}{network}"
            file = out / f"{name}.json"
            if not file.exists():
                continue
            teacher = Teacher(
                network=network,
                training=training,
                top1=json.loads(file.read_text())["scores"]["top1"],
                statistics=cache_facts(str(out / f"cache-{name}")).statistics,
                students=ways if name == TAUGHT_ALL_WAYS else ways_of(out, f"by-{name}"),
            )
            teachers.append(teacher)
    return teachers


def print_teachers(teachers: list[Teacher], ways: Ways) -> None:
    """Print what each loss gains from each teacher, as differences to labels."""
    titles = ["teacher", "its top-1, %", "sure, %", "right, %", "n", *COLOURS]
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for teacher in teachers:
        gains = [gain(teacher.students, title, ways) for title in COLOURS]
        numbers = "/".join(sorted({str(len(values)) for values in gains if values}))
        sure = rounded(100 * teacher.statistics.get("confidence", nan))
        right = rounded(teacher.statistics.get("accuracy", nan))
        facts = f"{teacher.title} | {teacher.top1:.2f} | {sure} | {right} | {numbers}"
        print(f"| {facts} | {cells(gains)} |")


def rounded(value: float) -> str:
    """Return a number without decimals as text; of one that is not known nothing."""
    return "" if isnan(value) else f"{value:.0f}"


def print_stronger(teachers: list[Teacher]) -> None:
    """Print what students gain when one teacher takes the place of another."""
    titles = ["teacher", "in its place", "more top-1 of the teacher", *COLOURS]
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    by_name = {f"{each.training}{each.network}": each for each in teachers}
    for name, other_name in REPLACEMENTS:
        if not {name, other_name} <= by_name.keys():
            continue
        teacher = by_name[name]
        other = by_name[other_name]
        changes = [change(other.students, title, teacher.students) for title in COLOURS]
        more = f"{other.top1 - teacher.top1:+.2f}"
        print(f"| {teacher.title} | {other.title} | {more} | {cells(changes)} |")


def print_codecs(out: Path, ways: Ways) -> None:
    """Print bytes of each codec, and differences to the whole logits."""
    print(f"\n| codec | bytes per view | {' | '.join(FROM_CODECS)} |\n{'|---' * 7}|")
    for file in sorted(out.glob("cache-*.json")):
        codec = file.stem.removeprefix("cache-")
        students = ways_of(out, f"from-{codec}")
        if not students:
            continue
        changes = [change(students, title, ways) for title in FROM_CODECS]
        size = json.loads(file.read_text())["bytes_per_view"]
        print(f"| {codec} | {size:.1f} | {cells(changes)} |")


def print_seeds(out: Path, name: str, ways: Ways, titles: list[str]) -> None:
    """Print what students gain from other numbers of seeds than two, in folders `name-NUMBER`."""
    print(f"\n| seeds | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}")
    for folder in sorted(out.glob(f"{name}-*")):
        students = ways_of(out, folder.name)
        changes = [change(students, title, ways) for title in titles]
        print(f"| {folder.name.removeprefix(f'{name}-')} | {cells(changes)} |")


def draw_teachers(teachers: list[Teacher], ways: Ways) -> Figure:
    """Return a panel for each training: gains over labels, from the smallest network on."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    panels = figure.subplots(1, len(TRAININGS), sharey=True)
    for panel, (training, text) in zip(panels, TRAININGS.items(), strict=True):
        group = [each for each in teachers if each.training == training]
        for number, title in enumerate(COLOURS):
            draw_loss(panel, group, title, ways, shift=0.06 * (number - 1.5))
        panel.axhline(0, color="#000000", linewidth=0.8)
        panel.set_title(text, fontsize="medium")
        names = [f"Lite{each.network}\n{each.top1:.1f} %" for each in group]
        panel.set_xticks([NETWORKS.index(each.network) for each in group], names)
        panel.set_xlim(-0.4, len(NETWORKS) - 0.6)
        panel.set_xlabel("teacher, and its top-1 accuracy")
    panels[0].set_ylabel("gain of the student over labels, points")
    lines, titles = panels[0].get_legend_handles_labels()
    figure.legend(lines, titles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_loss(
    panel: Axes, teachers: list[Teacher], title: str, ways: Ways, *, shift: float
) -> None:
    """Draw what a loss gains from each teacher, a little aside, so that all can be seen."""
    gains = {}
    for teacher in teachers:
        values = gain(teacher.students, title, ways)
        if values:
            gains[NETWORKS.index(teacher.network) + shift] = values
    panel.errorbar(
        list(gains),
        [mean(values) for values in gains.values()],
        [error_of(values) for values in gains.values()],
        label=title,
        color=COLOURS[title],
        marker="o",
        markersize=4,
        capsize=3,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
