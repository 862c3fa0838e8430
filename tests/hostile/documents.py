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
    maps,
    zarr,
)

from kdcache.cache.documents.commit import commit_key

DEEP = b'{"attributes": {"kdcache": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
ROOTS = {
    "root_nested_deeply": DEEP,
    "root_nested_a_little_too_deeply": (
        b'{"attributes": {"kdcache": ' + b"[" * 100 + b"]" * 100 + b"}}"
    ),
    "root_that_is_not_utf8": '{"attributes": {"kdcache": {}}}'.encode("utf-16"),
    "root_with_an_enormous_integer": (
        b'{"attributes": {"kdcache": {"rows": ' + b"9" * 1_000_000 + b"}}}"
    ),
    "root_of_many_values": b'{"attributes": {"kdcache": [' + b"{}," * 300_000 + b"{}]}}",
    "root_of_many_keys": (
        b'{"attributes": {"kdcache": {' + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}}}"
    ),
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
    "seeds_two_in_a_shard": ("seeds_per_unit", 2),
    "images_in_shards": ("has_images", True),
    "sites_of_classification": ("sites", [1, 2, 3]),
    "segmentation_without_sites": ("task", "segmentation"),
    "positions_that_are_a_list": ("positions", [1, 2, 3]),
    "positions_without_a_kind": ("positions", {"sizes": [[2, 2]]}),
    "positions_of_one_row": ("positions", {"kind": "one"}),
    "positions_of_classification": ("positions", {"kind": "proposals", "count": 5}),
    "positions_with_a_huge_side": ("positions", {"kind": "heads", "sizes": [[HUGE, 1], [1, 1]]}),
    "positions_with_a_negative_side": ("positions", {"kind": "heads", "sizes": [[-1, 1], [1, 1]]}),
    "positions_with_a_side_that_is_true": ("positions", {"kind": "heads", "sizes": [[True, 1]]}),
    "positions_with_many_levels": (
        "positions",
        {"kind": "pyramid", "levels": [[1, 1]] * 5000, "anchors": 1},
    ),
    "positions_with_huge_levels": (
        "positions",
        {"kind": "pyramid", "levels": [[16_384, 16_384]] * 16, "anchors": 64},
    ),
    "positions_with_many_fields": (
        "positions",
        {"kind": "proposals", **{str(number): 1 for number in range(5000)}},
    ),
    "positions_with_long_names": ("positions", {"kind": "one", "x" * 100_000: 1}),
    "record_of_a_float_of_one_byte": ("record_dtype", [["logits", "<f1", [5]]]),
    "record_of_another_codec": ("record_dtype", [["logits", "<f4", [5]]]),
    "record_with_a_list_of_names": ("record_dtype", [["logits"] * 5000]),
    "record_of_many_fields": ("record_dtype", [[str(number), "<f2"] for number in range(100)]),
    "fit_of_a_codec_that_has_none": ("codec.fit", "0" * 64),
    "codec_with_many_options": ("codec.configuration", {str(number): 1 for number in range(100)}),
    "codec_with_a_nested_option": ("codec.configuration.dtype", [["float16"]]),
    "format_version_0": ("format_version", 0),
    "format_version_negative": ("format_version", -5),
    "format_version_that_is_text": ("format_version", "1"),
    "format_version_that_is_a_float": ("format_version", 1.0),
    "format_version_between": ("format_version", 9.5),
    "format_version_that_is_true": ("format_version", True),
    "format_version_null": ("format_version", None),
    "task_that_is_a_list": ("task", ["classification"]),
    "spec_long": ("source.spec", "x" * 100_000),
    "teacher_long": ("teacher.spec", "x" * 100_000),
    "teacher_with_many_means": ("teacher.mean", [0.5] * 1000),
    "teacher_with_a_huge_mean": ("teacher.mean", [10**400]),
    "teacher_of_huge_views": ("teacher.size", [16_384, 16_384]),
    "recipe_long": ("recipe.name", "x" * 100_000),
    "recipe_of_huge_views": ("recipe.table.size", [16_384, 16_384]),
    "recipe_of_another_mode": ("recipe.table.mode", "P"),
    "evaluation_long": ("recipe.table.eval", "x" * 100_000),
    "config_long": ("made_by.config", "x" * 100_000),
    "config_that_is_a_list": ("made_by.config", []),
    "versions_by_the_thousand": ("made_by.versions", {str(number): "1" for number in range(1000)}),
    "version_long": ("made_by.versions", {"x" * 1000: "1"}),
    "error_at_a_huge_temperature": ("made_by.gradient_error", {"1e999": 1.0}),
    "error_at_no_temperature": ("made_by.gradient_error", {"0x7": 1.0}),
    "error_huge": ("made_by.gradient_error", {"1": 10**400}),
    "error_negative": ("made_by.gradient_error", {"1": -1}),
    "errors_by_the_thousand": (
        "made_by.gradient_error",
        {str(number): 0.1 for number in range(1000)},
    ),
    "seeds_of_more_units_than_any_cache": ("seeds_per_unit", 1 << 30),
    "origins_without_end": ("made_by.recoded_from", {"codec": "full", "made_by": []}),
}
many(r"its manifest \(zarr.json\) is damaged: ", SETTINGS, _setting)
NEWER: dict[str, tuple[str, Any]] = {
    "format_version_of_the_future": ("format_version", 9),
    "format_version_of_many_digits": ("format_version", int("9" * 4000)),
    "task_of_the_future": ("task", "depth"),
    "task_that_is_long": ("task", "x" * 100_000),
    "codec_of_the_future": ("codec.name", "wavelets"),
    "codec_that_is_long": ("codec.name", "x" * 300),
    "field_of_the_future": ("anchors", 9),
    "positions_of_the_future": ("positions", {"kind": "cuboids"}),
    "positions_that_are_long": ("positions", {"kind": "x" * 100_000}),
    "field_that_is_long": ("x" * 900_000, 9),
}
many(r"upgrade kdcache$|use the kdcache that wrote it$|use the kdcache version", NEWER, _setting)


@attack("with fields that this one does not know .* and 4997 more.*: upgrade kdcache$")
def manifest_with_thousands_of_fields(path: Path) -> None:
    zarr(path)
    change_manifest(
        path, lambda document: document.update({f"field {number}": 1 for number in range(5000)})
    )


@attack("is a number past the range of floats")
def manifest_with_an_error_past_floats(path: Path) -> None:
    zarr(path, made_by={"gradient_error": {"1": 0.25}})
    text = (path / "zarr.json").read_text().replace("0.25", "1e400")
    (path / "zarr.json").write_text(text)


@attack("there would be 60000 pixels in a record; at most 10 are read")
def manifest_with_pixels_beyond_its_records(path: Path) -> None:
    zarr(path)
    teacher = {**maps([1, 2, 3])["teacher"]}
    change_manifest(
        path,
        lambda document: document.update(task="segmentation", sites=[1, 200, 300], teacher=teacher),
    )


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
    "probe_with_steps_of_another_form": {
        "probes": [{"row": 1, "crc32": 0, "thumbnail": "", "steps": [["decode"]]}]
    },
    "object_of_no_size": {"num_bytes": 0},
    "object_huge": {"num_bytes": HUGE},
    "field_unknown": {"run": "rm"},
    "versions_that_are_numbers": {"versions": {"torch": 2}},
    "rows_that_are_text": {"start": "0"},
    "absent_by_the_hundred_thousand": {"absent": [{"row": 1, "reason": "?"}] * 100_000},
    "absent_twice": {"absent": [{"row": 1, "reason": "?"}] * 2},
    "absent_for_a_long_reason": {"absent": [{"row": 1, "reason": "?" * 100_000}]},
    "absent_row_that_is_true": {"absent": [{"row": True, "reason": "?"}]},
    "probe_twice": {"probes": [{"row": 1, "crc32": 0, "thumbnail": ""}] * 2},
    "probe_with_a_long_thumbnail": {
        "probes": [{"row": 1, "crc32": 0, "thumbnail": "AAAA" * 20_000}]
    },
    "probe_of_many_steps": {
        "probes": [{"row": 1, "crc32": 0, "thumbnail": "", "steps": [["decode", 0]] * 1000}]
    },
    "key_long": {"key": "x" * 100_000},
    "writer_long": {"writer": "x" * 100_000},
    "statistics_by_the_thousand": {"statistics": {str(number): 0.5 for number in range(1000)}},
    "statistics_huge": {"statistics": {"mean": 10**400}},
    "names_by_the_thousand": {f"field {number}": 1 for number in range(1000)},
    "name_long": {"x" * 100_000: 1},
    "object_of_a_gigabyte": {"num_bytes": 1 << 30},
}


def _commit(changes: dict[str, Any]) -> Attack:
    return lambda path: (zarr(path), change_commit(path, **changes))[-1]


many(
    r"its commit speaks of|the commit is damaged|with fields that this one|more than the \d+ that"
    r" it may have",
    {f"commit_{name}": case for name, case in COMMITS.items()},
    _commit,
)


@attack("more bytes than were committed")
def object_larger_than_its_commit_says(path: Path) -> None:
    cache = zarr(path)
    with (path / cache.commit_of(0, 0).key).open("r+b") as file:
        file.truncate(1 << 30)
