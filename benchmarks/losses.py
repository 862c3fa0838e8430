"""DIST and KL against their formulas in plain autograd: time, memory, operators, and how far the
gradient is from that of double precision.

    python benchmarks/losses.py [--loss kl] [--shapes 256x1000 ...] [--threads N] [--device cuda]
        [--compiled] [--check]

Forward and backward from logits to the gradient of the student's logits, tau 1, beta = gamma = 1
(KL: tau 4).
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import interleave, make_parser, peak_bytes, report, spreads
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.losses import dist_loss, kl_loss
from kdcache.runtime.allocator import keep_freed_memory

SHAPES = [(256, 100), (256, 1000), (1024, 21841), (16384, 19), (131072, 19)]
"""Rows and classes: CIFAR-100's, ImageNet's, ImageNet-21k's, and pixels of maps."""
GOALS = {(256, 100): 1.8, (256, 1000): 3.0, (1024, 21841): 3.0}
"""Times as fast, of DIST; never slower elsewhere."""
TAU = 4.0
"""Of KL."""
KL_GOAL = 0.85
"""Times as fast as torch's functions: of few classes it takes longer to look at what is given."""
LEAST_ELEMENTS = 4e6
MOST_CALLS = 200
"""Logits that a repetition goes through, call by call, and the most calls of it."""
Loss = Callable[[Tensor, Tensor], Tensor]


def textbook(student: Tensor, teacher: Tensor) -> Tensor:
    """Return DIST as equations 6 to 9 of the paper say it."""
    ours = student.softmax(1)
    theirs = teacher.softmax(1)
    return 2 - _correlations(ours, theirs).mean() - _correlations(ours.T, theirs.T).mean()


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    a = a - a.mean(1, keepdim=True)
    b = b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def closed(student: Tensor, teacher: Tensor) -> Tensor:
    """Return kdcache's."""
    return dist_loss(student, teacher, beta=1.0, gamma=1.0, tau=1.0)


def textbook_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return tau^2 KL as torch's own functions give it."""
    ours = (student / TAU).log_softmax(1)
    theirs = (teacher / TAU).softmax(1)
    return TAU**2 * torch.nn.functional.kl_div(ours, theirs, reduction="batchmean")


def own_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return kdcache's."""
    return kl_loss(student, teacher, tau=TAU)


LOSSES: dict[str, dict[str, Loss]] = {
    "dist": {"textbook": textbook, "kdcache": closed},
    "kl": {"textbook": textbook_kl, "kdcache": own_kl},
}


def gradient(loss: Loss, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the gradient of the student's logits."""
    leaf = student.detach().requires_grad_()
    (values,) = torch.autograd.grad(loss(leaf, teacher), leaf)
    return values


class _Count(TorchDispatchMode):
    """Counts operators that compute something: views of a tensor launch no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def measure(rows: int, classes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what is measured of one shape."""
    generator = torch.Generator().manual_seed(0)
    student = 2 * torch.randn(rows, classes, generator=generator)
    teacher = student + torch.randn(rows, classes, generator=generator)
    formulas = LOSSES[options.loss]
    exact = gradient(formulas["textbook"], student.double(), teacher.double())
    placed = (student.to(options.device), teacher.to(options.device))
    calls = min(max(int(LEAST_ELEMENTS / student.numel()), 1), MOST_CALLS)

    def several(loss: Loss) -> Callable[[int], object]:
        def run(_: int) -> None:
            for _ in range(calls):
                gradient(loss, *placed)
            if options.device != "cpu":
                torch.cuda.synchronize()

        return run

    losses = dict(formulas)
    operators = {name: num_operators(loss, *placed) for name, loss in formulas.items()}
    if options.compiled:
        torch.compiler.reset()  # each shape has graphs of its own
        for name, loss in formulas.items():
            compiled = torch.compile(loss)
            losses[f"{name}, compiled"] = compiled
            operators[f"{name}, compiled"] = num_kernels(compiled, *placed)
    times = interleave({name: several(loss) for name, loss in losses.items()}, options.repetitions)
    result: dict[str, Any] = {}
    for name, loss in losses.items():
        error = (gradient(loss, *placed).cpu() - exact).norm() / exact.norm()
        result[name] = {
            "times_as_fast": spreads(times["textbook"] / times[name]),
            "milliseconds": 1000 * float(times[name][:, 1].min()) / calls,
            "error_of_gradient": float(error),
            "operators": operators[name],
            "megabytes": peak_bytes(lambda loss=loss: gradient(loss, *placed)) / 1e6,
        }
    return result


def num_operators(loss: Loss, student: Tensor, teacher: Tensor) -> int:
    """Return how many operators compute something."""
    counter = _Count()
    with counter:
        gradient(loss, student, teacher)
    return counter.count


def num_kernels(compiled: Loss, student: Tensor, teacher: Tensor) -> int:
    """Return how many kernels are made of a loss, which is compiled now: loops that are fused count
    as one, as on a GPU they are one launch."""
    count = 0

    def count_kernels(nodes: list[Any]) -> list[Any]:
        nonlocal count
        for node in nodes:
            # on a CPU several kernels over the same rows share an outer loop
            parts = node.get_outer_nodes() if hasattr(node, "get_outer_nodes") else [node]
            count += sum(not isinstance(part, NopKernelSchedulerNode) for part in parts)
        return nodes

    # what is in the compiler's cache would not be counted
    with inductor.patch(_post_fusion_custom_pass=count_kernels, force_disable_caches=True):
        gradient(compiled, student, teacher)
    return count


def _shape(text: str) -> tuple[int, int]:
    rows, classes = text.split("x")
    return int(rows), int(classes)


def main() -> None:
    parser = make_parser(__doc__, repetitions=7)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loss", choices=[*LOSSES], default="dist")
    parser.add_argument("--shapes", type=_shape, nargs="+", default=SHAPES, metavar="ROWSxCLASSES")
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="also through torch.compile; operators are then the kernels that it makes",
    )
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as trainings do
    found = {}
    lines: dict[str, Any] = {}
    missed = []
    for shape in options.shapes:
        name = "x".join(map(str, shape))
        found[name] = measure(*shape, options)
        for loss, measured in found[name].items():
            if loss != "textbook":
                lines[f"{name}, {loss}, times as fast"] = measured["times_as_fast"]
            others = dict(measured)
            del others["times_as_fast"]
            lines[f"{name}, {loss}"] = others
        goal = KL_GOAL
        if options.loss == "dist":
            goal = GOALS.get(shape, 1.0)
        if found[name]["kdcache"]["times_as_fast"]["cpu"]["median"] < goal:
            missed.append(name)
    report(
        {"benchmark": "losses", "loss": options.loss, "shapes": found}, lines, as_json=options.json
    )
    if options.check and missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
