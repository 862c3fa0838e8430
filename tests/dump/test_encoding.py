"""What is queued on the device after each forward pass, and how it comes to the host."""

from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import LAYOUTS, random_logits
from runs import CONV, DIGITS, IN_PROCESS
from waits import GPU, on_gpu, without_waits

from kdcache.cache import create_cache
from kdcache.dump.config import DumpConfig
from kdcache.dump.job import Job, prepare
from kdcache.models.inference import run_on_device
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Boxes, Heads, Layout
from kdcache.runtime.device import Compute
from kdcache.runtime.host_copy import HostCopy, joined_bytes
from kdcache.shapes import Labels
from kdcache.tasks import open_task
from kdcache.views import Batch


def job_of(path: Path, **settings: Any) -> Job:
    config = {"data": DIGITS, "teacher": f"{CONV},seed=7", "recipe": "digits", **settings}
    return prepare(DumpConfig(cache=str(path), compute=IN_PROCESS, **config))


def batch_of(absent: tuple[int, ...] = (), views: int = 6) -> Batch:
    labels = torch.arange(views) % 3
    return Batch(
        views=(torch.zeros(views, 1, 8, 8, dtype=torch.uint8),),
        labels=Labels(labels, (labels.flip(0), torch.linspace(0, 1, views))),
        rows=torch.arange(views),
        seeds=torch.zeros(views, dtype=torch.int64),
        absent=tuple((place, "broken") for place in absent),
    )


@pytest.mark.parametrize("codec", ["full", "topk:k=3", "lowrank:step=1", "cosine"])
@pytest.mark.parametrize("absent", [(), (1, 4)])
def test_nothing_of_a_batch_is_waited_for(
    tmp_path: Path, codec: str, absent: tuple[int, ...]
) -> None:
    job = job_of(tmp_path, codec=codec)
    cache = create_cache(tmp_path, job.manifest, job.codec.fit_arrays())
    assert cache.codec.record_dtype == job.codec.record_dtype  # opened before the block
    encoder = job.encoder(cache)
    job.compute.device = GPU
    with on_gpu():
        logits = TeacherLogits(torch.empty(6, 10, device=GPU))
        encoder.queued(batch_of(absent), logits)  # once what is made for a device is made
        with without_waits():
            made, statistics = encoder.queued(batch_of(absent), logits)
    names = {"mean", "std", "confidence", "accuracy"}
    if codec.startswith("lowrank"):
        names.add("clipped")
    assert statistics.keys() == names and made.raw.shape[0] == 6
    assert all(value.device.type == "cuda" for value in statistics.values())


def test_absent_views_count_in_no_statistic(tmp_path: Path) -> None:
    job = job_of(tmp_path, codec="full")
    encoder = job.encoder(create_cache(tmp_path, job.manifest))
    logits = random_logits(6, 10)
    logits[4] = 1e6
    finish = encoder.begin(batch_of((4,)), [TeacherLogits(logits.clamp_max(1e4))])
    _, statistics = finish()
    present = logits[[0, 1, 2, 3, 5]]
    assert statistics["mean"] == pytest.approx(float(present.mean()), rel=1e-5)
    # from the middle on the second label has the larger share
    labels = torch.tensor([2, 1, 0, 0, 2])
    right = (present.argmax(1) == labels).float().mean()
    assert statistics["accuracy"] == pytest.approx(100 * float(right))
    assert encoder.begin(batch_of(tuple(range(6))), [TeacherLogits(logits[:6] * 0)])()[1] == {}


def tasks_and_layouts() -> list[Any]:
    cases = []
    for name, layout in LAYOUTS.items():
        task = "detection"
        if layout.kind in ("one", "heads"):
            task = {"one": "classification", "heads": "segmentation"}[layout.kind]
        if layout.kind != "heads" or layout.maps:  # a student's alone may have maps of unlike sizes
            cases.append(pytest.param(task, layout, id=f"{task}, {name}"))
    return cases


@pytest.mark.parametrize(("task", "layout"), tasks_and_layouts())
def test_no_task_waits_for_its_statistics(task: str, layout: Layout) -> None:
    with on_gpu(), without_waits():
        boxes = None
        if layout.has_boxes:
            places = torch.empty(3, layout.num_positions, 4, device=GPU)
            boxes = Boxes(places, torch.empty(3, dtype=torch.int64, device=GPU))
        logits = TeacherLogits(torch.empty(3, *layout.sites, 6, device=GPU), boxes)
        targets = torch.empty(3, dtype=torch.int64, device=GPU)
        if isinstance(layout, Heads):
            targets = torch.empty(3, 8, 8, dtype=torch.uint8, device=GPU)
        statistics = open_task(task).statistics(logits, targets, layout)
    for value in statistics.values():
        assert value.shape == () and value.device.type == "cuda"


def test_of_proposals_only_those_that_there_are_count() -> None:
    layout = LAYOUTS["proposals"]
    counts = torch.tensor([0, 2, 5])
    logits = random_logits(3, 5, 6)
    statistics = open_task("detection").statistics(
        TeacherLogits(logits, Boxes(torch.zeros(3, 5, 4), counts)), None, layout
    )
    views = [logits[1, :2], logits[2]]
    means = torch.stack([view.mean() for view in views])
    spreads = torch.stack([view.std(1, correction=0).mean() for view in views])
    surest = torch.stack([view.softmax(1)[:, 1:].max() for view in views])
    torch.testing.assert_close(statistics["mean"], means.mean())
    torch.testing.assert_close(statistics["std"], spreads.mean())
    torch.testing.assert_close(statistics["confidence"], surest.mean())
    none = TeacherLogits(logits, Boxes(torch.zeros(3, 5, 4), torch.zeros(3, dtype=torch.int64)))
    assert all(
        float(value) == 0
        for value in open_task("detection").statistics(none, None, layout).values()
    )


TENSORS = [
    torch.arange(5, dtype=torch.uint8),
    torch.tensor([True, False, True]),
    torch.linspace(0, 1, 6, dtype=torch.float64).view(2, 3).T,
    torch.tensor(3),
    torch.empty(0, 4),
    torch.ones(1, 3, dtype=torch.float16),
]


@pytest.mark.parametrize("count", range(1, len(TENSORS) + 1))
def test_tensors_come_to_the_host_in_one_piece_as_they_were(count: int) -> None:
    found = HostCopy(TENSORS[:count], torch.device("cpu")).wait()
    assert len(found) == count
    for tensor, expected in zip(found, TENSORS, strict=False):
        assert torch.equal(tensor, expected) and tensor.dtype == expected.dtype


def test_joining_tensors_takes_no_wait() -> None:
    with on_gpu(), without_waits():
        tensors = [torch.empty(3, 5, device=GPU), torch.empty(2, dtype=torch.bool, device=GPU)]
        joined = joined_bytes(tensors)
    assert joined.device.type == "cuda" and joined.shape == (64 + 8,)


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_device_is_given_the_next_batches_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    job = job_of(tmp_path, codec="full")
    monkeypatch.setattr(Compute, "batches_ahead", ahead)
    batches = [replace_rows(batch_of(), number) for number in range(6)]
    begun: list[int] = []

    def begin(batch: Batch, logits: list[TeacherLogits]) -> Any:
        begun.append(int(batch.rows[0]))
        return lambda: len(begun)

    for number, (batch, num_begun) in enumerate(
        run_on_device([job.teacher], batches, job.compute, begin=begin)
    ):
        assert int(batch.rows[0]) == number
        assert num_begun == min(number + 1 + ahead, 6)


def test_a_cpu_is_given_one_batch_at_a_time(tmp_path: Path) -> None:
    assert job_of(tmp_path, codec="full").compute.batches_ahead == 0


def replace_rows(batch: Batch, number: int) -> Batch:
    return batch._replace(rows=batch.rows + number)
