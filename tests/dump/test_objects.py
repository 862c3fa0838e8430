"""A dump of a program's own objects: a module in memory, a data set, a recipe, a range."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from runs import CONV, dump

import kdcache
from kdcache.config.files import recorded_settings
from kdcache.config.seeds import parse_seeds, seeds_text
from kdcache.errors import MismatchError, ModelError, UsageError
from kdcache.views import load_recipe

SETTINGS: dict[str, Any] = {
    "codec": "full:dtype=float32",
    "batch_size": 128,
    "num_workers": 0,
    "unit_rows": 25,
}
NORMALISED: dict[str, Any] = {"mean": 0.5, "std": 0.25}


def of_objects(path: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data": tiny_models.few_digits(),
        "teacher": tiny_models.conv(seed=7),
        "recipe": load_recipe("digits"),
        "seeds": range(2),
        **NORMALISED,
    }
    return kdcache.dump_teacher(path, **{**SETTINGS, **settings, **changes})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "cache"
    of_objects(path)
    return path


def test_the_records_are_those_of_the_same_things_by_their_specs(
    path: Path, tmp_path: Path
) -> None:
    named = {"data": "tiny_models:few_digits", "unit_rows": 25, "codec": SETTINGS["codec"]}
    dump(tmp_path / "named", teacher=f"{CONV},seed=7", seeds="0:2", **named)
    ours, theirs = kdcache.open_cache(path), kdcache.open_cache(tmp_path / "named")
    rows = np.arange(ours.manifest.rows)
    for seed in (0, 1):
        assert ours.read(seed, rows).tobytes() == theirs.read(seed, rows).tobytes()
    assert ours.manifest.recipe == theirs.manifest.recipe
    assert ours.manifest.teacher.sha256 == theirs.manifest.teacher.sha256
    assert ours.manifest.source.fingerprint == theirs.manifest.source.fingerprint


def test_it_goes_on_and_adds_seeds(tmp_path: Path) -> None:
    first = of_objects(tmp_path / "cache", seeds=[0])
    assert first["units_written"] == 3 and first["seeds"] == [0]
    assert of_objects(tmp_path / "cache", seeds=[0])["units_written"] == 0
    assert of_objects(tmp_path / "cache", seeds="0:2")["units_written"] == 3
    wanted = f"loader = kdcache.DistillationLoader({str(tmp_path / 'cache')!r}, data=...)"
    assert first["next"] == wanted


def test_a_loop_reads_it_with_the_same_data_set(path: Path) -> None:
    teacher = tiny_models.conv(seed=7).eval()
    loader = kdcache.DistillationLoader(
        path, data=tiny_models.few_digits(), batch_size=64, num_workers=0, **NORMALISED
    )
    loader.set_epoch(0)
    batch = next(iter(loader))
    with torch.no_grad():
        wanted = teacher(batch.images)
    torch.testing.assert_close(batch.teacher.logits(), wanted)


def test_the_module_comes_back_as_it_was(tmp_path: Path) -> None:
    teacher = torch.nn.Sequential(tiny_models.conv(), torch.nn.Dropout(0.5)).train()
    teacher[0].eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    of_objects(tmp_path / "cache", teacher=teacher, seeds="0:1")
    assert teacher.training and teacher[1].training and not teacher[0].training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_specs_are_taken_too(tmp_path: Path) -> None:
    own = {"mean": None, "std": None}
    named = {"data": "tiny_models:few_digits", "recipe": "digits", "teacher": f"{CONV},seed=7"}
    result = of_objects(tmp_path / "cache", **named, **own)
    assert "kdcache train-student" in result["next"] and result["units_written"] == 6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"teacher": CONV}, UsageError, "size, mean and std are of a module"),
        ({"mean": None, "std": None}, UsageError, "does not say how images are to be normalised"),
        ({"std": None}, UsageError, "mean and std belong together"),
        ({"teacher": tiny_models.conv(classes=7)}, ModelError, "gives 7 classes, and 10 are asked"),
        ({"teacher": tiny_models.conv(channels=3)}, ModelError, "Sequential on a view of 1x8x8"),
        ({"recipe": "digit"}, UsageError, "did you mean 'digits'"),
        ({"data": [1, 2, 3]}, kdcache.KdcacheError, "source builtins:list does not say"),
    ],
)
def test_what_cannot_be_meant_is_told(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        of_objects(tmp_path / "cache", **changes)
    assert not (tmp_path / "cache").exists()


def test_seeds_become_text() -> None:
    # past the tests' own check of types
    with pytest.raises(UsageError, match=r"seeds is \[0\.5\]; it must be text such as '0:90'"):
        inspect.unwrap(seeds_text)([0.5])
    assert seeds_text(np.arange(3)) == seeds_text(range(3)) == "0:3"
    assert parse_seeds(seeds_text([5, 1, 2, 3, 9])) == [5, 1, 2, 3, 9]
    assert len(parse_seeds(seeds_text(range(90_000)))) == 90_000


def test_other_weights_are_another_teacher(path: Path) -> None:
    with pytest.raises(MismatchError, match=r"was made otherwise .*teacher\.sha256"):
        of_objects(path, teacher=tiny_models.conv(seed=8))


def test_the_usual_batch_size_is_recorded_and_changes_no_fingerprint(
    path: Path, tmp_path: Path
) -> None:
    of_objects(tmp_path / "usual", batch_size=None)
    cache = kdcache.open_cache(tmp_path / "usual")
    assert recorded_settings(cache.manifest.made_by.config)["batch_size"] == 256
    cache.require(kdcache.open_cache(path).manifest)  # which says 128


def test_a_batch_size_that_is_tried_gives_the_same_logits_and_is_recorded(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_objects(tmp_path / "auto", batch_size="auto")
    told = re.findall(r"note: batch_size auto is (\d+) here", capsys.readouterr().err)
    cache = kdcache.open_cache(tmp_path / "auto")
    assert len(told) == 1
    assert recorded_settings(cache.manifest.made_by.config)["batch_size"] == int(told[0])
    other = kdcache.open_cache(path)
    rows = np.arange(cache.manifest.rows)
    logits = cache.codec.decode(cache.read(0, rows)).logits()
    others = other.codec.decode(other.read(0, rows)).logits()
    torch.testing.assert_close(logits, others)
    with pytest.raises(UsageError, match="batch_size is 'most'; it must be a whole number or 'a"):
        of_objects(tmp_path / "most", batch_size="most")
