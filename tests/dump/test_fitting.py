"""What a codec is fitted to: how many views, and which of them a plan has run before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import CONV, IN_PROCESS
from torch import Tensor

import kdcache
from kdcache.cache import open_cache
from kdcache.codecs import open_codec
from kdcache.dump import fitting, plan
from kdcache.dump.config import DumpConfig
from kdcache.dump.fitting import SampleSize, sample_size
from kdcache.dump.plan import plan_dump
from kdcache.dump.run import run_dump
from kdcache.models.vision_model import VisionModel
from kdcache.positions import Heads, One


class Teacher:
    """Counts the views that models see, and can change what they give."""

    def __init__(self) -> None:
        self.num_views = 0
        self.factor = 1.0


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Teacher]:
    """Return what counts the views, in a home of the test's own."""
    counted = Teacher()
    forward = VisionModel.forward

    def count(model: VisionModel, views: Tensor) -> Any:
        counted.num_views += len(views)
        return forward(model, views) * counted.factor

    monkeypatch.setattr(VisionModel, "forward", count)
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    # on a busy machine a plan would run out of time, and see fewer views
    monkeypatch.setattr(plan, "PLAN_SECONDS", 600.0)
    monkeypatch.setattr(fitting, "SAMPLE_SECONDS", 600.0)
    yield counted


def config(path: Path, **changes: Any) -> DumpConfig:
    settings: dict[str, Any] = {
        "data": "tiny_models:few_digits,length=60",
        "teacher": f"{CONV},seed=7",
        "recipe": "digits",
        "codec": "lowrank:step=1",
        "batch_size": 16,
        "compute": IN_PROCESS,
    }
    return DumpConfig(cache=str(path), **{**settings, **changes})


def views_of(teacher: Teacher, run: Any, *arguments: Any) -> int:
    before = teacher.num_views
    run(*arguments)
    return teacher.num_views - before


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_dump_goes_on_with_what_its_plan_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Teacher, seconds: float
) -> None:
    alone = views_of(teacher, run_dump, config(tmp_path / "alone"))
    monkeypatch.setattr(fitting, "SAMPLE_SECONDS", seconds)
    plan = plan_dump(config(tmp_path / "cache"))
    assert (plan["sample_seconds"] > 0) is (seconds == 0)
    after = views_of(teacher, run_dump, config(tmp_path / "cache"))
    num_kept = 2 * 16 if seconds == 0 else 2 * 60
    # four are run again, to see that they are as they were
    assert alone - after == num_kept - 4
    fits = [open_cache(tmp_path / name).codec.fit_arrays() for name in ("alone", "cache")]
    for name, array in fits[0].items():
        assert np.array_equal(array, fits[1][name])
    assert not list((tmp_path / "home" / "samples").iterdir()), "the cache has the fit"


def test_a_second_plan_runs_no_view_of_the_sample_again(tmp_path: Path, teacher: Teacher) -> None:
    first = views_of(teacher, plan_dump, config(tmp_path / "cache"))
    second = views_of(teacher, plan_dump, config(tmp_path / "cache"))
    assert first - second == 2 * 60 - 4


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": f"{CONV},seed=8"},
        {"teacher": "tiny_models:conv,mean=0.5,std=0.5,seed=7"},
        {"recipe": "moved.toml"},
        {"data": "tiny_models:few_digits,length=61"},
        {"order_seed": 1},
        {"batch_size": 15},
    ],
)
def test_what_another_plan_has_run_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Teacher, changes: dict[str, Any]
) -> None:
    digits = (Path(kdcache.__file__).parent / "views/recipes/digits.toml").read_text()
    (tmp_path / "moved.toml").write_text(digits.replace("padding = 1", "padding = 2"))
    monkeypatch.chdir(tmp_path)
    alone = views_of(teacher, run_dump, config(tmp_path / "alone", **changes))
    plan_dump(config(tmp_path / "cache"))
    assert views_of(teacher, run_dump, config(tmp_path / "cache", **changes)) == alone


def test_what_a_teacher_gave_before_its_code_changed_is_not_used(
    tmp_path: Path, teacher: Teacher
) -> None:
    plan_dump(config(tmp_path / "cache"))
    teacher.factor = 1.5
    after = views_of(teacher, run_dump, config(tmp_path / "cache"))
    assert after == views_of(teacher, run_dump, config(tmp_path / "alone")) + 4
    fits = [open_cache(tmp_path / name).codec.fit_arrays() for name in ("alone", "cache")]
    assert np.array_equal(fits[0]["mean"], fits[1]["mean"])


def test_a_plan_runs_more_views_where_a_codec_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Teacher
) -> None:
    monkeypatch.setattr(fitting, "SAMPLE_SECONDS", 0.0)
    plan = plan_dump(config(tmp_path / "cache", batch_size=1))  # two views are too few for a basis
    assert plan["sample_seconds"] == 0 and plan["codec"].startswith("lowrank:step=1")


@pytest.mark.parametrize(
    ("spec", "classes", "samples", "seeds", "expected"),
    [
        ("lowrank:step=2", 1000, 1_281_167, 90, 8192),
        ("lowrank:step=2", 1000, 10_000, 1, 1024),
        ("lowrank:step=2", 5000, 10_000, 1, 5000),
        ("lowrank:step=2", 100, 10_000, 1, 1024),
        ("lowrank:step=2", 100, 10_000, 4, 4000),
        ("lowrank:step=2", 100, 300, 1, 600),
        ("lowrank:step=2,views=5000", 100, 10_000, 1, 5000),
        ("full", 1000, 1_281_167, 1, 512),
        ("topk:k=5", 100, 10_000, 1, 1024),
    ],
)
def test_of_a_small_dump_the_sample_is_small(
    spec: str, classes: int, samples: int, seeds: int, expected: int
) -> None:
    codec = open_codec(spec, classes=classes)
    assert sample_size(codec, One(), samples, seeds).rows == expected


@pytest.mark.parametrize(("samples", "expected"), [(40, 16), (200, 20), (5000, 64)])
def test_maps_of_few_views_are_enough(samples: int, expected: int) -> None:
    layout = Heads(((16, 16),))
    codec = open_codec("full:dtype=uint8", classes=5)
    assert sample_size(codec, layout, samples, 1) == SampleSize(codec.views, expected)
