"""Records of maps: bytes of one place side by side, and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.codecs import (
    Codec,
    PositionCodec,
    RowCodec,
    codec_from_dict,
    codec_spec,
    codec_to_dict,
    open_codec,
    with_layout,
)
from kdcache.errors import CodecError
from kdcache.positions import layout_of_sites
from kdcache.soft_targets import SegmentTargets, segments_of


def for_maps(rows: RowCodec, sites: tuple[int, ...]) -> Codec:
    return with_layout(rows, layout_of_sites(sites))


SPECS = [
    "full:dtype=float32",
    "full:dtype=float16",
    "full:dtype=uint8",
    "full:dtype=uint4",
    "topk:k=3",
    "lowrank:step=0.25",
]


def logits_of(views: int, sites: tuple[int, int, int], classes: int, seed: int = 0) -> Tensor:
    return torch.randn(views, *sites, classes, generator=torch.Generator().manual_seed(seed)) * 4


@pytest.mark.parametrize("spec", SPECS)
@given(
    st.integers(1, 3),
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6)),
    st.integers(3, 9),
)
@settings(max_examples=12)
def test_a_record_gives_back_what_its_pixels_rows_do(
    spec: str, views: int, sites: tuple[int, int, int], classes: int
) -> None:
    rows = open_codec(spec, classes=classes)
    if spec.startswith("lowrank"):
        rows = rows.fit(logits_of(40, (1, 1, 1), classes, seed=1).reshape(40, classes))
    codec = for_maps(rows, sites)
    logits = logits_of(views, sites, classes)
    records = codec.encode(logits)
    assert len(records) == views and records.dtype == codec.record_dtype
    found = codec.decode(records)
    expected = rows.decode(rows.encode(logits.reshape(-1, classes))).logits().reshape(logits.shape)
    torch.testing.assert_close(
        found.logits(), expected
    )  # lowrank's product rounds otherwise with other numbers of rows
    for head, one in enumerate(segments_of(found)):
        assert torch.equal(one.logits(), found.logits()[:, head].reshape(-1, classes))
    picked = codec.decode(records[[-1, 0]]).logits()
    torch.testing.assert_close(picked, expected[[-1, 0]])  # each view's record stands by itself
    assert np.array_equal(codec.of_rows(codec.row_records(records)), records)


def test_bytes_of_one_place_lie_side_by_side() -> None:
    codec = for_maps(open_codec("full:dtype=float16", classes=3), (1, 2, 4))
    logits = torch.arange(8.0).reshape(1, 1, 2, 4, 1) + torch.tensor([0.0, 100.0, 200.0])
    (record,) = codec.encode(logits)
    planes = (
        np.stack([record["maps"][0, 0], record["maps"][0, 1]], axis=-1).copy().view("<f2")[..., 0]
    )
    assert planes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]], "low and high byte of the first class"


def test_a_codec_of_maps_is_told_by_its_rows_and_sites() -> None:
    rows = open_codec("topk:k=2", classes=5)
    codec = for_maps(rows, (2, 3, 4))
    assert isinstance(codec, PositionCodec) and for_maps(rows, ()) is rows
    assert (codec.name, codec.classes, codec.keeps_all, codec.is_exact) == (
        "topk",
        5,
        False,
        False,
    )
    assert codec_spec(codec) == "topk:k=2" and codec_to_dict(codec) == codec_to_dict(rows)
    again = codec_from_dict(codec_to_dict(codec), classes=5, layout=layout_of_sites([2, 3, 4]))
    assert again == codec and again.record_dtype == codec.record_dtype
    assert for_maps(open_codec("full", classes=5), (1, 2, 2)).is_exact


def test_maps_of_another_shape_and_values_that_no_record_holds_are_refused() -> None:
    codec = for_maps(open_codec("full:dtype=float16", classes=3), (1, 2, 4))
    with pytest.raises(
        CodecError,
        match=r"logits of shape \(1, 1, 2, 5, 3\); this codec holds maps of \(1, 2, 4, 3\)",
    ):
        codec.encode(torch.zeros(1, 1, 2, 5, 3))
    bad = torch.zeros(2, 1, 2, 4, 3)
    bad[1, 0, 1, 2, 0] = torch.nan
    with pytest.raises(CodecError, match="NaN or infinite"):
        codec.encode(bad)


@pytest.mark.parametrize("spec", SPECS[:5])
def test_decoded_maps_are_within_the_stated_error(spec: str) -> None:
    codec = for_maps(open_codec(spec, classes=7), (2, 3, 5))
    logits = logits_of(4, (2, 3, 5), 7)
    found = codec.decode(codec.encode(logits))
    assert isinstance(found, SegmentTargets)
    error = (found.logits() - logits).abs()
    if spec.startswith("topk"):
        error = error.topk(3, dim=-1, largest=False).values  # at least the three that are kept
    assert (error.flatten(1).amax(1) <= codec.stated_error(logits)).all()
