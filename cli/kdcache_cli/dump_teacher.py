"""The command `dump-teacher`: a teacher's logits into a cache, or a plan of it."""

from typing import Any

import click

from kdcache.errors import UsageError, shortened
from kdcache.runtime.wording import counted, human_bytes, human_rate, human_seconds, ranges
from kdcache_cli.options import BATCH_SIZE, JSON, PLAN, check_early, configured, shared
from kdcache_cli.output import codec_error_text, data_line, percent, print_result, shell_command
from kdcache_cli.sections import SectionedCommand

_TERMS = {"both": "DIST", "inter": "inter", "intra": "intra", "kl": "KL"}
"""The terms of a gradient, and what they are called."""
_REASON_LENGTH = 120


SECTIONS = {
    "Views": ["--data", "--recipe", "--seeds", "--skip-unreadable", "--content-digests"],
    "Teacher": ["--teacher", "--teacher-classes", "--batch-size"],
    "Cache": ["--codec", "--store", "--images", "--unit-rows"],
    "Machine": ["--device", "--workers", "--precision", "--engine", "--world-size"],
    "Settings and output": ["--config", "--set", "--plan", "--json"],
}


@click.command("dump-teacher", cls=SectionedCommand, sections=SECTIONS)
@click.argument("cache", required=False)
@click.option(
    "--data",
    help=(
        "Source: a path, digits, imagefolder:PATH, csv:FILE, segfolder:PATH, tars:PATTERN,"
        " torchvision:NAME,root=DIR,..., hf:NAME, coco:IMAGES,annotations=FILE, voc:PATH, yolo:PATH"
        " or module:function."
    ),
    metavar="SPEC",
)
@click.option(
    "--teacher",
    help="Model with weights, such as timm:resnet50,pretrained=true, or the folder of a run.",
    metavar="SPEC|RUN",
)
@click.option(
    "--teacher-classes", type=int, help="Classes of the teacher  [those of the data].", metavar="N"
)
@click.option(
    "--recipe",
    help="Recipe of the views: imagenet-b1, coco or another that ships, a TOML file or"
    " module:function.",
    metavar="NAME|FILE",
)
@click.option("--seeds", help="Augmentation seeds, B left out  [0:1].", metavar="A:B")
@click.option(
    "--codec",
    help=(
        "lowrank:step=X|error=X|bytes=X, cosine:steps=X, topk:k=16,"
        " full:dtype=float16|float32|bfloat16|uint8|uint4  [that of the cache; of a new one cosine"
        " for maps and one-stage detectors, else full up to 64 classes, and beyond"
        " lowrank:error=0.3]."
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
@BATCH_SIZE
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
    from kdcache.dump.config import DumpConfig
    from kdcache.dump.specs import check_specs
    from kdcache.runtime.launch import own_place

    config = configured(DumpConfig, "dump-teacher", file, flags, settings)
    check_early(check_specs, config)
    from kdcache.dump.plan import plan_dump
    from kdcache.dump.run import run_dump

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


def _plan_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    units = f"{counted(plan['units'], 'unit')}, {plan['units_done']} of them done"
    lines = [
        data_line(plan),
        ("recipe", f"{plan['recipe']}, {_input_text(plan)}"),
        ("views", f"{plan['views']} in {units}"),
        *_size_lines(plan),
        *_codec_lines(plan),
    ]
    if plan["free_bytes"] is not None:
        lines.append(("free disk", human_bytes(plan["free_bytes"])))
    lines += _time_lines(plan)
    if plan["teacher_accuracy"] is not None:
        lines.append(("teacher", f"{plan['teacher_accuracy']:.2f} % of some views right"))
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
    lines = [
        ("codec", plan["codec"]),
        ("gradients", "error and cosine against those of exact logits"),
    ]
    for case in cases:
        tau = f"at tau {case['tau']:g}"
        lines.append((tau, _gradient_text(case)))
    return lines


def _gradient_text(case: dict[str, Any]) -> str:
    parts: list[str] = []
    for term, name in _TERMS.items():
        error = percent(case[term]["error"])
        cosine = case[term]["cosine"]
        parts.append(f"{name} {error} {cosine:.3f}")
    return ", ".join(parts)


def _time_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    pace = f"{human_rate(plan['views_per_second'])} views/s"
    unit_time = f"{human_seconds(plan['seconds_per_unit'])} a unit"
    duration = human_seconds(plan["seconds"])
    processes = counted(plan["world_size"], "process")
    lines = [
        ("speed", f"{pace} and {unit_time}, each process"),
        ("time left", f"{duration} with {processes}"),
        ("cost", _cost_text(plan)),
    ]
    if plan["sample_seconds"]:
        sample_time = human_seconds(plan["sample_seconds"])
        lines.insert(1, ("before that", f"{sample_time} for the codec's sample, in one process"))
    return lines


def _cost_text(plan: dict[str, Any]) -> str:
    """Return the time of devices, of which a price makes money."""
    hours = plan["device_hours"]
    per_million = plan["device_hours_per_million_views"]
    return f"{hours:.3g} device-hours; {per_million:.3g} per million views"


def _input_text(plan: dict[str, Any]) -> str:
    """Return what the teacher sees, and at how many places it gives logits."""
    from kdcache.shapes import size_text

    views = f"views of {size_text(plan['size'])} pixels"
    if not plan["sites"]:
        return views
    if plan["stride"] is None:
        return f"{views}, {counted(plan['sites'][0], 'position')} each"
    heads, *size = plan["sites"]
    maps = f"maps of {size_text(size)} at stride {plan['stride']}"
    return f"{views}, {maps}, {counted(heads, 'head')}"


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
    return lines + _absent_lines(result)


def _absent_lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the first reasons why views are absent, and how to list all."""
    if not result["absent"]:
        return []
    views = counted(result["absent"], "view")
    reasons = result["absent_reasons"]
    lines = [("absent", f"{views} whose sample cannot be read, such as")]
    for reason in reasons:
        lines.append(("", shortened(reason.partition("; ")[0], _REASON_LENGTH)))
    command = shell_command("kdcache", "info", result["cache"], "--absent")
    lines.append(("", f"{command} lists all"))
    return lines
