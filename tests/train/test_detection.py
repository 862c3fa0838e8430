"""Detectors trained from a cache: every step is that with the teacher in the loop."""

from pathlib import Path

import pytest
import torch
from box_caches import DATA, RECIPE, box_cache, trained
from runs import losses, steps

import kdcache
from kdcache.errors import MismatchError, ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.views import load_recipe

NORMALISED = "mean=0.5,std=0.25"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, box_recipe: str) -> str:
    """Return a cache that tests only read."""
    return box_cache(tmp_path_factory.mktemp("cache") / "cache", box_recipe)


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
def test_cached_equals_online(tmp_path: Path, box_recipe: str, detector: str, loss: str) -> None:
    teacher = f"tiny_detectors:{detector},{NORMALISED},seed=7"
    cache = box_cache(tmp_path / "cache", box_recipe, teacher=teacher)
    student = f"tiny_detectors:{detector},{NORMALISED},seed=1"
    settings = {"student": student, "loss": loss}
    trained(tmp_path / "cached", cache=(cache,), **settings)
    trained(tmp_path / "online", teacher=teacher, recipe=box_recipe, seeds="0:2", **settings)
    cached_losses = losses(tmp_path / "cached")
    assert len(cached_losses) == 4
    assert cached_losses == pytest.approx(losses(tmp_path / "online"), rel=1e-5)


def test_a_detector_of_ones_own_says_what_its_head_gives(tmp_path: Path, box_recipe: str) -> None:
    teacher = f"tiny_detectors:plain,{NORMALISED},seed=7,can_train=false"
    cache = box_cache(tmp_path / "cache", box_recipe, teacher=teacher)
    layout = kdcache.open_cache(cache).manifest.layout
    assert layout == kdcache.Pyramid(((8, 8), (4, 4)), (1, 1))
    student = f"tiny_detectors:plain,{NORMALISED},seed=1"
    result = trained(tmp_path / "run", cache=(cache,), student=student, eval_data=DATA, epochs=1)
    assert "ap" in result
    with pytest.raises(ModelError, match="gives no losses of its own, which a student needs"):
        trained(tmp_path / "other", cache=(cache,), student=teacher)


@pytest.mark.parametrize("store", ["zarr", "webdataset"])
def test_it_learns_and_is_scored_and_a_tar_holds_images_and_boxes(
    tmp_path: Path, box_recipe: str, store: str
) -> None:
    cache = box_cache(tmp_path / "cache", box_recipe, store=store, codec=None)
    data = {"data": DATA} if store == "zarr" else {"data": None}
    result = trained(tmp_path / "run", cache=(cache,), eval_data=DATA, epochs=3, **data)
    assert {"ap", "ap50", "ap75", "best_ap"} <= result.keys()
    first, *_, last = losses(tmp_path / "run")
    assert last < first
    names = set(steps(tmp_path / "run")[0])
    assert {"inter", "intra", "task"} <= names


def test_a_loop_of_ones_own_gets_what_torchvisions_detectors_take(
    cache: str, box_recipe: str
) -> None:
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
        recipe=load_recipe(box_recipe),
        trained=True,
        task="detection",
    )
    with torch.no_grad():
        output = teacher.eval()(batch.images)
    torch.testing.assert_close(batch.teacher.logits(), output.logits)


@pytest.mark.parametrize("detector", ["fcos", "ssd", "faster_rcnn"])
def test_labels_of_a_loop_of_ones_own_count_the_background_where_the_teacher_does(
    tmp_path: Path, box_recipe: str, detector: str
) -> None:
    teacher = f"tiny_detectors:{detector},{NORMALISED},seed=7"
    cache = box_cache(tmp_path / "cache", box_recipe, teacher=teacher)
    with kdcache.DistillationLoader(cache, data=DATA, batch_size=8, num_workers=0) as loader:
        batch = next(iter(loader))
    labels = torch.cat([target["labels"] for target in batch.targets])
    classes = batch.labels.first[batch.labels.first >= 0]
    assert len(labels)
    assert labels.tolist() == (classes + int(detector != "fcos")).tolist()


@pytest.mark.parametrize(
    ("detector", "loss"),
    [
        ("fcos", "dist:tau=1"),
        ("ssd", "kl:tau=2"),
        ("faster_rcnn", "dist:positions=0.5"),
        ("faster_rcnn", "mse"),
    ],
)
def test_a_tail_that_a_loss_would_not_see_is_refused(
    tmp_path: Path, box_recipe: str, detector: str, loss: str
) -> None:
    teacher = f"tiny_detectors:{detector},{NORMALISED},seed=7"
    cache = box_cache(tmp_path / "cache", box_recipe, teacher=teacher, codec="topk:k=2")
    told = r"tail 'none' is of a softmax of each position, and loss .*; leave it out"
    with pytest.raises(UsageError, match=told):
        trained(tmp_path / "run", cache=(cache,), student=teacher, loss=loss, tail="none")


def test_a_tail_is_seen_at_proposals(tmp_path: Path, box_recipe: str) -> None:
    teacher = f"tiny_detectors:faster_rcnn,{NORMALISED},seed=7"
    student = teacher.replace("seed=7", "seed=1")
    cache = box_cache(tmp_path / "cache", box_recipe, teacher=teacher, codec="topk:k=2")
    for tail in ("uniform", "none"):
        trained(
            tmp_path / tail, cache=(cache,), student=student, loss="kl:tau=2", tail=tail, epochs=1
        )
    assert losses(tmp_path / "uniform") != losses(tmp_path / "none")


def test_of_sigmoids_no_codec_is_named_that_would_be_refused(
    tmp_path: Path, box_recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = box_cache(tmp_path / "cache", box_recipe, codec="topk:k=1")
    trained(tmp_path / "run", cache=(cache,), epochs=1)
    told = capsys.readouterr().err
    assert "codec cosine keeps them all" in told and "lowrank" not in told


def test_what_cannot_be_trained_is_refused_before_the_first_step(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = f"tiny_detectors:retinanet,{NORMALISED},anchors=1"
    with pytest.raises(MismatchError, match=r"anchors \[1, 1\], not \[2, 2\].*anchor_boxes"):
        trained(tmp_path / "run", cache=(cache,), student=student)
    student = f"tiny_detectors:faster_rcnn,{NORMALISED}"
    with pytest.raises(MismatchError, match=r"teacher's: proposals, not pyramid; .*one stage"):
        trained(tmp_path / "run", cache=(cache,), student=student)
    with pytest.raises(UsageError, match="which the positions of a detector have not"):
        trained(tmp_path / "run", cache=(cache,), loss="dkd")
    with pytest.raises(UsageError, match="a detector's losses have none"):
        trained(tmp_path / "run", cache=(cache,), label_smoothing=0.1)
    with pytest.raises(UsageError, match=r"mlkd takes a softmax of each row.* are sigmoids; use"):
        trained(tmp_path / "run", cache=(cache,), loss="kl+mlkd")
    monkeypatch.setattr("kdcache.losses.mlkd._MOST", 5)
    ssd = f"tiny_detectors:ssd,{NORMALISED}"
    for options, told in {
        "batch_weight=0": r"each of 16 classes with each.*category_weight=0",  # 4 anchors of 4
        "category_weight=0": r"each of 512 rows with each.*batch_weight=0",  # 8 views of 8x8
    }.items():
        with pytest.raises(UsageError, match=told):
            trained(tmp_path / "run", cache=(cache,), student=ssd, loss=f"mlkd:{options}")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_recipes_that_boxes_cannot_follow_are_refused(tmp_path: Path, box_recipe: str) -> None:
    mixing = tmp_path / "mixing.toml"
    mixing.write_text(f"{RECIPE}\n[mixing]\nmixup = 0.8\n")
    with pytest.raises(kdcache.KdcacheError, match="mixes views, which boxes cannot follow"):
        box_cache(tmp_path / "cache", str(mixing))


def test_a_codec_without_the_mean_of_a_row_is_refused_for_sigmoids(
    tmp_path: Path, cache: str, box_recipe: str
) -> None:
    told = "codec lowrank does not hold the mean of a row, which the sigmoids of these logits see"
    with pytest.raises(UsageError, match=told):
        box_cache(tmp_path / "cache", box_recipe, codec="lowrank:step=1")
    with pytest.raises(UsageError, match=told):
        kdcache.recode_cache(cache, tmp_path / "recoded", codec="lowrank:step=1")
