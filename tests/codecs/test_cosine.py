"""What `cosine` promises of maps and levels."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.cache import stored_bytes
from kdcache.codecs import (
    Codec,
    Cosine,
    LowRank,
    check_codec,
    default_codec,
    open_codec,
    with_layout,
)
from kdcache.codecs.conversion import converted, why_not
from kdcache.codecs.cosine_digits import KINDS, num_bytes, packed, unpacked
from kdcache.codecs.cosine_fit import CosineFit, cosines, expected_sizes
from kdcache.codecs.cosine_maps import CosineMaps
from kdcache.errors import CodecError, UsageError
from kdcache.losses import dist_loss
from kdcache.positions import Heads, Proposals, Pyramid

CLASSES = 6
LAYOUT = Pyramid(((16, 12), (8, 6), (4, 3)), anchors=(1, 1, 1))


def smooth_logits(layout: Any, views: int, classes: int = CLASSES, seed: int = 0) -> Tensor:
    """Return logits that change little from place to place."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for segment in layout.segments:
        height, width, *_ = segment.shape
        coarse = 2 * torch.randn(views, classes, 3, 3, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        noise = 0.05 * torch.randn(fine.shape, generator=generator)
        levels.append((fine + noise).flatten(2).transpose(1, 2))
    return torch.cat(levels, 1)


def fitted(steps: float = 8.0, layout: Any = LAYOUT) -> CosineMaps:
    rows = smooth_logits(layout, 20, seed=1).flatten(0, 1)
    codec = with_layout(open_codec(f"cosine:steps={steps}", classes=CLASSES).fit(rows), layout)
    assert isinstance(codec, CosineMaps)
    return codec


def step_of(codec: CosineMaps) -> float:
    return float(codec.fit_arrays()["step"][0])


@pytest.mark.parametrize("side", [1, 2, 3, 16, 100])
def test_cosines_are_orthonormal_and_the_first_is_constant(side: int) -> None:
    matrix = cosines(side)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(side), rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix[0], torch.full((side,), side**-0.5))


def test_a_level_with_a_quarter_of_the_positions_has_a_quarter_of_the_step() -> None:
    codec = fitted(steps=64.0)
    logits = smooth_logits(LAYOUT, 8)
    error = codec.decode(codec.encode(logits)).logits() - logits
    spreads = [float(part.std()) for part in LAYOUT.split(error)]
    # the error of rounding to a step is evenly spread over it
    expected = [step_of(codec) * share / math.sqrt(12) for share in (1, 1 / 4, 1 / 16)]
    assert spreads == pytest.approx(expected, rel=0.15)


def test_the_step_is_a_share_of_a_rows_deviation() -> None:
    rows = 3 * torch.randn(5000, 40, generator=torch.Generator().manual_seed(0)) + 7
    for scale in (1.0, 1e-6, 1e4):
        fit = Cosine(classes=40, steps=10).fit(scale * rows).fit_arrays()
        assert float(fit["step"][0]) == pytest.approx(0.3 * scale, rel=0.05)
    constant = Cosine(classes=3, steps=4).fit(torch.full((9, 3), 2.0)).fit_arrays()
    assert float(constant["step"][0]) == 0.25
    single = Cosine(classes=1, steps=4).fit(rows[:, :1]).fit_arrays()
    assert float(single["step"][0]) == pytest.approx(0.75, rel=0.05)


def test_finer_steps_are_nearer_and_take_more_bytes() -> None:
    logits = smooth_logits(LAYOUT, 16)
    sizes = []
    errors = []
    for steps in (2.0, 8.0, 32.0):
        codec = fitted(steps)
        records = codec.encode(logits)
        sizes.append(stored_bytes(codec, records))
        errors.append(float((codec.decode(records).logits() - logits).norm()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert errors[0] > 1.5 * errors[1] > 4 * errors[2]


def test_smooth_maps_take_less_than_positions_by_themselves() -> None:
    logits = smooth_logits(LAYOUT, 64)
    codec = fitted()
    plain = with_layout(open_codec("full:dtype=uint8", classes=CLASSES), LAYOUT)
    assert 3 * stored_bytes(codec, codec.encode(logits)) < stored_bytes(plain, plain.encode(logits))


def test_maps_that_are_noise_are_within_the_stated_error_too() -> None:
    codec = fitted()
    generator = torch.Generator().manual_seed(3)
    for scale in (0.01, 1.0, 100.0, 1e4):
        logits = scale * torch.randn(4, LAYOUT.num_positions, CLASSES, generator=generator)
        error = (codec.decode(codec.encode(logits)).logits() - logits).abs().flatten(1).amax(1)
        assert bool((error <= codec.stated_error(logits)).all())
    noise = torch.randn(64, LAYOUT.num_positions, CLASSES, generator=generator)
    of_noise = with_layout(codec.rows.fit(noise.flatten(0, 1)), LAYOUT)
    decoded = of_noise.decode(of_noise.encode(noise)).logits()
    # of white noise no integer is past its kind: what is left is what rounding loses
    step = float(of_noise.fit_arrays()["step"][0])
    assert float((decoded - noise).abs().max()) < 2 * step


def test_each_anchor_has_maps_of_its_own() -> None:
    layout = Pyramid(((4, 3), (2, 2)), anchors=(2, 2))
    one = Pyramid(((4, 3), (2, 2)), anchors=(1, 1))
    codec = fitted(layout=layout)
    logits = smooth_logits(layout, 3, seed=2)[:, : one.num_positions]
    other = logits.flip(1)
    both = torch.stack([logits, other], 2).flatten(1, 2)
    found = codec.decode(codec.encode(both)).logits()
    alone = with_layout(codec.rows, one)
    for place, part in enumerate((logits, other)):
        expected = alone.decode(alone.encode(part)).logits()
        torch.testing.assert_close(found[:, place::2], expected, rtol=1e-4, atol=1e-4)


def test_a_batch_decodes_as_its_views_do(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Pyramid(((16, 12), (4, 3)), anchors=(3, 3))
    codec = fitted(layout=layout)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, layout.num_positions, CLASSES, generator=generator)
    records = codec.encode(logits)
    whole = codec.decode(records).logits()
    # two of three maps at a time, and one view
    monkeypatch.setattr("kdcache.codecs.cosine_maps._IN_CACHE", 2 * 16 * 12 * CLASSES)
    assert codec.encode(logits).tobytes() == records.tobytes()
    torch.testing.assert_close(codec.decode(records).logits(), whole, rtol=1e-5, atol=1e-5)


def test_the_maps_of_all_anchors_share_a_table() -> None:
    codec = fitted(layout=Pyramid(((4, 3),), anchors=(9,)))
    (part,) = codec._parts
    place = part._place_on(torch.device("cpu"))
    assert place.dtype == torch.int32 and len(place) == 4 * 3 * CLASSES


def test_integers_of_every_kind_come_back_from_their_digits() -> None:
    counts = [3, 5, 7, 9, 11]
    kinds = []
    for kind, count in zip(KINDS, counts, strict=True):
        values = torch.linspace(-kind.limit, kind.limit, count).round()
        kinds.append(values.to(torch.int32))
    one = torch.cat(kinds)
    integers = torch.stack([one, -one])
    raw = packed(integers, counts)
    assert raw.shape == (2, num_bytes(counts)) and raw.dtype == torch.uint8
    found = unpacked(raw, counts)
    assert found.dtype == torch.float32 and torch.equal(found.to(torch.int32), integers)


def test_small_integers_share_bytes() -> None:
    integers = torch.tensor([[-2, -1, 0, 1, 0, 0, 1, -2]], dtype=torch.int32)
    # of two bytes the first has the integers 0, 2, 4 and 6, and all upper digits are zeros
    lower = [0b10_00_00_11, 0b11_00_10_01]
    assert packed(integers, [0, 0, 0, 0, 8]).tolist() == [[*lower, 0, 0, 0, 0, 0, 0]]


def test_any_bytes_decode_to_numbers() -> None:
    codec = fitted()
    random = np.random.default_rng(0)
    raw = random.integers(0, 256, (3, codec.record_dtype.itemsize), np.uint8)
    raw[1] = 255
    raw[2] = 0
    found = codec.decode(raw.view(codec.record_dtype)[:, 0]).logits()
    assert bool((found.abs() < 2.0**40).all())
    mean = torch.from_numpy(codec.fit_arrays()["mean"])
    torch.testing.assert_close(found[2], mean.expand(LAYOUT.num_positions, CLASSES))
    assert bool(dist_loss(found.flatten(0, 1), found.flatten(0, 1)).isfinite())


def test_a_fit_comes_back_from_its_arrays() -> None:
    codec = fitted()
    logits = smooth_logits(LAYOUT, 2)
    bare = with_layout(open_codec("cosine", classes=CLASSES), LAYOUT)
    assert bare.record_dtype.itemsize == 0 and bare.fit_arrays() == {}
    again = bare.with_fit_arrays(codec.fit_arrays())
    assert again.encode(logits).tobytes() == codec.encode(logits).tobytes()
    with pytest.raises(CodecError, match="cosine has no fit yet"):
        bare.encode(logits)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("basis", np.zeros((5, 6), "<f4"), r"array basis of the fit is <f4 \(5, 6\)"),
        ("mean", np.full(6, np.nan, "<f4"), "array mean of the fit is"),
        ("step", np.zeros(1, "<f4"), "the step of the fit is 0"),
        ("step", np.full(1, 1e9, "<f4"), "gives logits past"),
        ("sizes", np.full(6, 401, "<i2"), "array sizes of the fit is past 400"),
        ("falloff", np.zeros(15, "<i2"), r"array falloff of the fit is <i2 \(15,\)"),
        ("turn", np.zeros(1, "<f4"), "holds array 'turn', which this kdcache does not know"),
    ],
)
def test_arrays_that_are_no_fit_are_refused(name: str, value: np.ndarray, message: str) -> None:
    arrays = {**fitted().fit_arrays(), name: value}
    with pytest.raises(CodecError, match=message):
        CosineFit.from_arrays(arrays, CLASSES)


def test_where_an_integer_lies_follows_from_integers_alone() -> None:
    fit = fitted().rows.fitted
    assert fit is not None
    sizes = expected_sizes(fit, 3, 5).reshape(3, 5, CLASSES)
    assert sizes.dtype == np.int16
    # constant along both sides: 4 * ceil(log2(3)) and 4 * ceil(log2(5)) quarters more
    assert (sizes[0, 0] - fit.sizes).tolist() == [8 + 12] * CLASSES
    # of 3 and 5 frequencies the second is in band 5 and band 3 of 16
    assert (sizes[1, 1] - fit.sizes == fit.falloff[5] + fit.falloff[3]).all()


def test_a_record_is_read_as_the_page_of_the_format_says() -> None:
    layout = Heads(((2, 3),))
    codec = fitted(layout=layout)
    logits = smooth_logits(layout, 1).reshape(1, 1, 2, 3, CLASSES)
    records = codec.encode(logits)
    arrays = codec.fit_arrays()
    raw = records["head0"][0].astype(np.int64)
    frequencies = [(u, v) for u in range(2) for v in range(3)]
    change = {(0, 2): 4, (0, 3): 8}
    sizes = []
    for u, v in frequencies:
        rows = change[0, 2] if u == 0 else int(arrays["falloff"][u * 16 // 2])
        columns = change[0, 3] if v == 0 else int(arrays["falloff"][v * 16 // 3])
        sizes += [rows + columns + int(size) for size in arrays["sizes"]]
    order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    values = {}
    start = 0
    larger = 400
    for least, digits in (
        *((56, (8, 8, 8)), (20, (8, 8)), (12, (4, 4, 8)), (0, (4, 4)), (-32768, (2, 2, 4))),
    ):
        count = sum(least < size <= larger for size in sizes)
        larger = least
        numbers = [0] * count
        shift = 0
        for bits in digits:
            num_bytes = math.ceil(count * bits / 8)
            for place in range(count):
                byte = int(raw[start + place % num_bytes])
                digit = byte >> bits * (place // num_bytes) & (1 << bits) - 1
                numbers[place] += digit << shift
            start += num_bytes
            shift += bits
        for number in numbers:
            values[order[len(values)]] = number
    assert start == len(raw)
    signed = [(values[place] >> 1) ^ -(values[place] & 1) for place in range(len(sizes))]
    integers = np.array(signed, float).reshape(2, 3, CLASSES)
    places = np.einsum("uy,vx,uvk->yxk", cosines(2).numpy(), cosines(3).numpy(), integers)
    expected = float(arrays["step"][0]) * places @ arrays["basis"] + arrays["mean"]
    np.testing.assert_allclose(codec.decode(records).logits()[0, 0].numpy(), expected, atol=1e-4)


def test_a_spec_is_checked_before_the_classes_are_known() -> None:
    for spec in ("cosine", "cosine:steps=6", "topk:k=5000", "full:dtype=uint8"):
        check_codec(spec)
    for spec in ("cosine:step=6", "cosines", "topk:k=0"):
        with pytest.raises(UsageError):
            check_codec(spec)


def test_it_is_the_default_of_maps_as_far_as_it_can_hold_them() -> None:
    assert default_codec(80, Pyramid(((8, 8),), (9,))) == "cosine"
    assert default_codec(19, Heads(((64, 128), (64, 128)))) == "cosine"
    assert default_codec(19, Heads(((1, 1),))) == "full:dtype=float16", "it has one place"
    assert default_codec(2049, Heads(((8, 8),))) == "lowrank:error=0.3"
    for classes, layout in (
        (80, Pyramid(((8, 8),), (4,), "softmax")),
        (80, Proposals(100)),
        (2049, Pyramid(((8, 8),), (1,))),
        (2000, Pyramid(((200, 200),), (9,))),
    ):
        spec = default_codec(classes, layout)
        assert spec == "full:dtype=uint8"
        open_codec(spec, classes=layout.row_width(classes))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="cosine holds at most 2,048 classes, not 2,049"):
        open_codec("cosine", classes=2049)
    for steps in ("0", "nan", "1e9"):
        with pytest.raises(UsageError, match="steps"):
            open_codec(f"cosine:steps={steps}", classes=3)
    with pytest.raises(CodecError, match="1 rows to fit on"):
        open_codec("cosine", classes=3).fit(torch.zeros(1, 3))


def test_a_layout_that_is_huge_is_refused_before_memory_is_taken() -> None:
    rows = fitted().rows
    with pytest.raises(CodecError, match=r"at most 67,108,864 logits of a view, not 1,610,612,736"):
        _ = with_layout(rows, Pyramid(((16384, 16384),), anchors=(1,))).record_dtype


def test_it_is_made_of_exact_logits_only() -> None:
    codec = fitted()
    logits = smooth_logits(LAYOUT, 2)
    exact = with_layout(open_codec("full:dtype=float32", classes=CLASSES), LAYOUT)
    assert why_not(exact, codec.rows) is None
    made, clipped = converted(exact, codec, exact.encode(logits))
    assert made.tobytes() == codec.encode(logits).tobytes() and clipped is None
    rounded: list[Codec] = [
        open_codec("full:dtype=uint8", classes=CLASSES),
        LowRank(classes=CLASSES, step=1),
    ]
    for source in rounded:
        assert "cosine is made of exact logits" in str(why_not(source, codec.rows))
    assert "quantised on a basis" in str(why_not(codec, open_codec("full", classes=CLASSES)))


def test_few_views_take_no_fewer_bytes_than_many() -> None:
    layout = Pyramid(((64, 64), (32, 32)), anchors=(1, 1))
    codec = fitted(layout=layout)
    records = codec.encode(smooth_logits(layout, 16))
    # of repeated records a compressor would find the bytes again
    assert stored_bytes(codec, records[:2]) > 0.9 * stored_bytes(codec, records)
