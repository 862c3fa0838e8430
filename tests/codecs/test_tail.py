"""Tail policies: what each makes of the classes that topk dropped."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.codecs import Codec, TopK, codec_to_dict, open_codec, set_tail
from kdcache.codecs.tail import Tail
from kdcache.errors import UsageError
from kdcache.soft_targets import SoftTargets

POLICIES: tuple[Tail, ...] = ("uniform", "ghost", "none")


def gaussian(rows: int, classes: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def read(codec: TopK, logits: Tensor, tail: Tail) -> SoftTargets:
    """Return the rows of `logits` under a policy."""
    return set_tail(codec, tail).decode(codec.encode(logits))


def head_of(codec: TopK, logits: Tensor) -> Tensor:
    """Return a mask of the classes that the records keep."""
    kept = torch.from_numpy(codec.encode(logits)["classes"].astype(np.int64))
    return torch.zeros(logits.shape, dtype=torch.bool).scatter(1, kept, True)


@pytest.mark.parametrize("policy", POLICIES)
@given(
    classes=st.integers(2, 40),
    share=st.floats(0, 1),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 10.0, 100.0]),
    tau=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    seed=st.integers(0, 2**31),
)
def test_every_policy_gives_distributions(
    policy: Tail, *, classes: int, share: float, scale: float, tau: float, seed: int
) -> None:
    codec = TopK(classes=classes, k=1 + round(share * (classes - 2)), tau=1.0 + seed % 4)
    logits = gaussian(6, classes, scale, seed)
    student = gaussian(6, classes, scale, seed + 1) / tau
    probs = read(codec, logits, policy).probs(tau, tempered_student=student)
    assert probs.dtype == torch.float32 and probs.shape == logits.shape
    assert bool((probs >= 0).all())
    np.testing.assert_allclose(probs.double().sum(1), 1.0, rtol=0, atol=1e-5)
    assert bool((probs.gather(1, logits.argmax(1, keepdim=True)) > 0).all())


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_head_and_tail_mass_do_not_depend_on_the_tails_shape(tau: float) -> None:
    codec = TopK(classes=50, k=5)
    logits = gaussian(32, 50)
    student = gaussian(32, 50, seed=1)
    even, shaped = (
        read(codec, logits, name).probs(tau, tempered_student=student) for name in POLICIES[:2]
    )
    head = head_of(codec, logits)
    torch.testing.assert_close(shaped[head], even[head], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        shaped.masked_fill(head, 0).sum(1), even.masked_fill(head, 0).sum(1), rtol=1e-4, atol=1e-7
    )
    assert float((shaped - even).abs().max()) > 1e-4


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_none_is_the_softmax_of_the_head(tau: float) -> None:
    codec = TopK(classes=50, k=5, mantissa=10)
    logits = gaussian(32, 50).half().float()
    probs = read(codec, logits, "none").probs(tau)
    expected = torch.softmax(logits.masked_fill(~head_of(codec, logits), -math.inf) / tau, 1)
    torch.testing.assert_close(probs, expected)
    assert int((probs == 0).sum()) == 32 * 45


def kl(target: Tensor, log_student: Tensor) -> Tensor:
    value: Tensor = (torch.special.xlogy(target, target) - target * log_student).sum(1).mean()
    return value


@given(
    classes=st.integers(2, 30),
    share=st.floats(0, 1),
    tau=st.sampled_from([0.5, 1.0, 4.0]),
    scale=st.sampled_from([0.5, 2.0, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_ghost_is_the_kl_of_one_more_class_in_value_and_gradient(
    classes: int, share: float, tau: float, scale: float, seed: int
) -> None:
    codec = TopK(classes=classes, k=1 + round(share * (classes - 2)))
    logits = gaussian(8, classes, scale, seed)
    head = head_of(codec, logits)
    student = gaussian(8, classes, scale, seed + 1).requires_grad_()
    rows = read(codec, logits, "ghost")
    probs = rows.probs(tau, tempered_student=student / tau)
    assert not probs.requires_grad
    ours = kl(probs, torch.log_softmax(student / tau, 1))
    (gradient,) = torch.autograd.grad(ours, student)

    even = read(codec, logits, "uniform").probs(tau)
    kept = even[head].reshape(8, codec.k)
    target = torch.cat([kept, even.masked_fill(head, 0).sum(1, keepdim=True)], 1)
    log_student = torch.log_softmax(student / tau, 1)
    ghost = log_student.masked_fill(head, -math.inf).logsumexp(1, keepdim=True)
    explicit = kl(target, torch.cat([log_student[head].reshape(8, codec.k), ghost], 1))
    (expected,) = torch.autograd.grad(explicit, student)
    torch.testing.assert_close(ours, explicit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_ghost_of_a_student_without_any_tail_is_even() -> None:
    codec = TopK(classes=4, k=2)
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    student = torch.tensor([[0.5, 0.5, -math.inf, -math.inf]])
    even = read(codec, logits, "uniform").probs(1.0)
    shaped = read(codec, logits, "ghost").probs(1.0, tempered_student=student)
    torch.testing.assert_close(shaped, even)


def test_ghost_needs_the_student() -> None:
    with pytest.raises(
        UsageError, match=r"tail 'ghost' follows the student.*use tail uniform or none"
    ):
        read(TopK(classes=5, k=2), gaussian(3, 5), "ghost").probs(1.0)


def test_a_policy_changes_neither_records_nor_manifest_nor_equality() -> None:
    codec = TopK(classes=10, k=3)
    records = codec.encode(gaussian(20, 10))
    for policy in POLICIES:
        reading = set_tail(codec, policy)
        assert (
            reading == codec
            and codec_to_dict(reading) == codec_to_dict(codec)
            and isinstance(reading, Codec)
        )
        assert reading.encode(gaussian(20, 10)).tobytes() == records.tobytes()
        assert torch.equal(reading.decode(records).logits(), codec.decode(records).logits())
    assert dataclasses.replace(set_tail(codec, "none"), k=4).tail == "none"


@pytest.mark.parametrize("spec", ["full", "full:dtype=uint4"])
def test_a_codec_that_keeps_all_has_no_tail(spec: str) -> None:
    codec = open_codec(spec, classes=5)
    with pytest.raises(UsageError, match=r"tail 'none': codec full leaves no tail.*leave it out"):
        set_tail(codec, "none")
