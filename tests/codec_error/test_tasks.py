"""Codec error of segmentation and detection: from a teacher and from a cache it is what a dump and
`recode` state."""

from pathlib import Path
from typing import Any

import box_caches
import map_caches
import numpy as np
import pytest
import torch
from runs import IN_PROCESS

from kdcache.codec_error.cache_sample import sample_from_cache
from kdcache.codec_error.measure import CodecErrorConfig, measure_codec_error
from kdcache.codec_error.teacher_sample import sample_from_teacher
from kdcache.dump.config import DumpConfig
from kdcache.dump.plan import plan_dump
from kdcache.errors import CacheError, UsageError
from kdcache.tools.recode import recode_cache

VIEWS = 16
"""Views that a dump of so few samples measures on."""
NORMALISED = "mean=0.5,std=0.25"
TEACHERS = {
    "maps": map_caches.TEACHER,
    "levels": box_caches.TEACHER,
    "levels with background": f"tiny_detectors:ssd,{NORMALISED},seed=7",
    "proposals": f"tiny_detectors:faster_rcnn,{NORMALISED},seed=7",
}
CASES = [
    ("maps", "topk:k=2"),
    ("maps", "cosine"),
    ("levels", "cosine"),
    ("levels with background", "full:dtype=uint4"),
    ("proposals", "full:dtype=uint8"),
]


@pytest.fixture(scope="module")
def recipes(recipe: str, box_recipe: str) -> dict[str, dict[str, str]]:
    """Return data and recipe of each kind of teacher."""
    boxes = {"data": box_caches.DATA, "recipe": box_recipe}
    maps = {"data": map_caches.DATA, "recipe": recipe}
    return {kind: maps if kind == "maps" else boxes for kind in TEACHERS}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    path = tmp_path_factory.mktemp("caches") / "exact"
    map_caches.made(path, recipe, codec="full:dtype=float32", seeds="0:2")
    return path


@pytest.mark.parametrize(("kind", "codec"), CASES)
def test_a_teacher_is_measured_as_its_dump_measures_it(
    recipes: Any, kind: str, codec: str, tmp_path: Path
) -> None:
    settings = {**recipes[kind], "teacher": TEACHERS[kind], "compute": IN_PROCESS}
    config = CodecErrorConfig(codec=(codec,), views=VIEWS, **settings)
    (cost,) = measure_codec_error(config)["codecs"]
    dump = DumpConfig(cache=str(tmp_path / "cache"), codec=codec, seeds="0:1", **settings)
    plan = plan_dump(dump)
    assert cost["gradients"] == plan["gradients"]
    for case in cost["gradients"]:
        error = case["both"]["error"]
        stated = plan["gradient_error"][f"{case['tau']:g}"]
        assert error == pytest.approx(stated, rel=1e-3) and error > 0
    assert cost["bytes"] == pytest.approx(plan["bytes_per_view"], rel=0.25)


@pytest.mark.parametrize("codec", ["full:dtype=uint8", "lowrank:step=0.5", "cosine:steps=6"])
def test_a_cache_is_measured_as_recode_measures_it(exact: Path, codec: str, tmp_path: Path) -> None:
    result = measure_codec_error(CodecErrorConfig(logits=str(exact), codec=(codec,)))
    assert result["proxy"] == "the teacher at the next position"
    assert result["classes"] == 4 and result["sites"] == [2, 4, 6]
    assert result["measured_on"] == 12 and result["batch_sizes"] == [12]
    recoded = recode_cache(exact, tmp_path / "new", codec=codec)
    (cost,) = result["codecs"]
    errors = {f"{case['tau']:g}": case["both"]["error"] for case in cost["gradients"]}
    assert errors == pytest.approx(recoded["gradient_error"], rel=1e-3)
    assert cost["bytes"] == pytest.approx(recoded["after"]["bytes_per_view"], rel=0.1)


@pytest.mark.parametrize("kind", ["maps", "proposals"])
def test_a_cache_gives_what_its_teacher_gives(recipes: Any, kind: str, tmp_path: Path) -> None:
    changes = {**recipes[kind], "teacher": TEACHERS[kind], "codec": "full:dtype=float32"}
    map_caches.made(tmp_path / "cache", **changes)
    run = sample_from_teacher(TEACHERS[kind], views=8, compute=IN_PROCESS, **recipes[kind])
    read = sample_from_cache(tmp_path / "cache", views=8)
    torch.testing.assert_close(run.teacher, read.teacher)
    assert np.array_equal(run.groups, read.groups) and len(read.views) == 2
    torch.testing.assert_close(run.views.logits, read.views.logits)
    torch.testing.assert_close(run.views.student, read.views.student)
    place = {"maps": "position", "proposals": "proposal"}[kind]
    assert read.proxy == run.proxy == f"the teacher at the next {place}"
    if read.views.boxes is not None:
        assert run.views.boxes is not None
        torch.testing.assert_close(run.views.boxes, read.views.boxes)


def test_a_student_looks_at_the_views_that_are_measured(exact: Path, recipes: Any) -> None:
    student = map_caches.STUDENT
    data = recipes["maps"]["data"]
    read = sample_from_cache(exact, views=8, student=student, data=data, compute=IN_PROCESS)
    settings = {**recipes["maps"], "views": 8, "student": student, "compute": IN_PROCESS}
    run = sample_from_teacher(map_caches.TEACHER, **settings)
    torch.testing.assert_close(run.views.student, read.views.student)
    assert run.proxy == read.proxy == student
    (alone, *_) = sample_from_teacher(student, **{**settings, "student": None}).views.logits
    torch.testing.assert_close(alone, read.views.student[0])


@pytest.mark.parametrize(
    ("kind", "student", "told"),
    [
        (
            "maps",
            "tiny_models:segmenter,stride=8",
            r"sizes \[\[2, 3\], \[2, 3\]\], not \[\[4, 6\], .*leave student out: the teacher",
        ),
        (
            "levels",
            f"tiny_detectors:retinanet,{NORMALISED},anchors=1",
            r"anchors \[1, 1\], not \[2, 2\]",
        ),
        ("proposals", f"tiny_detectors:faster_rcnn,{NORMALISED}", "has proposals of its own"),
    ],
)
def test_a_student_whose_logits_lie_otherwise_is_refused(
    recipes: Any, kind: str, student: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        sample_from_teacher(TEACHERS[kind], student=student, compute=IN_PROCESS, **recipes[kind])


def test_what_a_cache_of_maps_cannot_be_measured_with(
    exact: Path, recipe: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="this one has many in each view: leave teacher out"):
        config = CodecErrorConfig(logits=str(exact), teacher=map_caches.TEACHER)
        measure_codec_error(config)
    map_caches.made(tmp_path / "lossy", recipe, codec="full:dtype=uint8")
    with pytest.raises(CacheError, match="codecs are measured against exact logits"):
        sample_from_cache(tmp_path / "lossy")
