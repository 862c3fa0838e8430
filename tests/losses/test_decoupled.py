"""DKD and NKD are the papers', and hold where the teacher is sure."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses import references
from losses.references import Case, cases, grad, labels, logits
from torch import Tensor

from kdcache.losses import dkd_loss, dkd_terms, kl_loss, nkd_loss, nkd_terms
from kdcache.losses.label import without_label

TERMS = {"dkd": (dkd_terms, references.dkd), "nkd": (nkd_terms, references.nkd)}
both = pytest.mark.parametrize(("terms", "reference"), TERMS.values(), ids=TERMS)
taus = st.sampled_from([0.5, 1.0, 2.0, 4.0, 20.0])


@both
@given(case=cases(), tau=taus)
def test_values_are_the_papers(terms: Any, reference: Any, case: Case, tau: float) -> None:
    student, teacher, targets = case
    found = [float(term) for term in terms(student, teacher, targets, tau=tau)]
    expected = [float(term) for term in reference(student, teacher, targets, tau)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * tau**2)


@both
@given(case=cases(), tau=taus, standardize=st.booleans())
def test_gradients_are_the_papers(
    terms: Any, reference: Any, case: Case, tau: float, standardize: bool
) -> None:
    student, teacher, targets = case
    prepared = references.standardized if standardize else Tensor.double
    for which in (0, 1):
        found = grad(
            student,
            lambda z, w=which: terms(z, teacher, targets, tau=tau, standardize=standardize)[w],
        )
        expected = grad(
            student.double(),
            lambda z, w=which: reference(prepared(z), prepared(teacher), targets, tau)[w],
        )
        # of two standardised classes nothing is left that could move: what there is, is rounding
        np.testing.assert_allclose(
            found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-6 * tau
        )


@given(cases(rows=1), taus)
def test_kl_is_tckd_and_nckd_in_the_share_of_the_other_classes(case: Case, tau: float) -> None:
    """KL = TCKD + (1 - p) NCKD, p the teacher's probability of the label (equation 6 of the
    paper)."""
    student, teacher, targets = case
    tckd, nckd = dkd_terms(student, teacher, targets, tau=tau)
    p = torch.softmax(teacher.double() / tau, 1)[0, targets[0]]
    assert float(tckd + (1 - p) * nckd) == pytest.approx(
        float(kl_loss(student, teacher, tau=tau)), rel=1e-4, abs=1e-6 * tau**2
    )


@given(cases(rows=1))
def test_soft_cross_entropy_is_made_of_nkds_parts(case: Case) -> None:
    """-sum t log s = target + (1 - t_y) (nontarget - log(1 - s_y)) at temperature 1: what NKD
    leaves out is the last term."""
    student, teacher, targets = case
    target, nontarget = nkd_terms(student, teacher, targets, tau=1.0)
    t, s = (torch.softmax(z.double(), 1)[0] for z in (teacher, student))
    label = int(targets[0])
    whole = -float((t * s.log()).sum())
    assert float(target + (1 - t[label]) * (nontarget - torch.log(1 - s[label]))) == pytest.approx(
        whole, rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("label_logit", [-1e4, -200.0, 0.0, 200.0, 1e4])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_other_classes_do_not_depend_on_how_sure_either_side_is_of_the_label(
    label_logit: float, tau: float
) -> None:
    student, teacher, targets = logits(8, 10), logits(8, 10, seed=1), labels(8, 10)
    expected = [terms(student, teacher, targets, tau=tau)[1] for terms in (dkd_terms, nkd_terms)]
    assert all(float(term) > 0.1 for term in expected)
    for sure in ({"student"}, {"teacher"}, {"student", "teacher"}):
        s, t = (
            z.scatter(1, targets[:, None], label_logit) if who in sure else z
            for who, z in (("student", student), ("teacher", teacher))
        )
        assert [terms(s, t, targets, tau=tau)[1] for terms in (dkd_terms, nkd_terms)] == expected


@pytest.mark.parametrize("label_logit", [-1e4, 200.0, 1e4])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("loss", [dkd_loss, nkd_loss])
def test_losses_are_finite_where_a_teacher_is_sure(
    loss: Any, label_logit: float, standardize: bool
) -> None:
    student, teacher, targets = logits(8, 10), logits(8, 10, seed=1), labels(8, 10)
    teacher = teacher.scatter(1, targets[:, None], label_logit)
    for z in (student, teacher, -teacher):
        assert bool(torch.isfinite(loss(z, teacher, targets, tau=1.0, standardize=standardize)))
        gradient = grad(z, lambda z: loss(z, teacher, targets, tau=1.0, standardize=standardize))
        assert bool(torch.isfinite(gradient).all())


def test_a_sure_teacher_still_teaches_the_other_classes() -> None:
    """What DKD is for: plain KL gives the other classes no weight here."""
    student, teacher, targets = logits(8, 10), logits(8, 10, seed=1), labels(8, 10)
    teacher = teacher.scatter(1, targets[:, None], 200.0)
    student = student.scatter(1, targets[:, None], 200.0)
    assert float(grad(student, lambda z: kl_loss(z, teacher, tau=1.0)).abs().max()) == 0
    others = without_label(grad(student, lambda z: dkd_loss(z, teacher, targets, tau=1.0)), targets)
    assert float(others.abs().amax(1).min()) > 1e-3


def test_a_teacher_has_nothing_to_teach_itself() -> None:
    same, targets = logits(8, 10), labels(8, 10)
    tckd, nckd = dkd_terms(same, same, targets, tau=4.0)
    assert float(tckd) == float(nckd) == 0
    assert float(grad(same, lambda z: dkd_loss(z, same, targets)).abs().max()) < 1e-6
    assert float(grad(same, lambda z: nkd_terms(z, same, targets, tau=4.0)[1]).abs().max()) < 1e-6


def test_of_two_classes_only_the_label_counts() -> None:
    student, teacher, targets = logits(8, 2), logits(8, 2, seed=1), labels(8, 2)
    tckd, nckd = dkd_terms(student, teacher, targets, tau=4.0)
    assert float(nckd) == 0 and float(nkd_terms(student, teacher, targets, tau=4.0)[1]) == 0
    assert float(tckd) == pytest.approx(float(kl_loss(student, teacher, tau=4.0)), rel=1e-5)


def test_the_label_is_taken_out_and_the_order_of_the_others_kept() -> None:
    z, targets = torch.arange(15.0).reshape(3, 5), torch.tensor([0, 2, 4])
    assert without_label(z, targets).tolist() == [[1, 2, 3, 4], [5, 6, 8, 9], [10, 11, 12, 13]]
