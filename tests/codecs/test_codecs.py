"""One contract for every codec configuration, then what each codec promises on its own."""

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.codecs import (
    Codec,
    Cosine,
    Full,
    LowRank,
    TopK,
    check_records,
    codec_from_dict,
    codec_spec,
    codec_to_dict,
    open_codec,
)
from kdcache.codecs.registry import CODECS
from kdcache.errors import CodecError, UsageError
from kdcache.soft_targets import SoftTargets

TAUS = (0.5, 1.0, 4.0, 20.0)
DTYPES = ("float32", "float16", "bfloat16", "uint8", "uint4")
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "uint8": 8, "uint4": 4}
CONFIGURATIONS = [
    *[(f"full:dtype={dtype}", classes) for dtype in DTYPES for classes in (1, 2, 3, 10, 1000)],
    *[
        ("topk:k=1", 1),
        ("topk:k=1", 2),
        ("topk:k=2", 2),
        ("topk:k=2", 3),
        ("topk:k=3", 10),
        ("topk:k=10", 10),
    ],
    *[
        ("topk:k=5", 256),
        ("topk:k=5", 257),
        ("topk:k=16", 1000),
        ("topk:k=4", 65_536),
        ("topk:k=4", 70_000),
    ],
    *[("topk:k=3,mantissa=10", 10), ("topk:k=3,tau=4,mantissa=5", 10), ("topk:k=16,tau=0.5", 1000)],
    *[
        ("lowrank:step=0.5", 2),
        ("lowrank:step=0.01", 3),
        ("lowrank:step=2", 10),
        ("lowrank:step=0.5", 257),
    ],
    *[("cosine:steps=8", classes) for classes in (1, 2, 10, 257)],
]


def test_every_codec_is_held_to_the_contract() -> None:
    assert {spec.partition(":")[0] for spec, _ in CONFIGURATIONS} == CODECS.keys()


every_codec = pytest.mark.parametrize(("spec", "classes"), CONFIGURATIONS)


def gaussian(rows: int, classes: int, *, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


@cache
def opened(spec: str, classes: int) -> Codec:
    """Return the codec, fitted if it needs a fit."""
    codec = open_codec(spec, classes=classes)
    return codec.fit(gaussian(200, classes, seed=1))


def kept(codec: Codec, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (decoded, exact) of the logits that a record keeps, up to a constant per row if it
    keeps no more."""
    records = codec.encode(logits)
    decoded, exact = codec.decode(records).logits(), logits.float()
    if isinstance(codec, LowRank):
        return decoded, (exact.double() - exact.double().mean(1, keepdim=True)).float()
    if not isinstance(codec, TopK):
        return decoded, exact
    classes = torch.from_numpy(records["classes"].astype(np.int64))
    return decoded.gather(1, classes), exact.gather(1, classes)


def beyond_range(codec: Codec, logits: Tensor) -> bool:
    """Return whether a number of the record cannot fit float16."""
    largest = 65_519.99  # what rounds down to 65,504
    if isinstance(codec, TopK):
        largest = 65_536 - 2.0 ** (14 - codec.mantissa) - 0.01
        tail = logits.sort(dim=1).values[:, : codec.classes - codec.k].double()
        if tail.shape[1] and float(tail.var(dim=1, correction=0).max()) > largest * 0.999:
            return True
        return float(logits.topk(codec.k).values.abs().max()) > largest or bool(
            tail.shape[1] and float(tail.mean(1).abs().max()) > largest
        )
    return (
        codec == Full(classes=codec.classes, dtype="float16")
        and float(logits.abs().max()) > largest
    )


@every_codec
def test_record_is_packed_little_endian_and_as_small_as_said(spec: str, classes: int) -> None:
    codec = opened(spec, classes)
    assert isinstance(codec, Codec)
    dtype = codec.record_dtype
    assert dtype.fields is not None
    parts = [(field[0], field[1]) for field in dtype.fields.values()]
    assert dtype.itemsize == sum(part.itemsize for part, _ in parts) and not dtype.isalignedstruct
    assert all(part.base.str[0] in "<|" for part, _ in parts)
    if isinstance(codec, TopK):
        index = 1 if classes <= 256 else 2 if classes <= 65_536 else 4
        assert dtype.itemsize == codec.k * (2 + index) + 6
    elif isinstance(codec, LowRank):
        assert codec.fitted is not None
        kinds = codec.fitted.kinds
        assert dtype.itemsize == 2 * kinds["wide"] + kinds["byte"] + math.ceil(kinds["ternary"] / 5)
    elif isinstance(codec, Cosine):
        assert dtype.itemsize == 4 * classes
    elif isinstance(codec, Full):
        assert dtype.itemsize == math.ceil(
            classes * BITS[codec.dtype] / 8
        ) + 8 * codec.dtype.startswith("uint")


@every_codec
def test_a_changed_byte_is_refused_or_decodes_to_numbers(spec: str, classes: int) -> None:
    codec = opened(spec, classes)
    stored = codec_to_dict(codec)
    records = codec.encode(gaussian(1, classes))
    random = np.random.default_rng(0)
    for _ in range(40):
        raw = bytearray(records.tobytes())
        raw[random.integers(len(raw))] = random.integers(256)
        changed = np.frombuffer(bytes(raw), codec.record_dtype)
        try:
            check_records(stored, changed, None, classes)
        except CodecError:
            continue
        rows = codec.decode(changed)
        assert bool(rows.logits().isfinite().all()) and bool(rows.probs(1.0).isfinite().all())


@every_codec
@pytest.mark.parametrize("rows", [0, 1, 33])
def test_encode_gives_one_record_per_row_and_decode_takes_them_back(
    spec: str, classes: int, rows: int
) -> None:
    codec = opened(spec, classes)
    logits = gaussian(rows, classes)
    records = codec.encode(logits)
    assert records.shape == (rows,) and records.dtype == codec.record_dtype
    assert codec.encode(logits).tobytes() == records.tobytes()
    decoded = codec.decode(records)
    assert isinstance(decoded, SoftTargets)
    assert decoded.logits().shape == (rows, classes) and decoded.logits().dtype == torch.float32
    copied = np.frombuffer(bytearray(records.tobytes()), codec.record_dtype)
    assert torch.equal(codec.decode(copied).logits(), decoded.logits())
    if rows > 1:  # a record says all about its row: no batch, no order
        picked, alone = codec.decode(records[[7, 0, 7]]).logits(), codec.encode(logits[5:6])
        if isinstance(
            codec, (LowRank, Cosine)
        ):  # but for rounding of a matrix product, which can tip an integer
            torch.testing.assert_close(picked, decoded.logits()[[7, 0, 7]], rtol=1e-4, atol=1e-4)
            assert (alone.view(np.uint8) != records[5:6].view(np.uint8)).mean() < 0.1
        else:
            assert torch.equal(picked, decoded.logits()[[7, 0, 7]])
            assert alone.tobytes() == records[5:6].tobytes()


@every_codec
@pytest.mark.parametrize("tau", TAUS)
def test_probs_are_distributions(spec: str, classes: int, tau: float) -> None:
    codec = opened(spec, classes)
    logits = gaussian(9, classes, scale=5)
    logits[0] = 0.0
    logits[1, 0] += 50.0
    probs = codec.decode(codec.encode(logits)).probs(tau)
    assert probs.dtype == torch.float32 and probs.shape == (9, classes)
    assert bool((probs >= 0).all())
    np.testing.assert_allclose(
        probs.double().sum(1), 1.0, rtol=0, atol=1e-5 + 5e-9 * classes
    )  # torch sums in float32


@st.composite
def extremes(draw: st.DrawFn) -> Tensor:
    classes = draw(st.sampled_from([1, 2, 3, 10, 257]))
    rows = draw(st.integers(1, 6))
    scale = 10 ** draw(st.floats(-3, 4))
    logits = gaussian(rows, classes, scale=scale, seed=draw(st.integers(0, 2**31)))
    logits += draw(st.floats(-100, 100))
    kind = draw(st.sampled_from(["plain", "constant row", "outlier", "tiny", "few values"]))
    row, one = draw(st.integers(0, rows - 1)), draw(st.integers(0, classes - 1))
    if kind == "constant row":
        logits[row] = logits[row, 0].clone()
    elif kind == "outlier":
        logits[row, one] = draw(st.sampled_from([-6e4, -300.0, 300.0, 6e4, 65_519.0, 65_520.0]))
    elif kind == "tiny":
        logits[row] *= 1e-42  # subnormal
    elif kind == "few values":
        logits = (logits / scale).round()
    return logits


@pytest.mark.parametrize(
    "spec",
    [
        "topk",
        *["lowrank:step=0.01", "lowrank:step=2", "cosine:steps=8", "cosine:steps=1000"],
        *[f"full:dtype={dtype}" for dtype in DTYPES],
    ],
)
@given(
    logits=extremes(),
    share=st.floats(0, 1),
    mantissa=st.integers(1, 10),
    own=st.sampled_from([1.0, 4.0]),
)
def test_decoded_is_within_the_stated_error(
    spec: str, logits: Tensor, share: float, mantissa: int, own: float
) -> None:
    classes = logits.shape[1]
    topk = f"topk:k={1 + round(share * (classes - 1))},mantissa={mantissa},tau={own}"
    assume(classes > 1 or not spec.startswith("lowrank"))
    codec = (
        opened(spec, classes)
        if spec.startswith(("lowrank", "cosine"))
        else open_codec(topk if spec == "topk" else spec, classes=classes)
    )
    if beyond_range(codec, logits):
        with pytest.raises(CodecError, match="do not fit float16"):
            codec.encode(logits)
        return
    decoded, exact = kept(codec, logits)
    apart = decoded.double() - exact.double()
    is_norm = isinstance(codec, (LowRank, Cosine))
    error = apart.norm(dim=1) if is_norm else apart.abs().amax(1)
    bound = codec.stated_error(logits)
    assert bound.shape == (len(logits),)
    assert bool((error <= bound.double()).all()), (error, bound)
    for tau in TAUS:
        probs = codec.decode(codec.encode(logits)).probs(tau)
        assert bool(torch.isfinite(probs).all()) and bool((probs >= 0).all())


@pytest.mark.parametrize("spec", [f"full:dtype={dtype}" for dtype in DTYPES[:3]])
@pytest.mark.parametrize("classes", [1, 10, 1000])
def test_a_decoded_row_encodes_to_the_same_record(spec: str, classes: int) -> None:
    codec = opened(spec, classes)
    records = codec.encode(gaussian(20, classes))
    assert codec.encode(codec.decode(records).logits()).tobytes() == records.tobytes()


def test_topk_of_a_decoded_row_keeps_the_same_head() -> None:
    codec = open_codec("topk:k=7", classes=100)
    records = codec.encode(gaussian(20, 100))
    again = codec.encode(codec.decode(records).logits())
    assert np.array_equal(again["logits"], records["logits"])
    assert np.array_equal(
        np.sort(again["classes"]), np.sort(records["classes"])
    )  # rounding may make two logits equal
    np.testing.assert_allclose(
        again["tail_lse"].astype(float), records["tail_lse"].astype(float), atol=2**-8
    )


@every_codec
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused_by_row(spec: str, classes: int, bad: float) -> None:
    logits = gaussian(4, classes)
    logits[2, -1] = bad
    with pytest.raises(CodecError, match=r"^row 2 of the batch holds NaN or infinite"):
        opened(spec, classes).encode(logits)


@every_codec
def test_logits_of_another_class_count_are_refused(spec: str, classes: int) -> None:
    with pytest.raises(
        CodecError, match=rf"\(4, {classes + 1}\); this codec holds rows of {classes} classes"
    ):
        opened(spec, classes).encode(gaussian(4, classes + 1))


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        (
            "full:dtype=float16",
            65_520.0,
            r"logits of 65520 do not fit float16 \(65,504\); use full:dtype=float32",
        ),
        ("topk:k=2", 1e5, r"logits of 99840 do not fit float16"),  # 7 bits of it
        ("topk:k=2", 65_450.0, r"logits of 65536 do not fit float16"),
        ("topk:k=2", -1e5, r"tail (mean|variance) of .* do not fit float16"),
    ],
)
def test_logits_past_the_stored_range_are_refused(spec: str, value: float, message: str) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    with pytest.raises(CodecError, match=message):
        open_codec(spec, classes=4).encode(logits)


@pytest.mark.parametrize("value", [2.0**40, -3e38])
@every_codec
def test_logits_of_which_a_loss_would_make_nan_are_refused_by_row(
    spec: str, classes: int, value: float
) -> None:
    logits = gaussian(4, classes)
    logits[2, -1] = value
    with pytest.raises(
        CodecError, match=r"^row 2 of the batch holds logits of 1.1e\+12 and more; "
    ):
        opened(spec, classes).encode(logits)


@pytest.mark.parametrize(
    "spec", ["full:dtype=float32", "full:dtype=bfloat16", "full:dtype=uint8", "full:dtype=uint4"]
)
def test_the_largest_logits_that_are_encoded_are_decoded_and_give_a_loss(spec: str) -> None:
    codec = open_codec(spec, classes=64)
    logits = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).sign() * 1.0995e12
    records = codec.encode(logits)
    check_records(codec_to_dict(codec), records, None, 64)
    rows = codec.decode(records)
    assert bool(rows.probs(1.0).isfinite().all()) and bool(rows.std().isfinite().all())


@pytest.mark.parametrize("tau", ["1e-7", "1e7", "0", "nan", "1" + 400 * "0"])
def test_temperatures_at_which_sums_leave_float32_are_refused(tau: str) -> None:
    with pytest.raises(UsageError, match="tau"):
        open_codec(f"topk:k=2,tau={tau}", classes=3)


def test_a_sum_past_float16_is_refused() -> None:
    with pytest.raises(CodecError, match="tail log-sum-exp of 900000 do not fit float16"):
        open_codec("topk:k=2,tau=1e-5", classes=3).encode(torch.full((1, 3), 9.0))
    with pytest.raises(CodecError, match="row 0"):
        open_codec("full:dtype=float32", classes=2).encode(
            torch.tensor([[0.0, 1e300]], dtype=torch.float64)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", ["full:dtype=float32", "topk:k=3"])
def test_logits_of_any_float_type_and_from_inference_mode_are_taken(
    spec: str, dtype: torch.dtype
) -> None:
    codec = open_codec(spec, classes=10)
    with torch.inference_mode():
        logits = torch.zeros(6, 10).to(dtype) + torch.arange(10) % 4
    again = codec.encode((torch.zeros(6, 10) + torch.arange(10) % 4).requires_grad_())
    assert codec.encode(logits).tobytes() == again.tobytes()


@pytest.mark.parametrize(("dtype", "steps"), [("uint8", 255), ("uint4", 15)])
@pytest.mark.parametrize("classes", [2, 3, 10, 257])
def test_integers_take_the_ends_of_each_row_exactly_and_evenly_spaced_values_too(
    dtype: str, steps: int, classes: int
) -> None:
    codec = open_codec(f"full:dtype={dtype}", classes=classes)
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, steps + 1, (6, classes)))
    stored[:, 0], stored[:, -1] = 0, steps
    logits = stored * 0.5 - torch.arange(6)[:, None]
    assert torch.equal(codec.decode(codec.encode(logits)).logits(), logits)


def test_uint4_holds_two_classes_in_a_byte_the_first_in_the_lower_half() -> None:
    records = open_codec("full:dtype=uint4", classes=3).encode(torch.tensor([[0.0, 15.0, 9.0]]))
    assert records["logits"].tolist() == [[0xF0, 0x09]]
    assert (float(records["offset"][0]), float(records["scale"][0])) == (0.0, 1.0)


@every_codec
def test_a_temperature_per_row_is_each_rows_own(spec: str, classes: int) -> None:
    codec = opened(spec, classes)
    rows = codec.decode(codec.encode(gaussian(4, classes)))
    mixed = rows.probs(torch.tensor(TAUS))
    for row, tau in enumerate(TAUS):
        torch.testing.assert_close(mixed[row], rows.probs(tau)[row], rtol=1e-6, atol=0)


@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize(
    ("spec", "classes"), [configuration for configuration in CONFIGURATIONS if configuration[1] > 1]
)
def test_std_is_that_of_all_logits(spec: str, classes: int, offset: float) -> None:
    codec = opened(spec, classes)
    logits = gaussian(16, classes) + offset
    logits[0, 1] += 30.0
    rows = codec.decode(codec.encode(logits))
    if isinstance(codec, Full):
        assert torch.equal(rows.std(), rows.logits().std(dim=1))
    bound = (
        codec.stated_error(logits) * math.sqrt(classes / (classes - 1)) * 1.01
    )  # the norm of the error of a row
    if isinstance(codec, TopK):  # of the variance too
        bound = bound + logits.std(dim=1) * 2.0 ** -(codec.mantissa + 1)
    assert bool(((rows.std() - logits.std(dim=1)).abs() <= bound).all())


@every_codec
def test_a_codec_that_has_nothing_to_fit_is_its_own_fit(spec: str, classes: int) -> None:
    codec = open_codec(spec, classes=classes)
    fitted = codec.fit(gaussian(4, classes))
    assert (
        fitted is codec
        if not isinstance(codec, (LowRank, Cosine))
        else fitted.fit_arrays() and not codec.fit_arrays()
    )
    assert codec.keeps_all is (
        spec.startswith(("full", "lowrank", "cosine")) or spec.startswith(f"topk:k={classes}")
    )


@every_codec
def test_spec_and_manifest_round_trip(spec: str, classes: int) -> None:
    codec = open_codec(spec, classes=classes)
    stored = codec_to_dict(codec)
    assert set(stored) == {"name", "configuration"} and "classes" not in stored["configuration"]
    assert codec_from_dict(stored, classes=classes) == codec
    assert open_codec(codec_spec(codec), classes=classes) == codec
    given, told = (set(text.replace(":", ",").split(",")) for text in (spec, codec_spec(codec)))
    assert given <= told, "written as it was given"


def test_what_a_manifest_does_not_say_is_what_it_meant_before_there_were_options() -> None:
    stored = {"name": "topk", "configuration": {"k": 3}}
    codec = codec_from_dict(stored, classes=10)
    assert codec == TopK(classes=10, k=3, tau=1.0, mantissa=10) and codec_to_dict(codec) == stored
    assert codec_to_dict(TopK(classes=10, k=3))["configuration"] == {"k": 3, "mantissa": 7}
    assert codec_to_dict(TopK(classes=10, k=3, tau=4.0))["configuration"] == {
        "k": 3,
        "tau": 4.0,
        "mantissa": 7,
    }


def test_a_codec_cannot_be_changed() -> None:
    codec: Any = open_codec("topk:k=3", classes=10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        codec.k = 4
    assert open_codec("full", classes=3) == Full(classes=3, dtype="float16")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("topq:k=3", "unknown codec 'topq'; did you mean 'topk'"),
        ("topk:kk=3", "did you mean 'k'"),
        ("topk", "needs k"),
        ("topk:16", "'16' is not key=value; write for example topk:k=16"),
        ("topk:k=true", "must be a whole number"),
        ("topk:k=1.5", "must be a whole number"),
        ("topk:k=3,classes=9", "classes come from the source"),
        ("topk:k=3,tail=ghost", "unknown codec topk key 'tail'"),
        ("topk:kk=3", r"\(known: k, mantissa, tau\)"),
        ("lowrank:steps=3", r"\(known: bytes, error, step, views\)"),
        ("lowrank:error=-1", r"error=-1.0 must be above 0"),
        ("lowrank", "no target: give one of step=, error= and bytes="),
        ("full:dtype=float61", "did you mean 'float16'"),
        ("full:dtyp=float16", "did you mean 'dtype'"),
        ("full:dtype=16", "unknown codec full dtype '16'"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_codec(spec, classes=10)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (-1, "topk:k=-1; k must be at least 1"),
        (0, "topk:k=0; k must be at least 1"),
        (11, "topk:k=11 on 10 classes; k must be from 1 to 10"),
    ],
)
def test_k_out_of_range_is_told(k: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_codec(f"topk:k={k}", classes=10)


@pytest.mark.parametrize("option", ["mantissa=0", "mantissa=11", "tau=0", "tau=-1.0"])
def test_an_option_out_of_range_is_told(option: str) -> None:
    with pytest.raises(
        UsageError,
        match=rf"topk:{option.split('=', maxsplit=1)[0]}=.* must be (above 0|from 1 to 10)",
    ):
        open_codec(f"topk:k=3,{option}", classes=10)
    for number in ("inf", "nan"):
        with pytest.raises(UsageError, match=f"tau is {number}; it must be a finite number"):
            open_codec(f"topk:k=3,tau={number}", classes=10)
