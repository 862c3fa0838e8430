"""Rows made of other rows: joined, averaged, and of mapped classes."""

import pytest
import torch
from waits import GPU, on_gpu, without_waits

from kdcache.codecs import open_codec
from kdcache.errors import CodecError
from kdcache.soft_targets import (
    AveragedTargets,
    DenseTargets,
    JoinedTargets,
    MappedTargets,
    SoftTargets,
)

LOGITS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)) * 3


def test_joined_rows_stand_where_they_belong_for_every_kind_of_rows() -> None:
    codec = open_codec("topk:k=2", classes=6)
    first, second = torch.tensor([7, 0, 3]), torch.tensor([1, 2, 4, 5, 6, 8, 9, 10, 11])
    kept = codec.decode(codec.encode(LOGITS))
    rows = JoinedTargets(
        [(first, DenseTargets(LOGITS[first])), (second, codec.decode(codec.encode(LOGITS[second])))]
    )
    assert isinstance(rows, SoftTargets)
    exact = DenseTargets(LOGITS)
    is_first = torch.zeros(12, dtype=torch.bool).index_fill(0, first, True)[:, None]
    student = LOGITS.flip(0)
    for tau in (2.0, torch.linspace(1, 4, 12)):
        expected = torch.where(is_first, exact.probs(tau), kept.probs(tau))
        torch.testing.assert_close(rows.probs(tau, tempered_student=student), expected)
    torch.testing.assert_close(rows.logits(), torch.where(is_first, exact.logits(), kept.logits()))
    torch.testing.assert_close(rows.std(), torch.where(is_first[:, 0], exact.std(), kept.std()))


def test_averaged_rows_weigh_probabilities_at_the_temperature() -> None:
    other = LOGITS.roll(1, 0)
    rows = AveragedTargets([DenseTargets(LOGITS), DenseTargets(other)], [1.0, 3.0])
    for tau in (1.0, 4.0):
        expected = 0.25 * torch.softmax(LOGITS / tau, 1) + 0.75 * torch.softmax(other / tau, 1)
        torch.testing.assert_close(rows.probs(tau), expected)


def test_mapped_rows_add_up_what_belongs_together_and_leave_out_the_rest() -> None:
    rows = MappedTargets(DenseTargets(LOGITS), torch.tensor([0, 2, 0, -1, 3, 3]), 5)
    found, whole = rows.probs(2.0), torch.softmax(LOGITS / 2, 1)
    kept = 1 - whole[:, 3]
    assert (found[:, [1, 4]] == 0).all(), "classes of the student that the teacher does not know"
    torch.testing.assert_close(found[:, 0], (whole[:, 0] + whole[:, 2]) / kept)
    torch.testing.assert_close(found[:, 2], whole[:, 1] / kept)
    torch.testing.assert_close(found.sum(1), torch.ones(12))


def test_mapped_rows_do_not_wait_for_the_device() -> None:
    with on_gpu():
        classes = torch.empty(6, dtype=torch.int64, device=GPU)
        rows = MappedTargets(DenseTargets(torch.empty(12, 6, device=GPU)), classes, 5)
        with without_waits():
            assert rows.probs(2.0).shape == (12, 5)


def test_a_row_whose_mapped_classes_have_no_mass_is_no_nan() -> None:
    logits = torch.tensor([[0.0, 1000.0, -1000.0]])
    found = MappedTargets(DenseTargets(logits), torch.tensor([-1, -1, 0]), 2).probs(1.0)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    "rows",
    [
        AveragedTargets([DenseTargets(LOGITS)], [1.0]),
        MappedTargets(DenseTargets(LOGITS), torch.arange(6), 6),
    ],
)
def test_sums_of_probabilities_have_no_logits(rows: SoftTargets) -> None:
    for ask in (rows.logits, rows.std):
        with pytest.raises(
            CodecError, match="have no logits; use loss dist or kl, without standardize"
        ):
            ask()
