"""TinyViT's files: views are those that its program draws, and what is told of files and settings
that are none."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from imports.fkd_files import CLASSES, key, write_images
from imports.tinyvit_files import (
    CONFIG,
    EPOCHS,
    NUM_SAMPLES,
    SIZE,
    K,
    entry_of,
    label_of,
    rendered,
    seed_of,
    write_epoch,
    write_folder,
    write_rank,
)
from runs import losses, train

from kdcache import (
    DistillationLoader,
    export_cache,
    import_cache,
    open_cache,
    verify_cache,
    views_of,
)
from kdcache.errors import CacheError, KdcacheError, MismatchError, RecipeError, UsageError
from kdcache.imports.tinyvit import TinyVit
from kdcache.imports.tinyvit_config import read_settings
from kdcache.sources import open_source
from kdcache.tools.info import describe
from kdcache.tools.show import show_view
from kdcache.views.stored_views import ViewKey
from kdcache_cli import main

STUDENT = f"tiny_models:mlp,mean=0.5,std=0.25,size={SIZE},channels=3,classes=3"
LABELS = "logits_top2_epoch"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Return the data's spec, the folder of labels, of which two are not there, and the cache that
    is imported from them."""
    root = tmp_path_factory.mktemp("tinyvit")
    data = write_images(root / "data")
    labels, config = write_folder(root, left_out=[7])
    write_epoch(labels, 1, left_out=[7, 8])
    take(labels, config, root / "cache", data)
    return data, labels, root / "cache"


def take(labels: Path, config: Path, cache: Path, data: str, **options: Any) -> dict[str, Any]:
    return import_cache(
        "tinyvit", labels, cache, data=data, teacher_name="CLIP", program_config=config, **options
    )


def config_of(labels: Path) -> Path:
    return labels.parent / "config.yaml"


def absent(path: Path) -> dict[tuple[int, int], str]:
    """Return why views are absent, by seed and sample."""
    cache = open_cache(path)
    reasons = {}
    for seed in cache.seeds():
        for commit in cache.commits(seed):
            for absence in commit.absent:
                reasons[seed, int(cache.order[absence.row])] = absence.reason
    return reasons


def test_views_are_those_that_its_program_draws(made: tuple[str, Path, Path]) -> None:
    data, _, path = made
    cache = open_cache(path)
    source = open_source(data)
    views = views_of(cache, data, size=SIZE)
    left_out = absent(path)
    num_compared = 0
    for seed in range(EPOCHS):
        for row, index in enumerate(cache.order.tolist()):
            if (seed, index) in left_out:
                continue
            found = views.batch([(row, seed)]).views[0][0].double()
            expected = rendered(seed_of(seed, index), source.sample(index).image)
            assert (found - expected.clamp(0, 255)).abs().max() < 0.501
            num_compared += 1
    assert num_compared == NUM_SAMPLES * EPOCHS - 4


def test_soft_targets_are_those_of_the_files(made: tuple[str, Path, Path]) -> None:
    cache = open_cache(made[2])
    for seed in range(EPOCHS):
        rows = [row for row, index in enumerate(cache.order) if index not in (7, 8)]
        found = cache.codec.decode(cache.read(seed, rows)).probs(1.0)
        for probabilities, index in zip(found, cache.order[rows].tolist(), strict=True):
            classes, shares = label_of(seed, index)
            rest = (1 - shares.astype(np.float32).sum()) / (len(CLASSES) - K)
            expected = torch.full((len(CLASSES),), float(rest))
            expected[torch.from_numpy(classes).long()] = torch.from_numpy(shares).float()
            assert torch.allclose(probabilities, expected, atol=2e-3)


def test_an_epoch_without_a_sample_lacks_it_alone(made: tuple[str, Path, Path]) -> None:
    reasons = absent(made[2])
    assert reasons.keys() == {(0, 7), (1, 7), (2, 7), (1, 8)}
    assert reasons[0, 7] == f"there is no key 7 in folder {made[1]}"
    assert reasons[1, 8] == f"key 8 in folder {made[1]} has no crop 1, counted from 0"


def test_what_is_told(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, _ = made
    told = take(labels, config_of(labels), tmp_path / "cache", data)
    assert told["seeds"] == [0, 1, 2]
    assert (told["rows"], told["labels"], told["absent"]) == (NUM_SAMPLES, K, 4)
    assert told["teacher_accuracy"] == 100
    manifest = describe(open_cache(tmp_path / "cache"))["manifest"]
    assert manifest["teacher"]["spec"] == "CLIP"
    assert manifest["made_by"]["imported_from"] == {"format": "tinyvit"}
    assert manifest["views"]["view_bytes"] == 4
    assert take(labels, config_of(labels), tmp_path / "cache", data)["units_written"] == 0


def test_its_views_are_verified_shown_copied_and_trained_on(
    made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    data, _labels, path = made
    export_cache(path, tmp_path / "part", samples="0:6")
    for cache in (path, tmp_path / "part"):
        report = verify_cache(cache, views=8, data=data)
        assert report["faults"] == []
        assert report["views"] == {"checked": 8, "other_pixels": 0}
    told = show_view(open_cache(path), tmp_path / "view.png", index=3, seed=1, data=data)
    assert told["sample"] == f"{key(3)}.png"
    settings = {"cache": str(path), "data": data, "student": STUDENT, "loss": "kl:tau=1"}
    train(tmp_path / "run", **settings, epochs=2, batch_size=4)
    assert np.isfinite(losses(tmp_path / "run")).all()
    with pytest.raises(MismatchError, match="imported from labels of format tinyvit, which do not"):
        verify_cache(path, data=data, teacher="timm:test_resnet")


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
    assert torch.allclose(batch.images, views.batch(request).views[0] / 255)
    expected = cache.codec.decode(cache.read(batch.seeds.numpy(), batch.rows.numpy())).probs(1.0)
    assert torch.equal(batch.teacher.probs(1.0), expected)


def test_some_epochs_are_taken(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, _path = made
    take(labels, config_of(labels), tmp_path / "cache", data, crops="2:3")
    take(labels / f"{LABELS}2", config_of(labels), tmp_path / "one", data)
    for part in (open_cache(tmp_path / "cache"), open_cache(tmp_path / "one")):
        assert part.seeds() == [0]
        assert part.recipe.stored_views is not None
        assert part.recipe.stored_views.draw_seed(ViewKey(3, 0)) == seed_of(2, 3)
    with pytest.raises(UsageError, match="no file has a crop 3, counted from 0"):
        take(labels, config_of(labels), tmp_path / "more", data, crops="2:4")


def test_epochs_come_by_their_numbers(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    for epoch in (10, 9):
        write_epoch(tmp_path / "labels", epoch)
    origin = TinyVit(tmp_path / "labels", open_source(made[0]), config_of(made[1]))
    seeds = origin.labels(5).views["draw_seeds"] - 1
    assert seeds.tolist() == [seed_of(9, 5), seed_of(10, 5)]


def test_of_a_sample_that_two_processes_had_the_first_is_taken(
    made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    folder = write_epoch(tmp_path, 0)
    for rank in (3, 11):
        write_rank(folder, rank, ["5", "4"], [entry_of(rank, 5), entry_of(rank, 4)])
    for rank in (0, 1):
        keys = (folder / f"rank{rank}-keys.txt").read_text().split()
        kept = [index for index in keys if index != "5"]
        write_rank(folder, rank, kept, [entry_of(0, int(index)) for index in kept])
    origin = TinyVit(folder, open_source(made[0]), config_of(made[1]))
    assert origin.labels(5).views["draw_seeds"] - 1 == seed_of(3, 5)
    assert origin.labels(4).views["draw_seeds"] - 1 == seed_of(0, 4)


def test_images_of_imagenet_22k_go_by_their_names(
    made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    named = tmp_path / "data"
    names = [f"{CLASSES[index // 6]}_{index}" for index in range(NUM_SAMPLES)]
    for index, name in enumerate(names):
        file = named / CLASSES[index // 6] / f"{name}.x.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{made[0].partition(':')[2]}/{key(index)}.png", file)
    (named / CLASSES[0] / f"{names[2]}.x.png").unlink()
    text = CONFIG.replace("DATA:", "DATA:\n  DATASET: imagenet22k")
    labels, config = write_folder(tmp_path, keys=names, config=text)
    told = take(labels, config, tmp_path / "cache", f"imagefolder:{named}")
    assert (told["rows"], told["absent"], told["teacher_accuracy"]) == (NUM_SAMPLES - 1, 0, 100)
    source = open_source(f"imagefolder:{named}")
    origin = TinyVit(labels, source, config)
    for sample in range(len(source)):
        index = int(source.key(sample).partition("_")[2].partition(".")[0])
        assert origin.labels(sample).views["draw_seeds"][1] - 1 == seed_of(1, index)
    shutil.copy(named / CLASSES[0] / f"{names[0]}.x.png", named / CLASSES[1] / f"{names[0]}.png")
    with pytest.raises(CacheError, match="two images of the data are called 'ant_0'"):
        TinyVit(labels, open_source(f"imagefolder:{named}"), config)


def test_another_size_has_the_same_views(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    data, labels, path = made
    take(labels, config_of(labels), tmp_path / "cache", data, size=2 * SIZE)
    assert open_cache(tmp_path / "cache").recipe.fingerprint == open_cache(path).recipe.fingerprint
    with pytest.raises(MismatchError, match="interpolation"):
        take(labels, config_of(labels), path, data, interpolation="bilinear")


def test_the_command_imports_with_the_settings_that_the_program_dumped(
    made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    import yaml

    data, labels, path = made
    whole = yaml.safe_load(CONFIG) | {"BASE": [""], "SEED": 0, "TRAIN": {"EPOCHS": 90}}
    whole["AUG"] |= {"CUTMIX_MINMAX": None, "MIXUP_MODE": "batch", "RECOUNT": 1, "REPROB": 0.25}
    whole["DATA"] |= {"BATCH_SIZE": 128, "ZIP_MODE": False, "DATASET": "imagenet"}
    (tmp_path / "config.json").write_text(yaml.safe_dump(whole))
    words = ["import", "tinyvit", str(labels), str(tmp_path / "cache"), "--data", data]
    words += ["--teacher-name", "CLIP", "--program-config", str(tmp_path / "config.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "absent   4 views that have no labels" in done.output
    assert open_cache(tmp_path / "cache").recipe.fingerprint == open_cache(path).recipe.fingerprint


def other_entry(seed: int, classes: list[int], shares: list[float]) -> bytes:
    values = [np.int32(seed), np.array(classes, np.int16), np.array(shares, np.float16)]
    return b"".join(value.tobytes() for value in values)


ENTRIES: list[tuple[bytes, str]] = [
    (other_entry(-1, [0, 1], [0.5, 0.25]), "seed -1; seeds are from 0 on"),
    (other_entry(0, [0, 3], [0.5, 0.25]), "labels of classes 0 to 3, and the data has classes 0"),
    (other_entry(0, [0, -1], [0.5, 0.25]), "labels of classes -1 to 0"),
    (other_entry(0, [1, 1], [0.5, 0.25]), "a class twice among the labels"),
    (other_entry(0, [0, 1], [0.9, 0.25]), "labels that are no probabilities"),
    (other_entry(0, [0, 1], [np.nan, 0.25]), "labels that are no probabilities"),
]


@pytest.mark.parametrize(("entry", "message"), ENTRIES, ids=[text for _, text in ENTRIES])
def test_other_content_is_told(
    entry: bytes, message: str, made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    write_rank(tmp_path / f"{LABELS}0", 0, ["0"], [entry])
    with pytest.raises(CacheError, match=message) as caught:
        TinyVit(tmp_path, open_source(made[0]), config_of(made[1])).labels(0)
    assert str(caught.value).startswith(f"key 0 in folder {tmp_path} holds ")
    assert "is it one of TinyViT's, for these data?" in str(caught.value)


def without(file: str) -> Any:
    return lambda folder: (folder / file).unlink()


def with_text(text: str) -> Any:
    return lambda folder: (folder / "rank0-keys.txt").write_text(text)


FOLDERS: list[tuple[Any, str]] = [
    (without("rank0-keys.txt"), "has only one of rank0-keys.txt and rank0-values.bin"),
    (without("rank1-values.bin"), "has only one of rank1-keys.txt and rank1-values.bin"),
    (with_text("1\n2\n"), r"rank0-values.bin has 108 bytes, and 2 keys of 12 bytes each stand in"),
    (with_text("1\n" * 8 + "x\n"), "has the key 'x', and the data have 18 samples, numbered"),
    (with_text("1\n" * 8 + "18\n"), "has the key '18', and the data have 18 samples, numbered"),
    (with_text("1\n" * 8 + "9" * 999), "has a line of more than 256 bytes"),
    (lambda folder: folder.rename(folder.with_name("logits_top2")), "holds no folder such as"),
    (lambda folder: folder.rename(folder.with_name("logits_top0_epoch1")), "holds no folder such"),
    (lambda folder: (folder.parent / "logits_top9_epoch3").mkdir(), "of 2 labels a view, and of 9"),
    (lambda folder: [path.unlink() for path in folder.iterdir()], "has no rank0-keys.txt, nor any"),
]


@pytest.mark.parametrize(("change", "message"), FOLDERS, ids=[text for _, text in FOLDERS])
def test_other_folders_are_told(
    change: Any, message: str, made: tuple[str, Path, Path], tmp_path: Path
) -> None:
    change(write_epoch(tmp_path / "labels", 0))
    with pytest.raises(CacheError, match=message):
        take(tmp_path / "labels", config_of(made[1]), tmp_path / "cache", made[0])
    assert not (tmp_path / "cache" / "zarr.json").exists()


def test_a_file_that_is_cut_meanwhile_is_told(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    folder = write_epoch(tmp_path, 0)
    origin = TinyVit(tmp_path, open_source(made[0]), config_of(made[1]))
    origin.labels(0)
    for rank in range(2):
        (folder / f"rank{rank}-values.bin").write_bytes(b"")
    with pytest.raises(CacheError, match=r"rank\d-values.bin has become shorter"):
        origin.labels(0)


def test_labels_of_no_image_here_are_told(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    text = CONFIG.replace("DATA:", "DATA:\n  DATASET: imagenet22k")
    data = f"imagefolder:{tmp_path / 'data'}"
    for index in range(3):
        (tmp_path / "data" / CLASSES[index]).mkdir(parents=True)
        image = f"{made[0].partition(':')[2]}/{key(index)}.png"
        shutil.copy(image, tmp_path / "data" / CLASSES[index] / f"mine_{index}.png")
    labels, config = write_folder(tmp_path, config=text)
    with pytest.raises(CacheError, match=r"no labels of any of 3 samples; .* be key mine_0 in"):
        take(labels, config, tmp_path / "cache", data)


def read(tmp_path: Path, text: str) -> Any:
    (tmp_path / "config.yaml").write_text(text)
    return read_settings(tmp_path / "config.yaml")


def changed(section: str, name: str, value: str) -> str:
    """Return the configuration with a setting in the place of another, if there is one."""
    lines = [line for line in CONFIG.splitlines() if not line.strip().startswith(f"{name}:")]
    place = lines.index(f"{section}:") + 1
    return "\n".join([*lines[:place], f"  {name}: {value}", *lines[place:]])


REFUSED: list[tuple[str, str]] = [
    ("", "it holds None, no table of settings"),
    ("- a", "no table of settings"),
    ("DATA: 5", "DATA is 5, no table of settings"),
    ("DATA: {}", "AUG.MIXUP is 0.8, by default above 0, so that views are mixed; it must be 0.0"),
    (changed("AUG", "CUTMIX", "1.0"), "AUG.CUTMIX is 1.0, by default above 0"),
    (changed("AUG", "CUTMIX", ".nan"), "AUG.CUTMIX is nan"),
    (changed("AUG", "MIXUP", "yes"), "AUG.MIXUP is True"),
    (changed("AUG", "CUTMIX_MINMAX", "[0.2, 0.8]"), "AUG.CUTMIX_MINMAX is set"),
    (changed("AUG", "AUTO_AUGMENT", "original"), "AUG.AUTO_AUGMENT: policy 'original'; what is re"),
    (changed("AUG", "AUTO_AUGMENT", "rand-m9-w0"), "'rand-m9-w0'; what is read is rand with m,"),
    (changed("AUG", "AUTO_AUGMENT", "null"), "AUG.AUTO_AUGMENT is None; it is a text"),
    (changed("AUG", "AUTO_AUGMENT", "none"), "AUG.COLOR_JITTER is 0.4 without AUG.AUTO_AUGMENT"),
    (changed("AUG", "REPROB", "1.5"), "AUG.REPROB is 1.5; it is from 0 to 1"),
    (changed("AUG", "REPROB", "'0.5'"), "AUG.REPROB is '0.5'; it is from 0 to 1"),
    (changed("AUG", "REMODE", "black"), "AUG.REMODE is 'black'; what is read is pixel, rand, con"),
    (changed("AUG", "RECOUNT", "0"), "AUG.RECOUNT is 0; it is read from 1 to 100"),
    (changed("AUG", "NEW", "0"), "AUG has 'NEW', which TinyViT does not know"),
    (changed("DATA", "IMG_SIZE", "32"), "DATA.IMG_SIZE is 32; it is read from 33 to 2048"),
    (changed("DATA", "IMG_SIZE", "[48, 48]"), r"DATA.IMG_SIZE is \[48, 48\]; it is read from"),
    (changed("DATA", "INTERPOLATION", "random"), "DATA.INTERPOLATION is 'random'; what is read"),
    (changed("DATA", "MEAN_AND_STD_TYPE", "[]"), r"MEAN_AND_STD_TYPE is \[\]; what is read is def"),
    (changed("DATA", "DATASET", "cifar"), "DATA.DATASET is 'cifar'; what is read is imagenet, im"),
    (changed("DATA", "ZIP_MODE", "true"), "DATA.ZIP_MODE is set"),
    ("BASE: [other.yaml]\n" + CONFIG, r"BASE is \['other.yaml'\], and other files are not read"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_views_that_cannot_be_drawn_again_are_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match=message) as caught:
        read(tmp_path, text)
    assert "labels of such views cannot be imported" in str(caught.value)


ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: !!python/object/apply:os.system [id]",
        "[" * 5000,
        "a: 2001-99-99",
        "? {}\n: 1",
        ALIASES,
    ],
)
def test_a_file_that_is_no_plain_yaml_is_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no YAML of plain values") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_settings_that_are_left_out_are_those_of_its_program(tmp_path: Path) -> None:
    settings = read(tmp_path, "AUG: {MIXUP: 0.0, CUTMIX: 0.0}")
    assert settings.transform("0", "bicubic") == {
        "name": "kdcache.StoredDraw",
        "size": "input",
        "interpolation": "bicubic",
        "pixel_mean": [0.485, 0.456, 0.406],
        "views": "0",
        "policy": "rand-m9-mstd0.5-inc1",
        "erase_probability": 0.25,
        "erase_mode": "pixel",
        "max_count": 1,
        "pixel_std": [0.229, 0.224, 0.225],
        "canvas": 224,
    }
    assert (settings.size, settings.interpolation, settings.has_names) == (224, "bicubic", False)
    plain = "AUG: {MIXUP: 0.0, CUTMIX: 0.0, AUTO_AUGMENT: none, COLOR_JITTER: 0.0, REPROB: 0.0}"
    assert "policy" not in read(tmp_path, plain).transform("0", "bicubic")


ODD = (
    *("null", "true", "-1", "0", "7", "1e300", ".nan", "text", "[]", "{}", "[[]]", "[1, 2]"),
    *("{a: 1}", "2020-01-01", "!!binary aGk=", "!!set {a, b}", "''"),
)


def test_whatever_a_configuration_holds_is_read_or_told(tmp_path: Path) -> None:
    draw = random.Random(0)
    num_told = 0
    for _ in range(200):
        lines = [*CONFIG.splitlines(), "  REPROB: 0.5", "  REMODE: rand", "  RECOUNT: 2"]
        place = draw.randrange(1, len(lines))
        name, _, _ = lines[place].partition(":")
        lines[place] = f"{name}: {draw.choice(ODD)}"
        try:
            read(tmp_path, "\n".join(lines))
        except KdcacheError as error:
            assert "\n" not in str(error)
            num_told += 1
    assert 60 < num_told < 200


def test_more_seeds_than_a_cache_keeps_are_refused(
    made: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.imports.crops.MOST_VIEWS", 2 * 4 * NUM_SAMPLES)
    with pytest.raises(UsageError, match=r"give --crops 0:2, or fewer"):
        take(made[1], config_of(made[1]), tmp_path / "cache", made[0])


def test_a_numpy_that_draws_other_numbers_stops_it_before_files_are_read(
    made: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.imports import tinyvit

    def fail() -> None:
        raise RecipeError("numpy draws 1 where 2 was drawn")

    monkeypatch.setattr(tinyvit, "require_known_draws", fail)
    with pytest.raises(RecipeError, match="numpy draws 1"):
        take(made[1], config_of(made[1]), tmp_path / "cache", made[0])
