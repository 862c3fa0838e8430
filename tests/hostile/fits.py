"""Attacks by the fit of a codec, which lies in a cache as zarr arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile.forge import (
    BOMB_BYTES,
    HUGE,
    Attack,
    attack,
    bomb,
    change_manifest,
    crc,
    evil,
    lowrank,
    many,
    without_size,
)

from kdcache.cache.arrays import arrays_digest, publish_arrays
from kdcache.cache.documents.manifest import CODEC


def _fit(forge: Callable[[Path], object]) -> Attack:
    def of(path: Path) -> None:
        lowrank(path)
        forge(next(path.glob("codec/*/basis")))

    return of


def _metadata(basis: Path, **changes: Any) -> None:
    document = json.loads((basis / "zarr.json").read_text())
    (basis / "zarr.json").write_text(json.dumps({**document, **changes}))


def _pickled(basis: Path) -> None:
    """Let zarr read an array of its older format, of which a filter unpickles; the pickle leaves a
    file `owned`."""
    (basis / "zarr.json").unlink()
    filters = [{"id": "vlen-utf8"}, {"id": "pickle"}]
    document = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "compressor": None,
        "fill_value": "",
        "order": "C",
    }
    (basis / ".zarray").write_text(json.dumps({**document, "filters": filters}))
    (basis / "0").write_bytes(evil(basis.parents[3]))


def _linked(basis: Path) -> None:
    (basis / "zarr.json").rename(basis.parents[3] / "outside")
    (basis / "zarr.json").symlink_to("../../../../outside")


def _crowded(basis: Path) -> None:
    for number in range(100):
        (basis.parent / str(number)).mkdir()
        (basis.parent / str(number) / "zarr.json").write_text("{}")


def _bomb(basis: Path, data: bytes, shape: list[int]) -> None:
    _metadata(basis, shape=shape)
    next(path for path in basis.glob("c/**/*") if path.is_file()).write_bytes(data)


FITS: dict[str, Callable[[Path], object]] = {
    "fit_that_unpickles": _pickled,
    "fit_huge": lambda basis: _metadata(basis, shape=[HUGE, HUGE]),
    "fit_of_objects": lambda basis: _metadata(basis, data_type="variable_length_bytes"),
    "fit_nested_deeply": lambda basis: (basis / "zarr.json").write_bytes(b"[" * 60_000),
    "fit_bomb_that_says_its_size": lambda basis: _bomb(basis, bomb(), [1 << 26, 2]),
    "fit_bomb_within_its_shape": lambda basis: _bomb(basis, bomb(), [4, 5]),
    "fit_bomb_that_does_not_say": lambda basis: _bomb(basis, without_size(BOMB_BYTES), [4, 5]),
    "fit_that_is_a_link_out": _linked,
    "fit_with_many_arrays": _crowded,
}
many(
    r"the fit of its codec .* is absent or damaged|is a link out of|more than the \d+ that it may"
    r" have",
    FITS,
    _fit,
)


@attack("the fit of its codec .* is absent or damaged")
def fit_through_blosc(path: Path) -> None:
    lowrank(path)
    basis = next(path.glob("codec/*/basis"))
    frame = b"\x02\x01\x01\x01" + bytes(36)
    _bomb(basis, frame + crc(frame), [4, 5])
    _metadata(
        basis,
        codecs=[
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": {}},
        ],
    )


def _arrays(changes: dict[str, Any]) -> Attack:
    """Put another fit in the place of the honest one, under its own digest."""

    def of(path: Path) -> None:
        cache = lowrank(path)
        arrays = {**cache.codec.fit_arrays(), **changes}
        publish_arrays(cache.storage, CODEC, arrays)
        change_manifest(path, lambda document: document["codec"].update(fit=arrays_digest(arrays)))

    return of


ARRAYS: dict[str, dict[str, Any]] = {
    "that_overflows": {"step": np.array([3e38], "<f4")},
    "of_no_step": {"step": np.array([1e-45], "<f4")},
    "of_a_negative_step": {"step": np.array([-1], "<f4")},
    "of_a_huge_mean": {"mean": np.full(5, 3e38, "<f4")},
    "of_an_infinite_mean": {"mean": np.full(5, np.inf, "<f4")},
    "of_kinds_that_are_floats": {"kinds": np.array([np.nan, 1, 1], "<f4")},
    "of_kinds_that_are_infinite": {"kinds": np.array([np.inf, 1, 1], "<f4")},
    "of_more_axes_than_it_has": {"kinds": np.array([1, 2, 3], "<u4")},
    "of_4_billion_axes": {"kinds": np.array([2**32 - 1] * 3, "<u4")},
    "of_a_step_of_another_type": {"step": np.array([1], "<u4")},
    "with_an_array_too_many": {"steps": np.array([1], "<u4")},
}
many(
    "lowrank: array .* of the fit is|lowrank: the fit holds array|lowrank: the step of the fit"
    " is|the fit gives logits past|its records|absent or damaged",
    {f"fit_{name}": case for name, case in ARRAYS.items()},
    _arrays,
)
