"""The command `train-student`: a student trained from caches, or a plan of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from kdcache.runtime.wording import counted, human_bytes, human_seconds, named
from kdcache_cli.options import (
    JSON,
    PLAN,
    TRAINING_BATCH_SIZE,
    check_early,
    configured,
    dotted,
    shared,
)
from kdcache_cli.output import data_line, print_result
from kdcache_cli.sections import SectionedCommand

SECTIONS = {
    "Views and soft targets": [
        "--cache",
        "--data",
        "--seeds",
        "--samples",
        "--on-miss",
        "--tail",
        "--teacher",
        "--recipe",
    ],
    "Training": [
        "--student",
        "--loss",
        "--epochs",
        "--batch-size",
        "--lr",
        "--run-seed",
        "--vary",
        "--eval-data",
    ],
    "Reading the cache": ["--window", "--slab-dir", "--slab-limit", "--wait-for-units"],
    "Machine": ["--device", "--workers", "--precision"],
    "Settings and output": ["--config", "--set", "--plan", "--tensorboard", "--json"],
}


@click.command("train-student", cls=SectionedCommand, sections=SECTIONS)
@click.argument("run", required=False)
@click.option(
    "--cache",
    multiple=True,
    help=(
        "Cache that holds the teacher's logits; given again, more teachers, each with ,weight=X and"
        " ,classes=FILE.csv."
    ),
    metavar="DIR|ADDRESS",
)
@click.option(
    "--data",
    help="Source; with a cache, the one it was made from  [a webdataset cache's own images].",
    metavar="SPEC",
)
@click.option(
    "--student",
    help="Model, such as timm:resnet18, or the folder of a run, whose weights it begins with.",
    metavar="SPEC|RUN",
)
@click.option(
    "--loss",
    help=(
        "dist:tau=1,beta=2,gamma=2, kl:tau=4,weight=1, dkd:alpha=1,beta=8,tau=4,"
        " nkd:gamma=1.5,tau=1, mlkd:taus=[2,3,4,5,6] (these also take standardize=true),"
        " cwd:tau=4,weight=3 for maps (dist and kl: ignore_masked=true), mse, or ce; each with"
        " ce=1. dist+kl is a sum."
    ),
    metavar="SPEC",
)
@click.option(
    "--tail", help="Tail of a topk cache: uniform, ghost or none  [uniform].", metavar="NAME"
)
@click.option("--epochs", type=int, help="Epochs in all  [100].", metavar="N")
@click.option(
    "--eval-data",
    help="Source to evaluate on after each epoch, or, with --set eval_every=N, each Nth.",
    metavar="SPEC",
)
@click.option(
    "--seeds", help="Seeds to take turns over the epochs  [all of the cache].", metavar="A:B"
)
@click.option("--recipe", help="Recipe of the views, where there is no cache.", metavar="NAME|FILE")
@click.option(
    "--teacher",
    help="A teacher to run in the loop, instead of a cache or with --on-miss.",
    metavar="SPEC",
)
@click.option(
    "--on-miss",
    help="Views that the cache lacks: error, skip, or teacher (runs --teacher)  [error].",
    metavar="NAME",
)
@click.option(
    "--window",
    type=int,
    help=(
        "Units whose rows are shuffled together, read as they come; as many as a seed has are all "
        " [all]."
    ),
    metavar="N",
)
@click.option(
    "--slab-dir",
    help="Folder of slabs and copies from buckets  [KDCACHE_HOME/slabs].",
    metavar="DIR",
)
@click.option("--slab-limit", type=float, help="GB of them that are kept  [20].", metavar="GB")
@click.option(
    "--wait-for-units",
    type=float,
    help="Seconds to wait for each unit of a dump that still runs.",
    metavar="S",
)
@click.option(
    "--samples",
    help="Samples to train on: A:B, or a file of keys  [all that the caches hold].",
    metavar="A:B|FILE",
)
@click.option("--lr", "optimizer__lr", type=float, help="Learning rate  [0.1].", metavar="X")
@click.option(
    "--run-seed", type=int, help="Decides initial weights, order and dropout  [0].", metavar="N"
)
@click.option(
    "--tensorboard",
    is_flag=True,
    default=None,
    help="Also write metrics for TensorBoard, in RUN/tensorboard.",
)
@click.option(
    "--vary",
    "varied",
    multiple=True,
    help=(
        "A value that a setting is to take, such as loss=ce; given again, more values. A run for"
        " each combination, in RUN/KEY=VALUE+..., all side by side from one pass over the views."
    ),
    metavar="KEY=VALUE",
)
@TRAINING_BATCH_SIZE
@shared
@PLAN
@JSON
def train_student(
    *,
    cache: tuple[str, ...],
    file: str | None,
    settings: tuple[str, ...],
    varied: tuple[str, ...],
    plan: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a student into folder RUN. Run again, it goes on after the last checkpoint.

    With --vary several students train side by side.

    On several GPUs: torchrun --nproc-per-node N -m kdcache train-student ...
    """
    from kdcache.train.config import TrainConfig
    from kdcache.train.specs import check_specs
    from kdcache.train.variants import varied_configs

    flags["cache"] = cache or None
    if varied:
        configs = varied_configs(file=file, flags=dotted(flags), settings=settings, varied=varied)
    else:
        configs = [configured(TrainConfig, "train-student", file, flags, settings)]
    check_early(check_specs, configs)
    from kdcache.train import run as train
    from kdcache.train.plan import plan_training

    if plan:
        planned = plan_training(configs)
        print_result(planned, _training_plan_lines(planned), as_json=as_json)
        return
    results = train.train_students(configs)
    if varied:
        print_result({"runs": results}, _run_lines(results), as_json=as_json)
    else:
        print_result(results[0], _train_lines(results[0]), as_json=as_json)


def _training_plan_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    from kdcache.shapes import size_text

    waits = f"{100 * plan['data_share']:.0f} % of the time is spent waiting for views"
    views = f"views of {' and '.join(map(size_text, plan['sizes']))} pixels"
    students = f" in {plan['runs']} students side by side" if plan["runs"] > 1 else ""
    duration = human_seconds(plan["seconds"])
    per_epoch = human_seconds(plan["epoch_seconds"])
    lines = [
        data_line(plan),
        ("student", f"{plan['parameters']:,} parameters{students}, {views}"),
        ("teacher", plan["teacher"]),
        ("epochs", _epochs_text(plan)),
        ("speed", f"{plan['views_per_second']:.0f} views/s, {waits}"),
        ("time left", f"{duration}, {per_epoch} an epoch, evaluation not counted"),
        ("memory", _memory_text(plan["peak_memory"])),
    ]
    if plan["slab_bytes"]:
        slab = human_bytes(plan["slab_bytes"])
        lines.append(("slabs", f"{slab} under KDCACHE_HOME for each seed"))
    return lines


def _epochs_text(plan: dict[str, Any]) -> str:
    """Return how long the epochs are, how many are done, and which seeds they take."""
    steps = counted(plan["steps_per_epoch"], "step")
    text = f"{plan['epochs']} of {steps}"
    if plan["epochs_done"]:
        text += f", {plan['epochs_done']} of them done"
    text += f", {named(plan['seeds'], 'seed')}"
    if len(plan["seeds"]) > 1:
        text += " in turn"
    return text


def _memory_text(peak_memory: dict[str, int]) -> str:
    parts: list[str] = []
    for place, num_bytes in peak_memory.items():
        parts.append(f"{human_bytes(num_bytes)} on the {place}")
    return ", ".join(parts)


def _run_lines(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return a line for each of several runs."""
    from kdcache.tasks.score_names import leading, title_of

    lines: list[tuple[str, str]] = []
    for result in results:
        text = f"loss {result['train_loss']:.4f}"
        name = leading(result)
        if name is not None:
            text += f", {title_of(name)} {result[name]:.2f} %"
        if name is not None and f"best_{name}" in result:
            text += f", best {_best_text(result, name)}"
        lines.append((result["run"], text))
    return lines


def _train_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    steps = counted(result["steps"], "step")
    return [
        ("run", result["run"]),
        ("epochs", f"{result['epochs']} ({steps}) in {human_seconds(result['seconds'])}"),
        *_score_lines(result),
        ("weights", f"{result['run']}/student.safetensors"),
    ]


def _score_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    from kdcache.tasks.score_names import leading, percent_scores, title_of

    lines: list[tuple[str, str]] = []
    for name in percent_scores(result):
        lines.append((title_of(name), f"{result[name]:.2f} %"))
    return lines + _best_lines(result, leading(result))


def _best_lines(result: Mapping[str, Any], name: str | None) -> list[tuple[str, str]]:
    """Return a line on the epoch that scored best by the leading score `name`, if there is one."""
    if name is None or f"best_{name}" not in result:
        return []
    return [("best", f"{_best_text(result, name)}: {result['run']}/best.safetensors")]


def _best_text(result: Mapping[str, Any], name: str) -> str:
    """Return the best value of score `name`, and of which weights it is."""
    whose = "the student"
    if result["best_weights"] == "ema":
        whose = "the average"
    return f"{result[f'best_{name}']:.2f} %, {whose} after epoch {result['best_epoch']}"
