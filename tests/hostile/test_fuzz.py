"""Honest manifests, commits, recipes and specs, changed at random, each with its right digest: taken, or
refused in one line.

A few hundred cases are tried; KDCACHE_FUZZ=5000 tries as many of each kind, others each time.
"""

import copy
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import manifest, records
from hostile.commands import peak
from hostile.forge import cosine, lowrank, maps, tars, zarr
from hostile.pictures import pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.cache.documents.parts import Absence, Probe
from kdcache.codecs import open_codec, with_layout
from kdcache.config.seeds import parse_seeds
from kdcache.config.spec import parse_spec
from kdcache.errors import KdcacheError
from kdcache.positions import layout_of_sites
from kdcache.tools.export import export_cache
from kdcache.tools.info import Follower, describe
from kdcache.verify.cache import verify_cache
from kdcache.verify.known_teacher import lossy_origin
from kdcache.views import Recipe, load_recipe, shipped_recipes

CASES = int(os.environ.get("KDCACHE_FUZZ", "0"))
MOST_MEGABYTES = 200


def several(few: int) -> Callable[[Any], Any]:
    """Try as many cases as are asked for, or a few, which are the same each time."""
    fuzz = settings(
        max_examples=CASES or few,
        derandomize=not CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return fuzz


NESTED: Any = functools.reduce(lambda inner, _: [inner], range(200), [])
SINGLE = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            8,
            255,
            256,
            2**31,
            2**32,
            2**53,
            2**63,
            2**64,
            10**30,
            10**400,
        ]
    ),
    st.sampled_from(
        [0.0, -0.0, 0.5, 1.0, 1e-320, 1e38, 1e39, 1e300, -1e300, float("inf"), float("nan")]
    ),
    st.sampled_from(
        [
            "",
            "x",
            "full",
            "topk",
            "segmentation",
            "input",
            "<f1",
            "\x00\x1b[31m",
            "é\ud800",
            "x" * 5000,
        ]
    ),
    st.integers(-10, 40),
    st.text(max_size=8),
)
VALUES = st.one_of(
    SINGLE,
    st.lists(SINGLE, max_size=4),
    st.dictionaries(st.text(max_size=6), SINGLE, max_size=3),
    st.sampled_from(
        [NESTED, [0] * 30_000, {str(number): number for number in range(3000)}, ["x" * 1000] * 500]
    ),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside of another."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield (*at, key)
        yield from places(item, (*at, key))


@st.composite
def changed(draw: st.DrawFn, documents: Callable[[], list[Any]]) -> Any:
    """Return one of some documents, with a few of its values changed, removed, repeated or added
    to."""
    document = copy.deepcopy(draw(st.sampled_from(documents())))
    for _ in range(draw(st.integers(1, 3))):
        ways = list(places(document))
        if not ways:
            break
        *way, key = ways[draw(st.integers(0, len(ways) - 1))]
        table = functools.reduce(lambda inside, step: inside[step], way, document)
        match draw(st.sampled_from(["change", "change", "remove", "wrap", "repeat", "add"])):
            case "change":
                table[key] = copy.deepcopy(draw(VALUES))
            case "remove":
                del table[key]
            case "wrap":
                table[key] = [table[key]]
            case "repeat" if isinstance(table, list):
                few = len(repr(table[key])) > 200
                table += [table[key]] * (1 if few else draw(st.sampled_from([1, 100, 5000])))
            case "add" if isinstance(table, dict):
                table[draw(st.text(max_size=5))] = copy.deepcopy(draw(VALUES))
    return document


def with_new_digest(content: Any) -> Any:
    """Return a document with the digest that belongs to it, also where no canonical JSON could be
    made of it."""
    if not isinstance(content, dict):
        return content
    kept = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return {**kept, "digest": hashlib.sha256(text.encode()).hexdigest()}


def outcome(action: Callable[[], Any]) -> str:
    """Return the line with which an action ends; nothing if it ends well. No other exception is
    right."""
    try:
        action()
    except KdcacheError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) <= 500, line
        return line
    return ""


def maps_cache(path: Path) -> Cache:
    codec = with_layout(open_codec("topk:k=2", classes=5), layout_of_sites((1, 2, 3)))
    cache = create_cache(path, manifest(codec, **maps([1, 2, 3])))
    start_seed(cache, 0)
    for unit in range(cache.manifest.num_units):
        commit_unit(
            cache, 0, unit, np.zeros(len(cache.manifest.unit_range(unit)), cache.manifest.dtype)
        )
    return cache


def told_much(path: Path) -> Cache:
    """Make a cache that says all that a cache can say."""
    origin = {"codec": "full", "manifest": "0" * 64, "made_by": {"gradient_error": {"4": 0.1}}}
    made_by = {
        "config": '[dump-teacher]\nseeds = "0:2"\n',
        "created": "then",
        "gradient_error": {"1": 0.5},
        "recoded_from": origin,
        "versions": {"torch": "2"},
    }
    cache = create_cache(path, manifest("topk:k=2", skip_unreadable=True, made_by=made_by))
    start_seed(cache, 0)
    probe = Probe(row=1, crc32=5, thumbnail="AAAA", steps=[("decode", 7)])
    for unit in range(cache.manifest.num_units):
        row = cache.manifest.unit_range(unit)[0]
        facts = {"absent": [Absence(row=row, reason="gone")], "probes": [replace(probe, row=row)]}
        commit_unit(cache, 0, unit, records(cache, 0, unit), **facts, statistics={"mean": 0.5})
    return cache


def subset(path: Path) -> Cache:
    zarr(path.with_name("whole"))
    export_cache(path.with_name("whole"), path, samples="3:9")
    return open_cache(path)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an honest cache of each kind."""
    folder = tmp_path_factory.mktemp("shelf")
    makers: dict[str, Callable[[Path], Any]] = {
        "zarr": zarr,
        "lowrank": lowrank,
        "cosine": cosine,
        "tars": tars,
        "maps": maps_cache,
        "much": told_much,
        "subset": subset,
        "pictures": lambda path: pictures(path, load_recipe("digits").transforms),
    }
    for name, make in makers.items():
        (folder / name).mkdir()
        make(folder / name / "cache")
    return {name: folder / name / "cache" for name in makers}


def use(path: Path) -> None:
    """Do with a cache what the commands do."""
    cache = open_cache(path)
    outcome(lambda: lossy_origin(cache))
    outcome(lambda: cache.recipe)
    outcome(lambda: describe(cache))
    outcome(lambda: Follower(cache).look())
    outcome(lambda: verify_cache(cache, views=2))
    found = verify_cache(cache)
    assert all("\n" not in fault and len(fault) <= 500 for fault in found["faults"])
    for seed in cache.seeds()[:2]:
        for commit in cache.held_commits(seed):
            cache.codec.decode(cache.read_unit(commit)).probs(1.0)


def used_with(cache: Path, file: Path, text: str) -> None:
    """Use a cache in which a file holds another text, and see that it ends as it should."""
    honest = file.read_text()
    before = peak(anew=True)
    try:
        file.write_text(text)
        outcome(lambda: use(cache))
        assert peak() - before < MOST_MEGABYTES * 10**6
    finally:
        file.write_text(honest)


@several(150)
@given(data=st.data())
def test_a_manifest_is_taken_or_refused_in_a_line(
    shelf: dict[str, Path], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(shelf)))
    file = shelf[name] / "zarr.json"
    root = json.loads(file.read_text())
    content = data.draw(changed(lambda: [root["attributes"]["kdcache"]]))
    root["attributes"]["kdcache"] = with_new_digest(content)
    used_with(shelf[name], file, json.dumps(root))


@several(100)
@given(data=st.data())
def test_a_commit_is_taken_or_refused_in_a_line(
    shelf: dict[str, Path], data: st.DataObject
) -> None:
    path = shelf[data.draw(st.sampled_from(sorted(shelf)))]
    committed = [
        file for file in path.glob("commits/*/*.json") if file.name == Path(commit_key(0, 0)).name
    ]
    if not committed:
        return
    content = data.draw(changed(lambda: [json.loads(committed[0].read_text())]))
    used_with(path, committed[0], json.dumps(with_new_digest(content)))


@functools.cache
def recipes() -> list[Any]:
    """Return recipes with most kinds of transforms and parameters."""
    shipped = [load_recipe(name).to_dict()["table"] for name in shipped_recipes()]
    transforms: list[dict[str, Any]] = [
        {"name": "Pad", "padding": [1, 2]},
        {"name": "RandomZoomOut", "side_range": [1.0, 2.0], "fill": [1, 2, 3]},
        {
            "name": "RandomApply",
            "p": 0.5,
            "transforms": [{"name": "GaussianBlur", "kernel_size": 3, "sigma": [0.1, 2.0]}],
        },
        {
            "name": "RandomOrder",
            "transforms": [
                {"name": "RandAugment", "num_ops": 2},
                {"name": "RandomRotation", "degrees": 9},
            ],
        },
        {"name": "timm.AutoAugment", "policy": "augmix-m5-w3-d2"},
        {"name": "timm.RandomErasing", "max_count": 3, "mode": "pixel"},
        {"name": "ElasticTransform", "alpha": 20.0, "sigma": 3.0},
        {"name": "RandomShortestSize", "min_size": [8, 9], "max_size": 20},
        {"name": "Resize", "size": ["input", "input/1.5"]},
    ]
    whole = {
        "mode": "RGB",
        "size": [8, 12],
        "eval": "eval",
        "transforms": transforms,
        "mixing": {"mixup": 0.5, "block": 4},
    }
    return [*shipped, whole]


@several(150)
@given(table=changed(recipes), size=st.sampled_from([(8, 8), (1, 300), (40, 20)]))
def test_a_recipe_renders_or_is_refused_in_a_line(table: Any, size: tuple[int, int]) -> None:
    before = peak(anew=True)
    if isinstance(table, dict):
        outcome(lambda: Recipe("theirs", table)(Image.new("RGB", size)))
    assert peak() - before < 10 * MOST_MEGABYTES * 10**6, (
        "a view may have 2^25 pixels, and some steps take floats"
    )


WORDS = st.one_of(
    st.sampled_from(
        [
            ":",
            ",",
            "=",
            '"',
            " ",
            "topk",
            "full",
            "lowrank",
            "cosine",
            "steps",
            "k",
            "dtype",
            "step",
            "tau",
            "3",
            "1e400",
            "true",
        ]
    ),
    st.text(max_size=6),
    st.sampled_from([" " * 60_000, '"' * 3000, "9" * 4000, "a=1," * 900, "\x00", "\ud800"]),
)


@several(200)
@given(words=st.lists(WORDS, max_size=9))
def test_a_spec_is_parsed_or_refused_in_a_line(words: list[str]) -> None:
    text = "".join(words)
    outcome(lambda: parse_spec(text))
    outcome(lambda: open_codec(text, classes=5))
    outcome(lambda: parse_seeds(text))


def test_honest_caches_are_taken(shelf: dict[str, Path]) -> None:
    for name, path in shelf.items():
        assert outcome(lambda path=path: use(path)) == "", name  # type: ignore[misc]
        stored = json.loads((path / "zarr.json").read_text())["attributes"]["kdcache"]
        assert with_new_digest(stored) == stored, "whose digest is as kdcache makes it"
