"""An imported cache: its views and soft targets are those of the files, and all that works with a
cache works with it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imports.fkd_files import (
    CLASSES,
    CROPS,
    PER_CLASS,
    content,
    key,
    recovered,
    write,
    write_images,
    write_labels,
)
from PIL import Image
from runs import losses, train
from torchvision.transforms import functional

import kdcache
from kdcache import (
    DistillationLoader,
    convert_cache,
    export_cache,
    import_cache,
    open_cache,
    recode_cache,
    verify_cache,
    views_of,
)
from kdcache.cache import Cache
from kdcache.cache.documents.commit import commit_key
from kdcache.errors import CacheError, MismatchError, SourceError, UsageError
from kdcache.loader.record_checks import check_records
from kdcache.losses import open_loss
from kdcache.tools.info import describe
from kdcache.tools.show import show_view

NUM_SAMPLES = len(CLASSES) * PER_CLASS
SIZE = 24
STUDENT = "tiny_models:mlp,mean=0.5,std=0.25,size=24,channels=3,classes=3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Return the data's spec, the folder of labels, of which one file is not there, and the cache
    that is imported from them."""
    root = tmp_path_factory.mktemp("fkd")
    data = write_images(root / "data")
    labels = write_labels(root / "labels")
    (labels / f"{key(7)}.tar").unlink()
    write(labels / f"{key(8)}.tar", fewer())
    take(data, labels, root / "cache")
    return data, labels, root / "cache"


def fewer() -> list[Any]:
    """Return the content of sample 8 without its last crop."""
    return [part[:-1] for part in content(8)]


def take(data: str, labels: Path, cache: Path, **options: Any) -> dict[str, Any]:
    return import_cache(
        "fkd", labels, cache, data=data, teacher_name="L2-475", **{"size": SIZE, **options}
    )


def absent(cache: Cache) -> dict[tuple[int, int], str]:
    """Return why views are absent, by seed and sample."""
    reasons = {}
    for seed in cache.seeds():
        for commit in cache.commits(seed):
            for absence in commit.absent:
                reasons[seed, int(cache.order[absence.row])] = absence.reason
    return reasons


def test_views_are_those_that_fkd_trains_on(made: tuple[str, Path, Path]) -> None:
    data, _, path = made
    cache = open_cache(path)
    views = views_of(cache, data, size=SIZE)
    left_out = absent(cache)
    num_compared = 0
    for seed in range(CROPS):
        for row, index in enumerate(cache.order.tolist()):
            if (seed, index) in left_out:
                continue
            boxes, flips, _ = content(index)
            top, left, high, wide = boxes[seed].tolist()
            with Image.open(f"{data.partition(':')[2]}/{key(index)}.png") as image:
                width, height = image.size
                crop = functional.resized_crop(
                    image, top * height, left * width, high * height, wide * width, [SIZE, SIZE]
                )
            if flips[seed]:
                crop = functional.hflip(crop)
            view = views.batch([(row, seed)]).views[0][0]
            assert torch.equal(view, functional.pil_to_tensor(crop))
            num_compared += 1
    assert num_compared == NUM_SAMPLES * CROPS - 4


@pytest.mark.parametrize("tail", ["uniform", "none"])
def test_soft_targets_are_those_that_fkd_trains_on(tail: str, made: tuple[str, Path, Path]) -> None:
    cache = open_cache(made[2])
    codec = kdcache.codecs.set_tail(cache.codec, tail)
    for seed in range(CROPS):
        rows = [row for row, index in enumerate(cache.order) if index not in (7, 8)]
        found = codec.decode(cache.read(seed, rows)).probs(1.0)
        labels = np.stack([content(int(index))[2][seed] for index in cache.order[rows]])
        expected = recovered(labels, is_normed=tail == "none")
        assert torch.allclose(found, expected, atol=2e-3)


def test_what_has_no_labels_is_absent(made: tuple[str, Path, Path]) -> None:
    reasons = absent(open_cache(made[2]))
    assert reasons.keys() == {(0, 7), (1, 7), (2, 7), (2, 8)}
    assert "there is no file " in reasons[0, 7]
    assert "bee/2.tar has no crop 2, counted from 0" in reasons[2, 8]


def test_what_is_told(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, _ = made
    told = take(data, labels, tmp_path / "cache")
    assert told["seeds"] == [0, 1, 2]
    assert (told["rows"], told["labels"], told["absent"]) == (NUM_SAMPLES, 2, 4)
    assert told["units_written"] == 3
    assert told["teacher_accuracy"] == 100
    manifest = describe(open_cache(tmp_path / "cache"))["manifest"]
    assert manifest["teacher"]["spec"] == "L2-475"
    assert manifest["teacher"]["sha256"] == manifest["teacher"]["precision"] == "unknown"
    assert manifest["made_by"]["imported_from"] == {"format": "fkd"}
    assert manifest["views"]["seeds"] == 3


def test_it_is_verified_with_its_views(made: tuple[str, Path, Path]) -> None:
    data, _, path = made
    report = verify_cache(path, views=16, data=data)
    assert report["faults"] == []
    assert report["views"] == {"checked": 16, "other_pixels": 0}
    with pytest.raises(MismatchError, match="imported from labels of format fkd, which do not say"):
        verify_cache(path, data=data, teacher="timm:test_resnet")


def test_other_views_are_noticed(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, _, path = made
    other = tmp_path / "data"
    shutil.copytree(data.partition(":")[2], other)
    for file in other.rglob("*.png"):
        with Image.open(file) as image:
            turned = functional.hflip(image)
        turned.save(file)
    report = verify_cache(path, views=16, data=f"imagefolder:{other}")
    assert "is not what the teacher saw" in report["faults"][0]


def test_a_student_trains_and_goes_on(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, _, path = made
    settings = {"cache": str(path), "data": data, "student": STUDENT, "loss": "dist"}
    train(tmp_path / "run", **settings, epochs=4, batch_size=4)
    assert len(losses(tmp_path / "run")) == 4 + 4 + 4 + 4
    assert np.isfinite(losses(tmp_path / "run")).all()


@pytest.mark.parametrize(
    ("loss", "tau"), [("kl", 4), ("dist+kl:tau=2", 2), ("kl:tau=1", 0), ("dist:tau=3", 3)]
)
def test_another_temperature_than_that_of_the_labels_is_told(
    made: tuple[str, Path, Path], capsys: pytest.CaptureFixture[str], loss: str, tau: int
) -> None:
    capsys.readouterr()
    check_records(open_cache(made[2]), open_loss(loss), loss)
    told = capsys.readouterr().err
    line = f"has them at tau {tau}, where the even share of these outweighs the labels: stay at"
    assert told.count("note: ") == bool(tau) and (line in told) is bool(tau)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_views_and_labels_together(
    workers: int, made: tuple[str, Path, Path]
) -> None:
    data, _, path = made
    loader = DistillationLoader(
        path, data=data, batch_size=4, device="cpu", num_workers=workers, size=SIZE, mean=0, std=1
    )
    cache = open_cache(path)
    views = views_of(cache, data, size=SIZE)
    batch = next(iter(loader))
    request = list(zip(batch.rows.tolist(), batch.seeds.tolist(), strict=True))
    pixels = views.batch(request).views[0]
    assert torch.allclose(batch.images, pixels / 255)
    expected = cache.codec.decode(cache.read(batch.seeds.numpy(), batch.rows.numpy())).probs(1.0)
    assert torch.equal(batch.teacher.probs(1.0), expected)


def test_copies_keep_the_stored_views(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, _, path = made
    recode_cache(path, tmp_path / "recoded", codec="topk:k=1")
    convert_cache(path, tmp_path / "tars", store="webdataset", data=data)
    export_cache(path, tmp_path / "part", samples="0:6")
    export_cache(path, tmp_path / "seed", seeds="1:2")
    for name in ("recoded", "tars", "part", "seed"):
        assert verify_cache(tmp_path / name, views=8, data=data)["faults"] == []
        assert open_cache(tmp_path / name).recipe.fingerprint == open_cache(path).recipe.fingerprint
    assert verify_cache(tmp_path / "tars", views=8)["faults"] == []


def test_another_teacher_sees_the_same_views(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, _, _ = made
    whole = tmp_path / "labels"
    write_labels(whole)
    take(data, whole, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    kdcache.dump_teacher(
        tmp_path / "own", teacher=STUDENT, data=data, recipe=cache.recipe, seeds=range(2), device="cpu",
        num_workers=0,
    )  # fmt: skip
    own = open_cache(tmp_path / "own")
    assert own.recipe.fingerprint == cache.recipe.fingerprint
    assert verify_cache(own, views=8, data=data)["faults"] == []


def test_a_picture_is_drawn(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, _, path = made
    told = show_view(open_cache(path), tmp_path / "view.png", index=3, seed=1, data=data)
    assert told["sample"] == f"{key(3)}.png"
    assert (tmp_path / "view.png").exists()


def test_it_goes_on_where_it_stopped(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, path = made
    shutil.copytree(path, tmp_path / "cache")
    (tmp_path / "cache" / commit_key(1, 0)).unlink()
    assert take(data, labels, tmp_path / "cache")["units_written"] == 1
    assert take(data, labels, tmp_path / "cache")["units_written"] == 0
    before, after = open_cache(path), open_cache(tmp_path / "cache")
    rows = [row for row, index in enumerate(before.order) if index not in (7, 8)]
    assert np.array_equal(before.read(1, rows), after.read(1, rows))


def test_other_labels_do_not_go_into_it(made: tuple[str, Path, Path]) -> None:
    data, labels, path = made
    with pytest.raises(MismatchError, match=r"views.seeds: 3 in the cache, 2 now"):
        take(data, labels, path, crops="0:2")
    with pytest.raises(MismatchError, match="interpolation"):
        take(data, labels, path, interpolation="bicubic")


def test_some_crops_are_taken(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, path = made
    told = take(data, labels, tmp_path / "cache", crops="1:3")
    assert told["seeds"] == [0, 1]
    whole, part = open_cache(path), open_cache(tmp_path / "cache")
    rows = [row for row, index in enumerate(whole.order) if index not in (7, 8)]
    assert np.array_equal(whole.read(2, rows), part.read(1, rows))
    with pytest.raises(UsageError, match="no file has a crop 3, counted from 0"):
        take(data, labels, tmp_path / "more", crops="2:4")


def test_labels_of_other_classes_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data")
    for index in range(NUM_SAMPLES):
        other = (index + PER_CLASS) % NUM_SAMPLES
        boxes, flips, _ = content(index)
        write(tmp_path / "labels" / f"{key(index)}.tar", [boxes, flips, content(other)[2]])
    assert take(data, tmp_path / "labels", tmp_path / "cache")["teacher_accuracy"] == 0
    assert (
        "are the data's classes those of the labels, in the same order?" in capsys.readouterr().err
    )


def test_a_damaged_file_stops_it(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, _ = made
    shutil.copytree(labels, tmp_path / "labels")
    (tmp_path / "labels" / f"{key(4)}.tar").write_bytes(b"cut")
    with pytest.raises(CacheError, match=r"ant/4.tar is damaged, or was not written by torch.save"):
        take(data, tmp_path / "labels", tmp_path / "cache")
    assert not (tmp_path / "cache" / "zarr.json").exists()


def test_files_of_two_kinds_are_told(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, _ = made
    shutil.copytree(labels, tmp_path / "labels")
    write(tmp_path / "labels" / f"{key(4)}.tar", content(4, k=1))
    with pytest.raises(CacheError, match=r"ant/4.tar has 1 labels for each crop, .* before it 2"):
        take(data, tmp_path / "labels", tmp_path / "cache")


def test_an_image_that_cannot_be_read_stops_it(
    made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    data, labels, _ = made
    shutil.copytree(data.partition(":")[2], tmp_path / "data")
    for file in (tmp_path / "data").rglob("*.png"):
        file.write_bytes(b"cut")
    with pytest.raises(SourceError, match="repair it or remove it"):
        take(f"imagefolder:{tmp_path / 'data'}", labels, tmp_path / "cache")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"format": "fdk"}, "did you mean 'fkd'"),
    ({"format": "tinyvit"}, "program_config is not given, and in labels of format tinyvit"),
    ({"program_config": "a.yaml"}, "program_config is 'a.yaml', and format fkd needs none"),
    ({"folder": "/nowhere"}, "/nowhere is not a folder"),
    (
        {"folder": "."},
        "there are no labels of any of 18 samples; those of the first would be file ",
    ),
    ({"teacher_name": ""}, "teacher_name is empty"),
    ({"crops": "3:1"}, "crops '3:1' are none"),
    ({"crops": "all"}, "crops 'all' are not of the form"),
    ({"size": 0}, "size is 0; it must be from 1 to"),
    ({"size": "32"}, "size is '32'; it must be a whole number"),
    ({"interpolation": "cubic"}, "interpolation is 'cubic'; it must be 'bilinear' or 'bicubic'"),
    ({"data": "imagefolder:/nowhere"}, "is not a folder"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_mistakes_are_told(
    change: dict[str, Any], message: str, made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    data, labels, _ = made
    arguments = {"format": "fkd", "folder": labels, "data": data, "teacher_name": "net", **change}
    with pytest.raises(kdcache.KdcacheError, match=message):
        import_cache(cache=tmp_path / "cache", **arguments)
    assert not (tmp_path / "cache" / "zarr.json").exists()


def test_a_folder_of_another_format_is_told(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "config.pth.tar").touch()
    with pytest.raises(CacheError, match=r"which ml-dr writes: give format ml-dr$"):
        take(made[0], tmp_path, tmp_path / "cache")


def test_data_of_another_task_is_refused(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    from box_caches import DATA

    with pytest.raises(UsageError, match="is for detection, and labels of format fkd are for"):
        take(DATA, made[1], tmp_path / "cache")


def test_more_boxes_than_a_cache_keeps_are_refused(
    made: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.imports.crops.MOST_VIEWS", 2 * 17 * NUM_SAMPLES)
    with pytest.raises(UsageError, match=r"give --crops 0:2, or fewer"):
        take(made[0], made[1], tmp_path / "cache")


@pytest.mark.parametrize("part", ["boxes", "flips"])
def test_files_that_change_meanwhile_are_told(
    made: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    from kdcache.imports import run

    data, labels, _ = made
    shutil.copytree(labels, tmp_path / "labels")
    create = run.create_cache

    def create_and_change(*args: Any, **options: Any) -> Cache:
        changed = content(1)
        if part == "flips":
            boxes, flips, classes = content(0)
            changed = [boxes, ~flips, classes]
        write(tmp_path / "labels" / f"{key(0)}.tar", changed)
        return create(*args, **options)

    monkeypatch.setattr(run, "create_cache", create_and_change)
    with pytest.raises(CacheError, match=r"ant/0.tar has changed while it was imported"):
        take(data, tmp_path / "labels", tmp_path / "cache")
