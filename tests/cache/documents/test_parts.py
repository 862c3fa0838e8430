"""What the tables inside documents keep, whoever wrote them."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from caches import manifest

from kdcache.cache import Commit, Manifest
from kdcache.cache.documents import parts
from kdcache.cache.documents.document import checked_content, with_digest
from kdcache.cache.documents.parts import Absence, MadeBy, Part, Probe, TeacherEntry
from kdcache.errors import DamagedError, DamagedUnitError

ORIGIN = {"codec": "full", "made_by": {"gradient_error": {"4.0": 0.5}}}
TABLES: dict[type[Part], dict[str, Any]] = {
    parts.SourceEntry: {"spec": "noise", "fingerprint": "f", "classes": 5, "list": "a" * 64},
    parts.RecipeEntry: {"name": "r", "fingerprint": "f", "table": {"size": [8, 9]}},
    TeacherEntry: {
        "spec": "net",
        "architecture": "net",
        "sha256": "2",
        "size": [8, 8],
        "stride": 4,
        "mean": [0, 0.5],
        "std": [1, 0.5],
        "precision": "float32",
    },
    parts.CodecEntry: {"name": "topk", "configuration": {"k": 3}, "fit": "a" * 64},
    parts.SamplesEntry: {"count": 3, "sha256": "a" * 64},
    parts.ViewsEntry: {"seeds": 3, "view_bytes": 17, "sha256": "a" * 64},
    parts.ConvertedFrom: {"store": "zarr", "manifest": "0"},
    parts.ImportedFrom: {"format": "fkd", "crops": "0:4"},
    parts.ExportedFrom: {"manifest": "0"},
    parts.RecodedFrom: ORIGIN,
    MadeBy: {"versions": {}, "recoded_from": ORIGIN, "exported_from": {"manifest": "0"}},
    Absence: {"row": 3, "reason": "gone", "seed": 0},
    Probe: {"row": 3, "crc32": 7, "thumbnail": "AAEC", "steps": [["decode", 1]], "seed": 2},
}
LATER: dict[str, Any] = {"shape": [1, {"a": None}], "others": {"others": 1}, "a word": None}
COMMIT = Commit(
    seed=0,
    unit=0,
    start=0,
    stop=8,
    key="seeds/00000/records/c/0/0",
    num_bytes=512,
    sha256="ab" * 32,
    write_id="0123456789abcdef",
    absent=[Absence(row=3, reason="gone")],
    probes=[Probe(row=4, crc32=7, thumbnail="AAEC", steps=[("decode", 1)])],
)


def with_later(table: Any) -> Any:
    """Return a table in which a newer kdcache says more, also in the tables inside it."""
    inner = {"recoded_from", "exported_from", "converted_from", "made_by"}
    told = {name: with_later(value) if name in inner else value for name, value in table.items()}
    return {**told, **LATER}


def test_every_part_is_tried() -> None:
    made = {value for value in vars(parts).values() if isinstance(value, type)}
    assert {cls for cls in made if issubclass(cls, Part)} == {Part, *TABLES}


@pytest.mark.parametrize("cls", TABLES)
def test_a_table_comes_back_as_it_was(cls: type[Part]) -> None:
    for table in (TABLES[cls], with_later(TABLES[cls])):
        part = cls.from_json(table)
        assert json.dumps(part.to_json()) == json.dumps(table), "numbers, and the order of names"
        assert cls.from_json(part.to_json()) == part
        assert part.others == (LATER if table is not TABLES[cls] else None)


@pytest.mark.parametrize("cls", TABLES)
def test_what_is_none_is_not_written_and_a_null_that_was_said_is(cls: type[Part]) -> None:
    part = cls.from_json(TABLES[cls])
    names = [field.name for field in fields(cls) if field.default is None]
    for name in set(names) - {"others"}:
        assert name not in replace(part, **{name: None}).to_json()
        said = {**TABLES[cls], name: None}
        again = cls.from_json(said)
        assert getattr(again, name) is None and again.to_json() == said


def test_what_a_newer_kdcache_says_in_a_manifest_stays_in_its_digest() -> None:
    content = checked_content(
        manifest(source={**TABLES[parts.SourceEntry], "classes": 5}).to_json()
    )
    names = ("source", "recipe", "teacher", "codec", "made_by")
    told = {**content, **{name: with_later(content[name]) for name in names}}
    document = with_digest(json.loads(json.dumps(told)))
    read = Manifest.from_json(document, "here")
    assert read.to_json() == document and read.digest == document["digest"]
    assert read.source.others == read.with_errors({1.0: 0.5}).made_by.others == LATER


def test_what_a_newer_kdcache_says_in_a_commit_stays_in_its_digest() -> None:
    content = checked_content(json.loads(COMMIT.to_bytes()))
    for name in ("absent", "probes"):
        content[name] = [with_later(table) for table in content[name]]
    document = with_digest(content)
    read = Commit.from_bytes(json.dumps(document).encode(), "here")
    assert json.loads(read.to_bytes()) == document and read.digest == document["digest"]
    assert read.of_seed(0).absent[0].others == LATER


@pytest.mark.parametrize(
    ("name", "table", "told"),
    [
        ("source", {"spec": 3, "fingerprint": "0"}, "source.spec is 3; it must be text"),
        ("source", ["spec"], "source is .*; it must be an object"),
        ("recipe", {"name": "r"}, "it has no recipe.fingerprint"),
        ("codec", {"name": "topk", "configuration": []}, "codec.configuration is .* an object"),
        ("made_by", {"created": 2030}, "made_by.created is 2030; it must be text"),
        ("made_by", {"exported_from": {}}, "it has no made_by.exported_from.manifest"),
        ("made_by", {"recoded_from": []}, "made_by.recoded_from is .*; it must be an object"),
    ],
)
def test_a_table_of_another_form_is_refused_before_it_is_read(
    name: str, table: Any, told: str
) -> None:
    content = {**checked_content(manifest().to_json()), name: table}
    with pytest.raises(DamagedError, match=rf"zarr.json\) is damaged: {told}"):
        Manifest.from_json(with_digest(content), "here")


@pytest.mark.parametrize(
    ("name", "table", "told"),
    [
        ("absent", {"row": "3", "reason": "gone"}, "absent.row is '?\"?3.*; it must be an integer"),
        ("absent", {"row": 3}, "it has no absent.reason"),
        ("probes", {**TABLES[Probe], "steps": [["decode"]]}, "probes.steps is .* a list of 2"),
        ("probes", {**TABLES[Probe], "seed": None}, "probes.seed is .*; it must be an integer"),
    ],
)
def test_an_entry_of_another_form_is_refused_before_it_is_read(
    name: str, table: Any, told: str
) -> None:
    content = {**checked_content(json.loads(COMMIT.to_bytes())), name: [table]}
    with pytest.raises(DamagedUnitError, match=f"the commit is damaged: {told}"):
        Commit.from_bytes(json.dumps(with_digest(content)).encode(), "here")


def test_the_caches_that_one_was_recoded_from_come_last_first() -> None:
    first = MadeBy(gradient_error={"1": 0.25, "4.0": 1})
    then = MadeBy(recoded_from=parts.RecodedFrom(codec="full", made_by=first))
    now = MadeBy(recoded_from=parts.RecodedFrom(codec="topk:k=9", made_by=then))
    assert [origin.codec for origin in now.origins()] == ["topk:k=9", "full"]
    assert [*now.origins()][-1].made_by.errors == {1.0: 0.25, 4.0: 1.0}
    assert now.errors == {} and [*first.origins()] == []
    assert replace(manifest(), made_by=now).origin_error == ("full", {1.0: 0.25, 4.0: 1.0})
