"""What a codec can is asked of it, never of its class."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.codecs import BasisCodec, Codec, RowCodec, open_codec, with_layout
from kdcache.codecs.conversion import converted, needs_scale, scale_of
from kdcache.errors import CodecError
from kdcache.positions import layout_of_sites

ROOT = Path(__file__).parents[2]
CLASSES = {"Full", "TopK", "LowRank", "Cosine", "PositionCodec", "CosineMaps"}
FILES = sorted(
    file
    for folder in ("kdcache", "cli", "benchmarks", "examples")
    for file in (ROOT / folder).rglob("*.py")
    if ROOT / "kdcache" / "codecs" not in file.parents
)
SPECS = ["full:dtype=float32", "full:dtype=uint8", "topk:k=3", "lowrank:step=0.5"]


def with_sites(rows: RowCodec, sites: tuple[int, ...] | None) -> Codec:
    return with_layout(rows, layout_of_sites(sites))


def opened(spec: str) -> Codec:
    sample = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    return open_codec(spec, classes=6).fit(sample)


def names_in(node: ast.expr) -> set[str]:
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Attribute):
            names.add(part.attr)
    return names


def classes_asked_for(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the codec classes that are asked for, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and names_in(node.func) & {"isinstance", "issubclass"}:
            for name in names_in(node.args[1]) & CLASSES:
                yield f"{name} in line {node.lineno}"
        elif isinstance(node, ast.MatchClass):
            for name in names_in(node.cls) & CLASSES:
                yield f"{name} in line {node.lineno}"


def test_no_file_outside_the_room_asks_for_a_codecs_class() -> None:
    for file in FILES:
        assert list(classes_asked_for(ast.parse(file.read_text()))) == [], file.relative_to(ROOT)


def test_a_file_that_asked_would_be_found() -> None:
    source = "isinstance(codec, (codecs.Full, int))\nmatch codec:\n    case TopK():\n        pass"
    assert list(classes_asked_for(ast.parse(source))) == ["Full in line 1", "TopK in line 3"]


@pytest.mark.parametrize("spec", SPECS)
def test_codecs_say_what_they_keep_alone_and_over_maps(spec: str) -> None:
    rows = opened(spec)
    maps = with_sites(rows, (1, 2, 3))
    for codec in (rows, maps):
        assert isinstance(codec, Codec)
        assert codec.is_exact == (spec == "full:dtype=float32")
        assert codec.keeps_mean == (not spec.startswith("lowrank"))
        assert codec.views == (8192 if spec.startswith("lowrank") else 4096)
        assert sorted(codec.fit_arrays()) == sorted(rows.fit_arrays())
    assert (rows.least_chunk_rows, maps.least_chunk_rows) == (16, 1)
    assert maps.chunk_bytes is None and maps.clipped(torch.zeros(1, 1, 2, 3, 6)) is None
    assert isinstance(rows, BasisCodec) == spec.startswith("lowrank")
    assert not isinstance(maps, BasisCodec)


@pytest.mark.parametrize("spec", SPECS)
def test_a_fit_is_put_back_from_its_arrays_or_refused(spec: str) -> None:
    codec = with_sites(opened(spec), (1, 2, 3))
    if not spec.startswith("lowrank"):
        with pytest.raises(CodecError, match=f"^codec {codec.name} has no fit, but its manifest"):
            codec.with_fit_arrays({"step": np.zeros(1)})
        return
    bare = with_sites(open_codec(spec, classes=6), (1, 2, 3))
    again = bare.with_fit_arrays(codec.fit_arrays())
    logits = torch.randn(2, 1, 2, 3, 6, generator=torch.Generator().manual_seed(0))
    assert again.encode(logits).tobytes() == codec.encode(logits).tobytes()


def test_of_a_dropped_class_the_nearest_logit_is_what_it_may_be() -> None:
    codec = open_codec("topk:k=2,mantissa=10", classes=4)
    exact = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    records = codec.encode(exact)
    assert codec.nearest(records, exact).tolist() == [[4, 3, 2, 1]]
    moved = torch.tensor([[4.0, 2.0, 3.5, 1.0]])
    assert codec.nearest(records, moved).tolist() == [[4, 3, 3, 1]]
    maps = with_sites(codec, (1, 1, 1))
    of_maps = maps.encode(exact.reshape(1, 1, 1, 1, 4))
    assert maps.nearest(of_maps, moved).tolist() == [[4, 3, 3, 1]]


@pytest.mark.parametrize("sites", [None, (2, 1, 2)])
def test_records_are_converted_alone_and_over_maps(sites: tuple[int, int, int] | None) -> None:
    shape = (3, *(sites or ()), 6)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codecs = {spec: with_sites(opened(spec), sites) for spec in (*SPECS, "topk:k=2")}
    for held, wanted in (
        ("full:dtype=float32", "full:dtype=uint8"),
        ("full:dtype=float32", "lowrank:step=0.5"),
        ("topk:k=3", "topk:k=2"),
    ):
        records = codecs[held].encode(logits)
        made, clipped = converted(codecs[held], codecs[wanted], records)
        assert made.dtype == codecs[wanted].record_dtype and len(made) == 3
        assert (clipped is None) == (wanted != "lowrank:step=0.5" or sites is not None)
        if held == "full:dtype=float32":
            assert made.tobytes() == codecs[wanted].encode(logits).tobytes()
        else:
            kept = codecs[wanted].decode(made).logits().topk(2).values
            assert torch.equal(kept, codecs[held].decode(records).logits().topk(2).values)


@pytest.mark.parametrize("sites", [None, (1, 1, 2)])
def test_what_full_rounds_to_is_read_from_its_records(sites: tuple[int, int, int] | None) -> None:
    codec = with_sites(open_codec("full:dtype=uint8", classes=6), sites)
    wanted = open_codec("lowrank:step=0.5", classes=6)
    assert needs_scale(codec, wanted) and not needs_scale(codec, open_codec("topk:k=2", classes=6))
    logits = torch.tensor([0.0, 1, 2, 3, 4, 255]).expand(4, *(sites or ()), 6)
    records = codec.encode(logits)
    records[1:] = np.zeros((), records.dtype)
    assert scale_of(codec, records) == 1.0
    assert scale_of(codec, records[1:]) == 0.0
