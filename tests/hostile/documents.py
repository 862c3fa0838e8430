"""Attacks by what manifests and commits say."""

from pathlib import Path
from typing import Any

from hostile.forge import (
    HUGE,
    Attack,
    attack,
    change_commit,
    change_manifest,
    many,
    zarr,
)

from kdcache.cache.commit import commit_key

DEEP = b'{"attributes": {"kdcache": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
ROOTS = {
    "root_nested_deeply": DEEP,
    "root_nested_a_little_too_deeply": b'{"attributes": {"kdcache": ' + b"[" * 100 + b"]" * 100 + b"}}",
    "root_that_is_not_utf8": '{"attributes": {"kdcache": {}}}'.encode("utf-16"),
    "root_with_an_enormous_integer": b'{"attributes": {"kdcache": {"rows": ' + b"9" * 1_000_000 + b"}}}",
    "root_of_many_values": b'{"attributes": {"kdcache": [' + b"{}," * 300_000 + b"{}]}}",
    "root_of_many_keys": b'{"attributes": {"kdcache": {' + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}}}",
    "root_with_a_number_past_floats": b'{"attributes": {"kdcache": {"rows": 1e400}}}',
    "root_with_a_key_twice": b'{"attributes": {"kdcache": {}}, "attributes": {"kdcache": {}}}',
    "root_with_nan": b'{"attributes": {"kdcache": {"rows": NaN}}}',
}


def _root(data: bytes) -> Attack:
    return lambda path: (path.mkdir(), (path / "zarr.json").write_bytes(data), None)[-1]


many("its zarr.json carries no manifest, or is damaged", ROOTS, _root)


@attack("zarr.json has .* bytes, more than the 1048576 that it may have")
def root_of_a_gigabyte(path: Path) -> None:
    path.mkdir()
    with (path / "zarr.json").open("wb") as file:
        file.truncate(1 << 30)  # sparse


@attack("zarr.json has .* bytes, more than the 1048576 that it may have")
def root_of_900_000_keys(path: Path) -> None:
    path.mkdir()
    keys = ",".join(f'"{number}":0' for number in range(900_000))
    (path / "zarr.json").write_text('{"attributes": {"kdcache": {' + keys + "}}}")


@attack("1e999 is a number past the range of floats")
def manifest_with_infinity(path: Path) -> None:
    zarr(path)
    text = (path / "zarr.json").read_text().replace('"rows": 20', '"rows": 1e999')
    (path / "zarr.json").write_text(text)


@attack("the commit is damaged: it holds more than [0-9]+ values")
def commit_nested_deeply(path: Path) -> None:
    zarr(path)
    (path / commit_key(0, 0)).write_bytes(b"[" * 100_000)


def _setting(change: tuple[str, Any]) -> Attack:
    def forge(path: Path) -> None:
        zarr(path)
        *tables, name = change[0].split(".")

        def put(document: dict[str, Any]) -> None:
            for table in tables:
                document = document[table]
            document[name] = change[1]

        change_manifest(path, put)

    return forge


SETTINGS: dict[str, tuple[str, Any]] = {
    "rows_huge": ("rows", HUGE),
    "rows_of_more_units_than_any_cache": ("rows", 1 << 32),
    "rows_none": ("rows", 0),
    "rows_negative": ("rows", -1),
    "rows_that_are_true": ("rows", True),
    "classes_huge": ("classes", HUGE),
    "classes_that_are_text": ("classes", "5"),
    "unit_rows_huge": ("unit_rows", HUGE),
    "unit_rows_of_gigabytes": ("unit_rows", 1 << 40),
    "unit_rows_that_chunks_do_not_divide": ("unit_rows", 9),
    "chunk_rows_none": ("chunk_rows", 0),
    "chunk_bytes_huge": ("chunk_bytes", HUGE),
    "seeds_per_unit_huge": ("seeds_per_unit", HUGE),
    "order_seed_negative": ("order_seed", -1),
    "record_of_objects": ("record_dtype", [["logits", "|O", [5]]]),
    "record_of_text": ("record_dtype", [["logits", "<U1000000000"]]),
    "record_huge": ("record_dtype", [["logits", "<f4", [HUGE]]]),
    "record_huge_in_all": ("record_dtype", [["logits", "<f4", [1 << 20] * 32]]),
    "record_of_a_record": ("record_dtype", [["logits", [["inner", "|O"]]]]),
    "record_with_a_field_twice": ("record_dtype", [["logits", "<f2"], ["logits", "<f2"]]),
    "record_of_nothing": ("record_dtype", []),
    "store_unknown": ("store", "pickle"),
    "recipe_that_is_a_list": ("recipe", []),
    "recipe_huge": ("recipe.table.size", HUGE),
    "teacher_without_a_size": ("teacher", {"spec": "random"}),
    "codec_without_a_name": ("codec", {}),
    "fit_outside_of_the_root": ("codec.fit", "../../../../../etc/passwd"),
    "made_by_that_is_text": ("made_by", "me"),
    "origins_without_end": ("made_by.recoded_from", {"codec": "full", "made_by": []}),
}
many(r"its manifest \(zarr.json\) is damaged: ", SETTINGS, _setting)
CODECS = {
    "codec_unknown": {"name": "pickle", "configuration": {}},
    "codec_with_k_huge": {"name": "topk", "configuration": {"k": HUGE}},
    "codec_with_an_unknown_option": {"name": "full", "configuration": {"module": "os"}},
    "codec_of_another_record": {"name": "full", "configuration": {"dtype": "uint8"}},
}
many("codec|its records|topk:k=", CODECS, lambda case: _setting(("codec", case)))

COMMITS: dict[str, dict[str, Any]] = {
    "object_outside_of_the_root": {"key": "../../secret"},
    "object_at_an_absolute_path": {"key": "/etc/passwd"},
    "object_of_another_unit": {"key": "seeds/00000/records/c/1/0"},
    "absent_row_out_of_range": {"absent": [{"row": 10**12, "reason": "?"}]},
    "absent_row_negative": {"absent": [{"row": -1, "reason": "?"}]},
    "absent_row_without_reason": {"absent": [{"row": 1}]},
    "probe_of_a_row_out_of_range": {"probes": [{"row": 12, "crc32": 0, "thumbnail": ""}]},
    "probe_that_is_no_base64": {"probes": [{"row": 1, "crc32": 0, "thumbnail": "!"}]},
    "probe_with_steps_of_another_form": {"probes": [{"row": 1, "crc32": 0, "thumbnail": "", "steps": [["decode"]]}]},
    "object_of_no_size": {"num_bytes": 0},
    "object_huge": {"num_bytes": HUGE},
    "field_unknown": {"run": "rm"},
    "versions_that_are_numbers": {"versions": {"torch": 2}},
    "rows_that_are_text": {"start": "0"},
}


def _commit(changes: dict[str, Any]) -> Attack:
    return lambda path: (zarr(path), change_commit(path, **changes))[-1]


many(
    "its commit speaks of|the commit is damaged|with fields that this one",
    {f"commit_{name}": case for name, case in COMMITS.items()},
    _commit,
)


@attack("more bytes than were committed")
def object_larger_than_its_commit_says(path: Path) -> None:
    cache = zarr(path)
    with (path / cache.commit_of(0, 0).key).open("r+b") as file:
        file.truncate(1 << 30)
