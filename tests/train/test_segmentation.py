"""Segmentation from a cache: what is cached is what the teacher says, crop by crop, and a student
trains on it as online."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from map_caches import DATA, EVAL, STUDENT, TEACHER, losses, made
from runs import IN_PROCESS, dump, train, train_config
from safetensors.torch import load_file
from segmentation_files import Shapes, write_cityscapes, write_voc

from kdcache.cache import open_cache
from kdcache.codecs import PositionCodec, codec_spec
from kdcache.errors import KdcacheError, UsageError
from kdcache.models.model import open_model
from kdcache.runtime.device import Compute
from kdcache.sources import open_source
from kdcache.tools.evaluate import evaluate_saved
from kdcache.tools.evaluate_config import EvaluateConfig
from kdcache.tools.recode import recode_cache
from kdcache.train.evaluation import Evaluation, evaluation_recipe
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.optim import OptimizerConfig
from kdcache.train.side_by_side import start_epoch
from kdcache.train.trainer import Trainer
from kdcache.verify.cache import verify_cache
from kdcache.views import ViewDataset, load_recipe


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    path = tmp_path_factory.mktemp("caches") / "exact"
    made(path, recipe, codec="full:dtype=float32", seeds="0:2")
    return path


@pytest.mark.parametrize(
    "loss", ["dist:tau=1,beta=1,gamma=1", "kl:tau=2,ignore_masked=true", "cwd"]
)
def test_cached_equals_online(tmp_path: Path, exact: Path, recipe: str, loss: str) -> None:
    common = {
        "loss": loss,
        "data": DATA,
        "student": STUDENT,
        "batch_size": 8,
        "epochs": 2,
        "label_smoothing": 0.1,
    }
    train(tmp_path / "cached", cache=str(exact), **common)
    train(tmp_path / "online", teacher=TEACHER, recipe=recipe, seeds="0:2", **common)
    cached, online = losses(tmp_path / "cached"), losses(tmp_path / "online")
    assert len(cached) == len(online) == 2 * 6
    np.testing.assert_allclose(cached, online, rtol=0, atol=1e-5)
    assert max(cached) - min(cached) > 0.1, "a loss that does not move would prove nothing"


def test_a_loss_that_compares_too_many_pixels_is_refused_before_the_first_step(
    tmp_path: Path, exact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.losses.mlkd._MOST", 90)
    settings: dict[str, Any] = {"cache": str(exact), "data": DATA, "student": STUDENT}
    for accumulate in (1, 2):
        pixels = 8 * 4 * 6 // accumulate  # of maps at a quarter of the views' size
        with pytest.raises(UsageError, match=f"{pixels} rows with each, at most 90; set batch_we"):
            train(
                tmp_path / "run",
                **settings,
                loss="kl+mlkd",
                batch_size=8,
                accumulate=accumulate,
            )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_record_is_the_map_of_its_view(exact: Path, recipe: str) -> None:
    cache, source = open_cache(exact), open_source(DATA)
    manifest = cache.manifest
    assert (manifest.task, manifest.classes) == ("segmentation", 4)
    assert manifest.layout.maps == (2, 4, 6)
    assert manifest.teacher.size == (16, 24) and manifest.teacher.stride == 4
    assert manifest.chunk_rows == manifest.unit_rows, "a few small maps are one chunk"
    opened = cache.recipe
    dataset = ViewDataset(source, opened, cache.order, sizes=[opened.size])
    views = dataset.batch([(row, 1) for row in range(8)]).views[0]
    model = open_model(TEACHER, classes=4, recipe=opened, trained=True, task="segmentation").eval()
    with torch.no_grad():
        logits = model(views)
    found = cache.codec.decode(cache.read(1, list(range(8)))).logits()
    assert logits.shape == found.shape == (8, 2, 4, 6, 4)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)
    assert not torch.allclose(logits[:, 0], logits[:, 1]), "two heads"


def test_a_crop_of_the_whole_images_map_is_another_map() -> None:
    """Why crops are cached: the model pools over what it sees, and pads it."""
    image = torch.from_numpy(np.stack([np.asarray(Shapes(1, 64, 96)[0][0])])).permute(0, 3, 1, 2)
    model = open_model(
        TEACHER,
        classes=4,
        recipe=load_recipe("cityscapes").at((64, 96)),
        trained=True,
        task="segmentation",
    ).eval()
    with torch.no_grad():
        whole, crop = model(image)[0, 0], model(image[:, :, 16:48, 32:80])[0, 0]
    cut = whole[4:12, 8:20]
    assert cut.shape == crop.shape
    change = (cut - crop).norm() / crop.norm()
    inner = (cut - crop)[3:-3, 3:-3].norm() / crop[3:-3, 3:-3].norm()
    assert change > 0.02 and inner > 0.01, "also far from the border, on the head's own grid"
    assert (cut.softmax(-1) - crop.softmax(-1)).abs().max() > 0.05


@pytest.mark.parametrize(
    "codec", ["full:dtype=float16", "full:dtype=uint8", "lowrank:step=0.5", "topk:k=2"]
)
def test_codecs_train_on_maps(tmp_path: Path, recipe: str, codec: str) -> None:
    made(tmp_path / "cache", recipe, codec=codec)
    cache = open_cache(tmp_path / "cache")
    assert isinstance(cache.codec, PositionCodec) and codec_spec(cache.codec) == codec
    tail = {"tail": "none"} if codec.startswith("topk") else {}
    result = train(
        tmp_path / "run", cache=str(tmp_path / "cache"), loss="dist:tau=1,beta=1,gamma=1", data=DATA, student=STUDENT,
        batch_size=8, **tail,
    )  # fmt: skip
    assert np.isfinite(result["train_loss"])
    assert made(tmp_path / "cache", recipe, codec=codec)["units_written"] == 0, (
        "a dump that goes on finds its own codec"
    )


def test_a_student_learns_and_is_scored(tmp_path: Path, exact: Path) -> None:
    result = train(
        tmp_path / "run", cache=str(exact), data=DATA, student=STUDENT, loss="ce", batch_size=4, epochs=8, eval_data=EVAL,
        optimizer=OptimizerConfig(name="adamw", lr=0.03),
    )  # fmt: skip
    assert result["miou"] > 35 and result["pixel_accuracy"] > 50, (
        "the red channel tells the class; chance is 14 and 25"
    )
    names = [f"iou/{index}" for index in range(4)]
    assert result["miou"] == pytest.approx(sum(result[name] for name in names) / 4)
    assert result["best_miou"] >= result["miou"] and result["best_weights"] == "student"
    own = open_cache(exact).recipe
    student = open_model(
        f"{STUDENT},weights={tmp_path}/run/student.safetensors",
        classes=4,
        recipe=own,
        trained=True,
        task="segmentation",
    )
    evaluations = [
        Evaluation(
            EVAL, open_source(DATA), evaluation_recipe(None, own, is_from_cache=False),
            sizes=[(16, 24)], batch_size=1, window=window, compute=Compute(IN_PROCESS),
        )
        for window in (None, (16, 24))
    ]  # fmt: skip
    whole, windows = (one.scores([student])[0]["miou"] for one in evaluations)
    assert whole == pytest.approx(result["miou"]) and windows > 35 and windows != whole
    epochs = [
        line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "epoch"
    ]
    assert all(name in epochs[-1] for name in names)


def test_a_student_of_another_stride_sees_the_maps_resampled(
    tmp_path: Path, exact: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    student = "tiny_models:segmenter,stride=8,aux=false"
    trainer = Trainer(
        train_config(tmp_path / "run", cache=str(exact), data=DATA, student=student, batch_size=8)
    )
    assert (
        "the teacher's maps of 4x6 are brought to 2x3, the student's (logits, bilinear)"
        in capsys.readouterr().err
    )
    start_epoch([trainer])
    batch = next(trainer.loader.rendered())
    found = trainer.loader.teacher.soft_targets(batch).logits()
    cache = open_cache(exact)
    plain = cache.codec.decode(cache.read(0, batch.rows.numpy())).logits()[:, 0].permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(plain, (2, 3), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[:, 0].permute(0, 3, 1, 2), wanted)
    assert set(trainer.train_step([trainer.loader.placed(batch)])) == {
        "loss",
        "inter",
        "intra",
        "task",
    }


def test_a_tail_is_not_brought_to_another_stride(tmp_path: Path, recipe: str) -> None:
    made(tmp_path / "cache", recipe, codec="topk:k=2")
    student = "tiny_models:segmenter,stride=8,aux=false"
    settings = {"cache": str(tmp_path / "cache"), "data": DATA, "student": student}
    with pytest.raises(UsageError, match="brought to the student's size as logits, in which the"):
        train(tmp_path / "run", tail="none", batch_size=8, **settings)
    assert not (tmp_path / "run").exists()


def test_a_cache_of_maps_is_verified_with_its_teacher(
    exact: Path, tmp_path: Path, recipe: str
) -> None:
    report = verify_cache(
        open_cache(exact), views=16, data=DATA, teacher=TEACHER, compute=IN_PROCESS
    )
    assert (
        report["faults"] == []
        and report["teacher"]["equal_records"] == report["teacher"]["views"] == 16
    )
    report = verify_cache(
        open_cache(exact), views=16, data=DATA, teacher=f"{TEACHER},seed=1", compute=IN_PROCESS
    )
    assert "hash of weights" in report["faults"][0]


def test_some_views_that_a_cache_lacks_come_from_the_teacher(
    tmp_path: Path, exact: Path, recipe: str
) -> None:
    made(tmp_path / "part", recipe, codec="full:dtype=float32", seeds="0:2")
    for file in ("commits/00000/000001.json", "commits/00001/000002.json"):
        (tmp_path / "part" / file).unlink()
    common = {
        "loss": "dist",
        "data": DATA,
        "student": STUDENT,
        "batch_size": 8,
        "epochs": 2,
        "seeds": "0:2",
    }
    train(tmp_path / "whole", cache=str(exact), **common)
    train(
        tmp_path / "filled",
        cache=str(tmp_path / "part"),
        on_miss="teacher",
        teacher=TEACHER,
        **common,
    )
    np.testing.assert_allclose(
        losses(tmp_path / "whole"), losses(tmp_path / "filled"), rtol=0, atol=1e-6
    )


def test_layouts_of_cityscapes_and_voc_are_dumped_and_trained(tmp_path: Path, recipe: str) -> None:
    cityscapes = f"torchvision:Cityscapes,root={write_cityscapes(tmp_path / 'c', 20, 30)},split="
    voc = f"torchvision:VOCSegmentation,root={write_voc(tmp_path / 'v', 4, 18, 26)},image_set="
    for name, data, classes in (("c", cityscapes, 19), ("v", voc, 21)):
        model = f"{TEACHER},classes={classes}"
        made(
            tmp_path / f"{name}-cache",
            recipe,
            data=f"{data}train",
            teacher=model,
            batch_size=2,
            unit_rows=None,
        )
        result = train(
            tmp_path / f"{name}-run", cache=str(tmp_path / f"{name}-cache"), data=f"{data}train", eval_data=f"{data}val",
            student=model, loss="dist:tau=1,beta=1,gamma=1", epochs=1, batch_size=2,
        )  # fmt: skip
        names = [key for key in result if key.startswith("iou/")]
        assert 0 <= result["miou"] <= 100 and set(names) <= {
            f"iou/{one}" for one in open_source(f"{data}val").class_names
        }


def test_corners_are_aligned_in_training_and_evaluation(tmp_path: Path, exact: Path) -> None:
    settings: dict[str, Any] = {
        **{"cache": str(exact), "data": DATA, "student": STUDENT, "loss": "ce", "batch_size": 8},
        **{"eval_data": EVAL, "epochs": 1},
    }
    plain = train(tmp_path / "plain", **settings)
    aligned = train(tmp_path / "aligned", align_corners=True, **settings)
    for name in ("train_loss", "eval_loss"):
        assert aligned[name] == pytest.approx(plain[name], rel=0.2)
        assert aligned[name] != pytest.approx(plain[name], rel=1e-5)
    saved = EvaluateConfig(model=str(tmp_path / "aligned"), compute=IN_PROCESS)
    again = evaluate_saved(saved)["scores"]["eval_loss"]
    assert again == pytest.approx(aligned["eval_loss"]), "as the run says"


def test_weights_are_scored_on_whole_images_as_their_run_was(tmp_path: Path, exact: Path) -> None:
    settings: dict[str, Any] = {"student": STUDENT, "loss": "ce", "batch_size": 8, "epochs": 1}
    result = train(tmp_path / "run", cache=str(exact), data=DATA, eval_data=EVAL, **settings)
    own = tmp_path / "run" / "student.safetensors"
    silent = tmp_path / "silent.pt"  # says nothing of its size
    torch.save(load_file(own), silent)
    for weights in (own, silent):
        saved = EvaluateConfig(
            model=f"{STUDENT},weights={weights}",
            data=EVAL,
            recipe="segmentation-eval",
            compute=IN_PROCESS,
        )
        scores = evaluate_saved(saved)["scores"]
        assert scores["miou"] == pytest.approx(result["miou"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "dkd"}, "loss dkd needs a label for each row, which a pixel of a map has not; use dist, kl or cwd"),
        ({"loss": "nkd"}, "loss nkd needs a label"),
        ({"eval_data": "digits:test"}, "eval_data digits:test is for classification, data .* for segmentation"),
        ({"eval_data": EVAL, "eval_window": (16,)}, r"eval_window is \[16\]; it must be \[height, width\]"),
        ({"student": "tiny_models:segmenter,stride=5"}, "gives a map of 4x5 for views of 16x24, which is no whole stride"),
        ({"student": "tiny_models:mlp"}, "model tiny_models:mlp"),
        ({"student": "tiny_models:segmenter,classes=5"}, "gives 5 classes, and 4 are asked for"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(
    tmp_path: Path, exact: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(KdcacheError, match=message):
        train(
            tmp_path / "run",
            **{"cache": str(exact), "data": DATA, "student": STUDENT, "batch_size": 8, **changes},
        )


@pytest.mark.parametrize("loss", ["cwd", "dist:ignore_masked=true"])
def test_losses_of_maps_are_not_for_classification(tmp_path: Path, loss: str) -> None:
    dump(tmp_path / "cache", data="tiny_models:few_digits,length=64")
    with pytest.raises(UsageError, match=f"loss {loss} is one of maps, for segmentation"):
        train(
            tmp_path / "run",
            cache=str(tmp_path / "cache"),
            data="tiny_models:few_digits,length=64",
            loss=loss,
        )


@pytest.mark.parametrize("codec", ["full:dtype=uint8", "topk:k=2", "lowrank:step=0.5"])
def test_maps_are_recoded(tmp_path: Path, exact: Path, recipe: str, codec: str) -> None:
    result = recode_cache(exact, tmp_path / "new", codec=codec, seeds="0:1")
    assert result["after"]["codec"] == codec and 0 < result["gradient_error"]["1"] < 1
    new, whole = open_cache(tmp_path / "new"), list(range(48))
    assert new.manifest.layout.maps == (2, 4, 6) and new.manifest.teacher.stride == 4
    if codec.startswith("lowrank"):  # whose fit is to a sample of its own
        found, wanted = (
            one.codec.decode(one.read(0, whole)).probs(1.0) for one in (new, open_cache(exact))
        )
        assert 0 < (found - wanted).abs().mean() < 0.03
        return
    made(tmp_path / "direct", recipe, codec=codec)
    assert np.array_equal(new.read(0, whole), open_cache(tmp_path / "direct").read(0, whole))
    if codec.startswith("topk"):
        recode_cache(tmp_path / "new", tmp_path / "less", codec="topk:k=1")
        made(tmp_path / "one", recipe, codec="topk:k=1")
        found, wanted = (open_cache(tmp_path / name) for name in ("less", "one"))
        probs = [one.codec.decode(one.read(0, whole)).probs(1.0) for one in (found, wanted)]
        torch.testing.assert_close(*probs, rtol=0, atol=2e-3)  # the tail is the sum of two
        with pytest.raises(UsageError, match="keeps 2 logits, not 3"):
            recode_cache(tmp_path / "new", tmp_path / "more", codec="topk:k=3")
    else:
        with pytest.raises(
            UsageError, match=r"step 0.001 is finer than the .* that uint8 rounds its logits to"
        ):
            recode_cache(tmp_path / "new", tmp_path / "more", codec="lowrank:step=0.001")


@pytest.mark.parametrize(
    ("spec", "sites"),
    [
        ("torchvision:lraspp_mobilenet_v3_large", (1, 8, 12)),
        ("timm:test_resnet,output_stride=8", (1, 8, 12)),
    ],
)
def test_models_of_torchvision_and_timm_give_maps(spec: str, sites: tuple[int, ...]) -> None:
    recipe = load_recipe("cityscapes").at((64, 96))
    model = open_model(spec, classes=5, recipe=recipe, task="segmentation")
    assert model.sites == sites
    logits = model(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert logits.shape == (2, *sites, 5)
    logits.sum().backward()
    heads = [weight for name, weight in model.named_parameters() if "classifier" in name]
    assert heads and all(weight.grad is not None for weight in heads)
    with pytest.raises(KdcacheError, match="no weights; add weights=FILE"):
        open_model(spec, classes=5, recipe=recipe, task="segmentation", trained=True)


def test_a_number_of_bytes_for_single_rows_is_refused_for_maps(
    tmp_path: Path, exact: Path, recipe: str
) -> None:
    told = r"codec lowrank:bytes=8 is fitted to single rows, and a view has 48 of them here"
    with pytest.raises(UsageError, match=told):
        made(tmp_path / "cache", recipe, codec="lowrank:bytes=8")
    with pytest.raises(UsageError, match=told):
        recode_cache(exact, tmp_path / "recoded", codec="lowrank:bytes=8")
    assert list(tmp_path.iterdir()) == []
