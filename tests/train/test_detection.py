"""Detectors trained from a cache: every step is that with the teacher in the loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import dump, losses, steps, train

import kdcache
from kdcache.errors import MismatchError, ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.train.optim import OptimizerConfig
from kdcache.views import load_recipe

DATA = "tiny_detectors:rectangles"
NORMALISED = "mean=0.5,std=0.25"
RECIPE = """
size = 64
eval = "detection-eval"

[[transforms]]
name = "RandomPhotometricDistort"

[[transforms]]
name = "RandomIoUCrop"

[[transforms]]
name = "RandomHorizontalFlip"

[[transforms]]
name = "kdcache.RandomScale"
scales = [0.75, 1.0, 1.25]

[[transforms]]
name = "kdcache.Letterbox"
size = "input"
fill = [114, 114, 114]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "boxes.toml"
    file.write_text(RECIPE)
    return str(file)


def cached(path: Path, recipe: str, **changes: Any) -> str:
    settings: dict[str, Any] = {
        "data": DATA,
        "teacher": f"tiny_detectors:retinanet,{NORMALISED},seed=7",
        "recipe": recipe,
        "codec": "full:dtype=float32",
        "batch_size": 8,
    }
    dump(path, **{**settings, **changes})
    return str(path)


def trained(run: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data": DATA,
        "student": f"tiny_detectors:retinanet,{NORMALISED},seed=1",
        "loss": "dist:tau=1,beta=1,gamma=1",
        "batch_size": 8,
        "optimizer": OptimizerConfig(lr=0.002),
    }
    return train(run, **{**settings, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> str:
    """Return a cache that tests only read."""
    return cached(tmp_path_factory.mktemp("cache") / "cache", recipe)


@pytest.mark.parametrize(
    ("detector", "loss"),
    [
        ("retinanet", "dist:tau=1,beta=1,gamma=1"),
        ("fcos", "kl:tau=2"),
        ("ssd", "dist:tau=2"),
        ("faster_rcnn", "dist:tau=1"),
        ("mask_rcnn", "kl:tau=2"),
    ],
)
def test_cached_equals_online(tmp_path: Path, recipe: str, detector: str, loss: str) -> None:
    teacher = f"tiny_detectors:{detector},{NORMALISED},seed=7"
    cache = cached(tmp_path / "cache", recipe, teacher=teacher)
    student = f"tiny_detectors:{detector},{NORMALISED},seed=1"
    settings = {"student": student, "loss": loss}
    trained(tmp_path / "cached", cache=(cache,), **settings)
    trained(tmp_path / "online", teacher=teacher, recipe=recipe, seeds="0:2", **settings)
    cached_losses = losses(tmp_path / "cached")
    assert len(cached_losses) == 6
    assert cached_losses == pytest.approx(losses(tmp_path / "online"), rel=1e-5)


def test_a_detector_of_ones_own_says_what_its_head_gives(tmp_path: Path, recipe: str) -> None:
    teacher = f"tiny_detectors:plain,{NORMALISED},seed=7,can_train=false"
    cache = cached(tmp_path / "cache", recipe, teacher=teacher)
    layout = kdcache.open_cache(cache).manifest.layout
    assert layout == kdcache.Pyramid(((8, 8), (4, 4)), (1, 1))
    student = f"tiny_detectors:plain,{NORMALISED},seed=1"
    result = trained(tmp_path / "run", cache=(cache,), student=student, eval_data=DATA, epochs=1)
    assert "ap" in result
    with pytest.raises(ModelError, match="gives no losses of its own, which a student needs"):
        trained(tmp_path / "other", cache=(cache,), student=teacher)


@pytest.mark.parametrize("store", ["zarr", "webdataset"])
def test_it_learns_and_is_scored_and_a_tar_holds_images_and_boxes(
    tmp_path: Path, recipe: str, store: str
) -> None:
    cache = cached(tmp_path / "cache", recipe, store=store, codec=None)
    data = {"data": DATA} if store == "zarr" else {"data": None}
    result = trained(tmp_path / "run", cache=(cache,), eval_data=DATA, epochs=3, **data)
    assert {"ap", "ap50", "ap75", "best_ap"} <= result.keys()
    first, *_, last = losses(tmp_path / "run")
    assert last < first
    names = set(steps(tmp_path / "run")[0])
    assert {"inter", "intra", "task"} <= names


def test_a_loop_of_ones_own_gets_what_torchvisions_detectors_take(cache: str, recipe: str) -> None:
    loader = kdcache.DistillationLoader(cache, data=DATA, batch_size=8, num_workers=0)
    with loader:
        batch = next(iter(loader))
    assert batch.images.dtype == torch.uint8
    assert isinstance(batch.targets, list)
    for target in batch.targets:
        assert target["boxes"].shape == (len(target["labels"]), 4)
        assert target["labels"].dtype == torch.int64
    teacher = open_model(
        f"tiny_detectors:retinanet,{NORMALISED},seed=7",
        classes=3,
        recipe=load_recipe(recipe),
        trained=True,
        task="detection",
    )
    with torch.no_grad():
        output = teacher.eval()(batch.images)
    torch.testing.assert_close(batch.teacher.logits(), output.logits)


def test_a_student_whose_positions_lie_otherwise_is_refused(tmp_path: Path, cache: str) -> None:
    student = f"tiny_detectors:retinanet,{NORMALISED},anchors=1"
    with pytest.raises(MismatchError, match=r"anchors \[1, 1\], not \[2, 2\].*anchor_boxes"):
        trained(tmp_path / "run", cache=(cache,), student=student)
    student = f"tiny_detectors:faster_rcnn,{NORMALISED}"
    with pytest.raises(MismatchError, match="lie as the teacher's: proposals, not pyramid; take a"):
        trained(tmp_path / "run", cache=(cache,), student=student)
    with pytest.raises(UsageError, match="which the positions of a detector have not"):
        trained(tmp_path / "run", cache=(cache,), loss="dkd")


def test_recipes_that_boxes_cannot_follow_are_refused(tmp_path: Path, recipe: str) -> None:
    mixing = tmp_path / "mixing.toml"
    mixing.write_text(f"{RECIPE}\n[mixing]\nmixup = 0.8\n")
    with pytest.raises(kdcache.KdcacheError, match="mixes views, which boxes cannot follow"):
        cached(tmp_path / "cache", str(mixing))
