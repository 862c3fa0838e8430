"""Logit standardisation: only the shape of a row counts, on both sides."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses import references
from losses.references import grad, labels, logits
from torch import Tensor

from kdcache.codecs import open_codec, set_tail
from kdcache.losses import dist_terms, kl_loss, open_loss
from kdcache.losses.registry import LOSSES
from kdcache.soft_targets import DenseTargets

NAMES = [name for name, cls in LOSSES.items() if hasattr(cls, "standardize")]
every_loss = pytest.mark.parametrize("name", NAMES)


def total(
    name: str, student: Tensor, teacher: Any, *, tau: float = 2.0, standardize: str = "true"
) -> Tensor:
    rows = DenseTargets(teacher) if isinstance(teacher, Tensor) else teacher
    temperature = f"tau={tau}"
    if hasattr(LOSSES[name], "taus"):
        temperature = f"taus=[{tau}]"
    terms = open_loss(f"{name}:{temperature},standardize={standardize}").terms(
        student, rows, labels(*student.shape)
    )
    return torch.stack(list(terms.values())).sum()


@every_loss
@given(st.integers(0, 2**31), st.integers(3, 12), st.sampled_from([1.0, 2.0, 4.0]))
def test_scale_and_shift_of_a_row_do_not_count(
    name: str, seed: int, classes: int, tau: float
) -> None:
    student, teacher = logits(5, classes, seed=seed), logits(5, classes, seed=seed + 1)
    draw = torch.Generator().manual_seed(seed + 2)
    scales, shifts = (
        torch.rand(4, 5, 1, generator=draw) * 20 + 0.1,
        torch.randn(4, 5, 1, generator=draw) * 10,
    )
    expected = float(total(name, student, teacher, tau=tau))
    moved = float(
        total(name, student * scales[0] + shifts[0], teacher * scales[1] + shifts[1], tau=tau)
    )
    assert moved == pytest.approx(expected, rel=1e-3, abs=1e-4)


@every_loss
def test_without_it_scale_counts(name: str) -> None:
    student, teacher = logits(5, 10), logits(5, 10, seed=1)
    found = [
        float(total(name, factor * student, teacher, standardize="false")) for factor in (1, 3)
    ]
    assert found[0] != pytest.approx(found[1], rel=0.05)


@every_loss
@given(st.integers(0, 2**31), st.integers(3, 12), st.sampled_from([1.0, 2.0, 4.0]))
def test_it_is_the_loss_of_z_scores(name: str, seed: int, classes: int, tau: float) -> None:
    student, teacher = logits(5, classes, seed=seed), logits(5, classes, seed=seed + 1)
    z_scores = [references.standardized(z).float() for z in (student, teacher)]
    found, expected = (
        total(name, student, teacher, tau=tau),
        total(name, *z_scores, tau=tau, standardize="false"),
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-5 * tau**2)


@every_loss
def test_the_gradient_goes_through_mean_and_deviation(name: str) -> None:
    """A loss that neither scale nor shift of a row can change has no gradient along either."""
    student, teacher = logits(6, 10), logits(6, 10, seed=1)
    gradient = grad(student, lambda z: total(name, z, teacher))
    norms = gradient.norm(dim=1) * student.norm(dim=1)
    assert float(norms.min()) > 1e-3
    np.testing.assert_allclose((gradient * student).sum(1) / norms, 0, atol=1e-5)
    np.testing.assert_allclose(gradient.sum(1) / norms, 0, atol=1e-5)
    plain = grad(student, lambda z: total(name, z, teacher, standardize="false"))
    assert float(((plain * student).sum(1) / norms).abs().max()) > 1e-2


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_gradient_of_kl_is_that_of_the_formula(tau: float) -> None:
    student, teacher = logits(6, 10), logits(6, 10, seed=1)

    def reference(z: Tensor) -> Tensor:
        p, q = (torch.softmax(references.standardized(x) / tau, 1) for x in (teacher, z))
        return (
            tau**2 * torch.stack([references.kl(*pair) for pair in zip(p, q, strict=True)]).mean()
        )

    assert torch.autograd.gradcheck(reference, student.double().requires_grad_())
    found = grad(student, lambda z: kl_loss(z, teacher, tau=tau, standardize=True))
    np.testing.assert_allclose(found, grad(student.double(), reference), rtol=1e-3, atol=1e-6)


@every_loss
def test_constant_rows_are_finite(name: str) -> None:
    for constant in ("student", "teacher", "both"):
        student, teacher = logits(6, 10), logits(6, 10, seed=1)
        for who, z in (("student", student), ("teacher", teacher)):
            if constant in (who, "both"):
                z[:3] = 1.5
        assert bool(torch.isfinite(total(name, student, teacher)))
        assert bool(torch.isfinite(grad(student, lambda z, t=teacher: total(name, z, t))).all())


@every_loss
def test_records_of_all_classes_are_the_same_teacher(name: str) -> None:
    student, teacher = logits(6, 10), logits(6, 10, seed=1)
    codec = open_codec("full:dtype=float32", classes=10)
    assert torch.equal(
        total(name, student, codec.decode(codec.encode(teacher))), total(name, student, teacher)
    )


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_topk_of_all_classes_is_standardized_as_full(tau: float) -> None:
    student, teacher = logits(16, 50), logits(16, 50, seed=1)
    rows = [
        codec.decode(codec.encode(teacher))
        for spec in ("topk:k=50,mantissa=10", "full:dtype=float16")
        for codec in [open_codec(spec, classes=50)]
    ]
    for loss in (kl_loss, lambda *of, **options: dist_terms(*of, **options)[1]):
        found = [float(loss(student, one, tau=tau, standardize=True)) for one in rows]
        assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_ghost_tail_is_kl_of_one_more_class(tau: float, standardize: bool) -> None:
    student, teacher = logits(16, 50), logits(16, 50, seed=1)
    codec = open_codec("topk:k=5", classes=50)
    records = codec.encode(teacher)
    uniform, ghost = (one.decode(records) for one in (codec, set_tail(codec, "ghost")))
    index = teacher.topk(5, dim=1).indices
    target = uniform.probs(tau * (uniform.std() + 1e-7) if standardize else tau)

    def merged(p: Tensor) -> Tensor:
        head = p.gather(1, index)
        return torch.cat([head, 1 - head.sum(1, keepdim=True)], dim=1)

    def reference(z: Tensor) -> Tensor:
        s = torch.softmax((references.standardized(z) if standardize else z.double()) / tau, 1)
        return (
            tau**2
            * torch.stack(
                [
                    references.kl(*pair)
                    for pair in zip(merged(target.double()), merged(s), strict=True)
                ]
            ).mean()
        )

    def found(z: Tensor) -> Tensor:
        return kl_loss(z, ghost, tau=tau, standardize=standardize)

    assert float(found(student)) == pytest.approx(float(reference(student)), rel=1e-4)
    expected = grad(student.double(), reference)
    np.testing.assert_allclose(
        grad(student, found), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )
