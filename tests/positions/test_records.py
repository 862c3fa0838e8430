"""One contract for every layout under every codec: a record gives back what its rows do."""

import numpy as np
import pytest
import torch
from layouts import (
    CLASSES,
    LAYOUTS,
    SPECS,
    VIEWS,
    boxes_for,
    codec_of,
    encoded,
    random_logits,
    row_codec_of,
)
from torch import Tensor

from kdcache.codecs import PositionCodec, check_records, codec_to_dict
from kdcache.codecs.conversion import converted
from kdcache.errors import CodecError
from kdcache.losses import dist_loss
from kdcache.positions import Boxes, Layout, Proposals, Pyramid
from kdcache.positions.proposals import is_there
from kdcache.soft_targets import (
    AveragedTargets,
    DenseTargets,
    JoinedTargets,
    MappedTargets,
    PickedTargets,
    SegmentTargets,
    SoftTargets,
    by_segment,
    per_segment,
    segments_of,
)

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
every_codec = pytest.mark.parametrize("spec", SPECS)


def logits_of(layout: Layout, seed: int = 0) -> Tensor:
    return random_logits(VIEWS, layout.num_positions, CLASSES, seed=seed)


def rows_of(layout: Layout, flat: Tensor) -> list[Tensor]:
    """Return the rows of each segment that records hold, `[rows, classes]`."""
    boxes = boxes_for(layout)
    if boxes is not None:
        return [flat[is_there(boxes.counts, layout.num_positions)]]
    return [part.flatten(0, 1) for part in layout.split(flat)]


def check(codec: PositionCodec, records: np.ndarray) -> None:
    """Check records as a cache does."""
    row = codec.rows.record_dtype
    check_records(codec_to_dict(codec), records[None], row, CLASSES, codec.layout)


@every_layout
@every_codec
def test_decoded_is_within_the_stated_error(layout: Layout, spec: str) -> None:
    codec = codec_of(spec, layout)
    flat = logits_of(layout)
    records = encoded(codec, layout, flat)
    assert len(records) == VIEWS and records.dtype == codec.record_dtype
    found = codec.decode(records).logits()
    assert found.shape == (VIEWS, *layout.sites, CLASSES)
    exact = flat if codec.keeps_mean else flat - flat.mean(-1, keepdim=True)
    error = (found.reshape(flat.shape) - exact).abs()
    if not codec.keeps_all:
        error = error.topk(3, dim=-1, largest=False).values  # at least the three that are kept
    boxes = boxes_for(layout)
    if boxes is not None:
        there = is_there(boxes.counts, layout.num_positions)
        assert not found[~there].any(), "zeros stand where there is no proposal"
        error = error.where(there[:, :, None], torch.zeros(()))
    bound = codec.stated_error(flat.reshape(VIEWS, *layout.sites, CLASSES))
    assert bound.shape == (VIEWS,) and bool((error.flatten(1).amax(1) <= bound).all())


@every_layout
@every_codec
def test_a_segment_is_what_the_codec_of_rows_gives_of_it_alone(layout: Layout, spec: str) -> None:
    codec = codec_of(spec, layout)
    rows = row_codec_of(spec)
    flat = logits_of(layout)
    segments = segments_of(codec.decode(encoded(codec, layout, flat)))
    for found, part in zip(segments, rows_of(layout, flat), strict=True):
        alone = rows.decode(rows.encode(part))
        assert isinstance(found, SoftTargets)
        torch.testing.assert_close(found.logits(), alone.logits())
        torch.testing.assert_close(found.probs(2.0), alone.probs(2.0))
        torch.testing.assert_close(found.std(), alone.std())
        student = random_logits(*part.shape, seed=5)
        if len(part) > 1:
            torch.testing.assert_close(dist_loss(student, found), dist_loss(student, alone))


@every_layout
@every_codec
def test_a_record_stands_by_itself_and_its_rows_are_found_again(layout: Layout, spec: str) -> None:
    codec = codec_of(spec, layout)
    records = encoded(codec, layout, logits_of(layout))
    found = codec.decode(records).logits()
    torch.testing.assert_close(codec.decode(records[[2, 0]]).logits(), found[[2, 0]])
    assert codec.decode(records[:0]).logits().shape == (0, *layout.sites, CLASSES)
    if isinstance(codec, PositionCodec):
        again = codec.of_rows(codec.row_records(records), codec.boxes_of(records))
        assert again.tobytes() == records.tobytes()
        check(codec, records)


def test_bytes_of_one_place_lie_side_by_side_in_each_segment() -> None:
    layout = Pyramid(((1, 2), (1, 1)), (2, 2))
    codec = codec_of("full:dtype=float32", layout)
    flat = logits_of(layout)
    records = encoded(codec, layout, flat)
    assert records.dtype.names == ("level0", "level1")
    for name, part in zip(records.dtype.names, layout.split(flat), strict=True):
        assert records[name].shape == (VIEWS, 4 * CLASSES, part.shape[1])
        rows = np.ascontiguousarray(records[name].transpose(0, 2, 1)).view("<f4")
        assert np.array_equal(rows, part.numpy())


def test_of_proposals_the_boxes_come_back_and_nothing_past_the_count() -> None:
    layout = LAYOUTS["proposals"]
    codec = codec_of("full:dtype=float32", layout)
    flat = logits_of(layout)
    boxes = boxes_for(layout)
    assert isinstance(codec, PositionCodec) and boxes is not None
    there = is_there(boxes.counts, layout.num_positions)
    flat[~there] = torch.nan
    boxes.places[~there] = torch.inf
    records = codec.encode(flat, boxes)
    assert records["count"].tolist() == [0, 1, 5] and records["count"].dtype == "<u2"
    assert not records[:1].view(np.uint8).any(), "a view without proposals is zeros"
    found = codec.decode(records)
    assert found.counts is not None and found.boxes is not None
    assert torch.equal(found.counts, boxes.counts)
    assert torch.equal(found.boxes[there], boxes.places[there]) and not found.boxes[~there].any()
    assert torch.equal(found.segments[0].logits(), flat[there])


def test_logits_and_boxes_that_no_record_holds_are_refused() -> None:
    layout = LAYOUTS["proposals"]
    codec = codec_of("full:dtype=float32", layout)
    assert isinstance(codec, PositionCodec)
    flat = logits_of(layout)
    boxes = boxes_for(layout)
    assert boxes is not None
    with pytest.raises(CodecError, match=r"holds proposals of \(5, 6\), positions and classes"):
        codec.encode(flat[:, :4], boxes)
    with pytest.raises(CodecError, match="layout proposals needs boxes"):
        codec.encode(flat)
    with pytest.raises(CodecError, match=r"boxes of shape \(3, 4, 4\)"):
        codec.encode(flat, Boxes(boxes.places[:, :4], boxes.counts))
    for count in (-1, 6):
        with pytest.raises(CodecError, match="it may have 0 to 5"):
            codec.encode(flat, Boxes(boxes.places, torch.tensor([0, 0, count])))
    for value in (torch.nan, torch.inf, 2.0**20 + 1):
        far = boxes.places.clone()
        far[2, 0, 3] = value
        with pytest.raises(CodecError, match="further than 1048576 pixels"):
            codec.encode(flat, Boxes(far, boxes.counts))
    pyramid = codec_of("full:dtype=float32", LAYOUTS["pyramid"])
    assert isinstance(pyramid, PositionCodec)
    with pytest.raises(CodecError, match="layout pyramid has no boxes"):
        pyramid.encode(logits_of(LAYOUTS["pyramid"]), Boxes(torch.zeros(3, 34, 4), boxes.counts))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 2.0**20 + 1])
def test_records_of_boxes_that_cannot_be_are_refused(value: float) -> None:
    codec = codec_of("lowrank:step=0.25", Proposals(5))
    assert isinstance(codec, PositionCodec)
    records = encoded(codec, codec.layout, logits_of(codec.layout))
    check(codec, records)
    records["boxes"][1, 4, 2] = value
    with pytest.raises(
        CodecError, match=r"record 1 of it holds NaN, infinity or a side .* in boxes"
    ):
        check(codec, records)
    records["boxes"][1, 4, 2] = 0
    records["count"][2] = 6
    with pytest.raises(CodecError, match="record 2 of it holds more than 5 proposals in count"):
        check(codec, records)


@pytest.mark.parametrize("name", ["heads of unlike sizes", "pyramid", "proposals"])
def test_every_segment_of_a_record_is_checked(name: str) -> None:
    codec = codec_of("topk:k=3", LAYOUTS[name])
    assert isinstance(codec, PositionCodec)
    for segment in codec.layout.segments:
        records = encoded(codec, codec.layout, logits_of(codec.layout))
        records[segment.name][2, 6, -1] = CLASSES  # byte 6 of a row is its first class
        with pytest.raises(
            CodecError, match=f"^{segment.name} of record 2 of it holds a class bey"
        ):
            check(codec, records)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("held", "wanted"), [("full:dtype=float32", "full:dtype=uint8"), ("topk:k=3", "topk:k=2")]
)
def test_records_are_converted_at_every_position(name: str, held: str, wanted: str) -> None:
    layout = LAYOUTS[name]
    before = codec_of(held, layout)
    after = codec_of(wanted, layout)
    records = encoded(before, layout, logits_of(layout))
    made, clipped = converted(before, after, records)
    assert clipped is None and made.dtype == after.record_dtype
    for old, new in zip(
        segments_of(before.decode(records)), segments_of(after.decode(made)), strict=True
    ):
        if held.startswith("topk"):
            torch.testing.assert_close(new.logits().topk(2).values, old.logits().topk(2).values)
        else:
            assert made.tobytes() == encoded(after, layout, logits_of(layout)).tobytes()
    if layout.has_boxes:
        assert made["boxes"].tobytes() == records["boxes"].tobytes()


@pytest.mark.parametrize("name", ["heads of one size", "heads of unlike sizes", "pyramid"])
def test_rows_are_combined_segment_by_segment(name: str) -> None:
    layout = LAYOUTS[name]
    parts = [logits_of(layout, seed) for seed in (0, 1)]
    first, second = (by_segment(logits, layout) for logits in parts)
    whole = per_segment(lambda *rows: AveragedTargets(rows, [1.0, 3.0]), first, second)
    assert isinstance(whole, SegmentTargets) and whole.layout == layout
    expected = torch.softmax(parts[0] / 2, -1) / 4 + torch.softmax(parts[1] / 2, -1) * 3 / 4
    assert whole.probs(2.0).shape == (VIEWS, *layout.sites, CLASSES)
    torch.testing.assert_close(whole.probs(2.0).reshape(expected.shape), expected)
    classes = torch.tensor([0, 0, 1, 1, -1, 2])
    mapped = per_segment(lambda rows: MappedTargets(rows, classes, 3), first)
    assert mapped.probs(1.0).shape == (VIEWS, *layout.sites, 3)
    for segment, part in zip(segments_of(first), layout.split(parts[0]), strict=True):
        rows = part.flatten(0, 1)
        picked = PickedTargets(segment, torch.tensor([1, 0]), len(rows))
        assert torch.equal(picked.logits(), rows[[1, 0]])
        order = torch.arange(len(rows))
        joined = JoinedTargets([(order[1:], DenseTargets(rows[1:])), (order[:1], segment)])
        assert torch.equal(joined.logits()[1:], rows[1:])


def test_teachers_of_other_segments_or_of_proposals_are_not_combined() -> None:
    layout = LAYOUTS["proposals"]
    codec = codec_of("full:dtype=float32", layout)
    rows = codec.decode(encoded(codec, layout, logits_of(layout)))
    assert isinstance(rows, SegmentTargets)
    kept = per_segment(lambda one: one, rows)
    assert kept.boxes is rows.boxes and kept.counts is rows.counts
    with pytest.raises(CodecError, match="proposals of several teachers are at boxes of their own"):
        per_segment(lambda *one: one[0], rows, rows)
    with pytest.raises(CodecError, match=r"segment by segment: give teacher\.segments\[0\]"):
        rows.probs(torch.ones(3))
