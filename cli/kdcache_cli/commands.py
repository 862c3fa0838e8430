"""The commands."""

from typing import Any, TypeVar

import click

from kdcache import __version__
from kdcache.errors import UsageError
from kdcache.runtime.wording import counted, human_bytes, human_seconds, named, ranges
from kdcache_cli.codec_error import codec_error
from kdcache_cli.hub import pull, push
from kdcache_cli.info import info
from kdcache_cli.options import JSON, PLAN, dotted, shared
from kdcache_cli.output import Group, codec_error_text, percent, print_result
from kdcache_cli.recode import recode
from kdcache_cli.show import show
from kdcache_cli.transfer import convert, export, merge
from kdcache_cli.verify import gc, verify

T = TypeVar("T")

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="kdcache")
def main() -> None:
    """Run a teacher once, cache its logits per view, and train students from the cache."""


@main.command("dump-teacher")
@click.argument("cache", required=False)
@click.option(
    "--data",
    help=(
        "Source: digits, imagefolder:PATH, segfolder:PATH, tars:PATTERN,"
        " torchvision:NAME,root=DIR,..., hf:NAME or module:function."
    ),
    metavar="SPEC",
)
@click.option(
    "--teacher", help="Model with weights, such as timm:resnet50,pretrained=true.", metavar="SPEC"
)
@click.option(
    "--teacher-classes", type=int, help="Classes of the teacher  [those of the data].", metavar="N"
)
@click.option(
    "--recipe", help="Recipe of the views: a shipped name or a TOML file.", metavar="NAME|FILE"
)
@click.option("--seeds", help="Augmentation seeds, B left out  [0:1].", metavar="A:B")
@click.option(
    "--codec",
    help=(
        "lowrank:step=X|error=X|bytes=X, topk:k=16, full:dtype=float16|float32|bfloat16|uint8|uint4"
        "  [that of the cache; of a new one full up to 64 classes, else lowrank:step=2 or finer]."
    ),
    metavar="SPEC",
)
@click.option(
    "--store",
    help="zarr shards, or webdataset tars for a group of seeds, with the images  [zarr].",
    metavar="zarr|webdataset",
)
@click.option(
    "--images/--no-images", default=None, help="Whether such tars hold the images, too  [yes]."
)
@click.option(
    "--unit-rows", type=int, help="Rows per unit  [a power of two near 4 MB].", metavar="N"
)
@click.option(
    "--content-digests",
    is_flag=True,
    default=None,
    help="Keep a checksum of each file; reads all data first.",
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    default=None,
    help="Record unreadable samples as absent and go on.",
)
@click.option(
    "--world-size",
    type=int,
    help=(
        "Processes that are to share the dump, for --plan  [those that the environment tells,"
        " else 1]."
    ),
    metavar="N",
)
@click.option(
    "--engine",
    help="process (also under torchrun, srun, Kubernetes) or ray  [process].",
    metavar="NAME",
)
@shared
@PLAN
@JSON
def dump_teacher(
    file: str | None,
    settings: tuple[str, ...],
    plan: bool,
    world_size: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run the teacher over every view that CACHE lacks. Run again, it goes on where it stopped.

    On several GPUs: torchrun --nproc-per-node N -m kdcache dump-teacher ..., or --engine ray.
    """
    if world_size is not None and not plan:
        raise UsageError(
            "--world-size tells --plan how many processes there will be; launchers tell a dump:"
            " leave it out"
        )
    from kdcache.dump.plan import plan_dump
    from kdcache.dump.run import DumpConfig, run_dump
    from kdcache.runtime.distributed import own_place

    config = _configure(DumpConfig, "dump-teacher", file, flags, settings)
    if plan:
        planned = plan_dump(config, world_size=world_size)
        print_result(planned, _plan_lines(planned), as_json=as_json)
        return
    result = run_dump(config)
    if own_place().rank:
        return
    print_result(result, _dump_lines(result), as_json=as_json)
    if not as_json:
        click.echo(result["next"])


@main.command("train-student")
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
@click.option("--student", help="Model, such as timm:resnet18.", metavar="SPEC")
@click.option(
    "--loss",
    help=(
        "dist:tau=1,beta=2,gamma=2, kl:tau=4,weight=1, dkd:alpha=1,beta=8,tau=4,"
        " nkd:gamma=1.5,tau=1 (these also take standardize=true), cwd:tau=4,weight=3 for maps (dist"
        " and kl: ignore_masked=true), or ce; each with ce=1."
    ),
    metavar="SPEC",
)
@click.option(
    "--tail", help="Tail of a topk cache: uniform, ghost or none  [uniform].", metavar="NAME"
)
@click.option("--epochs", type=int, help="Epochs in all  [100].", metavar="N")
@click.option("--eval-data", help="Source to evaluate on after each epoch.", metavar="SPEC")
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
@shared
@PLAN
@JSON
def train_student(
    cache: tuple[str, ...],
    file: str | None,
    settings: tuple[str, ...],
    plan: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a student into folder RUN. Run again, it goes on after the last checkpoint.

    On several GPUs: torchrun --nproc-per-node N -m kdcache train-student ...
    """
    from kdcache.train import run as train
    from kdcache.train.plan import plan_training

    config = _configure(
        train.TrainConfig, "train-student", file, {"cache": cache or None, **flags}, settings
    )
    if plan:
        planned = plan_training(config)
        print_result(planned, _training_plan_lines(planned), as_json=as_json)
        return
    result = train.train_student(config)
    print_result(result, _train_lines(result), as_json=as_json)


for command in (info, verify, gc, merge, export, convert, push, pull, codec_error, recode, show):
    main.add_command(command)


@main.command(short_help="See it all work on handwritten digits.")
@click.option(
    "--out",
    default="kdcache-quickstart",
    show_default=True,
    help="Folder for everything.",
    metavar="DIR",
)
@JSON
def quickstart(out: str, as_json: bool) -> None:
    """Train a teacher on handwritten digits, dump it, and train four students from its cache."""
    from kdcache_cli.quickstart import run_quickstart

    run_quickstart(out, as_json=as_json)


def _configure(
    cls: type[T], command: str, file: str | None, flags: dict[str, Any], settings: tuple[str, ...]
) -> T:
    from kdcache.config.files import load_config

    return load_config(cls, command, file=file, flags=dotted(flags), settings=settings)


def _data_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the line on the samples, which shows at a glance whether the data are those that were
    meant."""
    noun = "sample" if plan["samples"] == 1 else "samples"
    found = f"{plan['samples']:,} {noun} of {counted(plan['classes'], 'class')}"
    if (trained := plan.get("samples_trained", plan["samples"])) < plan["samples"]:
        found += f", {trained:,} of them trained on"
    if evaluated := plan.get("eval_samples"):
        found += f"; evaluated on {evaluated:,}"
    return [("data", found)]


def _cost_text(plan: dict[str, Any]) -> str:
    """Return the time of devices, of which a price makes money."""
    each = plan["device_hours_per_million_views"]
    return f"{plan['device_hours']:.3g} device-hours; {each:.3g} per million views"


def _plan_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    units = f"{counted(plan['units'], 'unit')}, {plan['units_done']} of them done"
    lines = [
        *_data_lines(plan),
        ("recipe", f"{plan['recipe']}, {_input_text(plan)}"),
        ("views", f"{plan['views']} in {units}"),
        *_size_lines(plan),
        *_codec_lines(plan),
    ]
    if plan["free_bytes"] is not None:
        lines.append(("free disk", human_bytes(plan["free_bytes"])))
    lines += _time_lines(plan)
    if plan["teacher_accuracy"] is not None:
        lines.append(("teacher", f"{plan['teacher_accuracy']:.2f} % of the first views right"))
    return lines


def _size_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    whole = f"{human_bytes(plan['bytes'])} ({plan['bytes_per_view']:.1f} per view)"
    of_seed = human_bytes(plan["bytes_per_seed"])
    return [
        ("bytes", f"{whole} in {plan['files']} files"),
        ("of a seed", f"{of_seed} in {plan['files_per_seed']:.0f} files"),
    ]


def _codec_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on the codec: with its gradients where they were measured for this plan."""
    cases = plan["gradients"]
    if not cases:
        return [("codec", plan["codec"] + codec_error_text(plan["gradient_error"]))]
    return [
        ("codec", plan["codec"]),
        ("gradients", "error and cosine against those of exact logits"),
        *((f"at tau {case['tau']:g}", _gradient_text(case)) for case in cases),
    ]


def _time_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    pace = f"{plan['views_per_second']:.0f} views/s"
    unit_time = f"{human_seconds(plan['seconds_per_unit'])} a unit"
    left = human_seconds(plan["seconds"])
    return [
        ("speed", f"{pace} and {unit_time}, each process"),
        ("time left", f"{left} with {counted(plan['world_size'], 'process')}"),
        ("cost", _cost_text(plan)),
    ]


def _training_plan_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    from kdcache.shapes import size_text

    left = plan["seconds"]
    done = f", {plan['epochs_done']} of them done" if plan["epochs_done"] else ""
    seeds = named(plan["seeds"], "seed") + (" in turn" if len(plan["seeds"]) > 1 else "")
    waits = f"{100 * plan['data_share']:.0f} % of the time is spent waiting for views"
    memory = ", ".join(
        f"{human_bytes(count)} on the {where}" for where, count in plan["peak_memory"].items()
    )
    views = f"views of {size_text(plan['size'])} pixels"
    steps = counted(plan["steps_per_epoch"], "step")
    each = human_seconds(plan["epoch_seconds"])
    lines = [
        *_data_lines(plan),
        ("student", f"{plan['parameters']:,} parameters, {views}"),
        ("teacher", plan["teacher"]),
        ("epochs", f"{plan['epochs']} of {steps}{done}, {seeds}"),
        ("speed", f"{plan['views_per_second']:.0f} views/s, {waits}"),
        ("time left", f"{human_seconds(left)}, {each} an epoch, evaluation not counted"),
        ("memory", memory),
    ]
    if plan["slab_bytes"]:
        slab = human_bytes(plan["slab_bytes"])
        lines.append(("slabs", f"{slab} under KDCACHE_HOME for each seed"))
    return lines


def _input_text(plan: dict[str, Any]) -> str:
    """Return what the teacher sees and, of segmentation, the maps that it gives."""
    from kdcache.shapes import size_text

    views = f"views of {size_text(plan['size'])} pixels"
    if not plan["sites"]:
        return views
    heads, *size = plan["sites"]
    maps = f"maps of {size_text(size)} at stride {plan['stride']}"
    return f"{views}, {maps}, {heads} head{'s' * (heads > 1)}"


def _gradient_text(case: dict[str, Any]) -> str:
    names = {"both": "DIST", "inter": "inter", "intra": "intra", "kl": "KL"}
    return ", ".join(
        f"{name} {percent(case[term]['error'])} {case[term]['cosine']:.3f}"
        for term, name in names.items()
    )


def _dump_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    units = counted(result["units_written"], "unit")
    lines = [
        ("cache", result["cache"]),
        ("seeds", f"{ranges(result['seeds'])}, {result['rows']} views each"),
        ("written", f"{units} in {human_seconds(result['seconds'])}"),
        ("bytes", f"{human_bytes(result['bytes'])}, {result['bytes_per_view']:.1f} per view"),
    ]
    if result["teacher_accuracy"] is not None:
        lines.append(("teacher", f"{result['teacher_accuracy']:.2f} % of these views right"))
    if result["absent"]:
        views = counted(result["absent"], "view")
        lines.append(("absent", f"{views} whose sample cannot be read"))
    return lines


def _train_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    steps = counted(result["steps"], "step")
    return [
        ("run", result["run"]),
        ("epochs", f"{result['epochs']} ({steps}) in {human_seconds(result['seconds'])}"),
        *_score_lines(result),
        ("weights", f"{result['run']}/student.safetensors"),
    ]


def _score_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    name, label = ("miou", "mIoU") if "best_miou" in result else ("top1", "top-1")
    pixels = ""
    if "pixel_accuracy" in result:
        pixels = f", {result['pixel_accuracy']:.2f} % of the pixels right"
    lines: list[tuple[str, str]] = []
    if name in result:
        lines.append((label, f"{result[name]:.2f} %{pixels}"))
    if f"ema_{name}" in result:
        lines.append(("average", f"{result[f'ema_{name}']:.2f} %"))
    if f"best_{name}" in result:
        which = "the average" if result["best_weights"] == "ema" else "the student"
        score = f"{result[f'best_{name}']:.2f} %, {which} after epoch {result['best_epoch']}"
        lines.append(("best", f"{score}: {result['run']}/best.safetensors"))
    return lines
