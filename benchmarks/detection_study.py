"""What the soft targets of a cache do to a small detector, beside labels alone.

    python benchmarks/detection_study.py OUT        draws scenes, trains a teacher, dumps it, and
    trains students, all by the commands; prints a table and writes OUT/epochs-10/study.json

The bodies of teacher and student have learned to classify pictures of one object before, as those
of other detectors have on ImageNet.

Students differ in their loss only: the same scenes, views, labels, initial weights and order for a
run seed. Of an arm with several losses all are run with the first run seed; the one of the highest
AP there goes on to the other run seeds, and only these count. What OUT holds is not done again, and
an interrupted command goes on where it stopped: so arms, losses and run seeds can be added.
"""

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from measure import machine

from kdcache import evaluate, load_recipe, open_model
from kdcache_cli import main as kdcache_command

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RECIPE = EXAMPLES / "boxed_scenes.toml"
LABELS = "labels only"
ARMS: dict[str, tuple[str, ...]] = {
    LABELS: ("ce",),
    "KL": ("kl:tau=1,weight=1", "kl:tau=1,weight=10"),
    "DIST": ("dist:tau=1,beta=1,gamma=1", "dist:tau=1,beta=3,gamma=3"),
    "DIST where the teacher is surest": ("dist:tau=1,beta=1,gamma=1,positions=0.3",),
}
"""The losses that each arm tries."""
SCORES = ("ap", "ap50", "ap75")
TEACHER_SEEDS = 100
"""The first seed of the teacher's views; none is dumped."""


@dataclass(frozen=True)
class Folder:
    """What the study keeps, and with which settings it is made."""

    path: Path
    options: argparse.Namespace

    def data(self, annotations: str, images: str = "train") -> str:
        """Return the spec of a part of the scenes."""
        boxes = self.path / "boxes"
        return f"coco:{boxes / images},annotations={boxes / annotations}.json"

    def detector(self, name: str) -> str:
        """Return the spec of `teacher` or `student`, with the body that it begins with."""
        body = self.path / f"{name}-body" / "student.safetensors"
        return f"{getattr(self.options, name)},weights_backbone={body}"

    @property
    def teacher(self) -> str:
        """The trained teacher."""
        return f"{self.options.teacher},weights={self.path / 'teacher' / 'student.safetensors'}"

    @property
    def students(self) -> Path:
        """The folder of the students that are trained as long as the options say."""
        return self.path / f"epochs-{self.options.epochs}"

    def run_of(self, loss: str, run_seed: int) -> Path:
        """Return the folder of a student's run."""
        return self.students / f"{re.sub('[^a-z0-9.]+', '-', loss)}-{run_seed}"


def run_command(*words: object) -> str:
    """Run a command of kdcache in this process, and return what it prints as its result."""
    texts = [str(word) for word in words]
    print("kdcache", *texts, file=sys.stderr, flush=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        kdcache_command.main(texts, standalone_mode=False)
    return printed.getvalue()


def learning(batch: int, warmup_epochs: float) -> list[object]:
    """Return settings of a training; all but these two are those of all."""
    settings = [
        "compute.channels_last=true",
        "optimizer.name=adamw",
        "optimizer.lr=2e-3",
        "optimizer.weight_decay=0.05",
        "schedule.name=cosine",
        f"schedule.warmup_epochs={warmup_epochs}",
    ]
    words: list[object] = ["--batch-size", batch, "--workers", 0]
    for setting in settings:
        words += ["--set", setting]
    return words


def prepare(folder: Folder) -> None:
    """Draw the scenes, train the teacher and dump it, as far as that is not done."""
    options = folder.options
    scenes = import_module("boxed_scenes")
    boxes = folder.path / "boxes"
    scenes.write(boxes, "train", options.train)
    scenes.write(boxes, "test", options.test)
    scenes.write_few(boxes, options.few)
    scenes.write_crops(boxes, options.crops)
    for name in ("teacher", "student"):
        train_body(folder, name)
    seeds = f"{TEACHER_SEEDS}:{TEACHER_SEEDS + options.teacher_epochs}"
    if not (folder.path / "teacher" / "result.json").exists():
        run_command(
            *("train-student", folder.path / "teacher", "--data", folder.data("train")),
            *("--student", folder.detector("teacher"), "--loss", "ce"),
            *("--recipe", RECIPE, "--seeds", seeds),
            *("--epochs", options.teacher_epochs, *learning(options.batch, 0.25)),
        )
    run_command(
        *("dump-teacher", folder.path / "cache", "--data", folder.data("few")),
        *("--teacher", folder.teacher, "--recipe", RECIPE, "--seeds", f"0:{options.seeds}"),
        *("--codec", options.codec, "--batch-size", 64, "--workers", 0),
        *("--set", "compute.channels_last=true"),
    )


def train_body(folder: Folder, name: str) -> None:
    """Train the body of `teacher` or `student` on pictures of one object, if it is not yet."""
    path = folder.path / f"{name}-body"
    options = folder.options
    if not (path / "result.json").exists():
        run_command(
            *("train-student", path, "--data", f"imagefolder:{folder.path / 'boxes' / 'crops'}"),
            *("--student", f"{getattr(options, name)}_body", "--loss", "ce"),
            *("--recipe", "eval-whole", "--seeds", 0),
            *("--epochs", options.body_epochs, *learning(4 * options.batch, 0.5)),
        )


def scored_student(folder: Folder, loss: str, run_seed: int) -> dict[str, Any]:
    """Return the scores of a student, trained if it is not yet, and its `seconds` an epoch."""
    path = folder.run_of(loss, run_seed)
    options = folder.options
    if not (path / "result.json").exists():
        run_command(
            *("train-student", path, "--cache", folder.path / "cache"),
            *(
                "--data",
                folder.data("few"),
                "--student",
                folder.detector("student"),
                "--loss",
                loss,
            ),
            *("--run-seed", run_seed, "--epochs", options.epochs, *learning(options.batch, 0.25)),
        )
    return scores_of(folder, path, options.student)


def scores_of(folder: Folder, run: Path, spec: str) -> dict[str, Any]:
    """Return what the detector that a run ended with scores on the test scenes; see
    `kdcache.evaluate`. It is kept in the run's folder."""
    path = run / "test.json"
    if not path.exists():
        recipe = load_recipe(RECIPE)
        weights = f"{spec},weights={run / 'student.safetensors'}"
        classes = len(json.loads((folder.path / "boxes" / "test.json").read_text())["categories"])
        detector = open_model(weights, classes=classes, recipe=recipe, task="detection")
        scores = evaluate(
            detector.eval(),
            folder.data("test", "test"),
            recipe=recipe.eval,
            batch_size=50,
            num_workers=0,
        )
        path.write_text(json.dumps(scores))
    scores = json.loads(path.read_text())
    return {name: scores[name] for name in SCORES} | {"seconds": epoch_seconds(run)}


def epoch_seconds(run: Path) -> float:
    """Return the median time of an epoch of a run."""
    lines = []
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["kind"] == "epoch":
            lines.append(line["seconds"])
    return median(lines)


def chosen_losses(folder: Folder) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the loss that each arm goes on with, and the scores of all that were tried, and of
    labels only beside them."""
    tried = {}
    chosen = {}
    first = folder.options.runs[0]
    for arm in dict.fromkeys([LABELS, *folder.options.arms]):
        losses = ARMS[arm]
        if arm == LABELS or len(losses) > 1:
            for loss in losses:
                tried[loss] = scored_student(folder, loss, first)
            chosen[arm] = max(losses, key=lambda loss: tried[loss]["ap"])
        else:
            chosen[arm] = losses[0]
    return chosen, tried


def online_seconds(folder: Folder, loss: str) -> float:
    """Return the time of an epoch with the teacher in the loop and no cache."""
    path = folder.path / "online"
    options = folder.options
    if not (path / "result.json").exists():
        run_command(
            *("train-student", path, "--data", folder.data("few"), "--teacher", folder.teacher),
            *("--student", folder.detector("student"), "--loss", loss, "--recipe", RECIPE),
            *("--seeds", f"0:{options.seeds}", "--epochs", 3, *learning(options.batch, 0.25)),
        )
    return epoch_seconds(path)


def summary(runs: dict[str, dict[str, Any]], labels: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the spread of an arm's scores, and of what it is above labels, run seed by run
    seed."""
    lines: dict[str, Any] = {"seconds": median(run["seconds"] for run in runs.values())}
    for name in SCORES:
        values = [run[name] for run in runs.values()]
        differences = [run[name] - labels[seed][name] for seed, run in runs.items()]
        lines[name] = spread(values)
        lines[f"{name}_above_labels"] = spread(differences)
    return lines


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return `n`, `mean`, `error` (the standard error of the mean), `min` and `max`."""
    result = {"n": len(values), "mean": mean(values), "min": min(values), "max": max(values)}
    if len(values) > 1:
        result["error"] = stdev(values) / len(values) ** 0.5
    return result


def study(folder: Folder) -> dict[str, Any]:
    """Do all of it, and return what came out."""
    prepare(folder)
    teacher = scores_of(folder, folder.path / "teacher", folder.options.teacher)
    chosen, tried = chosen_losses(folder)
    runs: dict[str, dict[str, Any]] = {arm: {} for arm in chosen}
    for run_seed in folder.options.runs[1:]:
        for arm, loss in chosen.items():
            runs[arm][str(run_seed)] = scored_student(folder, loss, run_seed)
    arms = {}
    for arm, loss in chosen.items():
        arms[arm] = {"loss": loss, "runs": runs[arm], **summary(runs[arm], runs[LABELS])}
    settings = {name: str(value) for name, value in vars(folder.options).items()}
    return {
        "teacher": teacher,
        "tried": tried,
        "arms": arms,
        "online_seconds": online_seconds(folder, list(chosen.values())[-1]),
        "bytes_per_view": bytes_per_view(folder),
        "settings": settings,
        "machine": machine(),
    }


def bytes_per_view(folder: Folder) -> float:
    """Return what the cache takes."""
    size: float = json.loads(run_command("info", folder.path / "cache", "--json"))["bytes_per_view"]
    return size


def table(result: dict[str, Any]) -> str:
    """Return the arms as a table of markdown, and what else was measured."""
    lines = [
        "| trained on | n | AP | AP above labels, paired | AP50 | seconds per epoch |",
        "|---|---|---|---|---|---|",
        f"| the teacher, labels only | 1 | {result['teacher']['ap']:.2f} | |"
        f" {result['teacher']['ap50']:.2f} | {result['teacher']['seconds']:.1f} |",
    ]
    for arm, line in result["arms"].items():
        above = ""
        if arm != LABELS:
            above = _spread_text(line["ap_above_labels"], "+.2f")
        lines.append(
            f"| {arm}, `{line['loss']}` | {line['ap']['n']} | {_spread_text(line['ap'], '.2f')} |"
            f" {above} | {_spread_text(line['ap50'], '.2f')} | {line['seconds']:.1f} |"
        )
    lines.append(
        f"\nteacher in the loop: {result['online_seconds']:.1f} seconds per epoch; cache:"
        f" {result['bytes_per_view']:.0f} bytes per view\nwith the first run seed, AP:"
    )
    for loss, scores in result["tried"].items():
        lines.append(f"  {loss}: {scores['ap']:.2f}")
    return "\n".join(lines)


def _spread_text(values: dict[str, float], form: str) -> str:
    text = format(values["mean"], form)
    if "error" in values:
        text += f" ± {values['error']:.2f}"
        text += f" ({format(values['min'], form)} to {format(values['max'], form)})"
    return text


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, nargs="+", default=[0, 1, 2, 3], help="run seeds")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--teacher", default="boxed_models:teacher")
    parser.add_argument("--student", default="boxed_models:student")
    parser.add_argument("--codec", default="full:dtype=uint8")
    parser.add_argument("--train", type=int, default=3000, help="the teacher's scenes")
    parser.add_argument("--few", type=int, default=400, help="those of the students")
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=4, help="views of a scene that are dumped")
    parser.add_argument("--crops", type=int, default=8000, help="pictures of one object")
    parser.add_argument("--body-epochs", type=int, default=4)
    parser.add_argument("--teacher-epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if len(options.runs) < 2:
        sys.exit("--runs has one seed; the first one chooses losses and the others count: give two")
    torch.set_num_threads(options.threads)
    sys.path.append(str(EXAMPLES))
    folder = Folder(options.out.resolve(), options)
    result = study(folder)
    (folder.students / "study.json").write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(table(result))


if __name__ == "__main__":
    main()
