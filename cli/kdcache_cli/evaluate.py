"""The command `evaluate`: the scores of a saved model."""

from collections.abc import Mapping
from typing import Any

import click

from kdcache_cli.options import (
    BATCH_SIZE,
    JSON,
    check_early,
    compute,
    configured,
    maps,
    window_sides,
)
from kdcache_cli.output import print_result

_MOST_LISTED = 10


@click.command(short_help="Print the scores of a run's student, or of any weights.")
@click.argument("model", metavar="RUN|MODEL")
@click.option("--data", help="Source  [the run's evaluation data].", metavar="SPEC")
@click.option(
    "--class-map",
    help="For a classifier of other classes: lines CLASS OF THE DATA,CLASS OF THE MODEL.",
    metavar="FILE.csv",
)
@click.option(
    "--classes",
    help="Classes of that classifier, a number or a file of names  [what the weights say].",
    metavar="N|FILE",
)
@click.option(
    "--recipe", help="Recipe of the views  [the run's, else the task's].", metavar="NAME|FILE"
)
@maps
@BATCH_SIZE
@compute
@JSON
def evaluate(model: str, window: str | None, as_json: bool, **flags: Any) -> None:
    """Print the scores of a model: the best student of the run in folder RUN, or MODEL, a spec with
    weights.

    Of classification that is also the accuracy of each class, which classes are taken for which,
    and how far confidences are off.
    """
    from kdcache.tools.evaluate_config import EvaluateConfig, check_specs

    flags["model"] = model
    flags["window"] = window_sides(window)
    config = configured(EvaluateConfig, "evaluate", None, flags)
    check_early(check_specs, config)
    from kdcache.tools.evaluate import evaluate_saved

    result = evaluate_saved(config)
    print_result(result, _lines(result), as_json=as_json)


def _lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    from kdcache.tasks.score_names import TITLES

    scores = result["scores"]
    lines = [
        ("model", result["model"]),
        ("data", f"{result['samples']:,} samples of {result['data']}, recipe {result['recipe']}"),
    ]
    if result["class_map"] is not None:
        lines.append(("class map", result["class_map"]))
    for name, title in TITLES.items():
        if name in scores:
            lines.append((title, f"{scores[name]:.2f} %"))
    if "eval_loss" in scores:
        lines.append(("loss", f"{scores['eval_loss']:.4f}"))
    return lines + _class_lines(scores) + _confusion_lines(scores)


def _class_lines(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the scores of the classes, the lowest first; of many some."""
    from kdcache.tasks.score_names import OF_CLASSES

    classes: list[tuple[float, str]] = []
    for name, value in scores.items():
        if name.startswith(OF_CLASSES):
            classes.append((value, name.partition("/")[2]))
    classes.sort(key=lambda entry: entry[0])  # equal ones stay in the order of the classes
    lines: list[tuple[str, str]] = []
    title = "classes, lowest"
    for value, name in classes[:_MOST_LISTED]:
        lines.append((title, f"{value:6.2f} %  {name}"))
        title = ""
    if len(classes) > _MOST_LISTED:
        lines.append(("", f"and {len(classes) - _MOST_LISTED} more; --json has all"))
    return lines


def _confusion_lines(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    title = "taken for others"
    for name, value in scores.items():
        if name.startswith("taken/") and len(lines) < _MOST_LISTED:
            lines.append((title, f"{value:6.2f} %  {name.partition('/')[2]}"))
            title = ""
    return lines
