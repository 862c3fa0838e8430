"""Print a markdown table of the runs and caches that fashion_mnist.sh left in a folder: `python summarise.py fashion-runs`."""

import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

STUDENTS = {
    "labels": ("labels only", None),
    "kl-full": ("KL, full logits", "full"),
    "dist-full": ("DIST, full logits", "full"),
    "dist-topk": ("DIST, top-k logits", "topk"),
}


def main(out: Path) -> None:
    """Print a line for the teacher and one for each way to train the student, then a line for each cache."""
    caches = {path.stem.removeprefix("cache-"): json.loads(path.read_text()) for path in sorted(out.glob("cache-*.json"))}
    print("| trained on | n | test top-1, % (mean, lowest to highest) | seconds per epoch | bytes per view |")
    print("|---|---|---|---|---|")
    print(row("the teacher, labels only", finished(out, "teacher"), None))
    for name, (title, cache) in STUDENTS.items():
        if runs := finished(out, f"{name}-*"):
            print(row(title, runs, caches[cache]["bytes_per_view"] if cache else None))
    print()
    for name, cache in caches.items():
        views = cache["manifest"]["rows"] * len(cache["complete_seeds"])
        print(f"- cache-{name}: {views:,} views, {cache['bytes'] / 1e6:.2f} MB in {cache['units']} units")


def finished(out: Path, pattern: str) -> list[Path]:
    """Return the folders of the runs of this name that have come to their end."""
    return sorted(path.parent for path in out.glob(f"{pattern}/result.json"))


def row(title: str, runs: list[Path], bytes_per_view: float | None) -> str:
    """Return the table's line for some runs that differ in nothing but their run seed."""
    top1 = [json.loads((run / "result.json").read_text())["top1"] for run in runs]
    score = f"{mean(top1):.2f}" + (f" ({min(top1):.2f} to {max(top1):.2f})" if len(top1) > 1 else "")
    seconds = median(epoch["seconds"] for run in runs for epoch in epochs(run))
    size = "-" if bytes_per_view is None else f"{bytes_per_view:.1f}"
    return f"| {title} | {len(runs)} | {score} | {seconds:.1f} | {size} |"


def epochs(run: Path) -> list[dict[str, Any]]:
    """Return a run's lines of metrics that stand for whole epochs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
