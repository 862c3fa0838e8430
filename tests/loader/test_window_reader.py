"""Reading an epoch as it comes: from webdataset tars, in windows of units, from a bucket, and while
the dump still runs."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nursery import Program, command
from runs import IN_PROCESS, dump, run_epoch, train, train_config
from s3_server import BUCKET, environ, environment, s3_server

from kdcache.cache import open_cache
from kdcache.cache.source import CachedSource
from kdcache.errors import (
    CacheError,
    DamagedUnitError,
    KdcacheError,
    MissingUnitError,
    UnreadableSampleError,
    UsageError,
)
from kdcache.loader.order import Blocks, EpochSampler, Split, epoch_views
from kdcache.loader.window_reader import WindowReader
from kdcache.sources import open_source
from kdcache.train.checkpoint import load_checkpoint
from kdcache.train.metrics_log import NoMetrics
from kdcache.train.run import TrainConfig
from kdcache.train.trainer import Trainer
from kdcache.verify.cache import verify_cache
from kdcache.views import Recipe, ViewDataset, ViewLoader, load_recipe, partners

PLAIN = load_recipe("digits")
MIXING = Recipe("mixes", {"size": 8, "transforms": [], "mixing": {"mixup": 1.0, "block": 16}})
DATA = "tiny_models:few_digits,length=120"
TARS: dict[str, Any] = {
    "data": DATA,
    "store": "webdataset",
    "unit_rows": 16,
    "codec": "full:dtype=float32",
}


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tars") / "cache"
    dump(path, **TARS)
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


# the order


@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sets(st.integers(0, 299)),
    st.integers(0, 99),
)
def test_in_windows_too_every_row_that_is_there_comes_once(
    length: int, unit_rows: int, window: int, absent: set[int], epoch: int
) -> None:
    blocks = Blocks(length=length, unit_rows=unit_rows, window=window)
    there = np.setdiff1d(np.arange(length), [*absent])
    order = epoch_views(there, length, [7], PLAIN, run_seed=3, epoch=epoch, blocks=blocks)[:, 0]
    assert sorted(order) == there.tolist()
    number = {
        unit: at for at, units in enumerate(blocks.windows(3, epoch)) for unit in units.tolist()
    }
    seen = [number[row // unit_rows] for row in order.tolist()]
    assert seen == sorted(seen) and all(len(units) <= window for units in blocks.windows(3, epoch))


@given(st.integers(1, 8), st.integers(1, 3), st.sets(st.integers(0, 127), max_size=20))
def test_in_windows_too_those_that_are_mixed_stand_side_by_side(
    units: int, window: int, absent: set[int]
) -> None:
    assert MIXING.mixing is not None
    length = 16 * units
    blocks = Blocks(length=length, unit_rows=16, window=window)
    there = np.setdiff1d(np.arange(length), [*absent])
    order = epoch_views(there, length, [3], MIXING, run_seed=0, epoch=1, blocks=blocks)[
        :, 0
    ].tolist()
    partner_of = partners(length, MIXING.mixing, MIXING.key, 3)
    assert sorted(order) == there.tolist()
    for row in order:
        other = int(partner_of[row])
        assert other == row or other not in there or abs(order.index(other) - order.index(row)) == 1


def read_epoch(
    cache_path: Path, *, processes: int, workers: int, first_step: int = 0
) -> list[Counter[tuple[int, bytes, int]]]:
    """Read an epoch as training does; return what each process got: rows, records and labels, and
    check them on the way."""
    cache = open_cache(cache_path)
    source, plain = CachedSource(cache), open_source(DATA)
    blocks = Blocks(length=120, unit_rows=16, window=2)
    views = epoch_views(np.arange(120), 120, [1], PLAIN, run_seed=5, epoch=2, blocks=blocks)
    whole = cache.slab(1).gather(np.arange(120))
    got = []
    for process in range(processes):
        stream = WindowReader(cache, units=source.units)
        stream.start([1], [])
        stream.open_epoch(blocks.windows(5, 2), int(views[first_step * 24, 0]))
        sampler = EpochSampler(Split(batch_size=24, process=process, processes=processes))
        sampler.set_epoch(views, first_step=first_step, before=stream.before)
        loader = ViewLoader(
            ViewDataset(source, PLAIN, cache.order, sizes=[8]),
            sampler,
            workers=workers,
            pin_memory=False,
        )
        seen: Counter[tuple[int, bytes, int]] = Counter()
        for batch in loader:
            rows = batch.rows.numpy()
            records = stream.gather(rows, batch.seeds.numpy())
            assert records.tobytes() == whole[rows].tobytes()
            expected = [plain.sample(int(index)).target for index in cache.order[rows]]
            assert batch.labels.first.tolist() == expected
            seen.update(
                zip(rows.tolist(), map(bytes, batch.views[0].numpy()), expected, strict=True)
            )
        got.append(seen)
    return got


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_every_row_once_and_equal_steps_on_any_number_of_processes_and_workers(tars: Path) -> None:
    (alone,) = read_epoch(tars, processes=1, workers=0)
    assert len(alone) == 120 and set(alone.values()) == {1}
    for processes, workers in ((2, 0), (3, 2), (4, 1), (8, 0), (1, 4)):
        parts = read_epoch(tars, processes=processes, workers=workers)
        assert {sum(part.values()) for part in parts} == {120 // processes}
        assert sum(parts, Counter()) == alone
    for step in (1, 2, 4):
        (rest,) = read_epoch(tars, processes=1, workers=0, first_step=step)
        assert sum(rest.values()) == 120 - 24 * step and not rest - alone


# training


def test_training_from_tars_is_training_from_the_data(tars: Path, tmp_path: Path) -> None:
    shared = {"cache": str(tars), "batch_size": 24, "loss": "dist:tau=4", "window": 3}
    from_tars = train(tmp_path / "tars", **shared, data=None)
    from_data = train(tmp_path / "data", **shared, data=DATA)
    assert (
        losses(tmp_path / "tars") == losses(tmp_path / "data")
        and len(losses(tmp_path / "data")) == 10
    )
    assert from_tars["train_loss"] == from_data["train_loss"]
    train(tmp_path / "all", **{**shared, "window": None}, data=None)
    assert losses(tmp_path / "all") != losses(tmp_path / "data"), "all rows are shuffled there"


def test_labels_alone_are_read_from_tars_too(tars: Path, tmp_path: Path) -> None:
    shared = {"cache": str(tars), "batch_size": 24, "loss": "ce", "window": 2}
    train(tmp_path / "tars", **shared, data=None)
    train(tmp_path / "data", **shared, data=DATA)
    assert losses(tmp_path / "tars") == losses(tmp_path / "data")


@pytest.fixture(scope="module")
def windowed(tars: Path) -> tuple[TrainConfig, list[float]]:
    """Return a run in windows, and the losses of its two epochs where nothing stops it."""
    config = train_config(
        Path("none"), cache=str(tars), data=None, batch_size=24, window=2, loss="kl:tau=4"
    )
    whole = Trainer(config)
    return config, [run_epoch(whole, NoMetrics())["loss"] for _ in range(2)]


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_stopped_after_any_step_it_goes_on_as_if_nothing_had_been(
    windowed: tuple[TrainConfig, list[float]], stop: int
) -> None:
    config, lines = windowed
    halted = Trainer(config)

    class Stopped(Exception):  # noqa: N818
        pass

    def after_step() -> None:
        if halted.step == stop:
            raise Stopped

    with pytest.raises(Stopped):
        for _ in range(2):
            run_epoch(halted, NoMetrics(), after_step)
    resumed = Trainer(config)
    resumed.load_state(halted.state())
    while resumed.epoch < 2:
        last = run_epoch(resumed, NoMetrics())["loss"]
    assert last == lines[1]


def test_training_from_a_bucket_fetches_each_tar_once(
    server: int, tars: Path, tmp_path: Path
) -> None:
    with environ(**environment(server)):
        url = f"s3://{BUCKET}/train/cache"
        dump(url, **TARS)
        assert open_cache(url).units() == open_cache(tars).units()
        train(
            tmp_path / "bucket",
            cache=url,
            data=None,
            batch_size=24,
            window=2,
            slab_dir=str(tmp_path / "copies"),
        )
        assert len(list((tmp_path / "copies").rglob("*.tar"))) == 8
        assert verify_cache(open_cache(url), views=4)["views"]["checked"] == 4, (
            "of the images in the bucket"
        )
        train(tmp_path / "folder", cache=str(tars), data=None, batch_size=24, window=2)
        assert losses(tmp_path / "bucket") == losses(tmp_path / "folder")
        config = IN_PROCESS.__class__(workers=2, device="cpu")
        train(tmp_path / "workers", cache=url, data=None, batch_size=24, window=2, compute=config)
        assert losses(tmp_path / "workers") == losses(tmp_path / "folder")
        with pytest.raises(
            UsageError,
            match=(
                r"windows of units are needed at once and take \d+ bytes, more than the slab limit"
                r" of 1000"
            ),
        ):
            train(
                tmp_path / "small", cache=url, data=None, batch_size=24, window=2, slab_limit=1e-6
            )


def test_slabs_are_made_where_they_are_wanted(server: int, tmp_path: Path) -> None:
    with environ(**environment(server)):
        url = f"s3://{BUCKET}/slabs/cache"
        dump(url, data=DATA, unit_rows=16)
        train(
            tmp_path / "run", cache=url, data=DATA, batch_size=24, slab_dir=str(tmp_path / "slabs")
        )
        assert len(list((tmp_path / "slabs").rglob("*.slab"))) == 2


# faults


def test_a_sample_that_could_not_be_read_is_absent_from_tars_too(tars: Path) -> None:
    source = CachedSource(open_cache(tars))
    assert len(source) == 120 and source.classes == 10 and source.key(3) == open_source(DATA).key(3)
    assert source.fingerprint == open_source(DATA).fingerprint
    unit, at = divmod(int(np.flatnonzero(open_cache(tars).order == 3)[0]), 16)
    tar = source._unit(unit)
    sizes = np.where(np.arange(16) == at, 0, tar.index.sizes)
    tar.index = replace(tar.index, sizes=sizes)
    with pytest.raises(
        UnreadableSampleError, match=r"sample 3 .* could not be read when it was dumped"
    ):
        source.sample(3)


def test_a_window_that_is_past_is_let_go_and_absent_rows_are_refused(tars: Path) -> None:
    cache = open_cache(tars)
    stream = WindowReader(cache)
    stream.start([1], [])
    blocks = Blocks(length=120, unit_rows=16, window=2)
    windows = blocks.windows(0, 0)
    stream.open_epoch(windows, int(windows[0][0]) * 16)
    firsts = [np.array([16 * int(window[0])]) for window in windows]
    for number, rows in enumerate(firsts):
        stream.before(np.stack([rows, [1]], axis=1))
        stream.gather(rows, np.array([1]))
        assert len(stream._fetched) == sum(len(window) for window in windows[number : number + 2])
    with pytest.raises(MissingUnitError, match="is not in the window that is read"):
        stream.gather(firsts[0], np.array([1]))
    stream._is_absent[1][firsts[-1]] = True
    with pytest.raises(MissingUnitError, match="is recorded as absent"):
        stream.gather(firsts[-1], np.array([1]))


def test_a_damaged_tar_stops_the_training_by_name(tars: Path, tmp_path: Path) -> None:
    shutil.copytree(tars, tmp_path / "cache")
    path = next((tmp_path / "cache" / "shards").rglob("000003.tar"))
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedUnitError, match=r"unit 3 .*SHA-256"):
        train(tmp_path / "run", cache=str(tmp_path / "cache"), data=None, batch_size=24, window=2)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of two seeds that were dumped one after the other."""
    path = tmp_path_factory.mktemp("apart") / "cache"
    for seeds in ("0:1", "1:2"):
        dump(path, **TARS, seeds=seeds)
    return path


@pytest.mark.parametrize("window", [None, 2])
def test_images_come_from_tars_that_are_checked(
    apart: Path, tmp_path: Path, window: int | None
) -> None:
    shutil.copytree(apart, tmp_path / "cache")
    train(
        tmp_path / "whole",
        cache=str(tmp_path / "cache"),
        data=None,
        batch_size=24,
        window=window,
        seeds="1:2",
    )
    for path in (tmp_path / "cache" / "shards" / "00000-00000").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    train(
        tmp_path / "run",
        cache=str(tmp_path / "cache"),
        data=None,
        batch_size=24,
        window=window,
        seeds="1:2",
    )
    assert losses(tmp_path / "run") == losses(tmp_path / "whole"), (
        "the other seed's tars are not looked at"
    )
    with pytest.raises(DamagedUnitError, match="seed 0, unit"):
        train(
            tmp_path / "stopped",
            cache=str(tmp_path / "cache"),
            data=None,
            batch_size=24,
            window=window,
            seeds="0:1",
        )


def test_what_is_missing_is_left_out_in_windows_too(tars: Path, tmp_path: Path) -> None:
    shutil.copytree(tars, tmp_path / "cache")
    next((tmp_path / "cache" / "commits").rglob("000003.json")).unlink()
    shared = {"cache": str(tmp_path / "cache"), "data": None, "batch_size": 8, "window": 2}
    with pytest.raises(KdcacheError, match="no complete seed"):
        train(tmp_path / "run", **shared)
    assert train(tmp_path / "skip", **shared, on_miss="skip")["steps"] == 2 * (120 - 16) // 8


def test_a_cache_without_images_needs_the_data(tmp_path: Path) -> None:
    dump(tmp_path / "cache", **TARS, images=False)
    with pytest.raises(
        UsageError, match=r"holds no images; give the data that it was made from: --data SPEC"
    ):
        train(tmp_path / "run", cache=str(tmp_path / "cache"), data=None)
    assert (
        train(tmp_path / "run", cache=str(tmp_path / "cache"), data=DATA, window=2, batch_size=24)[
            "steps"
        ]
        == 10
    )


def test_seeds_of_a_webdataset_cache_come_in_groups(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"seeds are 1:3, and 2 of them share a tar: 0 to 1, 2 to 3, ...; give whole groups",
    ):
        dump(tmp_path / "cache", **TARS, seeds="1:3")
    dump(tmp_path / "cache", **TARS, seeds="0:2")
    dump(tmp_path / "cache", data=DATA, unit_rows=16, codec="full:dtype=float32", seeds="2:6")
    assert open_cache(tmp_path / "cache").complete_seeds() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="are for webdataset stores"):
        dump(tmp_path / "other", data=DATA, seeds_per_unit=2)


def test_a_webdataset_cache_holds_what_a_zarr_cache_holds(tars: Path, tmp_path: Path) -> None:
    dump(tmp_path / "zarr", **{**TARS, "store": "zarr"})
    one, other = open_cache(tars), open_cache(tmp_path / "zarr")
    for seed in (0, 1):
        assert (
            one.slab(seed).gather(np.arange(120)).tobytes()
            == other.slab(seed).gather(np.arange(120)).tobytes()
        )
        for ours, theirs in zip(one.commits(seed), other.commits(seed), strict=True):
            keys = {probe.row: probe.crc32 for probe in theirs.probes}
            assert all(keys[probe.row] == probe.crc32 for probe in ours.probes) and ours.probes


# waiting


def test_waiting_ends_when_no_more_units_come(tars: Path, tmp_path: Path) -> None:
    shared = {"data": None, "wait_for_units": 0.2, "seeds": "0:3"}
    with pytest.raises(
        CacheError,
        match=r"cache .*none: 0 of 1 are there, and no more came for 0.2 s; its dump has not begun",
    ):
        train(tmp_path / "run", cache=str(tmp_path / "none"), **shared)
    with pytest.raises(
        MissingUnitError,
        match=r"seed 2: 0 of 8 are there, and no more came for 0.2 s; is its dump still",
    ):
        train(tmp_path / "run", cache=str(tars), **shared, epochs=3, batch_size=24)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 2, (
        "what was there was trained on"
    )
    with pytest.raises(UsageError, match="needs a cache, and the seeds to wait for"):
        train_config(tmp_path / "run", cache=str(tars), wait_for_units=1.0)


@pytest.mark.slow
def test_one_host_trains_while_another_still_dumps(server: int, tmp_path: Path) -> None:
    """Two processes with folders of their own and a bucket in common."""
    url = f"s3://{BUCKET}/two-hosts/cache"
    slow = f"tiny_models:counted,log={tmp_path / 'log'},seconds=0.15,mean=0.5,std=0.25"
    dumping = [
        "dump-teacher",
        url,
        "--data",
        DATA,
        "--teacher",
        slow,
        "--recipe",
        "digits",
        "--seeds",
        "0:3",
    ]
    dumping += [
        "--batch-size",
        "16",
        "--store",
        "webdataset",
        "--unit-rows",
        "16",
        "--set",
        "seeds_per_unit=1",
        "--set",
        "seeds_at_once=1",
    ]
    training = [
        "train-student",
        str(tmp_path / "run"),
        "--cache",
        url,
        "--student",
        "tiny_models:mlp,mean=0.5,std=0.25",
    ]
    training += [
        "--seeds",
        "0:3",
        "--epochs",
        "3",
        "--batch-size",
        "24",
        "--wait-for-units",
        "60",
        "--json",
        "--lr",
        "0.05",
    ]
    processes = [
        host(tmp_path / name, server, words) for name, words in (("b", training), ("a", dumping))
    ]
    (code, out, err), (other_code, _, other_err) = (process.end(180) for process in processes)
    assert code == other_code == 0, (err[-2000:], other_err[-2000:])
    assert json.loads(out)["steps"] == 15
    started = (tmp_path / "run" / "config.toml").stat().st_mtime
    with environ(**environment(server)):
        last = max(entry.time for entry in open_cache(url).storage.walk("commits"))
    assert started < last + 1, "the student began before the dump ended"


def host(home: Path, port: int, words: list[str]) -> Program:
    home.mkdir()
    own = {**environment(port), "KDCACHE_HOME": str(home)}
    return command(*words, "--workers", "0", "--device", "cpu", folder=home, environment=own)
