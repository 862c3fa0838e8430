"""Evaluation data that cannot be read: told before a run and by its plan, and looked for once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from image_files import age
from PIL import Image
from runs import losses, train, train_config
from segmentation_files import write_pair
from torchvision.datasets import ImageFolder

from kdcache.cache.sample_checksums import CheckedSource
from kdcache.errors import MismatchError, UnreadableSampleError
from kdcache.runtime.device import ComputeConfig
from kdcache.sources import open_source
from kdcache.sources.index_cache import save_arrays
from kdcache.sources.read_check import ReadCheck, listed_files
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.plan import plan_training
from kdcache_cli.commands import main


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let specs name functions of this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


RECIPE = 'mode = "RGB"\nsize = 8\neval = "eval-whole"\ntransforms = []\n'


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the settings of a training on two folders of images, with a home of its own."""
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    for name, count in (("train", 16), ("val", 6)):
        for index in range(count):
            path = tmp_path / name / "ab"[index % 2] / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(
                np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            ).save(path)
            age(path)
    (tmp_path / "plain.toml").write_text(RECIPE)
    return {
        "data": f"imagefolder:{tmp_path / 'train'}",
        "eval_data": f"imagefolder:{tmp_path / 'val'}",
        "recipe": str(tmp_path / "plain.toml"),
        "student": "tiny_models:mlp,classes=2,channels=3,mean=0.5,std=0.25",
        "loss": "ce",
        "batch_size": 8,
        "epochs": 2,
    }


def damage(path: Path) -> bytes:
    """Cut an image short, and return what it was."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_told_before_the_run(
    tmp_path: Path, settings: dict[str, Any], workers: int
) -> None:
    for name in ("a/02.png", "b/05.png"):
        damage(tmp_path / "val" / name)
    config = train_config(
        tmp_path / "run", **{**settings, "compute": ComputeConfig(workers=workers, device="cpu")}
    )
    message = (
        r"^eval_data: sample 1 \(a/02\.png\) of imagefolder:\S+ cannot be read: .*; repair it or"
        r" remove it \(and 1 more\)$"
    )
    with pytest.raises(UnreadableSampleError, match=message):
        train(tmp_path / "run", **{**settings, "compute": config.compute})
    assert not (tmp_path / "run").exists(), "nothing was begun"
    with pytest.raises(UnreadableSampleError, match=message):
        plan_training([config])


def test_a_mask_that_cannot_be_read_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    for name in ("train", "val"):
        for index in range(4):
            ids = np.random.default_rng(index).integers(0, 3, (16, 16))
            write_pair(
                tmp_path / name / f"images/{index}.jpg", tmp_path / name / f"masks/{index}.png", ids
            )
    damage(tmp_path / "val" / "masks/2.png")
    (tmp_path / "crops.toml").write_text('size = 16\neval = "segmentation-eval"\ntransforms = []\n')
    words = [
        "train-student",
        str(tmp_path / "run"),
        "--data",
        f"segfolder:{tmp_path / 'train'},classes=3",
    ]
    words += [
        "--eval-data",
        f"segfolder:{tmp_path / 'val'},classes=3",
        "--student",
        "tiny_models:segmenter,classes=3,mean=0.5,std=0.5",
    ]
    words += [
        "--recipe",
        str(tmp_path / "crops.toml"),
        "--loss",
        "ce",
        "--batch-size",
        "2",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    for more in ([], ["--plan"]):
        done = CliRunner().invoke(main, [*words, *more])
        assert (
            done.exit_code == 1
            and "error: eval_data: sample 2 (images/2.jpg) of segfolder:" in done.stderr
        ), done.output
        assert done.stderr.count("\n") == done.stderr.count("kdcache: ") + done.stderr.count(
            "note: "
        ), "one line each"


def reads(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


class LoggedPictures(ImageFolder):
    """Pictures in a folder; a byte in a file counts each that is read."""

    def __init__(self, root: str, log: str) -> None:
        super().__init__(root)
        self.log = log

    def __getitem__(self, index: int) -> Any:
        with Path(self.log).open("ab") as file:
            file.write(b".")
        return super().__getitem__(index)


def logged_pictures(root: str, log: str) -> LoggedPictures:
    return LoggedPictures(root, log)


def test_data_that_was_read_whole_is_not_read_again_before_a_run(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    log = tmp_path / "log"
    data = f"test_evaluation:logged_pictures,root={tmp_path / 'val'},log={log}"
    counts = []
    for run in ("one", "two"):
        before = reads(log)
        train(tmp_path / run, **{**settings, "eval_data": data, "epochs": 1})
        counts.append(reads(log) - before)
    assert counts == [2 * 6, 6 + 1], "one to see that the recipe suits"


def test_data_without_files_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    log = tmp_path / "log"
    settings: dict[str, Any] = {"data": "tiny_models:few_digits", "recipe": "digits", "loss": "ce"}
    data = f"tiny_models:logged_digits,length=100,log={log}"
    source = open_source(data)
    save_arrays(
        "read", f"{source.spec} {source.fingerprint}", {"stamps": np.empty((0, 2), np.int64)}
    )
    counts = []
    for run in ("one", "two"):
        before = reads(log)
        train(tmp_path / run, **settings, epochs=1, eval_data=data)
        counts.append(reads(log) - before)
    assert counts == [2 * 100, 2 * 100], "nothing would tell that it has changed"


def test_checked_data_has_the_files_of_its_own(settings: dict[str, Any]) -> None:
    source = open_source(settings["eval_data"])
    checked = CheckedSource(source, np.zeros((6, 1), np.uint32), "cache")
    assert listed_files(checked) == listed_files(source) != []
    bare = CheckedSource(open_source("digits:test"), np.zeros((600, 2), np.uint32), "cache")
    assert listed_files(bare) == [] and not ReadCheck(bare).is_known()


def test_a_file_that_changed_is_read_again(tmp_path: Path, settings: dict[str, Any]) -> None:
    source = open_source(settings["eval_data"])
    assert len(listed_files(source)) == 6
    train(tmp_path / "run", **settings)
    assert ReadCheck(source).is_known()
    image = tmp_path / "val" / "a/04.png"
    damage(image)
    age(image)
    assert not ReadCheck(source).is_known(), "another size"
    with pytest.raises(UnreadableSampleError, match=r"a/04\.png"):
        train(tmp_path / "other", **settings)


def test_masks_and_tars_are_files_too(tmp_path: Path) -> None:
    from image_files import write_shards
    from segmentation_files import write_cityscapes, write_voc

    write_cityscapes(tmp_path / "cities")
    write_voc(tmp_path / "voc")
    write_shards(tmp_path / "tars", 3, 4)
    cities = listed_files(
        open_source(f"torchvision:Cityscapes,root={tmp_path / 'cities'},split=val,mode=fine")
    )
    assert len(cities) == 10 and sum(path.endswith("labelIds.png") for path in cities) == 5
    voc = listed_files(
        open_source(f"torchvision:VOCSegmentation,root={tmp_path / 'voc'},image_set=train")
    )
    assert (
        sum(path.endswith(".jpg") for path in voc) == sum(path.endswith(".png") for path in voc) > 0
    )
    assert [Path(path).name for path in listed_files(open_source(f"tars:{tmp_path / 'tars'}"))] == [
        "00.tar",
        "01.tar",
    ]
    assert listed_files(open_source("digits:test")) == []


def test_an_evaluation_that_fails_costs_no_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    """An image that is damaged after the run began."""
    train(tmp_path / "unbroken", **settings)
    image = tmp_path / "val" / "b/03.png"
    data = image.read_bytes()
    image.write_bytes(data[:-40])
    age(image)
    check = ReadCheck(open_source(settings["eval_data"]))
    check.is_known()
    check.keep()  # as if it had been whole when it was looked at
    with pytest.raises(UnreadableSampleError, match=r"^eval_data: sample 4 \(b/03\.png\)"):
        train(tmp_path / "run", **settings)
    assert len(losses(tmp_path / "run")) == 2, "the epoch is trained"
    image.write_bytes(data)
    age(image)
    train(tmp_path / "run", **settings)
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("run", "unbroken")]
    names = ("kind", "step", "loss", "top1", "eval_loss")
    mine, theirs = ([[line.get(name) for name in names] for line in one] for one in lines)
    assert mine == theirs


def test_a_validation_table_that_lacks_a_class_says_how_classes_are_stated(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("image,label\nval/a/00.png,0\n")
    for data in (f"csv:{few}", f"csv:{few},fold=0/1"):
        with pytest.raises(
            MismatchError, match=r"has 1 classes, .* 2; state .*: classes=FILE, .* or classes=N"
        ):
            train(tmp_path / "run", **{**settings, "eval_data": data})
    with pytest.raises(
        MismatchError, match=r"calls a class 'b' .* calls 'a'; state .*: classes=FILE"
    ):
        (tmp_path / "names.txt").write_text("b\na\n")
        named = f"csv:{few},classes={tmp_path}/names.txt"
        train(tmp_path / "run", **{**settings, "eval_data": named})
    stated = {**settings, "eval_data": f"csv:{few},classes=2", "epochs": 1}
    assert train(tmp_path / "run", **stated)
