"""`batch_size auto` of a training: the largest batch whose step fits, found once, before the first
step."""

import gc
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from kdcache.errors import KdcacheError, UsageError
from kdcache.models.modules import kept_modes
from kdcache.runtime.batch_size import AUTO, Trials, largest_size
from kdcache.runtime.console import nothing_said, say
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import gather, on_main, own_place, world_size
from kdcache.shapes import Rows
from kdcache.soft_targets import by_segment
from kdcache.tasks import Task
from kdcache.train.config import TrainConfig
from kdcache.train.data import OpenedStudent, TrainingData
from kdcache.train.optim import make_optimizer
from kdcache.train.parts import weight_average
from kdcache.train.run_settings import batch_size_of_runs
from kdcache.views import Batch, ViewDataset
from kdcache.views.repeated import few_views, repeated_batch

_LEAST = 2
"""Views of a part: batch norms of some networks cannot train on one."""
_MOST = 1024
"""Views of a batch: with more, rates and schedules of usual recipes do not hold."""
_FEWEST_STEPS = 32
"""Of an epoch."""
_NAME = re.compile(r"\w+")
_NO_ROWS: Rows = np.empty(0, np.int64)


def part_that_fits(configs: Sequence[TrainConfig]) -> int | None:
    """Return how many views a process can train on at once, where the settings ask for that; None
    where they do not, or a run that is there tells.

    It is to be called before processes join: each tries by itself, without waiting for others, and
    its memory may run out in the middle of a step.

    Raises:
        UsageError: it is asked for on a CPU.
        KdcacheError: not even a few views fit, or something cannot be opened.
    """
    if configs[0].batch_size != AUTO or batch_size_of_runs(configs) is not None:
        return None
    if Compute(configs[0].compute).device.type != "cuda":
        raise UsageError(
            "batch_size auto is for trainings on a GPU, where memory limits a batch; on a CPU it"
            " limits little, and the batch decides the result: give a number, such as 64"
        )
    part = largest_part(configs)
    gc.collect()
    torch.cuda.empty_cache()
    return part


def with_batch_size(configs: Sequence[TrainConfig], part: int | None) -> Sequence[TrainConfig]:
    """Return settings that have a number in the place of `auto`, the same in all processes.

    Args:
        configs: of students that train side by side.
        part: views that this process can train on at once, see `part_that_fits`.
    """
    if configs[0].batch_size != AUTO:
        return configs
    size = on_main(lambda: batch_size_of_runs(configs))
    if size is None:
        parts = filter(None, gather(part, "what fits"))
        size = min(parts) * configs[0].accumulate * world_size()
        _tell(size, configs)
    return [replace(config, batch_size=size) for config in configs]


def largest_part(configs: Sequence[TrainConfig]) -> int:
    """Return how many views fit into a part of a step of each student, by steps that are tried.

    Raises:
        KdcacheError: not even a few views fit, or something cannot be opened.
    """
    num_parts = configs[0].accumulate * own_place().world_size
    with nothing_said():
        data = TrainingData([replace(config, batch_size=num_parts) for config in configs])
    with closing(data):
        part = _largest_part_of(data, configs, num_parts)
    if part is None:
        raise KdcacheError(
            f"batch_size auto: not even a step on {_LEAST} views fits into the memory of"
            f" {data.compute.device}; use --precision bfloat16, smaller views or a smaller student"
        )
    return part


def _largest_part_of(
    data: TrainingData, configs: Sequence[TrainConfig], num_parts: int
) -> int | None:
    """Return what `largest_part` does, of students that are open; None if nothing fits.

    Args:
        data: of the students.
        configs: of the students.
        num_parts: parts of a batch, over all processes.
    """
    replay = data.loader.replay
    rows = replay.rows(_NO_ROWS)
    most = max(min(_MOST, len(rows) // _FEWEST_STEPS) // num_parts, _LEAST)
    kept_bytes = 0
    if own_place().world_size > 1:
        kept_bytes = _gradient_bytes(data)  # copies of gradients on their way between processes
    trials = Trials(data.compute.device, kept_bytes=kept_bytes)
    steps = []
    for config in configs:
        opened = data.students[config.run]
        size = opened.student.preprocessing.size
        dataset = ViewDataset(
            replay.source, replay.recipe, replay.order, sizes=[size], skip_unreadable=True
        )
        steps.append(tried_step(config, opened, data.task, data.compute, few_views(dataset, rows)))

    def fits(size: int) -> bool:
        return all(trials.fits(partial(step, size)) for step in steps)

    return largest_size(fits, least=_LEAST, most=most)


def tried_step(
    config: TrainConfig, opened: OpenedStudent, task: Task, compute: Compute, few: Batch
) -> Callable[[int], None]:
    """Return what takes a step with a part of a given size, as a training does; the student's
    weights are of no use afterwards.

    Soft targets are the student's own logits, which are as large as a teacher's.

    Args:
        config: of the training.
        opened: the student, its loss.
        task: that it learns.
        compute: where and how it is trained.
        few: views that parts are made of.
    """
    student = opened.student  # not compiled, since it would be again for each size
    optimizer = make_optimizer(student.module, config.optimizer)
    average = weight_average(student, config.ema)

    def step(size: int) -> None:
        part = repeated_batch(few, size)
        labels = part.labels.to(compute.move)
        images = compute.move(part.views[0])
        with kept_modes(student), torch.no_grad(), compute.autocast():
            logits = student.teacher_logits(student.eval()(images), labels)
        teacher = by_segment(logits.values, student.layout, logits.boxes)
        student.train()
        with compute.autocast():
            output = student(images)
        terms = task.terms(
            opened.loss, output, teacher, labels, label_smoothing=config.label_smoothing
        )
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update(student)

    return step


def _gradient_bytes(data: TrainingData) -> int:
    total = 0
    for opened in data.students.values():
        for parameter in opened.student.parameters():
            total += parameter.numel() * parameter.element_size()
    return total


def _tell(size: int, configs: Sequence[TrainConfig]) -> None:
    """Say which batch was chosen, and what that means for the training."""
    say(
        f"note: batch_size auto is {size} here, and is kept with the run; another machine may"
        " choose another, and so train otherwise; learning rates stay as they are"
    )
    if any("dist" in _NAME.findall(config.loss) for config in configs):
        say("note: DIST compares classes over the views of a batch, so its loss depends on it")
