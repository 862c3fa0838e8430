"""The list of a cache's source: what it holds, that it travels, and that damage is seen."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from caches import manifest
from image_files import write_images
from PIL import Image
from runs import CONV, dump

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.arrays import arrays_digest
from kdcache.cache.source_list import kept_list, list_of, read_list, source_entry
from kdcache.errors import CacheError, MismatchError, SourceError
from kdcache.sources import Sample, open_source
from kdcache.tools.convert import convert_cache
from kdcache.tools.export import export_cache
from kdcache.tools.merge import merge_caches
from kdcache.tools.recode import recode_cache
from kdcache.verify.cache import verify_cache

GOLDEN = Path(__file__).parents[1] / "golden"
NOISE = "tiny_models:noise,length=20,classes=5,size=8"
OTHER = "tiny_models:noise,length=20,classes=5,size=9"


class Keyed:
    """A source of one's own, of which nothing is known but names."""

    spec = "keyed"
    classes = 2
    fingerprint = "0"

    def __init__(self, keys: list[Any]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        key: str = self._keys[index]
        return key

    def sample(self, index: int) -> Sample:
        return Sample(Image.new("L", (2, 2)), 0)


def same(one: Cache, other: Cache) -> bool:
    """Return whether two caches keep the same list."""
    mine = one.source_arrays()
    its = other.source_arrays()
    assert mine is not None and its is not None
    return arrays_digest(mine) == arrays_digest(its)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, and a cache of them in each kind of store."""
    root = tmp_path_factory.mktemp("shelf")
    names = {f"{'abc'[place % 3]}/{place:02d}.png": place for place in range(24)}
    write_images(root / "images", names)
    settings: dict[str, Any] = {
        "data": f"imagefolder:{root / 'images'}",
        "teacher": f"{CONV},classes=3",
        "codec": "full:dtype=float32",
    }
    dump(root / "zarr", **settings)
    dump(root / "tars", store="webdataset", **settings)
    return root


@pytest.mark.parametrize("store", ["zarr", "tars"])
def test_a_dump_keeps_names_sizes_and_labels_in_the_order_of_the_source(
    shelf: Path,
    store: str,
) -> None:
    cache = open_cache(shelf / store)
    source: Any = open_source(f"imagefolder:{shelf / 'images'}")
    listing = read_list(cache)
    assert listing is not None and listing.sizes is not None and listing.targets is not None
    assert list(listing.names) == [source.key(index) for index in range(24)]
    paths = [shelf / "images" / name for name in listing.names]
    assert listing.sizes.tolist() == [[path.stat().st_size] for path in paths]
    assert listing.targets.tolist() == [source.sample(index).target for index in range(24)]
    assert listing.crc32c is None
    made = cache.manifest.source
    assert made.classes == 3 and made.list == arrays_digest(listing.arrays)
    assert made.sizes == arrays_digest({"sizes": listing.sizes}) and made.contents is None
    assert verify_cache(cache)["faults"] == verify_cache(cache)["foreign"] == []


def test_zarr_and_numpy_alone_read_the_list(shelf: Path) -> None:
    path = shelf / "zarr" / "source" / open_cache(shelf / "zarr").manifest.source.list[:16]
    text = np.asarray(zarr.open_array(path / "names", mode="r")[:]).tobytes()
    assert text.decode().split("\0")[:2] == ["a/00.png", "a/03.png"]
    assert zarr.open_array(path / "sizes", mode="r").shape == (24, 1)


TRAVELS: dict[str, Callable[[Path, Path], Any]] = {
    "convert to tars": lambda old, new: convert_cache(
        old / "zarr",
        new,
        store="webdataset",
        data=f"imagefolder:{old / 'images'}",
    ),
    "convert to zarr": lambda old, new: convert_cache(old / "tars", new, store="zarr"),
    "recode": lambda old, new: recode_cache(old / "zarr", new, codec="topk:k=2"),
    "export": lambda old, new: export_cache(old / "zarr", new, seeds="0:1"),
    "subset": lambda old, new: export_cache(old / "tars", new, samples="3:9"),
    "merge": lambda old, new: merge_caches(new, [old / "zarr"]),
}


@pytest.mark.parametrize("way", TRAVELS)
def test_the_list_travels_with_the_cache(shelf: Path, tmp_path: Path, way: str) -> None:
    TRAVELS[way](shelf, tmp_path / "new")
    made = open_cache(tmp_path / "new")
    assert same(made, open_cache(shelf / "zarr"))
    found = verify_cache(made)
    assert found["faults"] == found["orphaned"] == found["foreign"] == []


def test_a_cache_of_before_has_no_list_and_goes_on_without(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1-full", tmp_path / "old")
    before = open_cache(tmp_path / "old")
    assert read_list(before) is None and before.manifest.source.classes is None
    teacher = "tiny_models:conv,classes=5,seed=7,mean=0.5,std=0.25"
    settings = {"data": NOISE, "teacher": teacher, "unit_rows": 8, "batch_size": 8}
    done = dump(tmp_path / "old", codec="full:dtype=float16", seeds="0,12,13", **settings)
    assert done["units_written"] == 3
    assert open_cache(tmp_path / "old").manifest == before.manifest
    dump(tmp_path / "new", codec="full:dtype=float16", seeds="14:15", **settings)
    new = open_cache(tmp_path / "new")
    assert new.manifest.source.list is not None
    for order in (["old", "new"], ["new", "old"]):
        merged = tmp_path / "-".join(order)
        merge_caches(merged, [tmp_path / name for name in order])
        assert open_cache(merged).complete_seeds() == [0, 12, 13, 14]
    with pytest.raises(MismatchError, match="samples were added, removed"):
        dump(tmp_path / "old", seeds="0:1", **{**settings, "data": OTHER})


def test_a_folder_that_is_called_source_is_no_beginning_of_a_cache(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "main.py").write_text("mine")
    with pytest.raises(CacheError, match="is not empty and not a cache"):
        create_cache(tmp_path, manifest())
    assert [path.name for path in tmp_path.rglob("*")] == ["source", "main.py"]


def test_a_list_that_is_too_large_is_left_out_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = list_of(Keyed([f"{number}{'x' * 100_000}" for number in range(20)]))
    assert kept_list(long) is None
    assert "note: the list of the source has 2000" in capsys.readouterr().err
    assert source_entry(Keyed(["a"]), None).list is None
    short = list_of(Keyed(["a", "b"]))
    assert kept_list(short) is short and (short.sizes, short.targets) == (None, None)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["a", "b\0c"], "keyed has 2 samples, and 3 keys where a zero character ends each"),
        (["a", "\ud8ff"], "a key of keyed fails: UnicodeEncodeError"),
    ],
)
def test_names_that_cannot_be_kept_are_told(keys: list[Any], told: str) -> None:
    with pytest.raises(SourceError, match=told):
        list_of(Keyed(keys))


def test_names_that_are_no_utf_8_come_back(tmp_path: Path) -> None:
    source = Keyed([b"caf\xe9.png".decode("utf-8", "surrogateescape"), "b"])
    listing = list_of(source)
    made = manifest(rows=2, source=source_entry(source, listing))
    cache = create_cache(tmp_path, made, source=listing.arrays)
    again = read_list(cache)
    assert again is not None and list(again.names) == ["caf\udce9.png", "b"]


def forged(path: Path, **arrays: Any) -> Cache:
    """Return a cache of 20 rows whose manifest names a list of these arrays."""
    text = np.frombuffer(b"name\0" * 20, np.uint8)
    held = {"names": text, **{name: np.asarray(array) for name, array in arrays.items()}}
    held = {name: array for name, array in held.items() if array.size}
    source = {"spec": "s", "fingerprint": "0", "list": arrays_digest(held), "contents": "0" * 64}
    return create_cache(path, manifest(source=source), source=held)


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": np.frombuffer(b"name\0" * 19, np.uint8)},
        {"names": np.frombuffer(b"name\0" * 19 + b"name", np.uint8)},
        {"names": np.zeros((20, 1), np.uint8)},
        {"names": np.zeros(20, "<u4")},
        {"sizes": np.zeros(20, "<u4")},
        {"sizes": np.zeros((19, 1), "<u4")},
        {"sizes": np.zeros((20, 1), "<f4")},
        {"targets": np.zeros((20, 1), "<u4")},
        {"crc32c": np.zeros((21, 1), "<u4")},
        {"other": np.zeros(20, "<u4")},
        {"sizes": np.zeros((20, 1 << 15), "<u4")},
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    cache = forged(tmp_path, **arrays)
    with pytest.raises(CacheError, match=r"the list of its source .* is absent or damaged"):
        read_list(cache)


def test_a_damaged_list_is_a_fault(shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf / "zarr", tmp_path / "cache")
    (chunk,) = (tmp_path / "cache").glob("source/*/targets/c/0")
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    cache = open_cache(tmp_path / "cache")
    (fault,) = verify_cache(cache)["faults"]
    assert "the list of its source (source/" in fault
    assert cache.read(0, range(24)).shape == (24,), "records need no list"


def test_a_list_that_readers_would_take_for_a_bomb_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("kdcache.cache.source_list.ANY_RATIO", 0)
    monkeypatch.setattr("kdcache.cache.documents.limits.ANY_RATIO", 0)
    alike = list_of(Keyed([f"{'x' * 1000}{number}" for number in range(1000)]))
    assert kept_list(alike) is None
    assert "it is left out" in capsys.readouterr().err
    counted = list_of(Keyed([f"train/{number:08d}.png" for number in range(100_000)]))
    assert kept_list(counted) is counted
