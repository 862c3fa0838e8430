"""What a codec does to the students trained from it: many students over one pass of views and
cached logits.

    python benchmarks/training_study.py --data SPEC --eval-data SPEC --cache CACHE --student SPEC
    --out OUT

CACHE holds raw logits (`full:dtype=float32`). For each run seed, one student per way of teaching
(loss x codec x tail policy x temperature, and labels only) starts from the same weights and sees
the same batches of the same views. The students are perceptrons, stacked so that a layer of all of
them is one product; losses, codecs, optimiser, schedule and order of rows are the product's own.
`--check` instead compares them, weight by weight, with students that `train-student` trains one at
a time.

OUT keeps rendered views and the result of each run seed. What is there is not computed again, so
run seeds may be given to several processes (`--runs 0 1` beside `--runs 2 3 4`); the table is of
all runs that OUT holds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine
from safetensors.torch import load_file
from student_stack import Stack
from study_data import Data
from study_table import summary, table
from study_teachings import CODECS, FULL, LOSSES, TAILS, TAUS, Teaching, all_teachings
from torch import Tensor

from kdcache.cache import stored_bytes
from kdcache.codecs import Codec, open_codec, set_tail
from kdcache.loader.order import num_steps
from kdcache.losses import Loss, open_loss
from kdcache.models.model import open_model
from kdcache.runtime.generators import seed_generators
from kdcache.shapes import Labels
from kdcache.soft_targets import SoftTargets
from kdcache.tasks.classification import task_loss
from kdcache.train.optim import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from kdcache.train.run import TrainConfig, train_student

SAMPLE = 8192
"""Rows that a basis is fitted to."""
ERROR_BATCHES = 16


class SharedRows:
    """A batch's rows, whose probabilities are computed once for all students unless they follow the
    student."""

    def __init__(self, rows: SoftTargets, *, follow: bool) -> None:
        self.rows = rows
        self.follow = follow
        self.kept: dict[Any, Tensor] = {}

    def probs(self, tau: Any, tempered_student: Tensor | None = None) -> Tensor:
        """Return softmax(logits / tau)."""
        if self.follow:
            return self.rows.probs(tau, tempered_student)
        if tau not in self.kept:
            self.kept[tau] = self.rows.probs(tau)
        return self.kept[tau]

    def logits(self) -> Tensor:
        """Return the logits."""
        return self.rows.logits()

    def std(self) -> Tensor:
        """Return the standard deviation of each row."""
        return self.rows.std()


class Study:
    """All ways of teaching, with the records that they need."""

    def __init__(self, options: argparse.Namespace, data: Data) -> None:
        self.options = options
        self.data = data
        self.teachings = all_teachings(options)
        self.losses: list[Loss] = [open_loss(one.loss) for one in self.teachings]
        first = data.logits[data.seeds[0]]
        specs = dict.fromkeys(one.codec for one in self.teachings if one.codec)
        # rows stand in a random order: the first ones are a fair sample
        opened = {spec: open_codec(spec, classes=first.shape[1]) for spec in specs}
        self.codecs = {spec: codec.fit(first[:SAMPLE]) for spec, codec in opened.items()}
        self.records = {
            spec: {seed: codec.encode(logits) for seed, logits in data.logits.items()}
            for spec, codec in self.codecs.items()
        }
        self.readers = {one.reader: self._reader(one) for one in self.teachings if one.codec}

    def _reader(self, one: Teaching) -> Codec:
        codec = self.codecs[one.codec]
        return set_tail(codec, one.tail) if one.tail else codec  # type: ignore[arg-type]

    def stack(self, run_seed: int) -> Stack:
        """Return the student that `train-student` starts from, once for each teaching."""
        seed_generators(run_seed, 0)
        model = open_model(
            self.options.student, classes=self.data.cache.manifest.classes, recipe=self.data.recipe
        )
        return Stack(model, len(self.teachings))

    def train(self, run_seed: int) -> Stack:
        """Return one trained student for each teaching."""
        options = self.options
        stack = self.stack(run_seed)
        steps = num_steps(len(self.data.targets), options.batch)
        optimizer = make_optimizer(stack, optimizer_config(options))
        schedule = make_schedule(
            optimizer, schedule_config(), epochs=options.epochs, steps_per_epoch=steps
        )
        for epoch in range(options.epochs):
            start = time.perf_counter()
            for step, (seed, rows) in enumerate(
                self.data.batches(run_seed, epoch, options.batch), epoch * steps + 1
            ):
                logits = stack(self.data.views[seed][rows])
                gradients = self._gradients(logits, self.rows(seed, rows), self.data.targets[rows])
                optimizer.zero_grad()
                logits.backward(gradients)
                optimizer.step()
                schedule.step_update(step)
            print(
                f"run {run_seed}, epoch {epoch + 1}/{options.epochs}:"
                f" {time.perf_counter() - start:.0f} s",
                flush=True,
            )
        return stack

    def rows(self, seed: int, rows: np.ndarray) -> dict[tuple[str, str], SharedRows]:
        """Return a batch's rows from every codec under every policy."""
        return {
            (spec, tail): SharedRows(
                reader.decode(self.records[spec][seed][rows]), follow=tail == "ghost"
            )
            for (spec, tail), reader in self.readers.items()
        }

    def _gradients(
        self, logits: Tensor, rows: dict[tuple[str, str], SharedRows], targets: Tensor
    ) -> Tensor:
        """Return the gradient of each student's loss with respect to its logits, `[students, rows,
        classes]`.

        One student after the other: a batch of logits then stays in the processor's cache from the
        first operation to the last.
        """
        gradients = torch.empty_like(logits)
        for at, one in enumerate(self.teachings):
            gradients[at] = self._gradient(
                at, logits[at], rows.get(one.reader), targets, task=self.losses[at].ce
            )
        return gradients

    def _gradient(
        self, at: int, logits: Tensor, rows: SharedRows | None, targets: Tensor, *, task: float
    ) -> Tensor:
        own = logits.detach().requires_grad_()
        total = (
            task * task_loss(own, Labels(targets), label_smoothing=0) if task else torch.zeros(())
        )
        if rows is not None:
            total = total + sum(self.losses[at].terms(own, rows, targets).values())
        return torch.autograd.grad(total, own)[0]

    @torch.no_grad()
    def accuracies(self, stack: Stack) -> dict[str, float]:
        """Return the top-1 accuracy of each student on the evaluation data, in percent."""
        hits = torch.zeros(len(self.teachings), dtype=torch.int64)
        for views, targets in zip(
            self.data.test_views.split(512), self.data.test_targets.split(512), strict=True
        ):
            hits += (stack(views).argmax(2) == targets).sum(1)
        top1 = (100 * hits / len(self.data.test_targets)).tolist()
        return {one.name: value for one, value in zip(self.teachings, top1, strict=True)}

    def gradient_errors(self, stack: Stack, run_seed: int) -> dict[str, float]:
        """Return |g - g_full| / |g_full| for each teaching, over some whole batches of the last
        epoch.

        g is the gradient of the teacher's terms with respect to the logits of the trained student
        that had raw logits.
        """
        places = {one.name: at for at, one in enumerate(self.teachings)}
        taught = [
            at
            for at, one in enumerate(self.teachings)
            if one.codec and one.reference.name in places
        ]
        sums = torch.zeros(len(self.teachings), 2)
        batches = list(self.data.batches(run_seed, self.options.epochs - 1, self.options.batch))[
            :ERROR_BATCHES
        ]
        for seed, rows in batches:
            logits = stack(self.data.views[seed][rows])
            shared = self.rows(seed, rows)
            targets = self.data.targets[rows]
            for at in taught:
                one = self.teachings[at]
                place = places[self.teachings[at].reference.name]
                exact, lossy = (
                    self._gradient(at, logits[place], shared[reader], targets, task=0)
                    for reader in (one.reference.reader, one.reader)
                )
                sums[at] += torch.stack([(lossy - exact).square().sum(), exact.square().sum()])
        return {self.teachings[at].name: float((sums[at, 0] / sums[at, 1]).sqrt()) for at in taught}

    def stored_bytes(self) -> dict[str, float]:
        """Return bytes per view on disk of each codec: the units of one whole seed, with index and
        checksums."""
        return {
            spec: stored_bytes(codec, self.records[spec][self.data.seeds[0]])
            for spec, codec in self.codecs.items()
        }


def optimizer_config(options: argparse.Namespace) -> OptimizerConfig:
    return OptimizerConfig(name="sgd", lr=options.lr, weight_decay=options.weight_decay)


def schedule_config() -> ScheduleConfig:
    return ScheduleConfig(name="cosine", warmup_epochs=1)


def run(study: Study, run_seed: int) -> None:
    """Train all students of one run seed and keep their results."""
    start = time.perf_counter()
    stack = study.train(run_seed)
    result = {
        "top1": study.accuracies(stack),
        "gradient_error": study.gradient_errors(stack, run_seed),
    }
    result |= {
        "run_seed": run_seed,
        "students": len(study.teachings),
        "seconds": time.perf_counter() - start,
    }
    write_json(study.options.out / f"run-{run_seed}.json", result)


def check(study: Study) -> None:
    """Train labels only and every loss from raw logits through `train-student`, and compare with
    the students of the stack."""
    options = study.options
    stack = study.train(0)
    top1 = study.accuracies(stack)
    for at, one in enumerate(study.teachings):
        if one.codec not in ("", FULL):
            continue
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(
                run=folder,
                **{
                    "data": options.data,
                    "eval_data": options.eval_data,
                    "cache": options.cache,
                    "student": options.student,
                },
                **{"loss": one.loss, "epochs": options.epochs, "batch_size": options.batch},
                **{"optimizer": optimizer_config(options), "schedule": schedule_config()},
            )
            alone = train_student(config)["top1"]
            weights = list(load_file(Path(folder) / "student.safetensors").values())
        ours = {tuple(part.shape): part for part in stack.weights(at)}
        apart = max(
            float((ours[tuple(part.shape)] - part).abs().max() / part.abs().max())
            for part in weights
        )
        scores = f"alone {alone:.3f} %, in the stack {top1[one.name]:.3f} %"
        print(f"{one.name:<44} {scores}; largest difference of a weight {apart:.1e}")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "eval-data", "cache", "student"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="run seeds")
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    parser.add_argument("--tails", nargs="+", default=TAILS)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--taus", type=float, nargs="+", default=TAUS)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare the stack with students trained alone, and stop",
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(options, Data(options))
    if options.check:
        return check(study)
    for run_seed in options.runs:
        if not (options.out / f"run-{run_seed}.json").exists():
            run(study, run_seed)
    lines = summary(study.teachings, options.out, study.stored_bytes())
    right = [
        float((part.argmax(1) == study.data.targets).float().mean())
        for part in study.data.logits.values()
    ]
    settings = {key: str(value) for key, value in vars(options).items()}
    result = {
        "settings": settings,
        "teacher_on_views": 100 * float(np.mean(right)),
        "lines": lines,
        "machine": machine(),
    }
    write_json(options.out / "study.json", result)
    labels, error = lines[0]["top1"]
    print(
        json.dumps(result, indent=1)
        if options.json
        else f"labels only {labels:.2f} ± {error:.2f}\n\n{table(lines)}"
    )
    return None


if __name__ == "__main__":
    main()
