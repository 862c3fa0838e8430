"""The quickstart: the main job on scikit-learn's handwritten digits, each step a command in a
process of its own."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kdcache.errors import KdcacheError
from kdcache.runtime.files import require_writable_folder, write_file
from kdcache.runtime.wording import human_bytes
from kdcache_cli.output import json_text, shell_command
from kdcache_cli.processes import run_command

TEACHER = "timm:test_resnet,input_size=16"
STUDENT = (
    "timm:vit_tiny_patch16_224,img_size=8,patch_size=4,embed_dim=32,depth=1,num_heads=2,"
    "class_token=false,global_pool=avg"
)
CODECS = {"full": "full:dtype=float16", "topk": "topk:k=3"}
STUDENTS = {
    "labels only": ("ce", "full"),
    "KL, full cache": ("kl:tau=4", "full"),
    "DIST, full cache": ("dist:tau=4,beta=2,gamma=2", "full"),
    "DIST, topk cache": ("dist:tau=4,beta=2,gamma=2", "topk"),
}
TRAINING = (
    *("--data", "digits:train"),
    *("--eval-data", "digits:test"),
    *("--batch-size", "64"),
    *("--workers", "0"),
    *("--set", "optimizer.name=adamw"),
    *("--set", "optimizer.weight_decay=0.05"),
    *("--set", "schedule.warmup_epochs=1"),
)

_NO_MESSAGE = "it left no message; if the disk is full, make room and run again"


@dataclass
class Steps:
    """Runs the quickstart's commands one after the other, and tells how far it is."""

    out: Path
    total: int
    number: int = 0

    def run(self, title: str, *words: str) -> dict[str, Any]:
        """Return the result of `kdcache WORDS --json`, run in a new process whose messages go to a
        log file.

        Raises:
            KdcacheError: the command failed; its last message is quoted.
        """
        self.number += 1
        command_line = shell_command("kdcache", *words)
        click.echo(f"[{self.number}/{self.total}] {title}\n      {command_line}", err=True)
        log = self.out / "logs" / f"{self.number}.txt"
        output = self.out / "logs" / f"{self.number}.json"
        start = time.monotonic()
        if run_command([*words, "--json"], stdout=output, stderr=log) != 0:
            messages = log.read_text("utf-8", "replace").strip().splitlines() or [_NO_MESSAGE]
            raise KdcacheError(
                f"quickstart: {title} failed: {messages[-1]} (whole log: {log}); remove {self.out}"
                " to start anew"
            )
        result: dict[str, Any] = json.loads(output.read_text("utf-8"))
        click.echo(f"      done in {time.monotonic() - start:.1f} s", err=True)
        return result


def run_quickstart(out: str, *, as_json: bool) -> None:
    """Run every step, or what is left of them, and print the table.

    Raises:
        KdcacheError: a step failed, or scikit-learn is not installed.
    """
    folder = Path(out)
    _check_ready(folder)
    steps = Steps(folder, 1 + len(CODECS) + len(STUDENTS))
    teacher = _train_teacher(steps)
    caches: dict[str, dict[str, Any]] = {}
    for name, codec in CODECS.items():
        caches[name] = _dump(steps, name, codec)
    students: list[dict[str, Any]] = []
    for title, (loss, cache) in STUDENTS.items():
        students.append(_train_student(steps, title, loss, cache, caches[cache]))
    summary = {"out": str(folder), "teacher": teacher, "caches": caches, "students": students}
    write_file(folder / "quickstart.json", json.dumps(summary, indent=1).encode())
    if as_json:
        click.echo(json_text(summary))
    else:
        _print_table(summary)


def _train_teacher(steps: Steps) -> dict[str, Any]:
    return steps.run(
        "train a teacher on 1,197 handwritten digits",
        *("train-student", f"{steps.out}/teacher"),
        *("--student", TEACHER, "--loss", "ce", "--recipe", "digits"),
        *("--epochs", "20", "--lr", "0.003", *TRAINING),
    )


def _dump(steps: Steps, name: str, codec: str) -> dict[str, Any]:
    teacher = f"{TEACHER},weights={steps.out}/teacher/student.safetensors"
    return steps.run(
        f"run it once over 8 augmentation seeds, keep its logits as {codec}",
        *("dump-teacher", f"{steps.out}/cache-{name}"),
        *("--data", "digits:train", "--recipe", "digits", "--seeds", "0:8"),
        *("--teacher", teacher, "--codec", codec, "--workers", "0"),
    )


def _train_student(
    steps: Steps, title: str, loss: str, cache: str, dump: dict[str, Any]
) -> dict[str, Any]:
    run = f"{steps.out}/student-{loss.partition(':')[0]}-{cache}"
    result = steps.run(
        f"train the student without the teacher: {title}",
        *("train-student", run, "--cache", f"{steps.out}/cache-{cache}"),
        *("--student", STUDENT, "--loss", loss),
        *("--epochs", "24", "--lr", "0.005", *TRAINING),
    )
    bytes_per_view = dump["bytes_per_view"]
    if loss == "ce":  # which reads no logits
        bytes_per_view = None
    return {"name": title, "bytes_per_view": bytes_per_view, **result}


def _check_ready(folder: Path) -> None:
    from importlib.util import find_spec

    if find_spec("sklearn") is None:
        raise KdcacheError(
            "quickstart needs scikit-learn for its digits; pip install 'kdcache[demo]'"
        )
    try:
        require_writable_folder(folder, "folder")
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdcacheError(
            f"cannot make folder {folder}: {error.strerror}; give another one with --out DIR"
        ) from error


def _print_table(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the same small student, 600 test digits", title_justify="left")
    table.add_column("trained on")
    for name in ("test accuracy", "seconds", "cache bytes per view", "peak memory"):
        table.add_column(name, justify="right")
    teacher = {"name": "the teacher itself", "bytes_per_view": None, **summary["teacher"]}
    for row in (teacher, *summary["students"]):
        accuracy = f"{row['top1']:.2f} %"
        seconds = f"{row['seconds']:.1f}"
        per_view = "-"
        if row["bytes_per_view"] is not None:
            per_view = f"{row['bytes_per_view']:.1f}"
        memory = human_bytes(row["peak_memory"]["host"])
        table.add_row(row["name"], accuracy, seconds, per_view, memory)
    width = None  # that of the terminal
    if not sys.stdout.isatty():
        width = 100
    Console(width=width).print(table)
    out = summary["out"]
    click.echo(
        "one run each: differences of a point or two are chance (600 digits). Everything lies in"
        f" {out}/:"
    )
    click.echo(
        "  teacher/ and student-*/   config.toml, metrics.jsonl, last.pt, student.safetensors,"
        " result.json"
    )
    click.echo(
        "  cache-full/, cache-topk/  the teacher's logits; look with: "
        + shell_command("kdcache", "info", f"{out}/cache-full")
    )
