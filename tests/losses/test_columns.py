"""DIST's columns over the batch of all processes: what one process with the whole batch computes,
in value and in gradient."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from losses.references import labels, logits, pearson
from processes import launch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.codecs import open_codec
from kdcache.errors import UsageError
from kdcache.losses import Dist, dist_loss, dist_terms, open_loss
from kdcache.losses.checks import as_soft_targets
from kdcache.runtime.distributed import rank, world_size
from kdcache.soft_targets import SoftTargets

CLASSES = 50
Columns = Literal["global", "local"]


class Case(NamedTuple):
    parts: tuple[int, ...]
    """Rows of each process."""
    kind: str = "plain"
    tau: float = 1.0
    standardize: bool = False
    columns: Columns = "global"


KINDS = ("plain", "confident", "constant columns", "topk")
EQUAL, RAGGED = {2: (4, 4), 4: (8, 8, 8, 8)}, {2: (3, 5), 4: (1, 2, 3, 2)}
processes = pytest.mark.parametrize("processes", [2, 4])


def cases(processes: int) -> list[Case]:
    """Return cases of that many processes; the last is of local columns."""
    parts = (EQUAL[processes], RAGGED[processes])
    varied = [Case(*one) for one in itertools.product(parts, KINDS, (1.0, 4.0), (False, True))]
    return [*varied, Case(EQUAL[processes], tau=4.0, columns="local")]


def teacher_rows(case: Case, rows: slice) -> Tensor | SoftTargets:
    teacher = logits(sum(case.parts), CLASSES, seed=1)
    if case.kind == "confident":
        teacher = teacher * 4
    elif case.kind == "constant columns":
        teacher[:, 0] += 200.0  # every other probability underflows
    elif case.kind == "topk":
        codec = open_codec("topk:k=5", classes=CLASSES)
        return codec.decode(codec.encode(teacher)[rows])
    return teacher[rows]


def term(case: Case, rows: slice) -> tuple[float, Any]:
    """Return the intra-class term of some rows of the case's batch, and its gradient by their
    logits."""
    student = logits(sum(case.parts), CLASSES)[rows].requires_grad_()
    options = {"tau": case.tau, "standardize": case.standardize}
    _, intra = dist_terms(student, teacher_rows(case, rows), columns=case.columns, **options)
    return float(intra.detach()), torch.autograd.grad(intra, student)[0].numpy()


def own(parts: Sequence[int]) -> slice:
    """Return which rows of the batch are this process's."""
    start = sum(parts[: rank()])
    return slice(start, start + parts[rank()])


def terms_of_own_rows(cases: list[Case]) -> list[tuple[float, Any]]:
    return [term(case, own(case.parts)) for case in cases]


@processes
def test_the_term_is_that_of_one_process(processes: int) -> None:
    *shared, local = cases(processes)
    found = launch(terms_of_own_rows, processes, [*shared, local])
    for number, case in enumerate(shared):
        value, gradient = term(case, slice(None))
        assert [one[number][0] for one in found] == pytest.approx(
            [value] * processes, rel=1e-5, abs=1e-5
        ), case
        # DistributedDataParallel divides the sum by the number of processes
        summed = np.concatenate([one[number][1] for one in found]) / processes
        scale = float(np.abs(gradient).max())
        np.testing.assert_allclose(
            summed, gradient, rtol=1e-3, atol=1e-4 * scale, err_msg=str(case)
        )
        assert scale > 1e-5 or case.kind == "constant columns", (
            "a gradient of zero would prove nothing"
        )

    for process, one in enumerate(found):
        start = sum(local.parts[:process])
        expected = term(local, slice(start, start + local.parts[process]))
        assert one[-1][0] == expected[0] and np.array_equal(one[-1][1], expected[1]), (
            "local columns are one process's own"
        )
    _, gradient = term(local, slice(None))
    summed = np.concatenate([one[-1][1] for one in found]) / processes
    assert np.linalg.norm(summed - gradient) > 0.1 * np.linalg.norm(gradient), (
        "the tolerance above would tell"
    )


def exact_term(student: Tensor, teacher: Tensor, tau: float) -> tuple[float, Any]:
    """Return the intra-class term in float64 with its gradient."""
    z = student.double().requires_grad_()
    intra = tau**2 * (
        1 - pearson(torch.softmax(z / tau, 1), torch.softmax(teacher.double() / tau, 1), 0).mean()
    )
    return float(intra.detach()), torch.autograd.grad(intra, z)[0].numpy()


CONFIDENT = [
    (student, teacher, tau)
    for student, teacher in ((3.0, 12.0), (12.0, 12.0), (0.01, 12.0))
    for tau in (1.0, 4.0)
]


def confident_terms() -> list[tuple[float, Any]]:
    found = []
    for student_scale, teacher_scale, tau in CONFIDENT:
        student = logits(32, 1000, scale=student_scale)[own((8,) * 4)].requires_grad_()
        intra = dist_terms(
            student, logits(32, 1000, seed=1, scale=teacher_scale)[own((8,) * 4)], tau=tau
        )[1]
        found.append((float(intra.detach()), torch.autograd.grad(intra, student)[0].numpy()))
    return found


def test_sums_in_float32_are_accurate_with_confident_teachers() -> None:
    found = launch(confident_terms, 4)
    for number, (student_scale, teacher_scale, tau) in enumerate(CONFIDENT):
        pair = logits(32, 1000, scale=student_scale), logits(32, 1000, seed=1, scale=teacher_scale)
        value, gradient = exact_term(*pair, tau)
        assert found[0][number][0] == pytest.approx(value, rel=1e-6)
        assert len({one[number][0] for one in found}) == 1, "every process has the very same value"
        summed = np.concatenate([one[number][1] for one in found]) / 4
        assert np.linalg.norm(summed - gradient) < 3e-5 * np.linalg.norm(gradient)


SPECS = ("dist", "dist:tau=4,beta=1,gamma=3,ce=0.5", "kl:tau=4", "ce", "dist:tau=4,columns=local")


def weights_gradient(spec: str, model: nn.Module, rows: slice, total: int, share: float) -> Any:
    """Return the gradient of the linear `model` by its weights, its loss over some rows of a batch
    multiplied by `share`."""
    images, targets = logits(total, 12, seed=3)[rows], labels(total, CLASSES)[rows]
    loss = open_loss(spec)
    found = model(images)
    terms = loss.terms(found, as_soft_targets(logits(total, CLASSES, seed=1)[rows]), targets)
    (
        share * (loss.ce * nn.functional.cross_entropy(found, targets) + sum(terms.values()))
    ).backward()
    return [parameter.grad.numpy().copy() for parameter in model.parameters()]  # type: ignore[union-attr]


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(12, CLASSES)


def averaged_gradients(batches: list[tuple[int, ...]]) -> dict[tuple[str, tuple[int, ...]], Any]:
    found = {}
    for spec, parts in itertools.product(SPECS, batches):
        share = parts[rank()] * world_size() / sum(parts)
        found[spec, parts] = weights_gradient(
            spec, DistributedDataParallel(linear()), own(parts), sum(parts), share
        )
    return found


@processes
def test_a_wrapped_models_gradient_is_that_of_one_process(processes: int) -> None:
    batches = [EQUAL[processes], RAGGED[processes]]
    found = launch(averaged_gradients, processes, batches)
    for spec, parts in itertools.product(SPECS, batches):
        expected = weights_gradient(spec, linear(), slice(None), sum(parts), 1.0)
        for one in found:
            for gradient, whole in zip(one[spec, parts], expected, strict=True):
                scale = float(np.abs(whole).max())
                if "local" in spec:
                    assert float(np.abs(gradient - whole).max()) > 0.01 * scale, (
                        "this would be told"
                    )
                else:
                    np.testing.assert_allclose(
                        gradient, whole, rtol=1e-3, atol=2e-5 * scale, err_msg=f"{spec} {parts}"
                    )


def test_columns_is_an_option_of_the_spec() -> None:
    assert open_loss("dist:tau=1,columns=local") == Dist(columns="local")
    assert open_loss("dist") == Dist(columns="global")
    with pytest.raises(
        UsageError,
        match=(
            r"unknown loss dist columns 'locale'; did you mean 'local'\? \(known: global, local\)"
        ),
    ):
        open_loss("dist:columns=locale")
    (told,) = launch(misspelt, 1)  # where nothing checks annotations
    assert told == "unknown columns of dist 'locale'; did you mean 'local'? (known: global, local)"


def misspelt() -> str:
    try:
        dist_loss(logits(2, 3), logits(2, 3), columns="locale")  # type: ignore[arg-type]
    except UsageError as error:
        return str(error)
    return "nothing"


def test_a_torch_without_processes_has_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = float(dist_loss(logits(8, 10), logits(8, 10, seed=1)))
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    for name in ("is_initialized", "get_rank", "get_world_size", "all_reduce"):
        monkeypatch.delattr(torch.distributed, name)  # as in a build without it
    assert float(dist_loss(logits(8, 10), logits(8, 10, seed=1))) == expected
