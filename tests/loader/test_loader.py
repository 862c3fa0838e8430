"""`DistillationLoader` in loops of other people: the steps of `train-student`, and its promises."""

import copy
import functools
import json
import pickle
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import map_caches
import numpy as np
import pytest
import tiny_models
import torch
from map_caches import DATA as MAPS
from map_caches import made
from nursery import script
from runs import CONV, MLP, dump, losses, steps, train
from torch import nn
from torch.nn.functional import cross_entropy

import kdcache
from kdcache.errors import CodecError, MismatchError, UsageError
from kdcache.loader.batch import DistillationBatch
from kdcache.loader.loader import DistillationLoader
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.generators import seed_generators
from kdcache.soft_targets import segments_of
from kdcache.train.optim import OptimizerConfig, make_optimizer
from kdcache.views import load_recipe

DIGITS = "tiny_models:few_digits,length=100"
RATE = OptimizerConfig(lr=0.05)
HERE: dict[str, Any] = {"num_workers": 0, "device": "cpu", "batch_size": 16}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loader") / "cache"
    dump(path, data=DIGITS, seeds="0:3", unit_rows=25, codec="full:dtype=float32")
    return path


def student() -> VisionModel:
    """Return the student that `train-student` begins with."""
    seed_generators(0, 0)
    return open_model(MLP, classes=10, recipe=load_recipe("digits"))


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: DistillationBatch) -> float:
    logits = model(batch.images)
    inter_and_intra = kdcache.dist_loss(logits, batch.teacher, tau=4)
    loss = cross_entropy(logits, batch.targets) + inter_and_intra
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize(
    "settings", [{}, {"seeds": "1:3"}, {"window": 2}, {"samples": "10:70"}], ids=str
)
def test_a_plain_loop_takes_the_steps_of_train_student(
    cache: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    trained: dict[str, Any] = {
        "data": DIGITS,
        "loss": "dist:tau=4",
        "batch_size": 16,
        "epochs": 3,
        "optimizer": RATE,
    }
    train(tmp_path / "run", cache=str(cache), **trained, **settings)
    loader = DistillationLoader(cache, data=DIGITS, epochs=3, **HERE, **settings)
    model = student()
    optimizer = make_optimizer(model.module, RATE)
    rates = [
        RATE.lr,
        *(line["lr"] for line in steps(tmp_path / "run")),
    ]  # a step's line tells the rate of the next
    found = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = rates[len(found)]
            found.append(one_step(model, optimizer, batch))
    assert found == pytest.approx(losses(tmp_path / "run"), rel=1e-5)
    assert len(found) == 3 * len(loader) and max(found) - min(found) > 0.1


@pytest.mark.parametrize("codec", ["lowrank:step=0.25", "cosine"])
def test_a_loop_in_an_autocast_gets_the_same_soft_targets(tmp_path: Path, codec: str) -> None:
    dump(tmp_path / "cache", data=DIGITS, seeds="0:1", unit_rows=25, codec=codec)
    found = []
    for is_on in (False, True):
        loader = DistillationLoader(tmp_path / "cache", data=DIGITS, **HERE)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
            found.append(next(iter(loader)).teacher.logits())
    assert torch.equal(*found)


def batches_of(loader: DistillationLoader, epochs: int) -> Iterator[DistillationBatch]:
    for epoch in range(loader.epoch, epochs):
        loader.set_epoch(epoch)
        yield from loader


def seen(batch: DistillationBatch) -> tuple[Any, ...]:
    return (
        batch.rows.tolist(),
        batch.seeds.tolist(),
        batch.targets.tolist(),
        batch.teacher.logits().sum().item(),
    )


Seen = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def unbroken(cache: Path) -> Callable[[int | None], Seen]:
    """Return what gives the batches of three epochs in a window, which are read once for all
    tests."""

    @functools.cache
    def read(window: int | None) -> Seen:
        loader = DistillationLoader(cache, data=DIGITS, **HERE, window=window)
        return [seen(batch) for batch in batches_of(loader, 3)]

    return read


@pytest.mark.parametrize(
    ("stop", "window"), [(1, None), (5, 2), (6, None), (6, 2), (7, 1), (12, None), (17, 2)]
)
def test_it_goes_on_after_any_step(
    cache: Path, unbroken: Callable[[int | None], Seen], stop: int, window: int | None
) -> None:
    settings: dict[str, Any] = {**HERE, "window": window}
    whole = unbroken(window)
    assert len(whole) == 18 and len({str(one) for one in whole}) == 18
    loader = DistillationLoader(cache, data=DIGITS, **settings)
    first = []
    for batch in batches_of(loader, 3):
        first.append(seen(batch))
        if len(first) == stop:
            state = loader.state_dict()
            break
    again = DistillationLoader(cache, data=DIGITS, **{**settings, "num_workers": 1})
    again.load_state_dict(state)
    assert first + [seen(batch) for batch in batches_of(again, 3)] == whole
    again.close()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loop_that_counts_batches_ends_its_epochs(cache: Path, accumulate: int) -> None:
    """As Lightning's does, which never asks for a batch after the last one."""
    settings: dict[str, Any] = {**HERE, "accumulate": accumulate}
    whole = [
        seen(batch) for batch in batches_of(DistillationLoader(cache, data=DIGITS, **settings), 2)
    ]
    loader = DistillationLoader(cache, data=DIGITS, **settings)
    first = [seen(batch) for batch in islice(loader, len(loader))]
    state = loader.state_dict()
    assert (state["epoch"], state["epoch_step"]) == (1, 0)
    assert first + [seen(batch) for batch in islice(loader, len(loader))] == whole


def test_a_state_after_the_last_step_of_an_epoch_goes_on_with_the_next(cache: Path) -> None:
    loader = DistillationLoader(cache, data=DIGITS, **HERE)
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "epoch_step": 6})
    assert list(loader) == [] and (loader.epoch, loader.step) == (1, 0)


def test_an_epoch_may_begin_anew_after_a_look_at_a_batch(cache: Path) -> None:
    loader = DistillationLoader(cache, data=DIGITS, **HERE)
    first = seen(next(iter(loader)))
    assert loader.step == 1
    loader.step = 0
    batches = [seen(batch) for batch in loader]
    assert len(batches) == len(loader) and batches[0] == first


def test_parts_of_a_step_count_as_one(cache: Path) -> None:
    whole = [
        seen(batch)[0] for batch in batches_of(DistillationLoader(cache, data=DIGITS, **HERE), 1)
    ]
    loader = DistillationLoader(cache, data=DIGITS, accumulate=2, **HERE)
    parts = [seen(batch)[0] for batch in batches_of(loader, 1)]
    assert len(loader) == len(parts) == 12 and loader.steps_per_epoch == 6
    assert [one + other for one, other in zip(parts[::2], parts[1::2], strict=True)] == whole


def test_objects_serve_as_well_as_specs(cache: Path) -> None:
    by_name = next(iter(DistillationLoader(cache, data=DIGITS, **HERE)))
    by_object = next(
        iter(
            DistillationLoader(
                cache, data=tiny_models.few_digits(length=100), seeds=range(3), **HERE
            )
        )
    )
    assert seen(by_name) == seen(by_object) and torch.equal(by_name.images, by_object.images)


def test_images_come_as_rendered_or_normalised(cache: Path) -> None:
    plain = next(iter(DistillationLoader(cache, data=DIGITS, **HERE)))
    assert plain.images.dtype == torch.uint8 and plain.images.shape == (16, 1, 8, 8)
    loader = DistillationLoader(cache, data=DIGITS, mean=0.5, std=[0.25], **HERE)
    ready = next(iter(loader)).images
    torch.testing.assert_close(ready, (plain.images / 255 - 0.5) / 0.25)
    own = DistillationLoader(cache, data=DIGITS, model=student(), **HERE)
    assert torch.equal(next(iter(own)).images, plain.images), (
        "kdcache's models normalise views themselves"
    )


def test_mixed_views_have_shares_as_targets(tmp_path: Path) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text('mode = "L"\nsize = 8\ntransforms = []\n[mixing]\nmixup = 0.8\nblock = 32\n')
    dump(tmp_path / "cache", data=DIGITS, recipe=str(recipe), seeds="0:1", unit_rows=32)
    batch = next(iter(DistillationLoader(tmp_path / "cache", data=DIGITS, **HERE)))
    assert batch.targets.shape == (16, 10) and torch.allclose(batch.targets.sum(1), torch.ones(16))
    assert batch.labels.mixed is not None
    second, share = batch.labels.mixed
    expected = share * batch.targets.gather(1, batch.labels.first[:, None])[:, 0]
    assert bool(
        (expected <= batch.targets.gather(1, batch.labels.first[:, None])[:, 0] + 1e-6).all()
    )
    assert second.shape == (16,)


def test_data_that_the_cache_was_not_made_from_are_refused(cache: Path) -> None:
    with pytest.raises(MismatchError, match=r"is not what cache .* was made from"):
        DistillationLoader(cache, data="tiny_models:few_digits,length=99", **HERE)
    other = DistillationLoader(cache, data=DIGITS, **HERE).state_dict()
    other["identity"]["cache"] = "0" * 64
    with pytest.raises(MismatchError, match="the state is of another cache"):
        DistillationLoader(cache, data=DIGITS, **HERE).load_state_dict(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": 0.5}, "mean and std belong together"),
        ({"mean": 0.5, "std": 0.0}, "std is .*must be above 0"),
        ({"seeds": "0..3"}, "are not of the form A:B"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"accumulate": 3}, "does not divide among 1 processes and 3"),
        ({"num_workers": -1}, "workers is -1"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"samples": []}, "samples is an empty list; give one sample at least"),
        ({"samples": [5, 10**6]}, "samples has 1000000, and the source has"),
        ({"samples": [-1]}, "samples has -1, and the source has .* numbered from 0 on"),
        ({"samples": [0.5]}, "it must be text or a list of whole numbers or an array"),
        (
            {"samples": np.array([0.5])},
            r"an array of float64 of shape \(1,\); it must be a list of",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_told(cache: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DistillationLoader(cache, data=DIGITS, **{**HERE, **settings})


def test_without_a_cache_or_a_teacher_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(UsageError, match="there is no teacher"):
        DistillationLoader(data=DIGITS, recipe="digits", **HERE)


def test_a_teacher_in_the_loop_gives_what_the_cache_holds(cache: Path) -> None:
    cached = next(iter(DistillationLoader(cache, data=DIGITS, **HERE)))
    teacher = f"{CONV},seed=7"
    online = next(
        iter(DistillationLoader(data=DIGITS, recipe="digits", teacher=teacher, seeds="0:3", **HERE))
    )
    assert np.array_equal(cached.rows, online.rows)
    torch.testing.assert_close(cached.teacher.logits(), online.teacher.logits())


def test_scores_are_those_of_a_training(cache: Path, tmp_path: Path) -> None:
    evaluated = {"eval_data": DIGITS, "epochs": 1, "batch_size": 16}
    result = train(tmp_path / "run", cache=str(cache), data=DIGITS, loss="dist:tau=4", **evaluated)
    weights = tmp_path / "run" / "student.safetensors"
    model = open_model(f"{MLP},weights={weights}", classes=10, recipe=load_recipe("digits"))
    data = tiny_models.few_digits(length=100)
    views = load_recipe(load_recipe("digits").eval).with_mode("L")
    found = kdcache.evaluate(model, data, recipe=views, num_workers=0)
    assert found["top1"] == pytest.approx(result["top1"]) and found["eval_loss"] == pytest.approx(
        result["eval_loss"]
    )
    bare = model.module.train()
    again = kdcache.evaluate(bare, data, recipe=views, size=8, mean=0.5, std=0.25, num_workers=0)
    assert again == pytest.approx(found) and bare.training
    with pytest.raises(
        UsageError, match="does not say how images are to be normalised; give mean and std"
    ):
        kdcache.evaluate(bare, data, recipe="eval")


def test_a_state_is_of_one_order(cache: Path) -> None:
    state = DistillationLoader(cache, data=DIGITS, **HERE).state_dict()
    others: dict[str, Any] = {"batch_size": 8, "run_seed": 1, "repeats": 2, "window": 2}
    for name, value in {**others, "samples": "0:50"}.items():
        other = DistillationLoader(cache, data=DIGITS, **{**HERE, name: value})
        with pytest.raises(
            MismatchError, match=rf"the state is of {name} .*steps count in another"
        ):
            other.load_state_dict(state)


def test_a_state_whose_window_others_decided_says_what_they_are(cache: Path) -> None:
    of_slabs = DistillationLoader(cache, data=DIGITS, **HERE)
    of_windows = DistillationLoader(cache, data=DIGITS, slab_limit=1e-6, **HERE)
    with pytest.raises(MismatchError, match="if it was given none, the slab_limit and the kind"):
        of_windows.load_state_dict(of_slabs.state_dict())


def test_samples_may_be_a_list_of_numbers(cache: Path) -> None:
    numbers = np.array([41, 7, 99, *range(10, 40)])
    loader = DistillationLoader(cache, data=DIGITS, samples=numbers, **HERE)
    assert loader.replay.rows(np.empty(0, np.int64)).size == len(numbers)
    order = loader.replay.order
    for batch in loader:
        assert np.isin(order[batch.rows.numpy()], numbers).all() and len(batch.images) == 16
    again = DistillationLoader(cache, data=DIGITS, samples=[*range(10, 40), 7, 41, 99], **HERE)
    again.load_state_dict(loader.state_dict())
    text = DistillationLoader(cache, data=DIGITS, samples="10:40", **HERE)
    listed = DistillationLoader(cache, data=DIGITS, samples=range(10, 40), **HERE)
    assert next(iter(text)).rows.tolist() == next(iter(listed)).rows.tolist()


def test_maps_come_head_by_head(tmp_path: Path, recipe: str) -> None:
    made(tmp_path / "cache", recipe, codec="full:dtype=float32")
    loader = DistillationLoader(tmp_path / "cache", data=MAPS, **HERE)
    batch = next(iter(loader))
    assert batch.targets.dtype == torch.int64 and batch.targets.ndim == 3
    maps = batch.teacher.logits()
    views, heads, height, width, classes = maps.shape
    assert heads == 2 and views == 16
    logits = torch.randn(views, classes, height, width, requires_grad=True)
    rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
    large = nn.functional.interpolate(logits, batch.targets.shape[1:])
    loss = cross_entropy(large, batch.targets, ignore_index=255)
    (loss + kdcache.dist_loss(rows, segments_of(batch.teacher)[0])).backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    for of_rows in (kdcache.dist_loss, kdcache.kl_loss, kdcache.mse_loss, kdcache.mlkd_loss):
        with pytest.raises(CodecError, match=r"head by head: give teacher\.heads\[0\]"):
            of_rows(rows, batch.teacher)
    with pytest.raises(CodecError, match=r"head by head: give teacher\.heads\[0\]"):
        kdcache.cwd_loss(logits.permute(0, 2, 3, 1), batch.teacher)


OF_A_RANK = """
import json, sys
import torch
import kdcache

rank, store, cache, data = sys.argv[1:]
torch.distributed.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=2)
loader = kdcache.DistillationLoader(cache, data=data, batch_size=16, num_workers=0, device="cpu")
for epoch in range(2):
    loader.set_epoch(epoch)
    for batch in loader:
        print(json.dumps(batch.rows.tolist()))
torch.distributed.destroy_process_group()
"""


def test_processes_that_others_have_joined_share_each_step(cache: Path, tmp_path: Path) -> None:
    alone = DistillationLoader(cache, data=DIGITS, **HERE)
    whole = [batch.rows.tolist() for batch in batches_of(alone, 2)]
    file = tmp_path / "of_a_rank.py"
    file.write_text(OF_A_RANK)
    words = (str(tmp_path / "store"), str(cache), DIGITS)
    ranks = [script(file, str(rank), *words, folder=tmp_path) for rank in range(2)]
    told = [out.splitlines() for _, out, _ in (rank.end() for rank in ranks)]
    first, second = ([json.loads(line) for line in lines] for lines in told)
    assert [one + other for one, other in zip(first, second, strict=True)] == whole
    assert {len(rows) for rows in first + second} == {8}


APART = """
import sys
import torch
import kdcache

rank, store, cache, data, what = sys.argv[1:]


def join():
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=2)


def loader(**settings):
    return kdcache.DistillationLoader(
        cache, data=data, batch_size=16, num_workers=0, device="cpu", **settings
    )


if what == "early":
    apart = loader()
    join()
else:
    join()
if what == "seed":
    apart = loader(run_seed=int(rank))
if what == "step":
    apart = loader()
    for number, batch in enumerate(apart):
        if number == int(rank):
            break
try:
    next(iter(apart))
except kdcache.KdcacheError as error:
    print(f"{type(error).__name__}: {error}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("seed", "MismatchError: rank 1 on .* has another run_seed: 1 there, 0 in rank 0 .*; give"),
        ("step", "MismatchError: rank 1 on .* has another step: 2 there, 1 in rank 0 .*; give"),
        ("early", "UsageError: the loader was opened with 1 process joined, and now there are 2"),
    ],
)
def test_processes_whose_loaders_differ_are_told(
    cache: Path, tmp_path: Path, what: str, message: str
) -> None:
    """They would train on views that are no one's share, and nothing would tell."""
    file = tmp_path / "apart.py"
    file.write_text(APART)
    words = (str(tmp_path / "store"), str(cache), DIGITS, what)
    ranks = [script(file, str(rank), *words, folder=tmp_path) for rank in range(2)]
    for _, out, err in [rank.end() for rank in ranks]:
        assert re.match(message, out), out + err


def test_caches_whose_maps_differ_need_a_student_with_maps(tmp_path: Path, recipe: str) -> None:
    for stride in (2, 4):
        map_caches.made(
            tmp_path / str(stride), recipe, teacher=f"tiny_models:segmenter,stride={stride}"
        )
    caches = [tmp_path / "2", tmp_path / "4"]
    with pytest.raises(MismatchError, match=r"logits of layouts .* cannot be combined; .*give mod"):
        DistillationLoader(caches, data=map_caches.DATA, **HERE)


def test_a_square_size_may_be_given_as_a_pair(cache: Path) -> None:
    settings: dict[str, Any] = {"data": DIGITS, **HERE}
    sizes: list[Any] = [(8, 8), 8]
    for size in sizes:
        with DistillationLoader(cache, size=size, **settings) as loader:
            assert next(iter(loader)).images.shape[2:] == (8, 8)


def another_loop(loader: DistillationLoader) -> None:
    next(iter(loader))


def another_epoch(loader: DistillationLoader) -> None:
    loader.set_epoch(2)


def back(loader: DistillationLoader) -> None:
    loader.load_state_dict(loader.state_dict())


@pytest.mark.parametrize("send", [another_loop, another_epoch, back])
def test_a_loop_whose_loader_is_sent_elsewhere_is_told(
    cache: Path, send: Callable[[DistillationLoader], None]
) -> None:
    """It would go on with batches that count for another place."""
    loader = DistillationLoader(cache, data=DIGITS, **HERE)
    batches = iter(loader)
    next(batches)
    loader.set_epoch(0)  # where it is
    next(batches)
    send(loader)
    with pytest.raises(UsageError, match=r"was sent elsewhere while a loop over it ran.*break"):
        next(batches)


def test_the_next_epoch_may_begin_within_the_last_batch(
    cache: Path, unbroken: Callable[[int | None], Seen]
) -> None:
    loader = DistillationLoader(cache, data=DIGITS, **HERE)
    found = []
    for number, batch in enumerate(loader, start=1):
        found.append(seen(batch))
        if number == len(loader):
            found.append(seen(next(iter(loader))))
    found += map(seen, loader)
    assert found == unbroken(None)[: 2 * len(loader)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loader_says_that_it_cannot_be_copied(
    cache: Path, copied: Callable[[DistillationLoader], Any]
) -> None:
    loader = DistillationLoader(cache, data=DIGITS, **HERE)
    with pytest.raises(UsageError, match=r"cannot be copied or sent to another process; open one"):
        copied(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_do_not_depend_on_the_defaults_of_torch(
    cache: Path, unbroken: Callable[[int | None], Seen], workers: int
) -> None:
    """As of a program that has `torch.set_default_device("cuda")`, or computes in float64."""
    whole = unbroken(None)[:6]
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            settings: dict[str, Any] = {**HERE, "num_workers": workers}
            with DistillationLoader(cache, data=DIGITS, **settings) as loader:
                batches = list(loader)
            assert torch.empty(0).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(dtype)
    assert [seen(batch) for batch in batches] == whole
    plain = next(iter(DistillationLoader(cache, data=DIGITS, **HERE)))
    assert torch.equal(batches[0].images, plain.images)


def test_a_cache_is_found_from_another_working_directory(
    cache: Path,
    unbroken: Callable[[int | None], Seen],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a notebook changes it after a loader was opened."""
    monkeypatch.chdir(cache.parent)
    settings: dict[str, Any] = {**HERE, "slab_dir": "slabs"}
    loader = DistillationLoader(cache.name, data=DIGITS, **settings)
    monkeypatch.chdir(tmp_path)
    assert [seen(batch) for batch in batches_of(loader, 3)] == unbroken(None)
    assert f"DistillationLoader of {cache.name}:" in repr(loader)
    assert not any(tmp_path.iterdir())


def test_an_argument_that_there_is_not_is_told_with_the_name_of_the_loader(cache: Path) -> None:
    with pytest.raises(TypeError, match=r"DistillationLoader.* unexpected .*'shuffle'"):
        DistillationLoader(cache, data=DIGITS, shuffle=True)  # type: ignore[call-arg]
