"""Print the tables of what photographs.sh left in a folder, and draw its picture: `python
photographs_report.py FOLDER`."""

import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from kdcache.losses import open_loss

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
}
LABELS = TITLES["ce"]
KL = "KL, tau 4"
COLOURS = {
    KL: "#d55e00",
    "KL, tau 4, standardized": "#009e73",
    "DIST, tau 1": "#0072b2",
    "DIST, tau 4, a sixteenth of the weight": "#cc79a7",
}
SHORT = [KL, "DIST, tau 1"]
FROM_CODECS = ["KL, tau 1", KL, "DIST, tau 1", "DIST, tau 4"]
WAYS = "ways-*"
TUNED = "tuned"
TEACHERS = {
    "weak": "Lite0, tuned on 50 photographs a class",
    TUNED: "Lite2, tuned on 100 photographs a class",
    "lite0": "Lite0 as ImageNet trained it",
    "lite2": "Lite2 as ImageNet trained it",
}
GROUPS = {
    ("weak", TUNED): {"label": "tuned on the photographs", "linestyle": "-", "marker": "o"},
    ("lite0", "lite2"): {"label": "as ImageNet trained it", "linestyle": "--", "marker": "s"},
}
PICTURE = "photographs-teachers.png"

Scores = dict[int, float]
"""Top-1 accuracy of the student of each run seed, in percent."""
Ways = dict[str, Scores]
"""By the title of the loss."""


def main(out: Path) -> None:
    """Print all tables, and write the picture beside the runs."""
    ways = ways_of(out, WAYS)
    print_losses(ways)
    print_teachers(out, ways)
    print_codecs(out, ways)
    print_seeds(out, ways)
    draw_teachers(out, ways)


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


def by_teacher(out: Path, ways: Ways) -> dict[str, tuple[float, Ways]]:
    """Return the score of each teacher and of its students."""
    results = {}
    for name in TEACHERS:
        file = out / f"{name}.json"
        if not file.exists():
            continue
        students = ways if name == TUNED else ways_of(out, f"by-{name}")
        results[name] = (json.loads(file.read_text())["scores"]["top1"], students)
    return results


def print_teachers(out: Path, ways: Ways) -> None:
    """Print what KL and DIST gain from each teacher, as differences to labels."""
    print(
        f"\n| teacher | its top-1, % | n | {' | '.join(COLOURS)} |\n|---|---|---|---|---|---|---|"
    )
    for name, (top1, students) in by_teacher(out, ways).items():
        gains = [gain(students, title, ways) for title in COLOURS]
        print(f"| {TEACHERS[name]} | {top1:.2f} | {len(gains[0])} | {cells(gains)} |")


def print_codecs(out: Path, ways: Ways) -> None:
    """Print bytes of each codec, and differences to the whole logits."""
    print(f"\n| codec | bytes per view | {' | '.join(FROM_CODECS)} |\n|---|---|---|---|---|---|")
    for file in sorted(out.glob("cache-*.json")):
        codec = file.stem.removeprefix("cache-")
        students = ways_of(out, f"from-{codec}")
        if not students:
            continue
        changes = [change(students, title, ways) for title in FROM_CODECS]
        size = json.loads(file.read_text())["bytes_per_view"]
        print(f"| {codec} | {size:.1f} | {cells(changes)} |")


def print_seeds(out: Path, ways: Ways) -> None:
    """Print what students gain from other numbers of seeds than two."""
    print(f"\n| seeds | {' | '.join(SHORT)} |\n|---|---|---|")
    for folder in sorted(out.glob("seeds-*")):
        students = ways_of(out, folder.name)
        changes = [change(students, title, ways) for title in SHORT]
        print(f"| {folder.name.removeprefix('seeds-')} | {cells(changes)} |")


def draw_teachers(out: Path, ways: Ways) -> None:
    """Draw what KL and DIST gain over labels against the accuracy of the teacher."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    results = by_teacher(out, ways)
    for title, colour in COLOURS.items():
        for names, style in GROUPS.items():
            known = [name for name in names if name in results]
            gains = [gain(results[name][1], title, ways) for name in known]
            if not gains or not all(gains):
                continue
            panel.errorbar(
                [results[name][0] for name in known],
                [mean(values) for values in gains],
                [error_of(values) for values in gains],
                label=f"{title}, teacher {style['label']}",
                color=colour,
                linestyle=style["linestyle"],
                marker=style["marker"],
                capsize=3,
            )
    panel.axhline(0, color="#000000", linewidth=0.8)
    panel.set_xlabel("top-1 accuracy of the teacher, %")
    panel.set_ylabel("gain of the student over labels, points")
    panel.legend(frameon=False, fontsize="small")
    figure.savefig(out / PICTURE, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
