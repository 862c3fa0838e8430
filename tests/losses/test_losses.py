"""DIST is the paper's, KL is torch's, and every loss keeps the contract."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses.references import grad, labels, logits
from torch import Tensor

from kdcache.codecs import open_codec
from kdcache.errors import UsageError
from kdcache.losses import (
    Loss,
    dist_loss,
    dist_terms,
    dkd_loss,
    dkd_terms,
    kl_loss,
    nkd_loss,
    nkd_terms,
    open_loss,
)
from kdcache.losses.registry import LOSSES
from kdcache.soft_targets import DenseTargets

SHAPES = [(rows, classes) for rows in (1, 2, 32) for classes in (2, 10, 1000)]
every_shape = pytest.mark.parametrize(("rows", "classes"), SHAPES)


def on_labels(loss: Any) -> Any:
    """Return `loss` with the labels filled in."""

    def filled(student: Tensor, teacher: Any, **options: float) -> Tensor:
        found: Tensor = loss(student, teacher, labels(*student.shape), **options)
        return found

    return filled


FUNCTIONS = [dist_loss, kl_loss, on_labels(dkd_loss), on_labels(nkd_loss)]
every_loss = pytest.mark.parametrize("loss", FUNCTIONS, ids=["dist", "kl", "dkd", "nkd"])


def rho(a: "np.ndarray[Any, Any]", b: "np.ndarray[Any, Any]") -> float:
    """Return Pearson's correlation of two vectors as the paper's code has it."""
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b) + 1e-8))


def softmax(z: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)  # type: ignore[no-any-return]


def reference_terms(student: Tensor, teacher: Tensor, tau: float) -> tuple[float, float]:
    """Return (inter, intra) from the formulae: numpy, float64, one row and one column at a time."""
    p, q = softmax(student.double().numpy() / tau), softmax(teacher.double().numpy() / tau)
    inter = tau**2 * (1 - np.mean([rho(p[i], q[i]) for i in range(len(p))]))
    intra = tau**2 * (1 - np.mean([rho(p[:, j], q[:, j]) for j in range(p.shape[1])]))
    return inter, intra


def reference_loss(
    student: Tensor, teacher: Tensor, *, beta: float, gamma: float, tau: float
) -> Tensor:
    """Return the loss in float64 in a form that autograd can follow: norms as roots of sums, no
    helper of ours."""
    p, q = (
        torch.exp(z.double() / tau) / torch.exp(z.double() / tau).sum(1, keepdim=True)
        for z in (student, teacher)
    )
    total = torch.zeros((), dtype=torch.float64)
    for weight, dim in ((beta, 1), (gamma, 0)):
        a, b = p - p.mean(dim, keepdim=True), q - q.mean(dim, keepdim=True)
        dot, squares = (a * b).sum(dim), (a * a).sum(dim) * (b * b).sum(dim)
        root = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
        total = total + weight * tau**2 * (1 - (dot / (root + 1e-8)).mean())
    return total


@every_shape
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_dist_is_the_papers_in_value(rows: int, classes: int, tau: float) -> None:
    student, teacher = logits(rows, classes), logits(rows, classes, seed=1)
    terms = dist_terms(student, teacher, tau=tau)
    expected = reference_terms(student, teacher, tau)
    np.testing.assert_allclose([float(term) for term in terms], expected, rtol=1e-5, atol=1e-5)
    loss = dist_loss(student, teacher, beta=0.5, gamma=3.0, tau=tau)
    assert float(loss) == pytest.approx(0.5 * expected[0] + 3 * expected[1], rel=1e-5, abs=1e-5)
    other = float(reference_loss(student, teacher, beta=0.5, gamma=3.0, tau=tau))
    assert other == pytest.approx(0.5 * expected[0] + 3 * expected[1], rel=1e-9, abs=1e-9)


@every_shape
@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (0.5, 3.0)])
def test_dist_is_the_papers_in_gradient(
    rows: int, classes: int, tau: float, beta: float, gamma: float
) -> None:
    student, teacher = logits(rows, classes), logits(rows, classes, seed=1)
    found = grad(student, lambda z: dist_loss(z, teacher, beta=beta, gamma=gamma, tau=tau))
    expected = grad(
        student.double(), lambda z: reference_loss(z, teacher, beta=beta, gamma=gamma, tau=tau)
    )
    assert found.dtype == torch.float32
    scale = float(expected.abs().max())
    np.testing.assert_allclose(
        found, expected, rtol=1e-3, atol=1e-4 * scale + 1e-7 * tau**2 * (beta + gamma)
    )
    if classes > 2 and (
        rows > 2 or beta
    ):  # the correlation of two numbers is 1 or -1, whatever they are
        assert scale > 1e-5, "a gradient of zero would prove nothing"


def test_dist_of_one_row_has_a_constant_intra_term() -> None:
    student, teacher = logits(1, 10), logits(1, 10, seed=1)
    for tau in (1.0, 4.0):
        assert float(dist_terms(student, teacher, tau=tau)[1]) == tau**2
        assert not grad(student, lambda z, tau=tau: dist_terms(z, teacher, tau=tau)[1]).any()
        assert grad(student, lambda z, tau=tau: dist_terms(z, teacher, tau=tau)[0]).any()


@given(
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from([1.0, 4.0]),
    st.sampled_from(["student", "teacher", "both"]),
    st.data(),
)
def test_losses_are_finite_on_constant_rows_and_columns(
    rows: int, classes: int, tau: float, whose: str, data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 2**31))
    pair = {
        "student": logits(rows, classes, seed=seed),
        "teacher": logits(rows, classes, seed=seed + 1),
    }
    kind = data.draw(st.sampled_from(["row", "all rows equal", "all constant", "one-hot"]))
    for name in pair if whose == "both" else [whose]:
        if kind == "row":
            pair[name][0] = 1.5
        elif kind == "all rows equal":
            pair[name][:] = pair[name][0].clone()
        elif kind == "all constant":
            pair[name][:] = 0.0
        else:
            pair[name][:, 0] += 200.0  # every other probability underflows
    for loss in (
        FUNCTIONS if classes > 1 else FUNCTIONS[:2]
    ):  # the others are about the classes beside the label

        def of_student(z: Tensor, loss: Any = loss) -> Tensor:
            found: Tensor = loss(z, pair["teacher"], tau=tau)
            return found

        assert bool(torch.isfinite(of_student(pair["student"])))
        assert bool(torch.isfinite(grad(pair["student"], of_student)).all())


@every_shape
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(
    rows: int, classes: int, tau: float
) -> None:
    same = logits(rows, classes)
    inter, intra = dist_terms(same, same, tau=tau)
    assert float(inter) == pytest.approx(0, abs=1e-4 * tau**2)
    # each column whose spread is of the order of 1e-8 counts as uncorrelated
    expected = reference_terms(same, same, tau)[1]
    assert float(intra) == pytest.approx(expected, abs=1e-4 * tau**2)
    assert bool(torch.isfinite(grad(same, lambda z: dist_loss(z, same, tau=tau))).all())
    # nothing but what the 1e-8 of the formula gives to a row that hardly varies
    expected_gradient = grad(
        same.double(), lambda z: reference_loss(z, same, beta=1.0, gamma=0.0, tau=tau)
    )
    gradient = grad(same, lambda z: dist_loss(z, same, beta=1.0, gamma=0.0, tau=tau))
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0.01, atol=1e-6 * tau**2)
    assert float(grad(same, lambda z: kl_loss(z, same, tau=tau)).abs().max()) < 1e-6 * tau
    assert float(kl_loss(same, same, tau=tau)) == pytest.approx(0, abs=1e-5 * tau**2)


def test_dist_sees_relations_not_values() -> None:
    student, teacher = logits(8, 10), logits(8, 10, seed=1)
    loss = dist_loss(student, teacher, tau=4.0)
    shifted = dist_loss(student + torch.arange(8.0)[:, None], teacher - 3, tau=4.0)
    assert float(shifted) == pytest.approx(float(loss), rel=1e-5)
    permuted = dist_loss(student.flip(0).roll(3, 1), teacher.flip(0).roll(3, 1), tau=4.0)
    assert float(permuted) == pytest.approx(float(loss), rel=1e-5)


@every_shape
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_kl_is_torchs(rows: int, classes: int, tau: float) -> None:
    student, teacher = logits(rows, classes), logits(rows, classes, seed=1)

    def reference(z: Tensor) -> Tensor:
        log_p, q = torch.log_softmax(z / tau, 1), torch.softmax(teacher.double() / tau, 1)
        return tau**2 * torch.nn.functional.kl_div(log_p, q, reduction="batchmean")

    assert float(kl_loss(student, teacher, tau=tau)) == pytest.approx(
        float(reference(student.double())), rel=1e-5
    )
    expected = grad(student.double(), reference)
    found = grad(student, lambda z: kl_loss(z, teacher, tau=tau))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


SPECS = [
    "ce",
    "kl",
    "kl:tau=1,weight=0.5,ce=0",
    "dist",
    "dist:tau=4,beta=1,gamma=0.5,ce=0.3",
    "dkd",
    "dkd:alpha=2,tau=1",
    "nkd",
    "mse",
    "mlkd",
    "mlkd:taus=[1,4],batch_weight=0.5,category_weight=0",
]


OF_MAPS = {"cwd"}
"""Losses that compare whole maps, which rows of classes are none of."""


def test_every_loss_is_held_to_the_contract() -> None:
    assert {text.partition(":")[0] for text in SPECS} | OF_MAPS == LOSSES.keys()


@pytest.mark.parametrize(
    "text",
    [
        *SPECS,
        "kl:standardize=true",
        *(f"{name}:standardize=true" for name in ("dist", "dkd", "nkd", "mlkd")),
    ],
)
def test_every_loss_keeps_the_contract(text: str) -> None:
    loss = open_loss(text)
    assert isinstance(loss, Loss) and ("label" in loss.requires) == text.startswith(("dkd", "nkd"))
    student, teacher = logits(6, 10), logits(6, 10, seed=1)
    terms = loss.terms(student.requires_grad_(), DenseTargets(teacher), labels(6, 10))
    assert ("teacher" in loss.requires) == bool(terms)
    for term in terms.values():
        assert term.shape == () and term.dtype == torch.float32 and term.item() > 0
    if terms:
        assert bool(torch.isfinite(torch.autograd.grad(sum(terms.values()), student)[0]).all())


def test_weights_of_a_spec_weigh_the_terms() -> None:
    student, teacher, targets = logits(6, 10), logits(6, 10, seed=1), labels(6, 10)

    def terms(text: str) -> dict[str, Tensor]:
        return open_loss(text).terms(student, DenseTargets(teacher), targets)

    inter, intra = dist_terms(student, teacher, tau=4.0)
    weighted = terms("dist:tau=4,beta=3,gamma=0.25,ce=0.5")
    torch.testing.assert_close(weighted, {"inter": 3 * inter, "intra": 0.25 * intra})
    assert open_loss("dist:ce=0.5").ce == 0.5 and open_loss("kl").ce == 1.0
    assert terms("kl:tau=2,weight=0.5") == {"kl": 0.5 * kl_loss(student, teacher, tau=2.0)}
    tckd, nckd = dkd_terms(student, teacher, targets, tau=2.0)
    assert terms("dkd:tau=2,alpha=0.5,beta=3") == {"tckd": 0.5 * tckd, "nckd": 3 * nckd}
    assert float(
        dkd_loss(student, teacher, targets, alpha=0.5, beta=3.0, tau=2.0)
    ) == pytest.approx(float(0.5 * tckd + 3 * nckd))
    target, nontarget = nkd_terms(student, teacher, targets, tau=2.0)
    assert terms("nkd:tau=2,gamma=3") == {"target": target, "nontarget": 3 * nontarget}
    assert float(nkd_loss(student, teacher, targets, gamma=3.0, tau=2.0)) == pytest.approx(
        float(target + 3 * nontarget)
    )
    for name in ("dist", "kl", "dkd", "nkd"):
        assert (
            terms(f"{name}:standardize=true") != terms(name) == terms(f"{name}:standardize=false")
        )
    assert open_loss("ce:ce=2").ce == 2.0


@every_loss
def test_rows_and_raw_logits_are_the_same_teacher(loss: Any) -> None:
    student, teacher = logits(6, 10), logits(6, 10, seed=1)
    assert torch.equal(
        loss(student, DenseTargets(teacher), tau=4.0), loss(student, teacher, tau=4.0)
    )
    codec = open_codec("full:dtype=float32", classes=10)
    assert torch.equal(
        loss(student, codec.decode(codec.encode(teacher)), tau=4.0), loss(student, teacher, tau=4.0)
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Any, dtype: torch.dtype) -> None:
    student, teacher = logits(32, 1000).to(dtype), logits(32, 1000, seed=1).to(dtype)
    exact = loss(student.float(), teacher.float(), tau=4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher, tau=4.0)
    assert found.dtype == torch.float32 and torch.equal(found, exact)
    gradient = grad(student, lambda z: loss(z, teacher, tau=4.0))
    assert gradient.dtype == dtype
    assert torch.equal(
        gradient, grad(student.float(), lambda z: loss(z, teacher.float(), tau=4.0)).to(dtype)
    )


@pytest.mark.parametrize("loss", [dist_loss, kl_loss])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_topk_of_all_classes_trains_as_full(loss: Any, tau: float) -> None:
    student, teacher = logits(32, 100), logits(32, 100, seed=1)
    found = []
    for spec in ("topk:k=100,mantissa=10", "full:dtype=float16"):
        codec = open_codec(spec, classes=100)
        rows = codec.decode(codec.encode(teacher))
        found.append(
            (
                loss(student, rows, tau=tau),
                grad(student, lambda z, rows=rows: loss(z, rows, tau=tau)),
            )
        )
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = logits(4, 10, seed=1)
    dist_loss(logits(4, 10).requires_grad_(), teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dits", "unknown loss 'dits'; did you mean 'dist'"),
        ("dist:taw=4", "did you mean 'tau'"),
        ("dist:4", "'4' is not key=value; write for example dist:tau=4,beta=2,gamma=2"),
        ("dist:tau=0", "loss dist: tau=0.0 must be above 0"),
        ("kl:tau=-1", "loss kl: tau=-1.0 must be above 0"),
        ("dist:tau=nan", "tau is nan; it must be a finite number"),
        ("kl:tau=hot", "must be a number"),
        ("kl:standardize=1", "kl standardize is 1; it must be true or false"),
        ("dkd:tau=0", "loss dkd: tau=0.0 must be above 0"),
        ("dkd:beta=-8", "loss dkd: beta=-8.0 must be 0 or more"),
        ("nkd:alpha=1", "unknown loss nkd key 'alpha'"),
        ("ce:tau=1", "unknown loss ce key 'tau'"),
    ],
)
def test_a_wrong_spec_is_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_loss(text)


def test_shapes_are_checked_in_tests() -> None:
    """The import hook of conftest.py is on: a map that was not flattened to rows is caught at the
    call."""
    with pytest.raises(TypeError, match="violates type hint"):
        kl_loss(torch.zeros(2, 5, 4, 4), torch.zeros(2, 5, 4, 4))
    with pytest.raises(TypeError, match="violates type hint"):
        dist_loss(torch.zeros(2, 5), torch.zeros(2, 6))


@every_loss
def test_of_no_rows_a_loss_is_0_and_has_a_gradient(loss: Any) -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    value = loss(student, torch.zeros(0, 5))
    value.backward()
    assert float(value.detach()) == 0 and student.grad is not None and student.grad.shape == (0, 5)


@pytest.mark.parametrize("spec", ["ce:ce=0", "kl:weight=0,ce=0", "dist:beta=0,gamma=0,ce=0"])
def test_a_loss_of_nothing_is_refused(spec: str) -> None:
    with pytest.raises(
        UsageError, match="=0 there is nothing to train on; give one of them a weight"
    ):
        open_loss(spec)


def test_a_term_without_a_weight_is_something_to_train_on() -> None:
    assert open_loss("nkd:gamma=0,ce=0").ce == 0
