"""What commands print on stdout: results as JSON or as aligned lines, and the words of these."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from kdcache.errors import printable
from kdcache.runtime.wording import counted, named, ranges, wrapped_line

_MOST_LINES = 10  # of seeds that are told one by one


def print_result(
    result: Mapping[str, Any], lines: Sequence[tuple[str, str]], *, as_json: bool
) -> None:
    """Print `result` as JSON, or `lines` of (name, value) aligned; of the processes of one run the
    first does."""
    from kdcache.runtime.launch import own_place

    if own_place().rank:
        return
    if as_json:
        click.echo(json_text(result))
        return
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        label = f"{name:<{width}}  "
        text = wrapped_line(printable(value), on_terminal=sys.stdout.isatty(), label=label)
        click.echo(text)


def json_text(value: Any, indent: str = "") -> str:
    """Return `value` as JSON, an entry a line; what is a list of numbers stays on one line, since a
    cache that has just been begun may lack a million units."""
    inner = indent + " "
    if isinstance(value, Mapping) and value:
        entries: list[str] = []
        for key, item in value.items():
            entries.append(f"{json.dumps(str(key))}: {json_text(item, inner)}")
        return "{" + _one_a_line(entries, indent) + "}"
    if isinstance(value, list) and _holds_lists(value):
        entries = [json_text(item, inner) for item in value]
        return "[" + _one_a_line(entries, indent) + "]"
    return json.dumps(value, default=list)


def _holds_lists(values: list[Any]) -> bool:
    return any(isinstance(item, (dict, list)) for item in values)


def _one_a_line(entries: Iterable[str], indent: str) -> str:
    """Return entries with commas, each on a line that is indented by one more than `indent`."""
    text = f",\n{indent} ".join(entries)
    return f"\n{indent} {text}\n{indent}"


def coverage_lines(coverage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on what a cache was asked to hold and what of it is there, see
    `Coverage.to_json`."""
    seeds = coverage["seeds"]
    lines = [("seeds", _seeds_text(coverage))]
    lines += _missing_lines(coverage)
    if part := coverage["seeds_in_part"]:
        names = named(part, "seed")
        lines.append(("in part", f"{names}: some units were asked for, and they are there"))
    if absent := coverage["seeds_not_begun"]:
        names = named(absent, "seed")
        lines.append(("not begun", f"{len(absent)} of {len(seeds)}: {names}"))
    return lines


def _seeds_text(coverage: Mapping[str, Any]) -> str:
    """Return which seeds a cache was asked to hold, and which are complete."""
    seeds = coverage["seeds"]
    complete = coverage["complete_seeds"]
    if coverage["is_complete"] and complete == seeds:
        return f"{ranges(seeds)}, complete"
    text = f"{len(complete)} of {len(seeds)} complete"
    if complete:
        text += f": {named(complete, 'seed')}"
    return text


def _missing_lines(coverage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each seed that lacks units; of many the first, and how many more."""
    missing = coverage["missing"]
    total = counted(coverage["units_per_seed"], "unit")
    lines: list[tuple[str, str]] = []
    for seed in [*missing][:_MOST_LINES]:
        units = missing[seed]
        lines.append((f"seed {seed}", f"{len(units)} of {total} missing: {ranges(units)}"))
    num_hidden = len(missing) - len(lines)
    if num_hidden == 1:
        lines.append(("and", "1 more seed that lacks units"))
    elif num_hidden:
        lines.append(("and", f"{num_hidden} more seeds that lack units"))
    return lines


def data_line(plan: Mapping[str, Any]) -> tuple[str, str]:
    """Return the line on the samples, which shows at a glance whether the data are those that were
    meant."""
    num_samples = plan["samples"]
    noun = "samples"
    if num_samples == 1:
        noun = "sample"
    text = f"{num_samples:,} {noun} of {counted(plan['classes'], 'class')}"
    num_trained = plan.get("samples_trained", num_samples)
    if num_trained < num_samples:
        text += f", {num_trained:,} of them trained on"
    if num_evaluated := plan.get("eval_samples"):
        text += f"; evaluated on {num_evaluated:,}"
    return ("data", text)


def percent(share: float) -> str:
    """Return a share in percent, with a decimal below 10."""
    if share < 0.0995:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.0f} %"


def errors_text(errors: Mapping[Any, float]) -> str:
    """Return errors by temperature."""
    parts: list[str] = []
    for tau, error in errors.items():
        parts.append(f"{percent(error)} at tau {float(tau):g}")
    return ", ".join(parts)


def codec_error_text(errors: Mapping[Any, float]) -> str:
    """Return what a codec does to DIST's gradient, as measured before the dump; nothing if that is
    not known."""
    if not errors:
        return ""
    return f" (turns DIST's gradient by {errors_text(errors)})"


def shell_command(*words: str) -> str:
    """Return words as one line that a shell splits back."""
    return shlex.join(words)
