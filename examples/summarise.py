"""Print a markdown table of the runs that fashion_mnist.sh or scenes.sh left in a folder: `python
summarise.py FOLDER`."""

import json
import sys
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

STUDENTS = {
    "labels": "labels only",
    "kl": "KL",
    "cwd": "CWD",
    "dist": "DIST",
    "lowrank": "DIST, lowrank",
}
SCORES = {"top1": "top-1", "miou": "mIoU"}


def main(out: Path) -> None:
    """Print a line for the teacher and one for each way to train the student, then what the cache
    takes."""
    (score,) = SCORES.keys() & result(out / "teacher").keys()
    print(
        f"| trained on | n | test {SCORES[score]}, % (mean ± standard error, lowest to highest) |"
        " seconds per epoch |"
    )
    print("|---|---|---|---|")
    print(row("the teacher, labels only", finished(out, "teacher"), score))
    for name, title in STUDENTS.items():
        if runs := finished(out, f"{name}-*"):
            print(row(title, runs, score))
    cache = json.loads((out / "cache.json").read_text())
    views = cache["manifest"]["rows"] * len(cache["complete_seeds"])
    print(
        f"\ncache: {views:,} views, {cache['bytes'] / 1e6:.2f} MB, {cache['bytes_per_view']:.1f}"
        " bytes per view"
    )


def finished(out: Path, pattern: str) -> list[Path]:
    """Return the folders of the runs of this name that have come to their end."""
    return sorted(path.parent for path in out.glob(f"{pattern}/result.json"))


def row(title: str, runs: list[Path], score: str) -> str:
    """Return the table's line for some runs that differ in nothing but their run seed."""
    values = [result(run)[score] for run in runs]
    text = f"{mean(values):.2f}"
    if len(values) > 1:
        text += (
            f" ± {stdev(values) / len(values) ** 0.5:.2f} ({min(values):.2f} to {max(values):.2f})"
        )
    seconds = median(epoch["seconds"] for run in runs for epoch in epochs(run))
    return f"| {title} | {len(runs)} | {text} | {seconds:.1f} |"


def result(run: Path) -> dict[str, Any]:
    """Return how a run ended."""
    ended: dict[str, Any] = json.loads((run / "result.json").read_text())
    return ended


def epochs(run: Path) -> list[dict[str, Any]]:
    """Return a run's lines of metrics that stand for whole epochs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
