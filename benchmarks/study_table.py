"""The results of training_study.py, over all run seeds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from study_teachings import FULL, Teaching


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN of a single value."""
    error = float("nan")
    if len(values) > 1:
        error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)), error


def summary(
    teachings: Sequence[Teaching], out: Path, sizes: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return a line for each teaching, over all runs that a folder holds.

    Args:
        teachings: in their order.
        out: the folder.
        sizes: bytes of a view by codec.
    """
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("run-*.json"))]
    lines = []
    for one in teachings:
        top1 = [result["top1"][one.name] for result in runs]
        exact = [result["top1"][one.reference.name] for result in runs]
        errors = [result["gradient_error"][one.name] for result in runs if one.codec]
        line: dict[str, Any] = {
            "loss": one.loss,
            "codec": one.codec,
            "tail": one.tail,
            "runs": len(runs),
        }
        line |= {
            "top1": mean_error(top1),
            "difference": mean_error(np.subtract(top1, exact).tolist()),
            "gradient_error": float(np.mean(errors or 0)),
        }
        lines.append({**line, "bytes": sizes.get(one.codec, 0.0)})
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the summary as a Markdown table: a row for each codec and policy, a column for each
    loss and temperature."""
    losses = list(dict.fromkeys(line["loss"] for line in lines if line["codec"]))
    text = ["| codec | bytes | " + " | ".join(losses) + " |", "|---|---|" + "---|" * len(losses)]
    for codec, tail in dict.fromkeys(
        (line["codec"], line["tail"]) for line in lines if line["codec"]
    ):
        cells = {
            line["loss"]: line for line in lines if (line["codec"], line["tail"]) == (codec, tail)
        }
        size = next(iter(cells.values()))["bytes"]
        text.append(
            f"| {codec} {tail} | {size:.1f} | "
            + " | ".join(_cell(cells[loss]) for loss in losses)
            + " |"
        )
    return "\n".join(text)


def _cell(line: dict[str, Any]) -> str:
    (top1, error), (difference, spread) = line["top1"], line["difference"]
    if line["codec"] == FULL:
        return f"{top1:.2f} ± {error:.2f}"
    return f"{top1:.2f}, {difference:+.2f} ± {spread:.2f} ({line['gradient_error']:.2f})"
