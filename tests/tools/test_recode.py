"""Recoding: equal to a direct dump, resumable, carrying what belongs to the views, and never adding
what was lost."""

import dataclasses
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import contents, fill, flipped, manifest, records
from hypothesis import given
from hypothesis import strategies as st
from nursery import fork_server
from runs import DIGITS, dump, train

from kdcache import recode_cache
from kdcache.cache import Cache, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.parts import Absence, MadeBy, Probe, RecodedFrom
from kdcache.codecs import Codec, LowRank, TopK, open_codec
from kdcache.codecs.conversion import why_not
from kdcache.errors import (
    CacheError,
    DamagedUnitError,
    KdcacheError,
    MismatchError,
    MissingUnitError,
    UsageError,
)
from kdcache.tools import recode
from kdcache.train.metrics_reading import read_metrics
from kdcache.verify.cache import verify_cache

EXACT = "full:dtype=float32"
HELD = (
    *(f"full:dtype={dtype}" for dtype in ("float32", "float16", "bfloat16", "uint8", "uint4")),
    "lowrank:step=0.5",
    "topk:k=3,mantissa=10",
)
WANTED = (
    *HELD[:5],
    "lowrank:step=0.25",
    "lowrank:step=1",
    "topk:k=2",
    "topk:k=4",
    "topk:k=2,tau=2",
    "topk:k=2,mantissa=10",
)
ALLOWED = {
    "full:dtype=float32": {*HELD[1:5], *WANTED[5:]},
    "full:dtype=float16": {*HELD[2:5], *WANTED[5:]},
    "full:dtype=bfloat16": {*HELD[3:5], *WANTED[5:10]},
    "full:dtype=uint8": {*HELD[4:5], *WANTED[5:10]},
    "full:dtype=uint4": set(WANTED[5:10]),
    "lowrank:step=0.5": set(WANTED[6:10]),
    "topk:k=3,mantissa=10": {"topk:k=2", "topk:k=2,mantissa=10"},
}


def opened(spec: str, classes: int = 5) -> Codec:
    return open_codec(spec, classes=classes).fit(
        torch.randn(40, classes, generator=torch.Generator().manual_seed(0))
    )


def held(path: Path, spec: str, *seeds: int, **changes: Any) -> Path:
    """Return a filled cache with any codec; one that needs a fit is recoded from exact logits."""
    exact = path / "exact"
    fill(exact, *seeds, codec=EXACT, **changes)
    return recoded(exact, path / "held", spec)


def recoded(exact: Path, new: Path, spec: str) -> Path:
    """Return the cache of exact logits, or with another codec what is recoded from it."""
    if spec == EXACT:
        return exact
    recode_cache(exact, new, codec=spec)
    return new


def units(path: Path) -> dict[tuple[int, int], bytes]:
    """Return the bytes of every committed unit's object."""
    cache = open_cache(path)
    commits = [
        cache.commit_of(seed, unit)
        for seed in cache.seeds()
        for unit in cache.committed_units(seed)
    ]
    return {(commit.seed, commit.unit): cache.storage.get(commit.key) for commit in commits}


@pytest.mark.parametrize("has", HELD)
@pytest.mark.parametrize("wanted", WANTED)
def test_only_what_holds_less_can_be_made(has: str, wanted: str) -> None:
    assert (why_not(opened(has), open_codec(wanted, classes=5)) is None) == (wanted in ALLOWED[has])


@pytest.mark.parametrize(
    ("has", "wanted", "way_out"),
    [
        (EXACT, EXACT, "it has that codec already: copy the folder"),
        ("topk:k=3", "topk:k=3", "it has that codec already: copy the folder"),
        ("full:dtype=uint8", "full:dtype=float16", "choose from lowrank, topk, full:dtype=uint4"),
        (
            "topk:k=3",
            EXACT,
            "of 5 classes it keeps the 3 largest: dump again, or choose topk with a smaller k",
        ),
        ("topk:k=5", "lowrank:step=1", "of 5 classes it keeps the 5 largest: dump again"),
        ("topk:k=3", "topk:k=4", "it keeps 3 logits, not 4: dump again, or choose k up to 3"),
        ("topk:k=3", "topk:k=2,tau=4", "exact at tau 1 only: dump again, or give tau=1"),
        (
            "topk:k=3,mantissa=5",
            "topk:k=2",
            "does not hold 7 bits of each logit: dump again, or give mantissa=5 or less",
        ),
        ("full:dtype=bfloat16", "topk:k=2,mantissa=8", "give mantissa=7 or less"),
        ("lowrank:step=0.5", "full:dtype=uint4", "choose lowrank with a larger step, or topk"),
        (
            "lowrank:step=0.5",
            "lowrank:step=0.5,views=64",
            "step 0.5 is no coarser than its own, 0.5",
        ),
        (
            "full:dtype=uint8",
            "lowrank:error=0.1",
            "exact logits, which it does not hold: give step= or bytes=",
        ),
    ],
)
def test_a_refusal_names_the_way_out(has: str, wanted: str, way_out: str) -> None:
    assert way_out in str(why_not(opened(has), open_codec(wanted, classes=5)))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a cache of two seeds for each codec in HELD."""
    root = tmp_path_factory.mktemp("held")
    fill(root / "exact", 0, 1, codec=EXACT)
    return {
        spec: recoded(root / "exact", root / str(number), spec) for number, spec in enumerate(HELD)
    }


@pytest.mark.parametrize(
    ("has", "wanted"), [(has, wanted) for has in HELD for wanted in sorted(ALLOWED[has])]
)
def test_recoded_logits_are_within_the_stated_error_of_those_held(
    has: str, wanted: str, shelf: dict[str, Path], tmp_path: Path
) -> None:
    result = recode_cache(shelf[has], tmp_path / "new", codec=wanted)
    assert verify_cache(open_cache(tmp_path / "new"))["faults"] == []
    old, new = open_cache(shelf[has]), open_cache(tmp_path / "new")
    assert (
        (result["seeds"], result["rows"])
        == ([0, 1], 20)
        == (new.complete_seeds(), new.manifest.rows)
    )
    for seed in (0, 1):
        was, now = (
            cache.codec.decode(cache.read(seed, range(20))).logits() for cache in (old, new)
        )
        apart = (
            was - was.mean(1, keepdim=True) - now if isinstance(new.codec, LowRank) else was - now
        ).abs()
        if isinstance(new.codec, TopK):
            kept = torch.from_numpy(new.read(seed, range(20))["classes"].astype(np.int64))
            assert torch.equal(
                was.gather(1, kept), was.topk(new.codec.k).values
            )  # the classes may differ where logits are equal
            apart = apart.gather(1, kept)
        assert bool((apart.amax(1) <= new.codec.stated_error(was)).all())


FEWER = f"{DIGITS},length=96"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dump of exact logits."""
    path = tmp_path_factory.mktemp("dumped") / "exact"
    dump(path, codec=EXACT, data=FEWER)
    return path


@pytest.mark.parametrize("codec", ["topk:k=3", "full:dtype=float16"])
def test_a_recoded_cache_equals_a_direct_dump_and_trains_as_one(
    codec: str, exact: Path, tmp_path: Path
) -> None:
    dump(tmp_path / "direct", codec=codec, data=FEWER)
    recode_cache(exact, tmp_path / "new", codec=codec)
    assert units(tmp_path / "new") == units(tmp_path / "direct")
    losses = []
    for cache in ("direct", "new"):
        train(tmp_path / f"run-{cache}", cache=str(tmp_path / cache), batch_size=16, data=FEWER)
        lines = read_metrics(tmp_path / f"run-{cache}" / "metrics.jsonl")
        losses.append([line["loss"] for line in lines if line["kind"] == "step"])
    assert losses[0] == losses[1] and len(losses[0]) > 10


def test_all_but_the_codec_is_carried_over(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", 3, codec=EXACT, order_seed=5, skip_unreadable=True)
    recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")
    new = open_cache(tmp_path / "new").manifest
    changed = (
        "codec",
        "record_dtype",
        "unit_rows",
        "chunk_rows",
        "chunk_bytes",
        "zstd_level",
        "made_by",
    )
    assert (
        dataclasses.replace(new, **{name: getattr(old.manifest, name) for name in changed})
        == old.manifest
    )
    origin = RecodedFrom(codec=EXACT, manifest=old.manifest.digest, made_by=MadeBy())
    assert new.made_by.recoded_from == origin
    assert new.made_by.versions and new.made_by.created


def filled_by_hand(path: Path, unit_rows: int) -> Cache:
    """Return a cache with absent rows, probes, statistics and versions that differ between the
    units."""
    cache = create_cache(
        path, manifest(EXACT, unit_rows=unit_rows, chunk_rows=2, skip_unreadable=True)
    )
    start_seed(cache, 0)
    for unit in range(cache.manifest.num_units):
        rows = cache.manifest.unit_range(unit)
        of_unit = records(cache, 0, unit)
        gone = list(rows[:unit])
        of_unit[:unit] = np.zeros((), of_unit.dtype)
        facts = {
            "absent": [Absence(row=row, reason=f"row {row}") for row in gone],
            "probes": [Probe(row=rows[-1], crc32=unit, thumbnail="")],
            "statistics": (
                {"mean": float(unit), "accuracy": 100.0 * unit} if len(gone) < len(rows) else {}
            ),
            "versions": {"pillow": f"{unit}"},
        }
        commit_unit(cache, 0, unit, of_unit, **facts)
    return cache


@pytest.mark.parametrize("logits_at_once", [1, 15, 2**24])
@pytest.mark.parametrize("codec", ["topk:k=2", "full:dtype=uint8", "lowrank:step=0.5"])
def test_absent_rows_probes_and_statistics_are_carried_over(
    codec: str, logits_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recode, "_LOGITS_AT_ONCE", logits_at_once)
    old = filled_by_hand(tmp_path / "old", 8)
    result = recode_cache(tmp_path / "old", tmp_path / "new", codec=codec)
    new = open_cache(tmp_path / "new")
    (commit,) = new.commits(0)
    assert (commit.start, commit.stop, result["units_written"], result["absent"]) == (0, 20, 1, 3)
    assert [absence.row for absence in commit.absent] == [8, 16, 17]
    assert [probe.row for probe in commit.probes] == [7, 15, 19]
    clipped = {"clipped": 0.0} if codec.startswith("lowrank") else {}
    assert commit.statistics == pytest.approx(
        {"mean": (7 + 2 * 2) / 17, "accuracy": 100 * (7 + 2 * 2) / 17, **clipped}
    )
    assert commit.versions == {"pillow": "0"}
    stored = new.read_unit(commit)
    there = np.setdiff1d(np.arange(20), [8, 16, 17])
    assert not stored[[8, 16, 17]].view(np.uint8).any()
    with pytest.raises(MissingUnitError, match="row 8 is recorded as absent"):
        new.read(0, [8])
    exact = old.codec.decode(old.read(0, there)).logits()
    assert np.array_equal(stored[there], new.codec.encode(exact))


def test_rows_that_the_fit_cannot_hold_are_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = create_cache(tmp_path / "old", manifest(EXACT, rows=200, unit_rows=100, chunk_rows=4))
    start_seed(cache, 0)
    for unit in range(2):
        logits = torch.randn(100, 5, generator=torch.Generator().manual_seed(unit))
        logits[90:95] *= 1e4 * unit  # past the 64 rows of the fit's sample
        commit_unit(cache, 0, unit, cache.codec.encode(logits))
    recode_cache(tmp_path / "old", tmp_path / "new", codec="lowrank:step=0.5,views=64")
    told = capsys.readouterr().err
    assert (
        "note: 5 of 200 views have logits beyond what the fit of lowrank:step=0.5,views=64 can hold"
        in told
    )
    assert [
        commit.statistics["clipped"] for commit in open_cache(tmp_path / "new").commits(0)
    ] == pytest.approx([0, 0.05])


def test_a_unit_that_is_absent_as_a_whole(tmp_path: Path) -> None:
    filled_by_hand(
        tmp_path / "old", 2
    )  # of 10 units all but the first two are absent: 2 rows each at most
    recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")
    (commit,) = open_cache(tmp_path / "new").commits(0)
    assert len(commit.absent) == 17 and commit.statistics == pytest.approx(
        {"mean": 1 / 3, "accuracy": 100 / 3}
    )


@pytest.mark.parametrize(("unit_rows", "expected"), [(1, 32), (8, 32), (16, 32), (6, 6), (10, 10)])
def test_units_are_of_the_default_size_where_it_holds_whole_units_of_the_old(
    unit_rows: int, expected: int, tmp_path: Path
) -> None:
    fill(tmp_path / "old", 0, codec=EXACT, unit_rows=unit_rows, chunk_rows=1)
    recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")
    assert open_cache(tmp_path / "new").manifest.unit_rows == expected


@given(
    st.integers(2, 40),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.sampled_from([0.1, 3.0, 30.0]),
    st.integers(0, 99),
    st.data(),
)
def test_a_smaller_k_is_what_a_direct_encoding_gives(
    classes: int, tau: float, scale: float, seed: int, data: st.DataObject
) -> None:
    large = data.draw(st.integers(1, classes))
    small = data.draw(st.integers(1, large))
    logits = torch.randn(8, classes, generator=torch.Generator().manual_seed(seed)) * scale
    had, wanted = (TopK(classes=classes, k=k, tau=tau, mantissa=10) for k in (large, small))
    cut, direct = wanted.cut(had.encode(logits), had), wanted.encode(logits)
    assert np.array_equal(cut["classes"], direct["classes"]) and np.array_equal(
        cut["logits"], direct["logits"]
    )
    ulp = 2.0**-10
    for name, largest in (("tail_lse", scale / tau), ("tail_mean", scale), ("tail_var", scale**2)):
        np.testing.assert_allclose(cut[name], direct[name], rtol=2 * ulp, atol=6 * ulp * largest)


def test_fewer_bits_of_the_same_logits(tmp_path: Path) -> None:
    path = held(tmp_path, "topk:k=3,mantissa=10", 0)
    recode_cache(path, tmp_path / "new", codec="topk:k=3,mantissa=4")
    old, new = (open_cache(each).read(0, range(20)) for each in (path, tmp_path / "new"))
    assert np.array_equal(old["classes"], new["classes"]) and np.array_equal(
        old["tail_lse"], new["tail_lse"]
    )
    np.testing.assert_allclose(new["logits"], old["logits"], rtol=2.0**-5)
    assert not (new["logits"].view(np.uint16) & 63).any()


@pytest.mark.parametrize("codec", ["topk:k=2", "lowrank:step=0.5", "full:dtype=uint8"])
def test_run_again_it_goes_on(codec: str, tmp_path: Path) -> None:
    fill(tmp_path / "old", 0, 1, codec=EXACT, unit_rows=6, chunk_rows=3)
    first = recode_cache(tmp_path / "old", tmp_path / "new", codec=codec)
    right, before = units(tmp_path / "new"), contents(tmp_path / "new")
    assert first["units_written"] == 8
    again = recode_cache(tmp_path / "old", tmp_path / "new", codec=codec)
    assert contents(tmp_path / "new") == before
    assert {**again, "units_written": 8, "seconds": 0} == {**first, "seconds": 0} and again[
        "units_written"
    ] == 0
    lost = ["commits/00000/000001.json", "commits/00001/000003.json", "seeds/00001/records/c/3/0"]
    for key in lost:
        (tmp_path / "new" / key).unlink()
    assert recode_cache(tmp_path / "old", tmp_path / "new", codec=codec)["units_written"] == 2
    assert units(tmp_path / "new") == right
    kept = [key for key in before if key not in lost]
    assert [contents(tmp_path / "new")[key] for key in kept] == [before[key] for key in kept]


def test_seeds_that_came_later_are_added(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", 0, codec=EXACT)
    assert recode_cache(tmp_path / "old", tmp_path / "new", codec="lowrank:step=1")["seeds"] == [0]
    fit = open_cache(tmp_path / "new").manifest.codec.fit
    for unit in range(old.manifest.num_units):
        commit_unit(old, 4, unit, records(old, 4, unit))
    start_seed(old, 4)
    assert recode_cache(tmp_path / "old", tmp_path / "new", codec="lowrank:step=1")["seeds"] == [
        0,
        4,
    ]
    new = open_cache(tmp_path / "new")
    assert (
        new.complete_seeds() == [0, 4]
        and new.manifest.codec.fit == fit
        and verify_cache(new)["faults"] == []
    )


def test_incomplete_seeds_are_named_if_asked_for_and_else_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = fill(tmp_path / "old", 0, 2, codec=EXACT)
    commit_unit(old, 1, 0, records(old, 1, 0))
    assert recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")["seeds"] == [0, 2]
    assert "is left out: seed 1 lacks 2 of 3 units" in capsys.readouterr().err
    with pytest.raises(
        MissingUnitError,
        match=r"lacks 2 of 3 units of seed 1, the first is seed 1, unit 1 \(rows 8 to 15\)",
    ):
        recode_cache(tmp_path / "old", tmp_path / "other", codec="topk:k=2", seeds="0:2")
    with pytest.raises(MissingUnitError, match=r"does not hold seed 7 \(it holds: 0, 1, 2\)"):
        recode_cache(tmp_path / "old", tmp_path / "other", codec="topk:k=2", seeds="7")
    assert not (tmp_path / "other").exists()
    assert recode_cache(tmp_path / "old", tmp_path / "one", codec="topk:k=2", seeds="2")[
        "seeds"
    ] == [2]
    assert open_cache(tmp_path / "one").seeds() == [2]


def test_no_complete_seed_at_all(tmp_path: Path) -> None:
    fill(tmp_path / "old", codec=EXACT)
    with pytest.raises(CacheError, match="holds no complete seed"):
        recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")


def test_nothing_is_committed_of_a_damaged_unit(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", 0, 1, codec="full:dtype=uint8", unit_rows=6, chunk_rows=3)
    damaged = tmp_path / "old" / old.commit_of(1, 2).key
    whole = damaged.read_bytes()
    damaged.write_bytes(flipped(whole, len(whole) // 2, 0x01))
    with pytest.raises(
        DamagedUnitError,
        match=r"seed 1, unit 2 \(rows 12 to 17\): its bytes differ .* run the dump again",
    ):
        recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")
    assert sorted(units(tmp_path / "new")) == [*((0, unit) for unit in range(4)), (1, 0), (1, 1)]
    assert not (tmp_path / "new/seeds/00001/records/c/2").exists()
    damaged.write_bytes(whole)
    assert recode_cache(tmp_path / "old", tmp_path / "new", codec="topk:k=2")["units_written"] == 2


def test_a_dump_goes_on_where_its_records_are_those_of_a_dump(exact: Path, tmp_path: Path) -> None:
    dump(tmp_path / "lossy", codec="full:dtype=uint8", data=FEWER, seeds="0:2")
    for cache in (exact, tmp_path / "lossy"):
        recode_cache(cache, tmp_path / f"{cache.name}-k2", codec="topk:k=2")
    settings = {"data": FEWER, "codec": "topk:k=2", "seeds": "0:3"}
    assert dump(tmp_path / "exact-k2", **settings)["units_written"] > 0
    with pytest.raises(
        MismatchError, match=r"was recoded from full:dtype=uint8, .* run recode again"
    ):
        dump(tmp_path / "lossy-k2", **settings)


MANY: dict[str, Any] = {"rows": 400, "unit_rows": 64, "chunk_rows": 64}


def test_the_price_is_measured_kept_and_told(tmp_path: Path) -> None:
    fill(tmp_path / "old", 0, 1, codec=EXACT, **MANY)
    errors = {}
    for codec in (
        "topk:k=1",
        "topk:k=3",
        "lowrank:step=1",
        "lowrank:step=0.1",
        "full:dtype=float16",
    ):
        for _ in range(2):
            result = recode_cache(tmp_path / "old", tmp_path / codec, codec=codec)
            errors[codec] = result["gradient_error"]
            assert set(errors[codec]) == {"1", "4"}
        assert open_cache(tmp_path / codec).manifest.made_by.gradient_error == errors[codec]
        sizes = [
            sum(len(data) for data in units(path).values())
            for path in (tmp_path / "old", tmp_path / codec)
        ]
        assert [result[part]["bytes"] for part in ("before", "after")] == sizes
        assert [result[part]["bytes_per_view"] for part in ("before", "after")] == [
            size / 800 for size in sizes
        ]
    for tau in ("1", "4"):
        assert errors["topk:k=1"][tau] > 0.3 > errors["topk:k=3"][tau] > 0.01
        assert (
            errors["lowrank:step=1"][tau]
            > 0.2
            > errors["lowrank:step=0.1"][tau]
            > 0.01
            > errors["full:dtype=float16"][tau]
        )


@pytest.mark.parametrize(("has", "seeds"), [(EXACT, [0]), ("full:dtype=uint8", [0, 1])])
def test_without_exact_logits_of_two_views_a_codec_is_fitted_but_not_measured(
    has: str, seeds: list[int], tmp_path: Path
) -> None:
    path = held(tmp_path, has, *seeds, **MANY)
    for codec in ("lowrank:step=0.5", "topk:k=2", "lowrank:bytes=4"):
        result = recode_cache(path, tmp_path / codec, codec=codec)
        assert (
            result["gradient_error"] == {}
            and result["after"]["bytes_per_view"] < result["before"]["bytes_per_view"]
        )
    assert 3 < result["after"]["bytes_per_view"] < 5.5, (
        "the target is of a large cache; 400 rows share the tables of a chunk"
    )
    with pytest.raises(
        UsageError, match=r"lowrank:error=0.2.* (dump another seed, or )?give step= or bytes="
    ):
        recode_cache(path, tmp_path / "new", codec="lowrank:error=0.2")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("has", "finer", "coarser"), [("uint8", "0.01", "0.05"), ("uint4", "0.2", "0.5")]
)
def test_a_step_below_what_8_or_4_bits_round_to_is_refused(
    has: str, finer: str, coarser: str, tmp_path: Path
) -> None:
    path = held(tmp_path, f"full:dtype={has}", 0, **MANY, classes=20)
    with pytest.raises(
        UsageError,
        match=(
            rf"step {finer} is finer than the .* that {has} rounds its logits to: dump again, or"
            r" give"
        ),
    ):
        recode_cache(path, tmp_path / "new", codec=f"lowrank:step={finer}")
    with pytest.raises(
        UsageError, match=r"is finer than the .* or give a larger step or fewer bytes"
    ):
        recode_cache(path, tmp_path / "new", codec="lowrank:bytes=40")
    assert not (tmp_path / "new").exists()
    result = recode_cache(path, tmp_path / "new", codec=f"lowrank:step={coarser}")
    assert result["after"]["bytes"] < result["before"]["bytes"]


def test_errors_before_are_carried_where_there_is_nothing_to_measure_against(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "exact", 0, 1, codec=EXACT, **MANY)
    measured = recode_cache(tmp_path / "exact", tmp_path / "first", codec="topk:k=3")
    errors = {float(tau): error for tau, error in measured["gradient_error"].items()}
    assert measured["origin_error"] is None
    for old, new, codec in (("first", "second", "topk:k=2"), ("second", "third", "topk:k=1")):
        result = recode_cache(tmp_path / old, tmp_path / new, codec=codec)
        assert result["gradient_error"] == {} and result["origin_error"] == ("topk:k=3", errors)
        assert open_cache(tmp_path / new).manifest.origin_error == ("topk:k=3", errors)
    fill(tmp_path / "one", 0, codec=EXACT, **MANY)
    assert (
        recode_cache(tmp_path / "one", tmp_path / "one-k2", codec="topk:k=2")["origin_error"]
        is None
    )


def test_a_target_of_bytes_that_would_be_finer_is_refused_after_its_fit(tmp_path: Path) -> None:
    path = held(tmp_path, "lowrank:step=1", 0, **MANY)
    with pytest.raises(
        UsageError,
        match=r"is no coarser than its own, 1: dump again, or give a larger step or fewer bytes",
    ):
        recode_cache(path, tmp_path / "new", codec="lowrank:bytes=8")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of caches and of things that are none."""
    path = tmp_path_factory.mktemp("desk")
    fill(path / "old", 0, codec=EXACT)
    fill(path / "twin", 0, codec=EXACT, made_by={"created": "another day"})
    fill(
        path / "dumped",
        0,
        codec="topk:k=2",
        unit_rows=32,
        chunk_rows=32,
        chunk_bytes=4,
        zstd_level=13,
    )
    for name in ("topk:k=2", "lowrank:step=1"):
        recode_cache(path / "old", path / name.partition(":")[0], codec=name)
    (path / "file").touch()
    (path / "full").mkdir()
    (path / "full" / "precious").touch()
    (path / "link").symlink_to(path / "old")
    return path


@pytest.mark.parametrize(
    ("cache", "new", "codec", "error", "message"),
    [
        ("old", "old", "topk:k=2", UsageError, "is the cache itself"),
        ("old", "link", "topk:k=2", UsageError, "is the cache itself"),
        ("old", "new", EXACT, UsageError, "copy the folder"),
        ("old", "new", "tpok:k=2", UsageError, "did you mean 'topk'"),
        ("old", "new", "topk:k=6", UsageError, "k must be from 1 to 5"),
        ("nowhere", "new", "topk:k=2", CacheError, "nowhere is not a cache"),
        ("file", "new", "topk:k=2", CacheError, "file is not a cache"),
        ("old", "file", "topk:k=2", CacheError, "a file stands where a folder is needed"),
        ("old", "file/in", "topk:k=2", CacheError, "a file stands where a folder is needed"),
        ("old", "full", "topk:k=2", CacheError, "is not empty and not a cache"),
        ("old", "topk", "topk:k=1", MismatchError, "k: 2 in the cache, 1 now"),
        ("old", "lowrank", "lowrank:step=2", MismatchError, "was made with lowrank:step=1"),
        ("twin", "topk", "topk:k=2", MismatchError, "was not recoded from"),
        ("old", "dumped", "topk:k=2", MismatchError, "was not recoded from"),
    ],
)
def test_a_mistake_changes_nothing(
    cache: str, new: str, codec: str, error: type[KdcacheError], message: str, *, desk: Path
) -> None:
    before = contents(desk)
    with pytest.raises(error, match=message):
        recode_cache(desk / cache, desk / new, codec=codec)
    assert contents(desk) == before


KILLED: dict[str, Any] = {
    "codec": EXACT,
    "rows": 1200,
    "classes": 20,
    "unit_rows": 48,
    "chunk_rows": 24,
}
"""The new cache keeps units of 48 rows, 25 a seed."""


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of which the recoding takes long enough to be killed."""
    path = tmp_path_factory.mktemp("long") / "old"
    fill(path, 0, 1, **KILLED)
    return path


def started(old: Path, new: Path, codec: str) -> ForkServerProcess:
    process = fork_server().Process(target=recode_cache, args=(old, new), kwargs={"codec": codec})
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["lowrank:step=0.5", "topk:k=3"])
def test_killed_and_run_again_it_is_what_it_would_have_been(
    codec: str, long: Path, tmp_path: Path
) -> None:
    recode_cache(long, tmp_path / "unbroken", codec=codec)
    right = units(tmp_path / "unbroken")
    random, partial, killed = np.random.default_rng(1), 0, 0
    for _ in range(4):
        before = sum(1 for _ in tmp_path.glob("new/commits/*/*.json"))
        process = started(long, tmp_path / "new", codec)
        while (
            sum(1 for _ in tmp_path.glob("new/commits/*/*.json")) == before and process.is_alive()
        ):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        there = units(tmp_path / "new")
        assert there == {unit: right[unit] for unit in there}
        partial += 0 < len(there) < len(right)
    assert killed >= 2 and partial >= 2, "the recoding is too fast to be killed"
    process = started(long, tmp_path / "new", codec)
    process.join(60)
    assert process.exitcode == 0
    assert units(tmp_path / "new") == right
    assert verify_cache(open_cache(tmp_path / "new"))["faults"] == []


@pytest.mark.slow
def test_two_at_once_are_harmless(long: Path, tmp_path: Path) -> None:
    recode_cache(long, tmp_path / "alone", codec="lowrank:step=0.5")
    processes = [started(long, tmp_path / "new", "lowrank:step=0.5") for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert units(tmp_path / "new") == units(tmp_path / "alone")
    assert verify_cache(open_cache(tmp_path / "new"))["faults"] == []
