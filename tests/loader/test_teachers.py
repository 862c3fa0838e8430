"""Where a batch's soft targets come from: each kind gives those of the batch, whatever its
order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import fill
from runs import CONV, DIGITS, IN_PROCESS, dump
from tiny_models import FEW

from kdcache.cache import Cache, open_cache
from kdcache.errors import MissingUnitError, UsageError
from kdcache.loader.record_checks import check_records
from kdcache.loader.replay import CacheUse
from kdcache.loader.slab_reader import SlabReader
from kdcache.loader.teachers import CachedTeacher, NoTeacher, OnlineTeacher, Teacher
from kdcache.losses import open_loss
from kdcache.models.model import open_model
from kdcache.runtime.device import Compute
from kdcache.soft_targets import SoftTargets
from kdcache.sources import open_source
from kdcache.tools.recode import recode_cache
from kdcache.views import Batch, ViewDataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    path = tmp_path_factory.mktemp("teachers") / "cache"
    dump(path, codec="full:dtype=float32", seeds="0:2")
    return open_cache(path)


def batch_of(cache: Cache, views: list[tuple[int, int]]) -> Batch:
    batch: Any = ViewDataset(
        open_source(DIGITS), cache.recipe, cache.order, sizes=[8]
    ).__getitems__(views)
    assert isinstance(batch, Batch)
    return batch


def test_cached_rows_are_those_of_the_teacher_in_the_loop(cache: Cache) -> None:
    compute = Compute(IN_PROCESS)
    recipe = cache.recipe
    model = open_model(f"{CONV},seed=7", classes=10, recipe=recipe, trained=True)
    online = OnlineTeacher(model, compute, place=0)
    cached = CachedTeacher(cache, SlabReader(cache), compute)
    for teacher in (cached, online):
        assert isinstance(teacher, Teacher)
    rows = [FEW - 1, 3, FEW // 2, 3, 0]
    for seed, following in ((0, [1]), (1, [0]), (0, [])):
        batch = batch_of(cache, [(row, seed) for row in rows])
        for teacher in (cached, online):
            assert len(teacher.start([seed], following)[seed]) == 0
            assert isinstance(teacher.soft_targets(batch), SoftTargets)
        found, expected = cached.soft_targets(batch).logits(), online.soft_targets(batch).logits()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        stored = cache.codec.decode(cache.read(seed, rows)).logits()
        assert torch.equal(found, stored) and not found.requires_grad and not expected.requires_grad
    one, other = (cache.codec.decode(cache.read(seed, rows)).logits() for seed in (0, 1))
    assert not torch.equal(one, other), "seeds that give equal logits would prove nothing"


def test_a_seed_that_is_not_there_is_told(cache: Cache) -> None:
    with pytest.raises(MissingUnitError, match="does not hold seed 5"):
        CachedTeacher(cache, SlabReader(cache), Compute(IN_PROCESS)).start([5], [])
    with pytest.raises(MissingUnitError, match="does not hold seed 5"):
        NoTeacher([CacheUse(cache=cache)]).start([5], [])


def test_a_seed_to_come_that_is_not_there_is_told_when_its_turn_comes(cache: Cache) -> None:
    teacher = CachedTeacher(cache, SlabReader(cache), Compute(IN_PROCESS))
    assert len(teacher.start([0], [5])[0]) == 0
    with pytest.raises(MissingUnitError, match="does not hold seed 5"):
        teacher.start([5], [])


def test_no_teacher_leaves_out_what_the_cache_lacks(cache: Cache, tmp_path: Path) -> None:
    from PIL import Image

    for index in range(12):
        path = tmp_path / "images" / f"class{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), index).save(path)
    for name in ("class1/10.png", "class2/02.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    data = f"imagefolder:{tmp_path}/images"
    dump(
        tmp_path / "cache",
        data=data,
        teacher=f"{CONV},classes=3",
        seeds="0:1",
        skip_unreadable=True,
    )
    holed = open_cache(tmp_path / "cache")
    source = open_source(data)
    teachers: list[Teacher] = [
        NoTeacher([CacheUse(cache=holed)]),
        CachedTeacher(holed, SlabReader(holed), Compute(IN_PROCESS)),
    ]
    for teacher in teachers:
        absent = teacher.start([0], [])[0]
        assert sorted(source.key(int(holed.order[row])) for row in absent) == [
            "class1/10.png",
            "class2/02.png",
        ]
    for uses in ([], [CacheUse(cache=cache)]):
        assert len(NoTeacher(uses).start([0], [])[0]) == 0
    assert NoTeacher([]).soft_targets(batch_of(cache, [(0, 0), (1, 0)])).logits().shape == (2, 0)


@pytest.mark.parametrize(
    ("codec", "loss", "told"),
    [
        ("topk:k=1", "dist:tau=4", True),
        ("topk:k=1", "dist:tau=3,gamma=0", False),
        ("topk:k=1", "kl:tau=4", False),
        ("lowrank:step=30", "dist:tau=4", True),
        ("lowrank:step=1", "dist:tau=4", False),
        ("full:dtype=uint4", "dist:tau=4", False),
    ],
)
def test_a_cache_that_turns_the_gradient_far_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str, loss: str, told: bool
) -> None:
    dump(tmp_path, codec=codec, seeds="0:1")
    cache = open_cache(tmp_path)
    error = cache.manifest.gradient_error[4.0]
    capsys.readouterr()
    check_records(cache, open_loss(loss), loss)
    line = (
        f"turns the gradient of DIST at tau 4 by {100 * error:.0f} % of its norm, as measured when"
        " it was made"
    )
    assert (line in capsys.readouterr().err) is told


def test_a_cache_whose_error_was_never_measured_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(path: Path) -> str:
        capsys.readouterr()
        check_records(open_cache(path), open_loss("dist:tau=4"), "dist:tau=4")
        return capsys.readouterr().err

    fill(tmp_path / "one", 0, codec="full:dtype=float32", rows=400, classes=40)
    for name, codec in {
        "small": "topk:k=4",
        "fine": "lowrank:step=0.1",
        "bits": "full:dtype=uint8",
    }.items():
        recode_cache(tmp_path / "one", tmp_path / name, codec=codec)
    assert (
        f"how far topk:k=4 of cache {tmp_path}/small turns the gradient of DIST was not measured;"
        " gamma" in told(tmp_path / "small")
    )
    assert told(tmp_path / "fine") == told(tmp_path / "bits") == ""
    fill(tmp_path / "two", 0, 1, codec="full:dtype=float32", rows=400, classes=40)
    for old, new, codec in (
        ("two", "far", "topk:k=4"),
        ("far", "further", "topk:k=2"),
        ("two", "near", "topk:k=39"),
    ):
        recode_cache(tmp_path / old, tmp_path / new, codec=codec)
    error = 100 * open_cache(tmp_path / "far").manifest.gradient_error[4.0]
    before = (
        f"was recoded from topk:k=4, which turns the gradient of DIST at tau 4 by {error:.0f} % of"
        " its norm: it turns it "
    )
    assert before in told(tmp_path / "further")
    assert told(tmp_path / "near") == ""
    recode_cache(tmp_path / "near", tmp_path / "cut", codec="topk:k=2")
    assert "was not measured" in told(tmp_path / "cut"), (
        "the error before it was small, which says nothing of this one"
    )


@pytest.mark.parametrize("loss", ["dkd", "nkd"])
def test_topk_of_all_classes_holds_every_label(tmp_path: Path, loss: str) -> None:
    for k in (4, 5):
        fill(
            tmp_path / str(k),
            0,
            codec=f"topk:k={k}",
            unit_rows=32,
            chunk_rows=32,
            chunk_bytes=2 * k,
            zstd_level=13,
        )
    check_records(open_cache(tmp_path / "5"), open_loss(loss), loss)
    with pytest.raises(UsageError, match="keeps only among the largest"):
        check_records(open_cache(tmp_path / "4"), open_loss(loss), loss)
