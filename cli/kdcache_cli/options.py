"""The options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
PLAN = click.option(
    "--plan", is_flag=True, help="Print what it would take, from a short trial; write nothing."
)
TASK = click.option(
    "--task",
    help="classification, segmentation or detection  [what weights or data say].",
    metavar="NAME",
)


def number_or_text(text: str) -> int | str:
    """Return the whole number that a text spells, or the text, of which the configuration says that
    it may only be `auto`."""
    try:
        return int(text)
    except ValueError:
        return text


def _batch_size(usual: str, of: str = "") -> Callable[[F], F]:
    return click.option(
        "--batch-size",
        type=number_or_text,
        help=f"Views per batch{of}, or auto, which tries how many suit the device  [{usual}].",
        metavar="N|auto",
    )


_USUAL_BATCH_SIZE = "256, on a CPU fewer large ones"
BATCH_SIZE = _batch_size(_USUAL_BATCH_SIZE)
TRAINING_BATCH_SIZE = _batch_size("256")
_PLACE = (
    click.option(
        "--workers",
        "compute__workers",
        type=int,
        help="Loader processes  [one per core, at most 8].",
        metavar="N",
    ),
    click.option(
        "--device",
        "compute__device",
        help="auto, cpu, cuda, cuda:N or mps  [auto].",
        metavar="NAME",
    ),
)
_PRECISION = "float32, bfloat16 or float16  [{}]."
_COMPUTE = (
    *_PLACE,
    click.option(
        "--precision", "compute__precision", help=_PRECISION.format("float32"), metavar="TYPE"
    ),
)
_MAPS = (
    click.option(
        "--window",
        help="Windows that slide over images of segmentation  [the run's, else none].",
        metavar="HxW",
    ),
    click.option(
        "--align-corners/--no-align-corners",
        default=None,
        help="How maps of segmentation are upsampled  [the run's, else not].",
    ),
)
_RERUN = (
    _batch_size(_USUAL_BATCH_SIZE, of=" of --teacher"),
    *_PLACE,
    click.option(
        "--precision",
        "compute__precision",
        help=_PRECISION.format("that of the dump"),
        metavar="TYPE",
    ),
)
_SHARED = (
    *_COMPUTE,
    click.option(
        "--config",
        "file",
        help="TOML file, or cifar, cityscapes, voc, imagenet-b1 to -b3; flags override it.",
        metavar="FILE|NAME",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        help="Any other key, such as optimizer.lr=0.05.",
        metavar="KEY=VALUE",
    ),
)


def shared(function: F) -> F:
    """Add the options that dumping and training share."""
    return _with(_SHARED, function)


def compute(function: F) -> F:
    """Add the options on where and how models run."""
    return _with(_COMPUTE, function)


def maps(function: F) -> F:
    """Add the options on how a model of segmentation sees images."""
    return _with(_MAPS, function)


def window_sides(window: str | None) -> list[int] | None:
    """Return height and width of `512x1024`, or of `512` for both; None if none is given."""
    from kdcache.errors import UsageError

    if window is None:
        return None
    sides = window.split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) > 2:
        raise UsageError(f"window is {window!r}; it must be HEIGHTxWIDTH, such as 512x1024")
    return [int(sides[0]), int(sides[-1])]


def rerun(function: F) -> F:
    """Add the options on where and how a cache's teacher runs again."""
    return _with(_RERUN, function)


def dotted(flags: dict[str, Any]) -> dict[str, Any]:
    """Return flags by dotted key; click wants identifiers, so `compute__workers` stands for
    `compute.workers`."""
    values: dict[str, Any] = {}
    for name, value in flags.items():
        values[name.replace("__", ".")] = value
    return values


def configured(
    cls: type[T],
    command: str,
    file: str | None,
    flags: dict[str, Any],
    settings: tuple[str, ...] = (),
) -> T:
    """Return the configuration of a command: its file, and over it its flags and settings."""
    from kdcache.config.files import load_config

    return load_config(cls, command, file=file, flags=dotted(flags), settings=settings)


def check_early(check: Callable[[T], None], config: T) -> None:
    """Check a configuration before torch is imported; of several processes each would tell what is
    wrong, so that it is left to what they do together."""
    from kdcache.runtime.launch import own_place

    if own_place().world_size == 1:
        check(config)


def _with(options: tuple[Callable[[F], F], ...], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function
