"""What the codec `lowrank` promises; the contract that it shares with the others is in
test_codecs.py."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kdcache.codecs import codec_from_dict, codec_spec, codec_to_dict, open_codec
from kdcache.codecs.lowrank import LowRank, _packed, _unpacked
from kdcache.codecs.transform import Calibration, Fit, PlacedFit, quantised
from kdcache.errors import CodecError, UsageError


def low_rank_logits(
    rows: int, classes: int, *, rank: int = 12, scale: float = 2.0, seed: int = 0
) -> Tensor:
    """Return logits as a linear head gives them: features of falling strength, a little noise, and
    a constant per row."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(rank, classes, generator=torch.Generator().manual_seed(99))
    features = torch.randn(rows, rank, generator=generator) * torch.linspace(scale, 0.1, rank)
    noise = 0.01 * torch.randn(rows, classes, generator=generator)
    return features @ head + noise + 3 * torch.randn(rows, 1, generator=generator)


def fitted(step: float = 0.5, classes: int = 50, rows: int = 400, **changes: Any) -> LowRank:
    codec = open_codec(f"lowrank:step={step}", classes=classes).fit(
        low_rank_logits(rows, classes, **changes)
    )
    assert isinstance(codec, LowRank)
    return codec


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


@pytest.mark.parametrize("classes", [2, 3, 7, 50, 300])
@pytest.mark.parametrize("step", [0.01, 0.5, 3.0])
def test_decoded_is_within_the_stated_error(classes: int, step: float) -> None:
    codec, unseen = fitted(step, classes), low_rank_logits(64, classes, seed=5)
    decoded = codec.decode(codec.encode(unseen)).logits()
    error = (decoded - centred(unseen)).norm(dim=1)
    assert bool((error <= codec.stated_error(unseen)).all())
    assert codec.fitted is not None
    largest = step * len(codec.fitted.basis) ** 0.5
    assert bool(
        (codec.stated_error(unseen) < 0.5 * centred(unseen).norm(dim=1) + 2 * largest).all()
    )


@given(st.sampled_from([0.0, 1e-6, 1.0, 1e4, 1e11]), st.integers(1, 9), st.integers(0, 99))
def test_logits_of_any_size_keep_within_the_stated_error(
    scale: float, rows: int, seed: int
) -> None:
    codec = FITTED
    logits = torch.randn(rows, 50, generator=torch.Generator().manual_seed(seed)) * scale
    decoded = codec.decode(codec.encode(logits)).logits()
    error = (decoded.double() - centred(logits.double())).norm(dim=1)
    assert bool((error <= codec.stated_error(logits)).all()) and bool(decoded.isfinite().all())


FITTED = fitted()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = low_rank_logits(3, 50)
    logits[1, 7] = bad
    with pytest.raises(CodecError, match=r"row 1 .* NaN or infinite"):
        FITTED.encode(logits)
    with pytest.raises(CodecError, match=r"row 1 .* NaN or infinite"):
        open_codec("lowrank:step=1", classes=50).fit(logits)


def test_a_finer_step_is_more_exact_and_takes_more_of_the_byte() -> None:
    logits = low_rank_logits(200, 50, seed=3)
    errors, sizes = [], []
    for step in (4.0, 1.0, 0.25, 0.05):
        codec = fitted(step)
        records = codec.encode(logits)
        errors.append(float((codec.decode(records).logits() - centred(logits)).norm()))
        sizes.append(records.dtype.itemsize)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]
    assert sizes == sorted(sizes)


def test_a_record_does_not_depend_on_its_batch() -> None:
    logits = low_rank_logits(2100, 50, seed=8)
    together = FITTED.encode(logits)
    apart = np.concatenate([FITTED.encode(part) for part in logits.split(64)])
    same = (together.view(np.uint8) == apart.view(np.uint8)).mean()
    assert same > 0.999, "but for rounding of a matrix product"


def test_rounding_moves_errors_away_from_likely_classes() -> None:
    logits = low_rank_logits(300, 50, seed=4)
    assert FITTED.fitted is not None
    fit = FITTED.fitted.to("cpu")
    plain = (centred(logits) - fit.mean) @ fit.basis.T / fit.step
    shaped = quantised(logits, fit)
    exact = centred(logits) - fit.mean
    weight = torch.softmax(0.3 * exact, 1)

    def weighted(integers: Tensor) -> float:
        return float((weight * (exact - (integers * fit.step) @ fit.basis).square()).sum())

    assert weighted(shaped) < weighted(plain.round().clamp(-fit.limit, fit.limit))


@given(st.integers(0, 23), st.integers(0, 5), st.integers(0, 99))
def test_five_ternary_values_share_a_byte(count: int, rows: int, seed: int) -> None:
    values = torch.randint(-1, 2, (rows, count), generator=torch.Generator().manual_seed(seed)).to(
        torch.int8
    )
    packed = _packed(values)
    assert packed.shape == (rows, -(-count // 5)) and packed.dtype == torch.uint8
    assert torch.equal(_unpacked(packed)[:, :count], values.float())


def test_zeros_are_zero_bytes() -> None:
    assert not _packed(torch.zeros(2, 7, dtype=torch.int8)).any()


def test_codec_and_fit_survive_a_manifest() -> None:
    stored = codec_to_dict(FITTED)
    assert stored == {"name": "lowrank", "configuration": {"step": 0.5, "views": 8192}}
    again = codec_from_dict(stored, classes=50, fit=FITTED.fit_arrays())
    logits = low_rank_logits(40, 50, seed=6)
    assert again.record_dtype == FITTED.record_dtype and codec_spec(again) == codec_spec(FITTED)
    assert again.encode(logits).tobytes() == FITTED.encode(logits).tobytes()
    assert torch.equal(*(codec.decode(FITTED.encode(logits)).logits() for codec in (FITTED, again)))
    assert {name: array.tobytes() for name, array in again.fit_arrays().items()} == {
        name: array.tobytes() for name, array in FITTED.fit_arrays().items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": None}, "basis .* absent"),
        ({"basis": np.zeros((3, 50), "<f2")}, r"basis .*\(3, 50\)"),
        ({"mean": np.zeros(49, "<f4")}, r"mean .*\(49,\)"),
        ({"step": None}, "step .* absent"),
        ({"kinds": np.array([1, 2, 10_000], "<u4")}, r"basis .*\(10003, 50\)"),
    ],
)
def test_a_fit_that_does_not_hold_together_is_refused(change: dict[str, Any], message: str) -> None:
    arrays = {
        name: value
        for name, value in {**FITTED.fit_arrays(), **change}.items()
        if value is not None
    }
    with pytest.raises(CodecError, match=message):
        Fit.from_arrays(arrays, 50)


def test_a_fit_with_steps_of_zero_or_nan_is_refused() -> None:
    for value in (0.0, float("nan")):
        with pytest.raises(CodecError, match=r"step|not finite"):
            Fit.from_arrays(
                {**FITTED.fit_arrays(), "step": np.full_like(FITTED.fit_arrays()["step"], value)},
                50,
            )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lowrank", "no target: give one of step=, error= and bytes="),
        ("lowrank:step=1,error=0.1", "step, error: give one"),
        ("lowrank:step=0", "step=0.0 must be above 0"),
        ("lowrank:bytes=-3", "bytes=-3.0 must be above 0"),
        ("lowrank:step=1,views=0", "views=0 must be above 0"),
        ("lowrank:step=1,fitted=3", "fitted"),
    ],
)
def test_bad_options_are_named(spec: str, message: str) -> None:
    with pytest.raises((CodecError, UsageError), match=message):
        open_codec(spec, classes=10)


def test_one_class_is_sent_to_full() -> None:
    with pytest.raises(UsageError, match=r"lowrank on 1 class has nothing to hold.*use full"):
        open_codec("lowrank:step=1", classes=1)


def test_a_codec_without_its_fit_says_so() -> None:
    codec = open_codec("lowrank:step=1", classes=10)
    with pytest.raises(CodecError, match="no fit yet"):
        codec.encode(torch.randn(3, 10))
    with pytest.raises(CodecError, match="search"):
        open_codec("lowrank:error=0.1", classes=10).fit(torch.randn(30, 10))


@pytest.mark.parametrize(
    "logits", [torch.randn(3, 10), torch.ones(50, 10), torch.randn(50, 1).expand(50, 10)]
)
def test_samples_that_say_nothing_are_refused(logits: Tensor) -> None:
    with pytest.raises(CodecError, match=r"at least 4|same logits"):
        open_codec("lowrank:step=1", classes=10).fit(logits)


def test_the_basis_of_a_small_sample_gains_from_the_head() -> None:
    generator = torch.Generator().manual_seed(1)
    head = torch.randn(200, 40, generator=generator)
    features = torch.randn(1400, 40, generator=generator)
    logits = features @ head.T
    sample, unseen = logits[:40], logits[400:]
    errors = []
    for prior in (None, head):
        codec = LowRank(classes=200, step=2.0).with_fit(Calibration(sample, prior).fit(2.0))
        errors.append(float((codec.decode(codec.encode(unseen)).logits() - centred(unseen)).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_many_classes_are_fitted_by_a_random_projection_that_repeats() -> None:
    logits = low_rank_logits(300, 2500, rank=20)
    before = torch.random.get_rng_state()
    first, second = (open_codec("lowrank:step=1", classes=2500).fit(logits) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(
        np.array_equal(a, b)
        for a, b in zip(first.fit_arrays().values(), second.fit_arrays().values(), strict=True)
    )
    unseen = low_rank_logits(100, 2500, rank=20, seed=2)
    decoded = first.decode(first.encode(unseen)).logits()
    assert float((decoded - centred(unseen)).norm() / centred(unseen).norm()) < 0.05


def test_one_row_of_the_last_axis_is_clipped_and_says_so() -> None:
    codec = fitted(0.5)
    spike = torch.zeros(1, 50)
    spike[0, 3] = 5000.0
    error = float((codec.decode(codec.encode(spike)).logits() - centred(spike)).norm())
    assert 100 < error <= float(codec.stated_error(spike))
    rows = torch.cat([low_rank_logits(200, 50, seed=5), spike])
    assert codec.clipped(rows).nonzero().tolist() == [[200]]


def test_integers_are_found_on_the_device_of_the_logits() -> None:
    """With tensors that have a device and no content, a product of two devices raises as it does on
    a GPU."""
    assert FITTED.fitted is not None
    fit = FITTED.fitted.to("cpu")
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        logits = torch.empty(5, 50, device="cuda")
        tensors = {
            name: fake.from_tensor(getattr(fit, name)).to(logits.device)
            for name in ("basis", "mean", "rounding", "limit")
        }
        there = PlacedFit(step=fit.step, **tensors)
        assert quantised(logits, there).device == logits.device
