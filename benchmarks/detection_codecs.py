"""What codecs cost on the class logits of a real detector: bytes a position, and the error of the
gradient that a student gets.

    python benchmarks/detection_codecs.py LOGITS.npz [--views N] [--json]

LOGITS.npz is what benchmarks/nanodet.py writes. Codecs that need a fit get it on the first half of
the images; all are measured on the other half. Bytes are those of a large cache, index and
checksums included, commits apart. The error is |decoded - exact| / |exact| of the gradient with
respect to the student's logits, of all levels together, in batches of 8 images: by sigmoid, a row
for each position, a loss for each level, summed, as kdcache.tasks.detection has it. Students are
stand-ins:

  mirrored  the detector on the mirror image, mirrored back
  blurred   the detector on the image at half of its resolution
  early     m + 0.6 (z - m) + noise of deviation 0.5, m being the mean of each class

Lines in brackets are no codecs: 6 bits with two scales a position; cosine without its cosines; and
cosine with one step for all levels. Their bytes are those of zstd of each view by itself.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measure import make_parser, report
from numcodecs import Zstd
from torch import Tensor

from kdcache.cache import stored_bytes
from kdcache.codec_error.gradients import Difference
from kdcache.codecs import open_codec, with_layout
from kdcache.losses import dist_terms, kl_loss
from kdcache.positions import Pyramid

CODECS = ["full:dtype=float16", "full:dtype=uint8", "full:dtype=uint4"]
STEPS = (3, 4, 6, 8, 12)
BATCH = 8
LEVEL = 16
"""Of zstd, for what is no codec."""
ROWS = 16_384
"""That a codec is fitted to."""
Loss = Callable[[Tensor, Tensor], Tensor]
Case = tuple[float, Tensor]
"""Bytes a position, and decoded logits `[views, positions, classes]`."""


def dist(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    inter, intra = dist_terms(student, teacher, tau=tau, activation="sigmoid")
    return inter + intra


LOSSES: dict[str, Loss] = {
    "DIST, tau 1": partial(dist, tau=1.0),
    "DIST, tau 4": partial(dist, tau=4.0),
    "KL, tau 1": partial(kl_loss, tau=1.0, activation="sigmoid"),
}


class Logits:
    """The detector's logits, in halves, and the students' on the second one."""

    def __init__(self, path: str, views: int | None) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            half = len(arrays["teacher"]) // 2
            measured = slice(half, half + (views or half))
            self.fitting = _floats(arrays["teacher"][:half])
            self.teacher = _floats(arrays["teacher"][measured])
            sizes = tuple((int(height), int(width)) for height, width in arrays["levels"])
            self.students = {
                "mirrored": _floats(arrays["mirrored"][measured]),
                "blurred": _floats(arrays["blurred"][measured]),
                "early": early(self.teacher),
            }
        self.layout = Pyramid(sizes, anchors=(1,) * len(sizes))
        self._exact: dict[tuple[str, str], Tensor] = {}
        """Exact gradients by student and loss."""

    def sample(self) -> Tensor:
        """Return rows of the first half, from random places."""
        rows = self.fitting.flatten(0, 1)
        generator = torch.Generator().manual_seed(0)
        return rows[torch.randperm(len(rows), generator=generator)[:ROWS]]

    def gradients(self, student: str, teacher: Tensor, loss: str) -> Tensor:
        """Return the gradients of all batches with respect to a student's logits."""
        logits = self.students[student]
        parts = []
        for start in range(0, len(logits), BATCH):
            views = slice(start, start + BATCH)
            parts.append(self.gradient(logits[views], teacher[views], LOSSES[loss]))
        return torch.cat(parts)

    def gradient(self, student: Tensor, teacher: Tensor, loss: Loss) -> Tensor:
        """Return the gradient of a batch's loss with respect to the student's logits."""
        student = student.clone().requires_grad_()
        losses = []
        for ours, theirs in zip(
            self.layout.split(student), self.layout.split(teacher), strict=True
        ):
            losses.append(loss(ours.flatten(0, 1), theirs.flatten(0, 1)))
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), student)
        return gradient

    def errors(self, decoded: Tensor) -> dict[str, dict[str, float]]:
        """Return the error by loss and student, and of each level by itself as
        `mirrored, level N`."""
        errors: dict[str, dict[str, float]] = {}
        for name in LOSSES:
            errors[name] = {}
            for student in self.students:
                whole, *levels = self._differences(student, decoded, name)
                errors[name][student] = whole.error
                if student == "mirrored":
                    for place, level in enumerate(levels):
                        errors[name][f"{student}, level {place}"] = level.error
        return errors

    def _differences(self, student: str, decoded: Tensor, loss: str) -> list[Difference]:
        """Return the differences of the gradients of all levels, and of each by itself."""
        if (student, loss) not in self._exact:
            self._exact[student, loss] = self.gradients(student, self.teacher, loss)
        exact = self._exact[student, loss]
        other = self.gradients(student, decoded, loss)
        pairs = [(exact, other)]
        pairs += zip(self.layout.split(exact), self.layout.split(other), strict=True)
        differences = []
        for pair in pairs:
            difference = Difference()
            difference.add(*pair)
            differences.append(difference)
        return differences


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def early(teacher: Tensor) -> Tensor:
    """Return logits of a student that has learned part of it."""
    generator = torch.Generator().manual_seed(0)
    mean = teacher.mean((0, 1))
    noise = torch.randn(teacher.shape, generator=generator)
    return mean + 0.6 * (teacher - mean) + 0.5 * noise


def coded(spec: str, logits: Logits) -> Case:
    """Return what a codec takes and gives back."""
    rows = open_codec(spec, classes=logits.teacher.shape[-1]).fit(logits.sample())
    codec = with_layout(rows, logits.layout)
    records = codec.encode(logits.teacher)
    size = stored_bytes(codec, records) / logits.layout.num_positions
    return size, codec.decode(records).logits()


def in_six_bits(logits: Logits) -> Case:
    """Return 6 bits with two scales a position, in planes."""
    low, high = logits.teacher.aminmax(dim=-1, keepdim=True)
    scale = (high - low) / 63
    stored = ((logits.teacher - low) / scale).round()
    planes = []
    for part in logits.layout.split(stored.to(torch.uint8)):
        planes.append(part.transpose(1, 2).flatten(1))
    size = compressed(torch.cat(planes, 1).numpy()) / logits.layout.num_positions
    return size + 8, low + scale * stored


def without_cosines(spec: str, logits: Logits) -> Case:
    """Return the integers of `cosine` on the axes of each position, a step for each level."""
    rows = open_codec(spec, classes=logits.teacher.shape[-1]).fit(logits.sample())
    fit = rows.fit_arrays()
    mean = torch.from_numpy(fit["mean"])
    basis = torch.from_numpy(fit["basis"])
    most = logits.layout.segments[0].num_positions
    planes = []
    decoded = []
    for segment, part in zip(
        logits.layout.segments, logits.layout.split(logits.teacher), strict=True
    ):
        step = float(fit["step"][0]) * segment.num_positions / most
        integers = ((part - mean) @ basis.T / step).round()
        decoded.append(integers @ basis * step + mean)
        planes.append(integers.to(torch.int16).transpose(1, 2).flatten(1))
    raw = torch.cat(planes, 1)
    unsigned = ((raw << 1) ^ (raw >> 15)).numpy().view(np.uint16)
    both = np.concatenate([unsigned & 255, unsigned >> 8], 1).astype(np.uint8)
    return compressed(both) / logits.layout.num_positions, torch.cat(decoded, 1)


def with_one_step(spec: str, logits: Logits) -> Case:
    """Return what `cosine` takes with the step of the largest level on all of them: each level by
    itself is the largest."""
    rows = open_codec(spec, classes=logits.teacher.shape[-1]).fit(logits.sample())
    size = 0.0
    decoded = []
    for level, part in zip(logits.layout.levels, logits.layout.split(logits.teacher), strict=True):
        codec = with_layout(rows, Pyramid((level,), anchors=(1,)))
        records = codec.encode(part)
        size += stored_bytes(codec, records)
        decoded.append(codec.decode(records).logits())
    return size / logits.layout.num_positions, torch.cat(decoded, 1)


def compressed(raw: np.ndarray) -> float:
    """Return the mean bytes of a view, each compressed by itself."""
    zstd = Zstd(level=LEVEL)
    lengths = [len(zstd.encode(np.ascontiguousarray(view))) for view in raw]
    return float(np.mean(lengths))


def cases_of(logits: Logits) -> dict[str, Callable[[], Case]]:
    """Return what is measured, by name."""
    specs = [*CODECS, *(f"cosine:steps={steps}" for steps in STEPS)]
    cases: dict[str, Callable[[], Case]] = {}
    for spec in specs:
        cases[spec] = partial(coded, spec, logits)
    cases["[6 bits]"] = partial(in_six_bits, logits)
    cases["[cosine:steps=8 without cosines]"] = partial(without_cosines, "cosine:steps=8", logits)
    for steps in (8, 32):
        spec = f"cosine:steps={steps}"
        cases[f"[{spec} with one step]"] = partial(with_one_step, spec, logits)
    return cases


def main() -> None:
    parser = make_parser(__doc__, repetitions=1)
    parser.add_argument("logits", help="an .npz file that benchmarks/nanodet.py wrote")
    parser.add_argument("--views", type=int, help="images to measure on; by default a half")
    options: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    logits = Logits(options.logits, options.views)
    cases = {}
    lines = {}
    for name, measure in cases_of(logits).items():
        size, decoded = measure()
        errors = logits.errors(decoded)
        cases[name] = {"bytes_per_position": size, "errors": errors}
        texts = []
        for loss, by_student in errors.items():
            values = " ".join(f"{error:.4f}" for error in by_student.values())
            texts.append(f"{loss}: {values}")
        lines[name] = f"{size:6.1f} B; {'; '.join(texts)}"
        print(name, lines[name], file=sys.stderr, flush=True)
    settings = {"views": len(logits.teacher), "positions": logits.layout.num_positions}
    report(
        {"benchmark": "detection_codecs", **settings, "codecs": cases}, lines, as_json=options.json
    )


if __name__ == "__main__":
    main()
