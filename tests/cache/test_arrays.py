from pathlib import Path

import numpy as np
import pytest
import torch
from caches import PATTERNS, contents, fill, flipped, manifest

from kdcache.cache import create_cache, open_cache
from kdcache.cache.arrays import arrays_digest, publish_arrays, read_arrays
from kdcache.cache.documents.limits import MOST_FIT
from kdcache.cache.documents.manifest import CODEC
from kdcache.cache.storage.folder import Folder
from kdcache.codecs import Codec, open_codec
from kdcache.errors import CacheError, MismatchError


def fitted(seed: int, step: float = 0.5) -> Codec:
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [9.0, 4, 2, 1, 1]
    )
    return open_codec(f"lowrank:step={step}", classes=5).fit(logits)


def start(path: Path, codec: Codec) -> None:
    create_cache(path, manifest(codec), codec.fit_arrays())


def test_a_fit_comes_back_as_it_was(tmp_path: Path) -> None:
    arrays = fitted(0).fit_arrays()
    publish_arrays(Folder(tmp_path), CODEC, arrays)
    again = read_arrays(Folder(tmp_path), CODEC, arrays_digest(arrays), most=MOST_FIT)
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in again.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }


def test_the_digest_tells_names_types_shapes_and_values() -> None:
    arrays = {"a": np.arange(6, dtype="<f4"), "b": np.zeros((2, 3), "<f4")}
    others = [
        {"c": arrays["a"], "b": arrays["b"]},
        {**arrays, "a": arrays["a"].astype("<f8")},
        {**arrays, "b": arrays["b"].reshape(3, 2)},
        {**arrays, "a": arrays["a"] + 1},
        {"a": arrays["a"]},
    ]
    assert len({arrays_digest(one) for one in [arrays, *others]}) == 6
    assert arrays_digest(dict(reversed(arrays.items()))) == arrays_digest(arrays)


def test_every_damaged_byte_of_a_fit_is_noticed(tmp_path: Path) -> None:
    start(tmp_path, fitted(0))
    chunks = [path for path in tmp_path.glob("codec/*/*/c/**/*") if path.is_file()]
    assert len(chunks) == 5
    for path in chunks:
        data = path.read_bytes()
        for position in {0, len(data) // 2, len(data) - 1}:
            for pattern in PATTERNS:
                path.write_bytes(flipped(data, position, pattern))
                with pytest.raises(
                    CacheError, match=r"the fit of its codec .* is absent or damaged"
                ):
                    _ = open_cache(tmp_path).codec
        for part in (data[:-1], b""):
            path.write_bytes(part)
            with pytest.raises(CacheError, match="absent or damaged"):
                _ = open_cache(tmp_path).codec
        path.unlink()
        with pytest.raises(CacheError, match="absent or damaged"):
            _ = open_cache(tmp_path).codec
        path.write_bytes(data)
    assert open_cache(tmp_path).codec.record_dtype == fitted(0).record_dtype


def test_the_first_of_two_fits_decides(tmp_path: Path) -> None:
    first, second = fitted(0), fitted(1)
    assert arrays_digest(first.fit_arrays()) != arrays_digest(second.fit_arrays())
    start(tmp_path, first)
    before = contents(tmp_path)
    start(tmp_path, second)
    assert contents(tmp_path) == before
    ours = open_cache(tmp_path).codec.fit_arrays()
    assert arrays_digest(ours) == arrays_digest(first.fit_arrays())
    with pytest.raises(MismatchError, match=r"codec.configuration.step: 0.5 in the cache, 2.0 now"):
        start(tmp_path, fitted(0, step=2.0))


def test_who_did_not_ask_for_a_codec_goes_on_with_that_of_the_first(tmp_path: Path) -> None:
    start(tmp_path, fitted(0))
    before = contents(tmp_path)
    for late in (fitted(1, step=2.0), open_codec("full", classes=5)):
        cache = create_cache(tmp_path, manifest(late), late.fit_arrays(), any_codec=True)
        assert (
            arrays_digest(cache.codec.fit_arrays()) == arrays_digest(fitted(0).fit_arrays())
            and contents(tmp_path) == before
        )
    with pytest.raises(MismatchError, match="classes: 5 in the cache, 6 now"):
        create_cache(tmp_path, manifest("full", classes=6), any_codec=True)


def test_a_fit_left_by_a_killed_writer_does_not_stand_in_the_way(tmp_path: Path) -> None:
    publish_arrays(Folder(tmp_path), CODEC, fitted(1).fit_arrays())
    start(tmp_path, fitted(0))
    assert arrays_digest(open_cache(tmp_path).codec.fit_arrays()) == arrays_digest(
        fitted(0).fit_arrays()
    )


def test_a_cache_goes_on_with_its_own_fit(tmp_path: Path) -> None:
    start(tmp_path, fitted(0))
    cache = open_cache(tmp_path)
    assert cache.with_fit(open_codec("lowrank:step=0.5", classes=5)) is cache.codec
    with pytest.raises(
        MismatchError, match=r"was made with lowrank:step=0.5, not lowrank:step=0.7"
    ):
        cache.with_fit(open_codec("lowrank:step=0.7", classes=5))


def test_codecs_without_a_fit_have_no_arrays(tmp_path: Path) -> None:
    assert fill(tmp_path).codec.fit_arrays() == {}
    assert not (tmp_path / "codec").exists()
