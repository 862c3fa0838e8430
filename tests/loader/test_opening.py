"""What a run replays: several caches, caches that lack units, teachers of other classes, some of
the samples."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import CONV, DIGITS, MLP, dump, train, train_config

from kdcache.cache import Cache, open_cache
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.formats.zarr import object_key
from kdcache.errors import MismatchError, MissingUnitError, UsageError
from kdcache.loader.class_map import read_class_map
from kdcache.loader.opening import open_replay
from kdcache.losses import open_loss
from kdcache.runtime.device import Compute
from kdcache.sources import open_source
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.run import Trainer
from kdcache.train.side_by_side import start_epoch

SAMPLES = 192
FEW = f"{DIGITS},length={SAMPLES}"
SETTINGS: dict[str, Any] = {"data": FEW, "student": MLP, "batch_size": 32, "loss": "dist:tau=4"}
FULL = {"data": FEW, "codec": "full:dtype=float32", "unit_rows": 32}
"""Six units a seed."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of two seeds that tests only read."""
    path = tmp_path_factory.mktemp("whole") / "cache"
    dump(path, seeds="0:2", **FULL)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> list[str]:
    """Return caches of two teachers over the same views, the first of three seeds."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(whole, folder / "a")
    dump(folder / "a", seeds="0:3", **FULL)
    dump(folder / "b", teacher=f"{CONV},seed=8", seeds="0:2", **FULL)
    return [str(folder / name) for name in "ab"]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


def first_batch(trainer: Trainer) -> Any:
    start_epoch([trainer])
    return next(trainer.loader.rendered())


def test_the_probabilities_of_several_teachers_are_averaged_by_weight(
    tmp_path: Path, two: list[str]
) -> None:
    trainer = Trainer(train_config(tmp_path, cache=(two[0], f"{two[1]},weight=3"), **SETTINGS))
    batch = first_batch(trainer)
    rows = batch.rows.numpy()
    one, other = (cache.codec.decode(cache.read(0, rows)) for cache in map(open_cache, two))
    for tau in (1.0, 4.0):
        expected = 0.25 * one.probs(tau) + 0.75 * other.probs(tau)
        torch.testing.assert_close(trainer.loader.teacher.soft_targets(batch).probs(tau), expected)
    assert not torch.allclose(one.probs(1.0), other.probs(1.0), atol=0.1), (
        "teachers that agree would prove nothing"
    )
    assert trainer.loader.replay.seeds == [0, 1], "those that both caches hold"


def test_a_run_trains_from_several_caches_and_knows_them_again(
    tmp_path: Path, two: list[str]
) -> None:
    caches = (two[0], f"{two[1]},weight=3")
    train(tmp_path / "run", cache=caches, epochs=1, **SETTINGS)
    train(tmp_path / "even", cache=tuple(two), epochs=1, **SETTINGS)
    train(tmp_path / "one", cache=two[0], seeds="0:2", epochs=1, **SETTINGS)
    assert len({tuple(losses(tmp_path / name)) for name in ("run", "even", "one")}) == 3
    assert train(tmp_path / "run", cache=caches, epochs=1, **SETTINGS)["epochs"] == 1, (
        "it is finished"
    )
    with pytest.raises(MismatchError, match="epochs: 1 there, 2 now"):
        train(tmp_path / "run", cache=caches, epochs=2, **SETTINGS)


def left_out(path: Path, loss: str, **changes: Any) -> list[int]:
    """Return the rows that the first epoch of a training leaves out."""
    config = train_config(path, seeds="0:1", **{**SETTINGS, "loss": loss, **changes})
    trainer = Trainer(config)
    start_epoch([trainer])
    rows: list[int] = trainer.loader.state_dict()["left_out"].tolist()
    trainer.data.close()
    return rows


def test_all_losses_leave_out_the_same_rows(tmp_path: Path, two: list[str]) -> None:
    """Also one that looks at no teacher, of several caches and where a teacher fills gaps."""
    caches = []
    for unit, path in enumerate(two):
        cache = tmp_path / str(unit)
        shutil.copytree(path, cache)
        (cache / commit_key(0, unit)).unlink()
        caches.append(str(cache))
    missing = [*range(64)]
    for window in (None, 2):
        for loss in ("ce", "dist:tau=4"):
            shared: dict[str, Any] = {"cache": tuple(caches), "window": window}
            assert left_out(tmp_path, loss, on_miss="skip", **shared) == missing
            shared = {"cache": caches[0], "window": window, "teacher": f"{CONV},seed=7"}
            assert left_out(tmp_path, loss, on_miss="teacher", **shared) == []


def test_seeds_that_a_run_leaves_out_are_noted(
    tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two[0], tmp_path / "cache")
    dump(tmp_path / "cache", seeds="0:5", **FULL)
    (tmp_path / "cache" / commit_key(1, 2)).unlink()
    for unit in range(6):
        (tmp_path / "cache" / commit_key(4, unit)).unlink()
    told = (
        f"note: seeds 1, 4 of cache {tmp_path}/cache are left out: seed 1 lacks 1 of 6 units, seed"
        " 4 is not begun\n"
    )
    capsys.readouterr()
    loss = open_loss("dist")
    replay = open_replay(
        train_config(tmp_path, cache=str(tmp_path / "cache"), **SETTINGS), loss.requires
    )
    assert replay.seeds == [0, 2, 3] and told in capsys.readouterr().err
    open_replay(
        train_config(tmp_path, cache=str(tmp_path / "cache"), seeds="2:4", **SETTINGS),
        loss.requires,
    )
    assert "left out" not in capsys.readouterr().err, "the seeds were asked for"
    partial = {"on_miss": "skip", **SETTINGS}
    replay = open_replay(
        train_config(tmp_path, cache=str(tmp_path / "cache"), **partial), loss.requires
    )
    assert replay.seeds == [0, 1, 2, 3]
    assert "seed 4 of cache" in (err := capsys.readouterr().err) and "seed 1 lacks" not in err
    replay = open_replay(train_config(tmp_path, cache=tuple(two), **SETTINGS), loss.requires)
    assert replay.seeds == [0, 1]
    assert (
        capsys.readouterr().err
        == "note: seed 2 is left out: not every cache of this run holds it\n"
    )


def test_records_whose_slab_is_larger_than_slabs_may_be_are_read_in_windows(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "cache": str(whole), "slab_limit": 1e-6}
    note = f"note: the slab of a seed of cache {whole} would take 7.68e-06 GB, and slabs may take"
    for text in ("dist", "ce"):  # all losses see the same order
        needs = open_loss(text).requires
        replay = open_replay(train_config(tmp_path, **settings), needs)
        assert replay.blocks is not None and replay.blocks.window == 16
        assert note in capsys.readouterr().err
    monkeypatch.setattr("kdcache.loader.opening._WINDOW_BYTES", 3 * 32 * 40)
    replay = open_replay(train_config(tmp_path, **settings), needs)
    assert replay.blocks is not None and replay.blocks.window == 3
    for changes, window in (({"window": 2}, 2), ({"slab_limit": 1.0}, None)):
        capsys.readouterr()
        replay = open_replay(train_config(tmp_path, **{**settings, **changes}), needs)
        assert (replay.blocks.window if replay.blocks else None) == window
        assert "slab" not in capsys.readouterr().err
    run = tmp_path / "run"
    train(run, **{**settings, "epochs": 1})
    other = train(tmp_path / "other", **{**SETTINGS, "cache": str(whole), "window": 3, "epochs": 1})
    assert other["train_loss"] == json_of(run)["train_loss"]


def json_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


@pytest.mark.parametrize(
    "loss",
    ["dkd", "nkd", "kl:standardize=true", "kl:activation=sigmoid", "dist:activation=sigmoid"],
)
def test_losses_that_need_logits_refuse_an_average(
    tmp_path: Path, two: list[str], loss: str
) -> None:
    with pytest.raises(
        UsageError, match=r"several teachers.* give probabilities.*dist or kl, without standard"
    ):
        train(tmp_path / "run", cache=tuple(two), **{**SETTINGS, "loss": loss})
    assert not (tmp_path / "run").exists()


def test_caches_of_other_views_do_not_go_together(tmp_path: Path, two: list[str]) -> None:
    dump(tmp_path / "shuffled", order_seed=5, seeds="0:1", **FULL)
    with pytest.raises(
        MismatchError,
        match=r"are of different views: order seed 0 there, 5 here; dump both from the same data",
    ):
        train(tmp_path / "run", cache=(two[0], str(tmp_path / "shuffled")), **SETTINGS)
    with pytest.raises(UsageError, match=r"weight is 0\.0; it must be above 0"):
        train(tmp_path / "run", cache=(two[0], f"{two[1]},weight=0"), **SETTINGS)


def test_a_cache_of_another_recipe_is_told_by_the_transform(
    tmp_path: Path,
    two: list[str],
) -> None:
    shipped = resources.files("kdcache.views") / "recipes" / "digits.toml"
    recipe = tmp_path / "wide.toml"
    recipe.write_text(shipped.read_text().replace("degrees = 12", "degrees = 20"))
    line = "transform 1, RandomAffine: degrees 12 {}, 20 {}"
    with pytest.raises(MismatchError, match=line.format("in the cache", "now")):
        dump(two[0], recipe=str(recipe), seeds="0:3", **FULL)
    dump(tmp_path / "wide", recipe=str(recipe), seeds="0:1", **FULL)
    with pytest.raises(MismatchError, match=line.format("there", "here")):
        train(tmp_path / "run", cache=(two[0], str(tmp_path / "wide")), **SETTINGS)
    with pytest.raises(UsageError, match=r"unknown cache '.*' key 'wieght'; did you mean 'weight'"):
        train(tmp_path / "run", cache=(f"{two[1]},wieght=0",), **SETTINGS)


# teachers of other classes


def mapped(tmp_path: Path, text: str) -> str:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    return str(path)


def test_a_teacher_of_other_classes_is_mapped(tmp_path: Path, two: list[str]) -> None:
    """Even and odd digits: the student knows two classes, the teacher ten."""
    table = "student,teacher\n" + "".join(
        f"{digit % 2},{digit}\n" for digit in range(9)
    )  # nines are neither
    data = f"tiny_models:parity,length={SAMPLES}"
    cache = open_cache(two[0])
    dump(tmp_path / "parity", teacher=f"{CONV},classes=2", **{**FULL, "data": data}, seeds="0:1")
    with pytest.raises(MismatchError, match=r"is not what cache .* was made from"):
        train(
            tmp_path / "run",
            cache=two[0],
            **{**SETTINGS, "data": data, "student": f"{MLP},classes=2"},
        )
    classes = read_class_map(mapped(tmp_path, table), open_source(data), 10)
    assert classes.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, -1]
    from kdcache.soft_targets import MappedTargets

    rows = cache.codec.decode(cache.read(0, np.arange(50)))
    found = MappedTargets(rows, torch.from_numpy(classes), 2).probs(4.0)
    whole = rows.probs(4.0)
    expected = torch.stack([whole[:, 0:9:2].sum(1), whole[:, 1:9:2].sum(1)], 1)
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True))


def test_a_student_learns_from_a_teacher_of_other_classes(tmp_path: Path) -> None:
    """A teacher of twelve classes: the digits from its third on, which is how the student's are
    named."""
    result = dump(
        tmp_path / "cache",
        **FULL,
        teacher=f"{CONV},classes=12,seed=7",
        teacher_classes=12,
        seeds="0:2",
    )
    assert result["teacher_accuracy"] is None, "its classes are not those of the labels"
    cache = open_cache(tmp_path / "cache")
    assert cache.manifest.classes == 12 and "accuracy" not in cache.commits(0)[0].statistics
    with pytest.raises(
        MismatchError,
        match=r"has 12 classes, data .* 10; say which are which: --cache PATH,classes=FILE",
    ):
        train(tmp_path / "run", cache=str(tmp_path / "cache"), **SETTINGS)
    table = mapped(tmp_path, "".join(f"{digit},{digit + 2}\n" for digit in range(10)))
    trainer = Trainer(
        train_config(tmp_path, cache=f"{tmp_path / 'cache'},classes={table}", **SETTINGS)
    )
    batch = first_batch(trainer)
    whole = cache.codec.decode(cache.read(0, batch.rows.numpy())).logits()
    torch.testing.assert_close(
        trainer.loader.teacher.soft_targets(batch).probs(4.0), torch.softmax(whole[:, 2:] / 4, 1)
    )
    assert (
        train(
            tmp_path / "run", cache=f"{tmp_path / 'cache'},classes={table}", epochs=1, **SETTINGS
        )["epochs"]
        == 1
    )


def test_a_tail_cannot_follow_a_student_of_other_classes(tmp_path: Path) -> None:
    dump(tmp_path / "cache", data=FEW, codec="topk:k=3", seeds="0:1")
    table = mapped(tmp_path, "".join(f"{9 - digit},{digit}\n" for digit in range(10)))
    cache = f"{tmp_path / 'cache'},classes={table}"
    with pytest.raises(UsageError, match=r"has a map of classes, .*; use tail uniform or none"):
        train(tmp_path / "run", cache=cache, tail="ghost", **SETTINGS)
    assert not (tmp_path / "run").exists()
    Trainer(train_config(tmp_path / "run", cache=cache, tail="none", **SETTINGS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0\n0,0\n", "line 2: class 0 of the teacher has a class of the student already"),
        (
            "0,0\n10,1\n",
            (
                "line 2: '10,1' is out of range; the student has 10 classes, the teacher 5, counted"
                " from 0"
            ),
        ),
        ("0,0\n1,5\n", "line 2: '1,5' is out of range"),
        ("0,0\nnine,1\n", r"line 2\) 'nine'"),
        ("0,0,0\n", "line 1: '0,0,0' is not STUDENT CLASS,TEACHER CLASS"),
        ("student,teacher\n", "names no class"),
    ],
)
def test_a_class_map_that_makes_no_sense_is_told_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_class_map(mapped(tmp_path, text), open_source("digits:train"), 5)
    with pytest.raises(UsageError, match=r"class map .*nowhere\.csv cannot be read"):
        read_class_map(str(tmp_path / "nowhere.csv"), open_source("digits:train"), 5)


def test_classes_of_a_map_may_be_named(tmp_path: Path) -> None:
    source: Any = open_source("digits:train")
    assert source.class_names == tuple("0123456789")
    source.class_names = tuple(f"digit {number}" for number in range(10))
    assert read_class_map(mapped(tmp_path, "digit 3,0\ndigit 3,2\n\n"), source, 3).tolist() == [
        3,
        -1,
        3,
    ]


# caches that lack units


def without(cache: str, seed: int, *units: int) -> Cache:
    """Take units out of a cache, as if the dump were still at work."""
    opened = open_cache(cache)
    for unit in units:
        for key in (commit_key(seed, unit), object_key(seed, unit)):
            (opened.storage.path / key).unlink()
    return opened


@pytest.fixture
def holed(tmp_path: Path, whole: Path) -> str:
    path = tmp_path / "holed"
    shutil.copytree(whole, path)
    without(str(path), 0, 1, 4)
    return str(path)


def test_a_cache_that_lacks_units_is_refused_unless_told_otherwise(
    tmp_path: Path, holed: str
) -> None:
    with pytest.raises(
        MissingUnitError,
        match=r"lacks 2 of 6 units of seed 0, the first is seed 0, unit 1 \(rows 32 to 63\)",
    ):
        train(tmp_path / "run", cache=holed, seeds="0:2", **SETTINGS)
    assert open_replay(
        train_config(tmp_path, cache=holed, **SETTINGS), open_loss("dist").requires
    ).seeds == [1], "the complete one"


@pytest.mark.parametrize("loss", ["dist:tau=4", "ce"])
def test_skip_trains_on_what_is_there(tmp_path: Path, holed: str, loss: str) -> None:
    settings = {**SETTINGS, "loss": loss}
    trainer = Trainer(train_config(tmp_path, cache=holed, on_miss="skip", **settings))
    assert trainer.loader.replay.seeds == [0, 1]
    start_epoch([trainer])
    rows = {int(row) for batch in trainer.loader.rendered() for row in batch.rows}
    assert rows == set(range(SAMPLES)) - set(range(32, 64)) - set(range(128, 160))
    result = train(tmp_path / "run", cache=holed, on_miss="skip", epochs=2, **settings)
    assert result["steps"] == 4 + 6


def test_teacher_fills_in_what_is_not_there(tmp_path: Path, whole: Path, holed: str) -> None:
    settings = {**SETTINGS, "epochs": 2, "teacher": f"{CONV},seed=7"}
    train(tmp_path / "cached", cache=str(whole), **{**settings, "teacher": None})
    train(tmp_path / "filled", cache=holed, on_miss="teacher", **settings)
    assert len(losses(tmp_path / "filled")) == 12
    np.testing.assert_allclose(losses(tmp_path / "filled"), losses(tmp_path / "cached"), rtol=1e-5)
    trainer = Trainer(
        train_config(tmp_path, cache=holed, on_miss="teacher", seeds="5:6", **settings)
    )
    batch = first_batch(trainer)
    assert trainer.loader.teacher.soft_targets(batch).logits().shape == (
        32,
        10,
    ), "also of a seed of which nothing is there"


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            f"{CONV},seed=8",
            r"is not the one that cache .*holed was made with .*: its hash of weights is",
        ),
        (f"{CONV},seed=7,std=0.5", r"its std is \[0\.5\], not \[0\.25\]"),
    ],
)
def test_another_teacher_does_not_fill_in(
    tmp_path: Path, holed: str, teacher: str, message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        train(
            tmp_path / "run",
            cache=holed,
            on_miss="teacher",
            teacher=teacher.replace(",std=0.25", "", 1),
            **SETTINGS,
        )


def test_a_partial_slab_refuses_the_rows_that_it_lacks(holed: str) -> None:
    cache = open_cache(holed)
    slab = cache.slab(0, is_partial=True)
    assert slab.missing.tolist() == [*range(32, 64), *range(128, 160)] and len(slab.absent) == 0
    there = np.setdiff1d(np.arange(SAMPLES), slab.missing)
    assert (
        slab.gather(there).tobytes() == cache.slab(1).gather(there).tobytes()
        or len(slab.gather(there)) == 4 * 32
    )
    for row in (32, 63, 128):
        with pytest.raises(MissingUnitError, match=f"row {row} is not dumped yet"):
            slab.gather(np.array([0, row]))


def test_units_that_come_later_are_taken_at_the_next_epoch(tmp_path: Path, holed: str) -> None:
    """A run that is resumed in the middle of an epoch keeps that epoch's rows; the next one has the
    new ones too."""
    settings = {**SETTINGS, "on_miss": "skip", "seeds": "0:1", "epochs": 2}
    trainer = Trainer(train_config(tmp_path, cache=holed, **settings))
    start_epoch([trainer])
    assert trainer.loader.num_steps == 4
    trainer.train_step([trainer.loader.placed(next(trainer.loader.rendered()))])
    state = trainer.state()
    dump(Path(holed), seeds="0:2", **FULL)
    resumed = Trainer(train_config(tmp_path, cache=holed, **settings))
    resumed.load_state(state)
    start_epoch([resumed])
    assert resumed.loader.num_steps == 4 and len(resumed.loader._sampler) == 3
    resumed.epoch, resumed.epoch_step = 1, 0
    start_epoch([resumed])
    assert resumed.loader._sampler.num_steps == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"on_miss": "skip", "recipe": "digits", "teacher": CONV},
            "on_miss is 'skip', and there is no cache that could lack",
        ),
        (
            {"on_miss": "teacher", "cache": "a"},
            "on_miss 'teacher' needs one cache, and the teacher",
        ),
        (
            {"on_miss": "teacher", "cache": ("a", "b"), "teacher": CONV},
            "on_miss 'teacher' needs one cache",
        ),
        ({"on_miss": "skip", "cache": "a", "teacher": CONV}, "not both; or --on-miss teacher"),
        ({"on_miss": "skipp", "cache": "a"}, "skipp"),
    ],
)
def test_on_miss_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    from kdcache.config.files import load_config
    from kdcache.train.run import TrainConfig

    flags = {"run": str(tmp_path), "data": FEW, "student": MLP, "loss": "dist", **changes}
    with pytest.raises(UsageError, match=message):
        load_config(TrainConfig, "train-student", file=None, flags=flags)


# some of the samples


def test_samples_by_number_and_by_key(tmp_path: Path, two: list[str]) -> None:
    source = open_source(FEW)
    keys = tmp_path / "keys.txt"
    keys.write_text("".join(f"{source.key(index)}\n" for index in range(50, 150)))
    found = []
    for samples in ("50:150", str(keys)):
        trainer = Trainer(train_config(tmp_path, cache=two[0], samples=samples, **SETTINGS))
        start_epoch([trainer])
        rows = np.concatenate([batch.rows.numpy() for batch in trainer.loader.rendered()])
        assert len(rows) == 96 and set(trainer.loader.replay.order[rows]) <= set(range(50, 150))
        found.append(rows.tolist())
    assert found[0] == found[1]
    assert (
        train(tmp_path / "run", cache=two[0], samples=str(keys), epochs=1, **SETTINGS)["steps"] == 3
    )


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("5:5", "samples '5:5' are none, or past the last of 192"),
        ("0:193", "past the last of 192"),
        (
            "nowhere.txt",
            "samples 'nowhere.txt' are neither A:B nor a text file with a key on each line",
        ),
    ],
)
def test_samples_that_are_not_there_are_told(
    tmp_path: Path, two: list[str], samples: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", cache=two[0], samples=samples, **SETTINGS)
    (tmp_path / "keys.txt").write_text("00000001\nno such key\n")
    with pytest.raises(
        UsageError, match=r"has no sample 'no such key'; keys are such as '00000000'"
    ):
        train(tmp_path / "run", cache=two[0], samples=str(tmp_path / "keys.txt"), **SETTINGS)


def test_rows_from_several_places_are_joined_in_the_order_of_the_batch(
    holed: str, tmp_path: Path
) -> None:
    config = train_config(
        tmp_path, cache=holed, on_miss="teacher", teacher=f"{CONV},seed=7", seeds="0:1", **SETTINGS
    )
    trainer = Trainer(config)
    batch = first_batch(trainer)
    slab = open_cache(holed).slab(0, is_partial=True)
    assert 0 < slab.is_missing(batch.rows.numpy()).sum() < 32, "rows of both kinds"
    rows = trainer.loader.teacher.soft_targets(batch)
    compute = Compute(config.compute)
    from kdcache.loader.teachers import OnlineTeacher
    from kdcache.models.model import open_model

    model = open_model(
        f"{CONV},seed=7", classes=10, recipe=trainer.loader.replay.recipe, trained=True
    )
    online = OnlineTeacher(model, compute, place=0).soft_targets(batch)
    np.testing.assert_allclose(rows.logits(), online.logits(), atol=1e-5)
    np.testing.assert_allclose(rows.std(), online.std(), atol=1e-5)
    tau = torch.linspace(1, 4, 32)
    np.testing.assert_allclose(rows.probs(tau), online.probs(tau), atol=1e-6)


def test_a_cache_that_holds_nothing_is_told(tmp_path: Path, holed: str) -> None:
    without(holed, 0, 0, 2, 3, 5)
    without(holed, 1, *range(6))
    for on_miss in ("error", "skip"):
        with pytest.raises(
            MismatchError, match=r"has no complete seed yet; run dump-teacher again"
        ):
            train(tmp_path / "run", cache=holed, on_miss=on_miss, **SETTINGS)
