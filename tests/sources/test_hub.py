"""Hugging Face data sets that lie on this disk; no network is asked."""

import multiprocessing
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import encode, picture
from PIL import Image
from torch.utils.data import DataLoader

from kdcache.errors import SourceError, UnreadableSampleError, UsageError
from kdcache.sources import Source, open_source, splits_of
from kdcache.sources.protocol import Filed, image_of
from kdcache.views import ViewDataset, load_recipe

datasets = pytest.importorskip("datasets")


def table(num: int = 6, *, shift: int = 0, **columns: Any) -> Any:
    """Return a data set of `num` images, of level i and class i mod 3, with columns that nobody
    asked for."""
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog", "owl"]),
        fine=datasets.Value("int64"),
        text=datasets.Value("string"),
    )
    images = [{"bytes": picture(index), "path": None} for index in range(num)]
    labels = [(index + shift) % 3 for index in range(num)]
    values = {"image": images, "label": labels, "fine": list(range(num)), "text": ["x"] * num}
    return datasets.Dataset.from_dict({**values, **columns}, features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "saved"
    table().save_to_disk(path)
    return path


def save(path: Path, **options: Any) -> Source:
    table(**options).save_to_disk(path)
    return open_source(f"hf:{path}")


def levels(source: Source) -> list[int]:
    return [int(np.asarray(source.sample(index).image)[0, 0, 0]) for index in range(len(source))]


def test_a_saved_data_set_is_a_source(saved: Path) -> None:
    source = open_source(f"hf:{saved}")
    assert isinstance(source, Source) and (len(source), source.classes, source.key(4)) == (
        6,
        3,
        "00000004",
    )
    assert source.class_names == ("cat", "dog", "owl")  # type: ignore[attr-defined]
    sample = source.sample(4)
    assert (
        isinstance(sample.image, Image.Image) and sample.target == 1 and type(sample.target) is int
    )
    assert levels(source) == list(range(6))


def test_its_files_are_those_of_the_table_and_of_images_apart(saved: Path, tmp_path: Path) -> None:
    def files(source: Source) -> list[str]:
        assert isinstance(source, Filed)
        return [Path(path).name for path in source.files()]

    assert files(open_source(f"hf:{saved}")) == ["data-00000-of-00001.arrow"]
    for name in ("train/a/1.png", "train/b/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_bytes(picture(5))
    apart = files(open_source(f"hf:{tmp_path}/set,split=train,cache_dir={tmp_path}/cache"))
    assert apart[0].endswith(".arrow") and apart[1:] == ["1.png", "2.png"]


def test_columns_and_classes_can_be_named(saved: Path) -> None:
    source = open_source(f"hf:{saved},label=fine")
    assert source.classes == 6 and [source.sample(index).target for index in range(6)] == list(
        range(6)
    )
    assert open_source(f"hf:{saved},label=fine,classes=9,image=image").classes == 9


def test_splits_are_told_apart(saved: Path, tmp_path: Path) -> None:
    datasets.DatasetDict(train=table(), test=table(4)).save_to_disk(tmp_path / "both")
    assert [
        len(open_source(f"hf:{tmp_path}/both{split}"))
        for split in ("", ",split=train", ",split=test")
    ] == [6, 6, 4]
    with pytest.raises(UsageError, match=r"unknown split of .* 'tset'; did you mean 'test'"):
        open_source(f"hf:{tmp_path}/both,split=tset")
    with pytest.raises(UsageError, match="the folder holds one split; leave out split="):
        open_source(f"hf:{saved},split=train")
    assert splits_of(open_source(f"hf:{tmp_path}/both")) == ("train", "test")
    assert splits_of(open_source(f"hf:{saved}")) == ()


def test_the_fingerprint_is_that_of_the_content(saved: Path, tmp_path: Path) -> None:
    before = open_source(f"hf:{saved}").fingerprint
    shutil.copytree(saved, tmp_path / "moved")
    assert (
        open_source(f"hf:{tmp_path}/moved").fingerprint
        == before
        == save(tmp_path / "again").fingerprint
    )
    longer = [{"bytes": picture(index) + b"0", "path": None} for index in range(6)]
    others = [{"shift": 1}, {"num": 5}, {"num": 7}, {"image": longer}]
    prints = {
        save(tmp_path / str(number), **other).fingerprint for number, other in enumerate(others)
    }
    assert len(prints | {before}) == 5


def test_files_of_a_folder_are_loaded_without_a_network(tmp_path: Path) -> None:
    for split, names in (("train", ("b", "a")), ("test", ("a",))):
        for name in names:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            (tmp_path / "set" / split / name / f"{name}.png").write_bytes(picture(ord(name)))
    spec = f"hf:{tmp_path}/set,split={{}},cache_dir={tmp_path}/cache"
    with pytest.raises(
        UsageError, match=r"unknown column of .* \(give label=COLUMN\) 'label' \(known: image\)"
    ):
        open_source(spec.format("train") + ",drop_labels=true")
    train, test = (open_source(spec.format(split)) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (2, 1, 2)
    assert levels(train) == [ord("a"), ord("b")] and train.fingerprint != test.fingerprint
    assert set(splits_of(train)) == {"train", "test"}
    with pytest.raises(SourceError, match=r"source hf:.*: ValueError: .*tset"):
        open_source(spec.format("tset"))


def test_parquet_is_loaded_too(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "data.parquet")
    source = open_source(
        f"hf:parquet,data_files={tmp_path}/data.parquet,cache_dir={tmp_path}/cache"
    )
    assert levels(source) == list(range(6)) and source.classes == 3


def all_levels(source: Source) -> list[int]:
    return levels(source)


def test_a_source_travels_to_other_processes(saved: Path) -> None:
    source = open_source(f"hf:{saved}")
    assert levels(source) == levels(pickle.loads(pickle.dumps(source)))  # noqa: S301 # our own
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(all_levels, [source] * 4, chunksize=1) == [list(range(6))] * 4


def test_loader_workers_render_the_same_views(saved: Path) -> None:
    dataset = ViewDataset(
        open_source(f"hf:{saved}"), load_recipe("imagenet-b1"), np.arange(6), sizes=[32]
    )
    requests = [[(3, 0), (1, 0)], [(0, 0), (5, 1)]]
    loader = DataLoader(
        dataset, batch_sampler=requests, num_workers=2, collate_fn=lambda batch: batch
    )
    for batch, expected in zip(loader, map(dataset.__getitems__, requests), strict=True):
        assert (batch.views[0] == expected.views[0]).all()


def test_images_are_decoded_as_those_of_any_source(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # datasets would turn it
    turned = encode(Image.new("L", (8, 4)), "jpeg", exif=exif.tobytes())
    images = [{"bytes": data, "path": None} for data in (turned, b"", picture(0)[:40])] + [None]
    source = save(tmp_path / "x", num=4, image=images)
    assert source.sample(0).image.size == (8, 4) and source.sample(0).image.mode == "L"
    for index in (1, 2, 3):
        with pytest.raises(
            UnreadableSampleError,
            match=rf"sample {index} \(0000000{index}\) of hf:.* cannot be read",
        ):
            source.sample(index)


def test_a_label_that_is_no_class_names_its_sample(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"sample 1 \(00000001\) .* has target -1 \(1 such rows\)"
    ):
        save(tmp_path / "x", num=3, label=[0, -1, 2])  # how the hub marks test sets without labels
    with pytest.raises(SourceError, match="take another split or column"):
        open_source(f"hf:{tmp_path}/x,fold=0/1")
    for spec in (f"hf:{tmp_path}/x", f"hf:{tmp_path}/x,fold=0/1"):
        source = open_source(spec, needs_targets=False)
        assert np.asarray(image_of(source, 1))[0, 0, 0] == 1, "images are there to be predicted"


def test_rows_without_a_label_are_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="some rows have no label; take them out"):
        save(tmp_path / "x", num=3, label=[0, None, 2])


def test_no_rows_at_all_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=rf"source hf:{tmp_path}/x: "
    ):  # datasets fails on its own empty folder
        save(tmp_path / "x", num=0)
    table(0).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(SourceError, match=r"source hf:parquet,.*corresponds to no data"):
        open_source(f"hf:parquet,data_files={tmp_path}/data.parquet,cache_dir={tmp_path}/cache")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            ",image=imge",
            UsageError,
            r"unknown column of .* \(give image=COLUMN\) 'imge'; did you mean 'image'",
        ),
        (",label=lable", UsageError, r"\(give label=COLUMN\) 'lable'; did you mean 'label'"),
        (",image=text", SourceError, "column text holds .*string.*, not images"),
        (",label=text", SourceError, "column text holds .*string.*, not class indices"),
        (",classes=x", UsageError, "classes of source hf is 'x'"),
        (",streaming=true", UsageError, "source hf takes no streaming: samples are read at random"),
        (
            ",trust_remote_code=true",
            UsageError,
            "source hf takes no trust_remote_code: no code of a data set is run",
        ),
        (",revision=main", UsageError, "a folder that datasets saved takes no option revision"),
    ],
)
def test_a_wrong_spec_is_told(
    saved: Path, options: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_source(f"hf:{saved}{options}")


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        with pytest.raises(SourceError, match=rf"source hf:{tmp_path}/{name}: \w+Error: "):
            open_source(f"hf:{tmp_path}/{name}")
    with pytest.raises(UsageError, match="source hf names no data set"):
        open_source("hf")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(SourceError, match=r"source hf:.*/saved: "):
        open_source(f"hf:{tmp_path}/saved")


def test_a_script_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(SourceError):
        open_source(f"hf:{tmp_path}/evil")
    assert not (tmp_path / "ran").exists()


def test_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        SourceError, match=r"source hf needs Hugging Face datasets; pip install 'kdcache\[hub\]'"
    ):
        open_source("hf:cifar10")
