"""Image tars as a source: random access equals reading in order, in any process, wherever the tars
lie."""

import gc
import multiprocessing
import os
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import age, picture, write_shards, write_tar
from nursery import fork_server
from torch.utils.data import DataLoader

from kdcache.cache import open_cache
from kdcache.errors import SourceError, UnreadableSampleError, UsageError
from kdcache.sources import Source, TarSource, open_source, tars
from kdcache.sources.tar_paths import find_tars
from kdcache.verify.cache import verify_cache
from kdcache.views import ViewDataset, load_recipe


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "set", 4, 1, 6)


def in_order(root: Path) -> list[tuple[str, bytes, int]]:
    """Read a folder of tars from the first to the last member, as tar does."""
    samples = []
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path, "r|") as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = dict.fromkeys(name.partition(".")[0] for name in contents)
        samples += [
            (f"{path.stem}/{key}", contents[f"{key}.png"], int(contents[f"{key}.cls"]))
            for key in keys
        ]
    return samples


def level(source: Source, index: int) -> int:
    return int(np.asarray(source.sample(index).image)[0, 0, 0])


def test_random_access_is_what_reading_in_order_gives(shards: Path) -> None:
    source = open_source(f"tars:{shards}")
    assert isinstance(source, Source) and (len(source), source.classes) == (11, 3)
    expected = in_order(shards)
    for index in np.random.default_rng(0).permutation(11).tolist():
        key, data, target = expected[index]
        sample = source.sample(index)
        assert (source.key(index), sample.target, level(source, index)) == (key, target, index)
        assert data == picture(index) and sample.image.size == (5, 4) and sample.image.mode == "RGB"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_every_index_finds_its_shard(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: st.DataObject
) -> None:
    source = open_source(f"tars:{write_shards(tmp_path_factory.mktemp('set'), *counts)}")
    index = data.draw(st.integers(0, sum(counts) - 1))
    assert level(source, index) == index and source.key(index).endswith(f"/{index:04d}")
    assert len({source.key(index) for index in range(len(source))}) == len(source) == sum(counts)
    for outside in (-1, len(source)):
        with pytest.raises(IndexError):
            source.sample(outside)


def levels(source: Source) -> list[int]:
    return [level(source, index) for index in range(len(source))]


@pytest.mark.parametrize(
    ("context", "processes"),
    [(partial(multiprocessing.get_context, "fork"), 2), (fork_server, 1)],
    ids=["fork", "forkserver"],
)
def test_a_source_travels_to_other_processes(
    shards: Path, context: Callable[[], BaseContext], processes: int
) -> None:
    source = open_source(f"tars:{shards}")
    assert levels(source) == list(range(11))  # opens the tars here first
    assert levels(pickle.loads(pickle.dumps(source))) == list(range(11))  # noqa: S301 # our own
    with context().Pool(processes) as pool:
        assert pool.map(levels, [source] * 4, chunksize=1) == [list(range(11))] * 4


def test_loader_workers_render_the_same_views(shards: Path) -> None:
    dataset = ViewDataset(
        open_source(f"tars:{shards}"), load_recipe("imagenet-b1"), np.arange(11), sizes=[32]
    )
    requests = [[(row, 0) for row in rows] for rows in ((3, 1, 10), (0, 5), (9, 2, 4, 8))]
    here = [dataset.__getitems__(request) for request in requests]
    loader = DataLoader(
        dataset, batch_sampler=requests, num_workers=2, collate_fn=lambda batch: batch
    )
    for batch, expected in zip(loader, here, strict=True):
        assert (batch.views[0] == expected.views[0]).all() and (batch.rows == expected.rows).all()


def test_the_same_set_elsewhere_is_the_same_source(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(f"tars:{shards}")
    shutil.copytree(shards, tmp_path / "deep" / "er")
    monkeypatch.chdir(tmp_path)
    for spec in (
        "tars:deep/er",
        "tars:deep/er/{00..02}.tar",
        "tars:set/*.tar",
        "tars:./deep/../set/0*.tar",
    ):
        other = open_source(spec)
        assert other.fingerprint == source.fingerprint
        assert [other.key(index) for index in range(11)] == [
            source.key(index) for index in range(11)
        ]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "01.tar").unlink(),
        lambda root: (root / "01.tar").rename(root / "05.tar"),
        lambda root: write_tar(root / "01.tar", {"0004.png": picture(4), "0004.cls": b"2"}),
        lambda root: write_tar(root / "01.tar", {"000x.png": picture(4), "000x.cls": b"1"}),
        lambda root: write_tar(root / "01.tar", {"0004.png": picture(4) + b"0", "0004.cls": b"1"}),
        lambda root: write_tar(root / "03.tar", {"0004.png": picture(4), "0004.cls": b"1"}),
    ],
    ids=["removed", "renamed", "relabelled", "another key", "another size", "added"],
)
def test_the_fingerprint_notices(shards: Path, change: Callable[[Path], object]) -> None:
    before = open_source(f"tars:{shards}").fingerprint
    change(shards)
    for path in shards.iterdir():
        age(path, 1_700_000_001)
    assert open_source(f"tars:{shards}").fingerprint != before


def test_the_number_of_classes_can_be_given(shards: Path) -> None:
    assert open_source(f"tars:{shards},classes=7").classes == 7
    with pytest.raises(
        SourceError,
        match=r"sample 2 \(00/0002\) of tars:.* has target 2; it must be .* from 0 to 1",
    ):
        open_source(f"tars:{shards},classes=2")


def test_targets_can_come_from_json(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", {"a.png": picture(3), "a.json": b'{"label": 4, "7": 1}', "a.cls": b"0"}
    )
    spec = f"tars:{tmp_path}/x.tar"
    targets = [
        open_source(spec + option).sample(0).target for option in ("", ",target=label", ",target=7")
    ]
    assert targets == [0, 4, 1]


def test_shards_of_one_name_in_two_folders_have_other_keys(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tar(tmp_path / folder / "0.tar", {"x.png": picture(1), "x.cls": b"0"})
    source = open_source(f"tars:{tmp_path}/*/0.tar")
    assert [source.key(0), source.key(1)] == ["a/0/x", "b/0/x"]


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    members = {
        "a.png": picture(1)[:40],
        "a.cls": b"0",
        "b.png": b"",
        "b.cls": b"0",
        "c.png": picture(2),
        "c.cls": b"0",
    }
    source = open_source(f"tars:{write_tar(tmp_path / 'x.tar', members)}")
    for index, key in ((0, "x/a"), (1, "x/b")):
        with pytest.raises(
            UnreadableSampleError, match=rf"sample {index} \({key}\) of tars:.* cannot be read"
        ):
            source.sample(index)
    assert level(source, 2) == 2


def test_a_tar_that_changes_or_goes_is_told(shards: Path) -> None:
    source = open_source(f"tars:{shards}")
    age(shards / "01.tar", 1_700_000_001)
    with pytest.raises(
        SourceError, match=r"tar .*01\.tar has changed since it was indexed; start again"
    ):
        source.sample(4)
    (shards / "02.tar").unlink()
    with pytest.raises(SourceError, match=r"tar .*02\.tar cannot be read: No such file") as caught:
        source.sample(5)
    assert not isinstance(
        caught.value, UnreadableSampleError
    )  # a lost tar is not thousands of broken images


def test_more_tars_than_may_be_open(tmp_path: Path) -> None:
    source = open_source(f"tars:{write_shards(tmp_path / 'set', *[1] * 150)}")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert sorted(levels(source)) == sorted(levels(source)) == list(range(150))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 128


@pytest.mark.parametrize(
    ("arg", "error", "message"),
    [
        ("", SourceError, "tars '' names no tar; give a folder of"),
        ("pipe:cat x.tar", UsageError, "reads local files only, not 'pipe:cat x.tar'"),
        ("http://host/x.tar", UsageError, "reads local files only"),
        ("s3://bucket/{{0..9}}.tar", UsageError, "reads local files only"),
        ("{root}/{{00..03}}.tar", SourceError, "tars: '.*/03.tar' does not exist"),
        ("{root}/9*.tar", SourceError, "names no tar"),
        (
            "{root}/00.tar,classes=x",
            UsageError,
            "classes of source tars is 'x'; it must be a number of classes",
        ),
        ("{root}/00.tar,classes=0", UsageError, "it must be a number of classes"),
        ("{root}/00.tar,clases=3", UsageError, "did you mean 'classes'"),
        ("{root}/{{9..1}}.tar", UsageError, "must go up"),
        ("{root}/{{0..99999999}}.tar", UsageError, "must go up, by less than 1000000"),
    ],
)
def test_a_wrong_spec_is_told(shards: Path, arg: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(f"tars:{arg.format(root=shards)}")


def test_patterns_name_tars_in_order(shards: Path) -> None:
    names = ["00.tar", "01.tar", "02.tar"]
    for pattern in ("", "*.tar", "{00..02}.tar", "{0..0}{0..2}.tar", "0[0-2].tar", "{00..01}.tar"):
        found = find_tars(str(shards / pattern))
        assert [Path(path).name for path in found] == (names if "01}" not in pattern else names[:2])


def test_a_cache_is_dumped_from_tars_and_verified_elsewhere(tmp_path: Path) -> None:
    from runs import dump

    shards = write_shards(tmp_path / "set", 20, 20, classes=10)
    teacher = "tiny_models:conv,channels=3,mean=0.5,std=0.25,input_size=32"
    dump(tmp_path / "cache", data=f"tars:{shards}", teacher=teacher, recipe="imagenet-b1")
    cache = open_cache(tmp_path / "cache")
    with pytest.raises(UsageError, match=r"holds no images.*add --data tars:"):
        verify_cache(cache, views=8)  # a manifest may come from anywhere: only the user names files
    assert verify_cache(cache, views=8, data=f"tars:{shards}")["faults"] == []
    shards.rename(tmp_path / "moved")
    assert verify_cache(cache, views=8, data=f"tars:{tmp_path}/moved")["faults"] == []


def test_a_million_keys_take_their_bytes(tmp_path: Path) -> None:
    source = open_source(f"tars:{write_shards(tmp_path / 'set', 200)}")
    assert isinstance(source, TarSource)
    assert len(pickle.dumps(source)) < 200 * 60


def test_tars_that_are_let_go_of_are_closed_without_a_warning(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars", 2)
    source = open_source(f"tars:{tmp_path}/tars")
    assert isinstance(source, TarSource)
    shard = source._shards[0]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        source.sample(0)
        descriptor = tars._opened(shard.path, shard.stamp).fileno()
        os.fstat(descriptor)
        tars._opened.cache_clear()
        gc.collect()
    assert not [warning for warning in told if shard.path in str(warning.message)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
