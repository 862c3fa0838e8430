"""Pairs of logits from an .npz file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.codec_error.measured_logits import opened_npz
from kdcache.codec_error.pairs import ANOTHER_VIEW, Pairs
from kdcache.errors import UsageError
from kdcache.shapes import Logits, Rows


def pairs_from_npz(path: str | Path) -> Pairs:
    """Return the rows of an .npz file: `teacher` `[rows, classes]`, and `student` of that shape,
    `image_id` `[rows]` or both.

    Without `student` the proxy is the teacher on the next row of the same `image_id`; an image
    with one row is left out. `head`, the weights of the teacher's classifier `[classes, features]`,
    may be there too.

    Raises:
        UsageError: no such file, arrays that are absent, not numbers, or of other shapes.
    """
    arrays = _arrays_of(path)
    teacher = _logits(arrays["teacher"], f"{path}: teacher")
    groups = arrays.get("image_id", np.arange(len(teacher)))
    if groups.shape != (len(teacher),):
        raise UsageError(
            f"{path}: image_id has shape {groups.shape}; it must hold one value for each of"
            f" {len(teacher)} rows"
        )
    head = None
    if "head" in arrays:
        head = _head(arrays["head"], teacher.shape[1], f"{path}: head")
    if "student" not in arrays:
        return replace(_of_groups(teacher, groups), head=head)
    student = _logits(arrays["student"], f"{path}: student")
    if teacher.shape != student.shape:
        raise UsageError(
            f"{path}: teacher {tuple(teacher.shape)} and student {tuple(student.shape)} differ;"
            " both must be logits [rows, classes] of the same views and the same classes"
        )
    return Pairs(
        teacher=teacher, student=student, groups=groups, proxy="`student` of the file", head=head
    )


def _arrays_of(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that are known: `teacher`, and `student`, `image_id` or both."""
    arrays = {}
    with opened_npz(path) as file:
        for name in ("teacher", "student", "image_id", "head"):
            if name in file:
                arrays[name] = file[name]
    return arrays


def _of_groups(teacher: Logits, groups: Rows) -> Pairs:
    """Return rows that stand in for each other in a circle within each group; a row alone in its
    group is left out."""
    order = np.argsort(groups, kind="stable")
    _, start, inverse, count = np.unique(
        groups[order], return_index=True, return_inverse=True, return_counts=True
    )
    start = start[inverse]
    count = count[inverse]
    position_in_group = np.arange(len(order)) - start
    neighbours = order[start + (position_in_group + 1) % count]
    has_neighbour = count > 1
    if not has_neighbour.any():
        raise UsageError(
            "no image_id has two rows, of which one could stand in for a student; give `student`"
        )
    rows = order[has_neighbour]
    return Pairs(
        teacher=teacher[rows],
        student=teacher[neighbours[has_neighbour]],
        groups=groups[rows],
        proxy=ANOTHER_VIEW,
    )


def _logits(array: np.ndarray, what: str) -> Logits:
    """Return an array of logits as float32."""
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] < 2:
        raise UsageError(
            f"{what} is {array.dtype} of shape {array.shape}; it must be raw logits, floats [rows,"
            " classes]"
        )
    # what does not fit becomes infinite, and is refused by its row
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(np.float32))


def _head(array: np.ndarray, classes: int, what: str) -> Tensor:
    """Return the weights of a classifier as float32."""
    is_matrix = array.dtype.kind == "f" and array.ndim == 2 and len(array) == classes
    if not is_matrix or not np.isfinite(array).all():
        raise UsageError(
            f"{what} is {array.dtype} of shape {array.shape}; it must be finite weights [{classes},"
            " features]"
        )
    return torch.from_numpy(array.astype(np.float32))
