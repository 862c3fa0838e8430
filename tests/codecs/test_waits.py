"""Records are made on the device of the logits, which no host waits for."""

from collections.abc import Callable

import pytest
import torch
from layouts import CLASSES, LAYOUTS, SPECS, boxes_for, random_logits, row_codec_of
from torch import Tensor
from waits import GPU, WaitError, on_gpu, without_waits

from kdcache.codecs import Codec, as_records, encoded, open_codec, packed, with_layout
from kdcache.codecs.topk import _largest, _largest_by_key
from kdcache.positions import Boxes, Layout

FEW = 64
EVERY_SPEC = [
    *(f"full:dtype={dtype}" for dtype in ("float32", "float16", "bfloat16", "uint8", "uint4")),
    *("topk:k=3", "topk:k=3,mantissa=10,tau=4", "topk:k=6"),
    *("lowrank:step=0.25", "lowrank:step=4", "cosine:steps=8"),
]


def fitted(spec: str, layout: Layout) -> Codec:
    """Return a codec that no other test has the tensors of."""
    rows = open_codec(spec, classes=CLASSES).fit(random_logits(60, CLASSES, seed=1))
    return with_layout(rows, layout)


def fake_logits(layout: Layout, views: int = 3) -> Tensor:
    return torch.empty(views, *layout.sites, CLASSES, device=GPU)


def fake_boxes(layout: Layout, views: int = 3) -> Boxes | None:
    if not layout.has_boxes:
        return None
    places = torch.empty(views, layout.num_positions, 4, device=GPU)
    return Boxes(places, torch.empty(views, dtype=torch.int64, device=GPU))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("spec", EVERY_SPEC)
def test_no_codec_waits_for_the_device(spec: str, layout: Layout) -> None:
    codec = fitted(spec, layout)
    with on_gpu():
        logits, boxes = fake_logits(layout), fake_boxes(layout)
        packed(codec, logits, boxes)  # once what is made for a device is made
        codec.clipped(logits)
        with without_waits():
            made = packed(codec, logits, boxes)
            is_clipped = codec.clipped(logits)
        assert made.raw.device.type == made.is_held.device.type == "cuda"
        assert made.raw.shape == (3, codec.record_dtype.itemsize) and made.is_held.shape == (3,)
        assert is_clipped is None or is_clipped.device.type == "cuda"


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "condition": lambda x: bool(x.isfinite().all()),
    "places": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "write by mask": lambda x: x.index_put_((x > 0,), x.sum()),
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: torch.zeros(4).to(x.device),
    "copied": lambda x: x.copy_(torch.zeros(4)),
}


@pytest.mark.parametrize("operation", WAITS.values(), ids=WAITS.keys())
def test_a_wait_would_be_found(operation: Callable[[Tensor], object]) -> None:
    with on_gpu():
        logits = torch.empty(4, device=GPU)
        with without_waits(), pytest.raises(WaitError):
            operation(logits)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("spec", SPECS)
def test_packed_records_are_those_of_encode(spec: str, layout: Layout) -> None:
    codec = with_layout(row_codec_of(spec), layout)
    logits = random_logits(3, *layout.sites, CLASSES)
    made = packed(codec, logits, boxes_for(layout))
    assert bool(made.is_held.all())
    records = encoded(codec, logits, boxes_for(layout))
    assert as_records(made.raw, codec.record_dtype).tobytes() == records.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, 2.0**40])
def test_it_is_told_which_views_no_record_holds(spec: str, layout: Layout, bad: float) -> None:
    codec = with_layout(row_codec_of(spec), layout)
    logits = random_logits(3, *layout.sites, CLASSES)
    logits.view(3, -1)[2, 1] = bad
    assert packed(codec, logits, boxes_for(layout)).is_held.tolist() == [True, True, False]


@pytest.mark.parametrize("spec", ["full:dtype=float16", "topk:k=3"])
def test_a_view_past_the_range_of_a_field_is_told(spec: str) -> None:
    logits = random_logits(3, CLASSES)
    logits[1, 2] = 7e4
    made = packed(open_codec(spec, classes=CLASSES), logits)
    assert made.is_held.tolist() == [True, False, True]


@pytest.mark.parametrize("k", [1, 3, FEW - 1, FEW])
@pytest.mark.parametrize("step", [0.0, 0.5, 1e-6])
def test_the_largest_by_key_are_those_found_by_comparing(k: int, step: float) -> None:
    """With steps of one half nearly all rows have ties, some of them at 0 and -0."""
    logits = random_logits(200, FEW, seed=k)
    if step:
        logits = (logits / step).round() * step
    values, classes = _largest_by_key(logits, k)
    expected = torch.sort(logits, dim=1, descending=True, stable=True)
    assert torch.equal(classes, expected.indices[:, :k])
    assert torch.equal(values, expected.values[:, :k])
    assert torch.equal(_largest(logits, k)[1], classes)
