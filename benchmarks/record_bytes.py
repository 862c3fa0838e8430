"""Bytes per view on disk, and the error of the DIST gradient, of each codec on logits that you bring.

    python benchmarks/record_bytes.py LOGITS.npz [--json]

LOGITS.npz holds two float arrays of raw logits, `teacher` and `student`, both `[views, classes]`: the same views in the same
order. benchmarks/README.md says how to make one. Records go through a real cache in a temporary folder; the bytes are those of
its objects with their index and checksums, the commits apart.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import report
from workload import make_cache

from kdcache.codecs import Codec, open_codec
from kdcache.losses.dist import dist_loss

CODECS = ["full:dtype=float32", "full:dtype=float16", "full:dtype=bfloat16", "full:dtype=uint8"]
KEPT = [200, 100, 50, 16, 10]
TAUS = (1.0, 4.0)


def load(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (teacher, student) logits in float32."""
    if not Path(path).is_file():
        raise SystemExit(f"{path} does not exist; benchmarks/README.md says how to make it")
    with np.load(path, allow_pickle=False) as arrays:
        if not {"teacher", "student"} <= set(arrays.files):
            raise SystemExit(f"{path} holds {arrays.files}; it needs `teacher` and `student`, each [views, classes]")
        teacher, student = (torch.from_numpy(arrays[name]).float() for name in ("teacher", "student"))
    if teacher.ndim != 2 or teacher.shape != student.shape:
        raise SystemExit(f"teacher {tuple(teacher.shape)} and student {tuple(student.shape)} must be equal [views, classes]")
    return teacher, student


def stored_bytes(folder: Path, codec: Codec, teacher: torch.Tensor) -> dict[str, Any]:
    """Return bytes per view of a committed cache of the teacher's logits: objects and commits apart."""
    cache = make_cache(folder, codec, len(teacher))
    cache.start_seed(0)
    records = codec.encode(teacher)
    for unit in range(cache.manifest.num_units):
        rows = cache.manifest.unit_range(unit)
        cache.commit(0, unit, records[rows.start : rows.stop])
    assert np.array_equal(np.concatenate([cache.read_unit(commit) for commit in cache.commits(0)]), records)
    commits = sum(path.stat().st_size for path in (folder / "commits").rglob("*.json"))
    objects = sum(path.stat().st_size for path in (folder / "seeds").rglob("c/*/0"))
    return {
        "bytes": objects / len(teacher),
        "raw_bytes": codec.record_dtype.itemsize,
        "commit_bytes": commits / len(teacher),
        "unit_rows": cache.manifest.unit_rows,
        "chunk_rows": cache.manifest.chunk_rows,
    }


def gradient(student: torch.Tensor, teacher: Any, tau: float) -> torch.Tensor:
    """Return the gradient of DIST with respect to the student's logits."""
    student = student.clone().requires_grad_()
    dist_loss(student, teacher, tau=tau).backward()
    assert student.grad is not None
    return student.grad


def gradient_error(codec: Codec, teacher: torch.Tensor, student: torch.Tensor, tau: float, batch: int) -> float:
    """Return |cached - exact| / |exact| of that gradient, the mean over all full batches."""
    errors = []
    for start in range(0, len(teacher) - batch + 1, batch):
        logits, ours = teacher[start : start + batch], student[start : start + batch]
        exact = gradient(ours, logits, tau)
        cached = gradient(ours, codec.decode(codec.encode(logits)), tau)
        errors.append(float(torch.linalg.vector_norm(cached - exact) / torch.linalg.vector_norm(exact)))
    return float(np.mean(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logits", help="an .npz file with `teacher` and `student`")
    parser.add_argument("--batch", type=int, default=256, help="rows of a DIST batch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    teacher, student = load(options.logits)
    if len(teacher) < options.batch:
        raise SystemExit(f"{options.logits} holds {len(teacher)} views; at least one batch of {options.batch} is needed")
    classes = teacher.shape[1]
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        for spec in CODECS + [f"topk:k={k}" for k in KEPT if k <= classes]:
            codec = open_codec(spec, classes=classes)
            case = stored_bytes(Path(name) / f"cache{len(cases)}", codec, teacher)
            for tau in TAUS:
                case[f"error_tau_{tau:g}"] = gradient_error(codec, teacher, student, tau, options.batch)
            cases[spec] = case
    lines = {
        spec: f"{case['bytes']:8.1f} B (raw {case['raw_bytes']}, commits {case['commit_bytes']:.2f}), gradient error "
        f"{case['error_tau_1']:.3f} at tau 1, {case['error_tau_4']:.3f} at tau 4"
        for spec, case in cases.items()
    }
    settings = {"views": len(teacher), "classes": classes, "batch": options.batch}
    report({"benchmark": "record_bytes", **settings, "codecs": cases}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
