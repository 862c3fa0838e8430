import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from caches import PATTERNS, contents, fill, flipped, manifest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache import FORMAT_VERSION, Manifest, create_cache, open_cache
from kdcache.cache.documents.document import with_digest
from kdcache.cache.documents.limits import MOST_UNIT_BYTES
from kdcache.cache.unit_sizes import chunk_rows, default_unit
from kdcache.codecs import open_codec
from kdcache.errors import CacheError, MismatchError

CODECS = (
    "full:dtype=float32",
    "full:dtype=float16",
    "full:dtype=bfloat16",
    "full:dtype=uint8",
    "topk:k=3",
    "topk:k=1",
)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("classes", [3, 300, 70_000])
def test_round_trip(codec: str, classes: int) -> None:
    made = manifest(codec, classes)
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())), "here")
    assert again.digest == made.digest and not again.differences(made)
    assert again.dtype == open_codec(codec, classes=classes).record_dtype


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("task", "segmentation", 'task: "classification" in the cache, "segmentation" now'),
        ("classes", 6, "classes: 5 in the cache, 6 now"),
        ("rows", 21, "rows: 20 in the cache, 21 now"),
        ("order_seed", 1, "order_seed: 0 in the cache, 1 now"),
        ("unit_rows", 16, "unit_rows: 8 in the cache, 16 now"),
        ("chunk_rows", 2, "chunk_rows: 4 in the cache, 2 now"),
        ("skip_unreadable", True, "skip_unreadable: false in the cache, true now"),
        ("source.fingerprint", "x", f'source.fingerprint: "{"0" * 56}... in the cache, "x" now'),
        ("recipe.fingerprint", "x", "recipe.fingerprint: "),
        ("teacher.sha256", "x", "teacher.sha256: "),
        ("teacher.size", 9, "teacher.size: 8 in the cache, 9 now"),
        ("teacher.precision", "float16", "teacher.precision: "),
        ("codec.name", "topk", 'codec.name: "full" in the cache, "topk" now'),
        (
            "codec.configuration.dtype",
            "uint8",
            'codec.configuration.dtype: "float16" in the cache, "uint8" now',
        ),
    ],
)
def test_a_field_that_decides_what_records_mean_is_named(field: str, value: Any, line: str) -> None:
    name, *path = field.split(".")
    part = getattr(manifest(), name)
    if path:
        table = part.to_json()
        inner = table if len(path) == 1 else table[path[0]]
        inner[path[-1]] = value
        value = part.from_json(table)
    (difference,) = manifest().differences(dataclasses.replace(manifest(), **{name: value}))
    assert difference.startswith(line)


def test_a_cache_made_otherwise_is_refused_and_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    before = contents(tmp_path)
    with pytest.raises(
        MismatchError,
        match=r"order_seed: 0 in the cache, 7 now\); choose a new folder, or the same settings",
    ):
        create_cache(tmp_path, manifest(order_seed=7))
    assert contents(tmp_path) == before


def test_specs_and_versions_are_free_to_differ(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    first = manifest()
    source = dataclasses.replace(first.source, spec="elsewhere")
    teacher = dataclasses.replace(first.teacher, spec="renamed")
    recipe = dataclasses.replace(first.recipe, name="mine")
    create_cache(
        tmp_path,
        manifest(
            source=source, teacher=teacher, recipe=recipe, made_by={"versions": {"torch": "9"}}
        ),
    )
    assert open_cache(tmp_path).manifest.source == first.source, "the first manifest stays"


def test_every_flipped_byte_of_the_root_raises_or_means_the_same(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    data = (tmp_path / "zarr.json").read_bytes()
    start, stop = data.index(b'"kdcache"'), data.rindex(b'"digest"') + 70
    for position in range(len(data)):
        (tmp_path / "zarr.json").write_bytes(flipped(data, position, PATTERNS[position % 3]))
        try:
            assert open_cache(tmp_path).manifest == cache.manifest, position
            assert not start <= position < stop or data[position : position + 1] in (b" ", b"\n")
        except CacheError as error:
            assert str(tmp_path) in str(error)


def test_a_truncated_root_raises(tmp_path: Path) -> None:
    fill(tmp_path)
    data = (tmp_path / "zarr.json").read_bytes()
    for length in range(0, len(data) - 1, 7):
        (tmp_path / "zarr.json").write_bytes(data[:length])
        with pytest.raises(CacheError, match="is damaged"):
            open_cache(tmp_path)


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    root = json.loads((tmp_path / "zarr.json").read_bytes())
    content = {
        **root["attributes"]["kdcache"],
        "format_version": FORMAT_VERSION + 1,
        "a field of the future": 1,
    }
    del content["digest"]
    root["attributes"]["kdcache"] = with_digest(content)
    (tmp_path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(
        CacheError, match=rf"version {FORMAT_VERSION + 1}; .* reads up to {FORMAT_VERSION}: upgrade"
    ):
        open_cache(tmp_path)


@given(st.integers(1, 500), st.integers(1, 100))
def test_units_part_the_rows(rows: int, unit_rows: int) -> None:
    made = manifest(rows=rows, unit_rows=unit_rows)
    assert [row for unit in range(made.num_units) for row in made.unit_range(unit)] == list(
        range(rows)
    )
    assert all(len(made.unit_range(unit)) == unit_rows for unit in range(made.num_units - 1))


@given(st.integers(1, 20_000_000), st.integers(1, 20_000_000))
def test_default_rows_are_powers_of_two_that_fit(record_bytes: int, rows: int) -> None:
    unit = default_unit(record_bytes, rows)
    chunk = chunk_rows(unit, record_bytes)
    assert unit & (unit - 1) == chunk & (chunk - 1) == 0 and unit % chunk == 0
    assert unit < 2 * rows, "a unit is not padded beyond the next power of two"
    assert unit * record_bytes <= 4_000_000 or unit <= 64
    assert unit * record_bytes <= MOST_UNIT_BYTES
