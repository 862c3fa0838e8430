"""Print a markdown table of the runs that fashion_mnist.sh left in a folder: `python summarise.py fashion-runs`."""

import json
import sys
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

STUDENTS = {"labels": "labels only", "kl": "KL, tau 4", "dist": "DIST, tau 4"}


def main(out: Path) -> None:
    """Print a line for the teacher and one for each way to train the student, then what the cache takes."""
    print("| trained on | n | test top-1, % (mean ± standard error, lowest to highest) | seconds per epoch |")
    print("|---|---|---|---|")
    print(row("the teacher, labels only", finished(out, "teacher")))
    for name, title in STUDENTS.items():
        if runs := finished(out, f"{name}-*"):
            print(row(title, runs))
    cache = json.loads((out / "cache.json").read_text())
    views = cache["manifest"]["rows"] * len(cache["complete_seeds"])
    print(f"\ncache: {views:,} views, {cache['bytes'] / 1e6:.2f} MB, {cache['bytes_per_view']:.1f} bytes per view")


def finished(out: Path, pattern: str) -> list[Path]:
    """Return the folders of the runs of this name that have come to their end."""
    return sorted(path.parent for path in out.glob(f"{pattern}/result.json"))


def row(title: str, runs: list[Path]) -> str:
    """Return the table's line for some runs that differ in nothing but their run seed."""
    top1 = [json.loads((run / "result.json").read_text())["top1"] for run in runs]
    score = f"{mean(top1):.2f}"
    if len(top1) > 1:
        score += f" ± {stdev(top1) / len(top1) ** 0.5:.2f} ({min(top1):.2f} to {max(top1):.2f})"
    seconds = median(epoch["seconds"] for run in runs for epoch in epochs(run))
    return f"| {title} | {len(runs)} | {score} | {seconds:.1f} |"


def epochs(run: Path) -> list[dict[str, Any]]:
    """Return a run's lines of metrics that stand for whole epochs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
