"""The fewest bytes at which a coder of Gaussian logits could have lowrank's error, and what lowrank
takes.

    python benchmarks/codec_limit.py LOGITS.npz [--steps 0.45 ...] [--errors 0.1 ...] [--tau 4]
        [--views N] [--json]

LOGITS.npz is that of codecs.py. The basis is fitted on the views of one half of the images; the
spectrum, the errors and the bytes are those of the other half. The error is that of DIST's
gradient, beta = gamma. Near the exact logits its square is a quadratic form of a view's errors,
from the Jacobian of the gradient, which is computed of N views.

Reverse water-filling (Cover and Thomas, Elements of Information Theory, theorem 10.3.3) gives the
least rate. A coder knows the spectrum on the axes of lowrank's basis, and one of these:

    squared_error   nothing else: the same noise on every axis
    gradient        each view's quadratic form, which no decoder has: it takes the student, too
    energy          that, and the view's energy in each band of 128 axes

All limits are of vectors of unlimited length. They hold for Gaussian logits of that covariance; a
better model of logits could go below. `entropy` is that of lowrank's integers, axis by axis.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import make_parser, report
from torch import Tensor

from kdcache.cache import stored_bytes
from kdcache.codec_error.calibration import fit_codec
from kdcache.codec_error.gradients import gradients, whole_batches
from kdcache.codec_error.measured_views import BATCH, dist_errors
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.pairs import Pairs
from kdcache.codecs import BasisCodec, open_codec
from kdcache.codecs.transform import Fit, quantised
from kdcache.losses import dist_loss

FINEST = 0.01
"""A step at which no axis that varies is dropped."""
BAND = 128
TURNS = 100


@dataclass(frozen=True)
class Limit:
    """Independent parts of each view's logits, as a coder sees them."""

    variances: Tensor
    """`[views, parts]`."""
    costs: Tensor
    """Squared error of the gradient for a squared error of 1 in a part, `[views, parts]`."""

    def least_bytes(self, allowed: float) -> float:
        """Return the least bytes of a view whose squared error of the gradient is `allowed`, in the
        mean over the views."""
        low = 0.0
        high = float(self.variances.max())
        for _ in range(TURNS):
            level = (low + high) / 2
            noise = self.variances.clamp_max(level)
            if float((noise * self.costs).sum(1).mean()) > allowed:
                high = level
            else:
                low = level
        bits = 0.5 * torch.log2(self.variances.clamp_min(1e-300) / high).clamp_min(0)
        return float(bits.sum(1).mean()) / 8


class Batch:
    """A batch, of which one row of the teacher changes at a time."""

    def __init__(self, student: Tensor, teacher: Tensor, tau: float) -> None:
        self._tau = tau
        self._ours = (student.double() / tau).softmax(1)
        theirs = (teacher.double() / tau).softmax(1)
        self._rows = self._ours - self._ours.mean(1, keepdim=True)
        self._columns = self._ours - self._ours.mean(0)
        self._theirs = theirs
        self._sum = theirs.sum(0)
        self._squares = theirs.square().sum(0)
        self._products = (self._columns * theirs).sum(0)

    def gradient(self, logits: Tensor, row: int) -> Tensor:
        """Return the gradient of DIST with beta = gamma = 1 with respect to a row of the student's
        logits, where the teacher says `logits` of that row."""
        size, classes = self._ours.shape
        target = torch.softmax(logits / self._tau, 0)
        change = target - self._theirs[row]
        mean = (self._sum + change) / size
        squares = self._squares + target.square() - self._theirs[row].square()
        norm = (squares - size * mean.square()).clamp_min(1e-300).sqrt()
        products = self._products + self._columns[row] * change
        columns = _slope(
            self._columns[row], target - mean, self._columns.norm(dim=0), norm, products
        )
        ours = self._rows[row]
        centred = target - target.mean()
        rows = _slope(ours, centred, ours.norm(), centred.norm(), ours @ centred)
        slope = -(self._tau**2) * (rows / size + columns / classes)
        ours = self._ours[row]
        return ours * (slope - ours @ slope) / self._tau


def _slope(a: Tensor, b: Tensor, norm_a: Tensor, norm_b: Tensor, product: Tensor) -> Tensor:
    """Return the derivative of the correlation of two centred vectors in elements of the first."""
    return b / (norm_a * norm_b) - product * a / (norm_a.pow(3) * norm_b)


def limits_of(pairs: Pairs, fit: Fit, tau: float, views: int) -> dict[str, Limit]:
    """Return the limits on the axes of `fit`, of so many of the views."""
    basis = torch.from_numpy(fit.basis).double()
    centred = pairs.teacher - pairs.teacher.mean(1, keepdim=True)
    coefficients = (centred - torch.from_numpy(fit.mean)).double() @ basis.T
    variances = coefficients.square().mean(0)
    same_noise = []
    spectra: dict[str, list[Tensor]] = {"gradient": [], "energy": []}
    for view, jacobian in _jacobians(pairs, tau, views):
        on_axes = jacobian @ basis.T
        same_noise.append(on_axes.square().sum(0))
        told = _with_energy(variances, coefficients[view])
        for name, known in (("gradient", variances), ("energy", told)):
            form = on_axes * known.sqrt()
            spectra[name].append(torch.linalg.eigvalsh(form.T @ form).clamp_min(0))
    costs = torch.stack(same_noise)
    limits = {"squared_error": Limit(variances.expand_as(costs), costs)}
    for name, some in spectra.items():
        parts = torch.stack(some)
        limits[name] = Limit(parts, torch.ones_like(parts))
    return limits


def _jacobians(pairs: Pairs, tau: float, views: int) -> list[tuple[int, Tensor]]:
    """Return the views that are looked at, and the Jacobians of their gradients in the teacher's
    logits, `[classes, classes]`."""
    batches = whole_batches(len(pairs.teacher), BATCH)
    rows = np.linspace(0, len(batches) * BATCH - 1, views).astype(int).tolist()
    jacobians = []
    for part in batches:
        batch = Batch(pairs.student[part], pairs.teacher[part], tau)
        for view in rows:
            if part.start <= view < part.stop:
                gradient = partial(batch.gradient, row=view - part.start)
                logits = pairs.teacher[view].double()
                jacobians.append((view, torch.func.jacfwd(gradient)(logits)))
    return jacobians


def _with_energy(variances: Tensor, coefficients: Tensor) -> Tensor:
    """Return the variances with the energy that a view has in each band of axes."""
    bands = []
    for known, view in zip(variances.split(BAND), coefficients.split(BAND), strict=True):
        bands.append(known * view.square().sum() / known.sum())
    return torch.cat(bands)


def entropy_bytes(integers: Tensor) -> float:
    """Return the bytes of a row of integers, `[rows, axes]`, from how often each comes on its
    axis."""
    bits = 0.0
    for axis in integers.T:
        _, counts = axis.unique(return_counts=True)
        shares = counts / len(axis)
        bits -= float((shares * shares.log2()).sum())
    return bits / 8


def fitted(fitting: Pairs, step: float) -> BasisCodec:
    codec = fit_codec(open_codec(f"lowrank:step={step}", classes=fitting.teacher.shape[1]), fitting)
    assert isinstance(codec.codec, BasisCodec)
    return codec.codec


def taken(codec: BasisCodec, pairs: Pairs, tau: float) -> dict[str, float]:
    """Return what lowrank takes, and its error."""
    assert codec.fitted is not None
    return {
        "error": dist_errors(codec, pairs.views, [tau])[tau],
        "bytes": stored_bytes(codec, codec.encode(pairs.teacher)),
        "entropy": entropy_bytes(quantised(pairs.teacher, codec.fitted.to("cpu"))),
    }


def mean_square(pairs: Pairs, tau: float) -> float:
    """Return the squared norm of a view's exact gradient, in the mean over whole batches."""
    squares = []
    loss = partial(dist_loss, beta=1.0, gamma=1.0, tau=tau)
    for part in whole_batches(len(pairs.teacher), BATCH):
        (exact,) = gradients(
            pairs.student[part], pairs.teacher[part], lambda ours, theirs: [loss(ours, theirs)]
        )
        squares.append(float(exact.double().square().sum()) / BATCH)
    return float(np.mean(squares))


def measure(pairs: Pairs, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    fitting, measured = pairs.halves()
    fit = fitted(fitting, FINEST).fitted
    assert fit is not None
    limits = limits_of(measured, fit, options.tau, options.views)
    square = mean_square(measured, options.tau)

    def at(error: float) -> dict[str, float]:
        return {name: limit.least_bytes(error**2 * square) for name, limit in limits.items()}

    cases = {f"error {error:g}": at(error) for error in options.errors}
    for step in options.steps:
        case = taken(fitted(fitting, step), measured, options.tau)
        cases[f"lowrank:step={step:g}"] = case | at(case["error"])
    return cases


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, repetitions=1)
    parser.add_argument("logits", help="an .npz file with `teacher`")
    parser.add_argument("--steps", type=float, nargs="*", default=[0.25, 0.45, 0.7, 1.0, 2.0])
    parser.add_argument("--errors", type=float, nargs="*", default=[0.1])
    parser.add_argument("--tau", type=float, default=4.0)
    parser.add_argument("--views", type=int, default=64, help="whose Jacobians are computed")
    options = parser.parse_args(words)
    pairs = pairs_from_npz(options.logits)
    cases: dict[str, Any] = measure(pairs, options)
    settings = {"tau": options.tau, "views": options.views, "head": pairs.head is not None}
    report({"benchmark": "codec_limit", **settings, "cases": cases}, cases, as_json=options.json)


if __name__ == "__main__":
    main()
