"""What topk promises: classes past every integer type, ties in the order of classes, a tail of the
right mass."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.codecs import TopK, open_codec


def gaussian(rows: int, classes: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def tail_of(codec: TopK, logits: Tensor) -> Tensor:
    """Return a mask of the classes that the records drop, found without torch.topk."""
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    mask = torch.ones(logits.shape, dtype=torch.bool)
    return mask.scatter(1, torch.from_numpy(order[:, : codec.k].copy()), False)


@pytest.mark.parametrize("classes", [256, 257, 32_769, 65_536, 65_537, 70_000])
def test_the_last_classes_do_not_wrap(classes: int) -> None:
    codec = TopK(classes=classes, k=3)
    logits = torch.zeros(2, classes)
    logits[0, [classes - 1, classes - 2, 5]] = torch.tensor([9.0, 8.0, 7.0])
    logits[1, [classes // 2, 0, classes - 1]] = torch.tensor([9.0, 8.0, 7.0])
    records = codec.encode(logits)
    assert records["classes"].tolist() == [
        [classes - 1, classes - 2, 5],
        [classes // 2, 0, classes - 1],
    ]
    decoded = codec.decode(records).logits()
    assert decoded[0].topk(3).indices.tolist() == [classes - 1, classes - 2, 5]
    np.testing.assert_allclose(
        decoded, logits, rtol=0, atol=2**-8
    )  # half a float16 ulp of the log-sum-exp, about 11


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31), st.data())
def test_equal_logits_come_in_the_order_of_classes(
    classes: int, values: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, classes))
    logits = torch.randint(
        0, values, (8, classes), generator=torch.Generator().manual_seed(seed)
    ).float()
    expected = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k]
    records = TopK(classes=classes, k=k).encode(logits)
    assert np.array_equal(records["classes"], expected)
    assert np.array_equal(records["logits"], np.take_along_axis(logits.numpy(), expected, 1))


def test_a_tie_at_the_edge_among_many_classes_is_broken_by_class() -> None:
    logits = torch.zeros(3, 5000)
    logits[1, 4000] = 1.0
    records = TopK(classes=5000, k=4).encode(logits)
    assert records["classes"].tolist() == [[0, 1, 2, 3], [4000, 0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("classes", [1, 2, 10, 257])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0, 4.0, 20.0])
def test_all_classes_equal_full(classes: int, tau: float) -> None:
    logits = gaussian(16, classes, 4.0)
    rows = {}
    for spec in (f"topk:k={classes},mantissa=10", "full:dtype=float16"):
        codec = open_codec(spec, classes=classes)
        rows[spec] = codec.decode(codec.encode(logits))
    topk, full = rows.values()
    assert torch.equal(topk.logits(), full.logits())
    np.testing.assert_allclose(topk.probs(tau), full.probs(tau), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("scale", "k"), [(1.0, 1), (1.0, 10), (3.0, 10), (3.0, 100), (10.0, 100)])
def test_the_tail_at_the_records_tau_is_exact_but_for_rounding(
    scale: float, k: int, tau: float
) -> None:
    logits = gaussian(64, 1000, scale)
    codec = TopK(classes=1000, k=k, tau=tau)
    decoded = codec.decode(codec.encode(logits))
    tail = tail_of(codec, logits)
    exact = torch.logsumexp((logits.double() / tau).masked_fill(~tail, -math.inf), 1)
    found = torch.logsumexp((decoded.logits().double() / tau).masked_fill(~tail, -math.inf), 1)
    bound = exact.abs() * 2.0**-11 + 1e-4  # half a float16 ulp of the stored log-sum-exp
    assert bool(((found - exact).abs() <= bound).all())
    mass = torch.softmax(logits.double() / tau, 1).masked_fill(~tail, 0).sum(1)
    np.testing.assert_allclose(
        decoded.probs(tau).masked_fill(~tail, 0).sum(1), mass, atol=0.005 + 0.005 * scale / tau
    )


@given(
    seed=st.integers(0, 2**31),
    tau=st.sampled_from([0.5, 2.0, 4.0]),
    gap=st.floats(0, 30),
    low=st.integers(1, 45),
)
def test_whatever_the_tail_its_mass_at_the_records_tau_is_right(
    seed: int, tau: float, gap: float, low: int
) -> None:
    logits = gaussian(8, 50, seed=seed)
    logits[:, :low] -= gap  # two humps: no Gaussian
    codec = TopK(classes=50, k=5, tau=tau, mantissa=10)
    tail = tail_of(codec, logits)
    mass = torch.softmax(logits.double() / tau, 1).masked_fill(~tail, 0).sum(1)
    found = codec.decode(codec.encode(logits)).probs(tau).double().masked_fill(~tail, 0).sum(1)
    # the log of tail over head is off by what float16 does to a log-sum-exp and to logits
    slack = (logits.abs().amax(1).double() / tau + 4) * 2.0**-10
    assert bool(((found / (1 - found)).log() - (mass / (1 - mass)).log()).abs().le(slack).all())


def test_a_record_of_its_own_tau_says_more_of_that_tau_and_less_of_others() -> None:
    logits = gaussian(64, 1000, 2.0)
    logits[:, :300] -= 12.0  # a tail that is far from Gaussian
    tail = tail_of(TopK(classes=1000, k=10), logits)
    errors = {}
    for own in (1.0, 4.0):
        codec = TopK(classes=1000, k=10, tau=own)
        rows = codec.decode(codec.encode(logits))
        for tau in (1.0, 4.0):
            mass = torch.softmax(logits / tau, 1).masked_fill(~tail, 0).sum(1)
            errors[own, tau] = float(
                (rows.probs(tau).masked_fill(~tail, 0).sum(1) - mass).abs().mean()
            )
    assert errors[1.0, 1.0] < 0.005 and errors[4.0, 4.0] < 0.002
    assert errors[4.0, 1.0] > 5 * errors[1.0, 1.0] and errors[1.0, 4.0] > 5 * errors[4.0, 4.0]


@pytest.mark.parametrize(
    ("own", "tau"), [(4.0, 2.0), (4.0, 8.0), (4.0, 1.0), (2.0, 1.0), (2.0, 20.0)]
)
def test_a_gaussian_tail_is_known_at_other_temperatures_than_the_records(
    own: float, tau: float
) -> None:
    logits = gaussian(64, 1000, 1.5)
    codec = TopK(classes=1000, k=100, tau=own)
    tail = tail_of(codec, logits)
    mass = torch.softmax(logits.double() / tau, 1).masked_fill(~tail, 0).sum(1)
    found = codec.decode(codec.encode(logits)).probs(tau).masked_fill(~tail, 0).sum(1)
    np.testing.assert_allclose(found, mass, rtol=0, atol=0.03)


@given(st.integers(0, 2**31), st.integers(1, 9), st.floats(-3, 3))
def test_kept_logits_are_rounded_to_the_nearest_with_ties_to_even(
    seed: int, mantissa: int, magnitude: float
) -> None:
    logits = gaussian(4, 30, 10**magnitude, seed)
    top = TopK(classes=30, k=30, mantissa=mantissa).encode(logits)["logits"].astype(np.float64)
    exact = np.sort(logits.double().numpy(), axis=1)[:, ::-1]
    unit = 2.0 ** (np.floor(np.log2(np.abs(exact))) - mantissa)
    normal = np.abs(exact) > 2.0**-13
    np.testing.assert_array_equal(top[normal], (np.round(exact / unit) * unit)[normal])
    assert not (top.astype(np.float16).view(np.uint16)[normal] & (2 ** (10 - mantissa) - 1)).any()
    ties = TopK(classes=2, k=2, mantissa=2).encode(torch.tensor([[1.375, 1.125]]))
    assert ties["logits"].tolist() == [[1.5, 1.0]]


@pytest.mark.parametrize("tau", [2.0, 4.0, 8.0])
@pytest.mark.parametrize(
    ("scale", "k", "tolerance"),
    [(1.0, 10, 0.005), (1.0, 100, 0.005), (3.0, 10, 0.02), (3.0, 100, 0.02)],
)
def test_the_tail_at_other_temperatures_is_near(
    scale: float, k: int, tolerance: float, tau: float
) -> None:
    logits = gaussian(64, 1000, scale)
    codec = TopK(classes=1000, k=k)
    tail = tail_of(codec, logits)
    mass = torch.softmax(logits.double() / tau, 1).masked_fill(~tail, 0).sum(1)
    found = codec.decode(codec.encode(logits)).probs(tau).masked_fill(~tail, 0).sum(1)
    np.testing.assert_allclose(found, mass, rtol=0, atol=tolerance)


@given(
    st.integers(0, 2**31),
    st.sampled_from([0.5, 0.9, 1.0, 1.5, 4.0, 20.0]),
    st.floats(0, 60),
    st.integers(1, 40),
)
def test_the_tail_stays_between_its_mean_and_its_largest(
    seed: int, tau: float, gap: float, low: int
) -> None:
    logits = gaussian(4, 50, seed=seed)
    logits[:, :low] -= gap  # two humps: no Gaussian
    codec = TopK(classes=50, k=5, tau=1.0 + 3 * (seed % 2), mantissa=10)
    found = codec.decode(codec.encode(logits)).probs(tau).log().double() * tau
    kept = ~tail_of(codec, logits)
    # differences of logits within a row are those of tau * log probability
    top = logits.double().masked_fill(~kept, -math.inf)
    shift = (found.masked_fill(~kept, -math.inf).amax(1) - top.amax(1))[:, None]
    tail = (found - shift).masked_fill(kept, math.nan)
    mean = logits.double().masked_fill(kept, 0).sum(1) / 45
    level = tail.nanmean(1)
    slack = 0.002 * logits.abs().amax(1) + 0.01
    assert bool((level >= mean - slack).all())
    assert bool((level <= top.masked_fill(~kept, math.inf).amin(1) + slack).all())


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 5, 99])
def test_a_confident_teacher_has_no_negative_tail(k: int, tau: float) -> None:
    logits = gaussian(32, 100)
    logits[:, 3] += 50.0
    codec = TopK(classes=100, k=k)
    probs = codec.decode(codec.encode(logits)).probs(tau)
    assert bool(torch.isfinite(probs).all()) and bool((probs >= 0).all())
    tail = tail_of(codec, logits)
    mass = torch.softmax(logits.double() / tau, 1).masked_fill(~tail, 0).sum(1)
    found = probs.double().masked_fill(~tail, 0).sum(1)
    assert bool((found > 0).all()) if tau >= 1 else True
    np.testing.assert_allclose(found, mass, rtol=0.15 if tau >= 1 else 5, atol=1e-30)


def test_the_head_is_in_falling_order_and_the_tail_is_one_value() -> None:
    codec = TopK(classes=30, k=6)
    logits = gaussian(10, 30)
    records = codec.encode(logits)
    assert bool((np.diff(records["logits"].astype(float)) <= 0).all())
    tail = tail_of(codec, logits)
    for row, mask in zip(codec.decode(records).logits(), tail, strict=True):
        assert len(row[mask].unique()) == 1
        assert float(row[mask][0]) <= float(row[~mask].min())
