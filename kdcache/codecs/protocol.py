"""What a codec is: logits of a view <-> one fixed-width record."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import CodecError
from kdcache.shapes import Logits, PerRow, Probabilities, Records, ViewLogits


@runtime_checkable
class TeacherRows(Protocol):
    """The teacher's rows of a batch as far as a codec holds them, on the device that decoded them."""

    def probs(self, tau: float | PerRow, student: Probabilities | None = None) -> Probabilities:
        """Return softmax(logits / tau) over all classes, float32 `[rows, classes]`.

        Args:
            tau: the temperature, one for all rows or one per row.
            student: the student's softmax at that temperature; only the tail policy `ghost` looks at it, and takes no gradient.
        """

    def logits(self) -> Logits:
        """Return raw logits, float32 `[rows, classes]`; classes that the codec dropped stand at its estimate."""

    def std(self) -> PerRow:
        """Return the standard deviation of each row's logits over all classes, as torch.std (divided by classes - 1).

        Logit standardisation (Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024) is then probs(tau * std),
        since a softmax forgets the row's mean.
        """


class DenseRows:
    """Rows whose logits are all known."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits.float()

    def probs(self, tau: float | PerRow, student: Probabilities | None = None) -> Probabilities:
        """Return softmax(logits / tau), float32 `[rows, classes]`; nothing depends on the student."""
        return torch.softmax(self._logits / (tau[:, None] if isinstance(tau, Tensor) else tau), dim=-1)

    def logits(self) -> Logits:
        """Return the logits, float32 `[rows, classes]`."""
        return self._logits

    def std(self) -> PerRow:
        """Return the standard deviation of each row."""
        return self._logits.std(dim=1)


@runtime_checkable
class Codec(Protocol):
    """Logits of one view <-> one record of `record_dtype`; lossy on purpose, within `stated_error`.

    A codec is a frozen dataclass: its fields but `classes` are the options of its spec and its configuration in a manifest,
    those made by `not_an_option` apart.
    """

    @property
    def name(self) -> str:
        """The name in its spec."""

    @property
    def zstd_level(self) -> int:
        """The store's compression level at which smaller records are no longer worth the time."""

    @property
    def classes(self) -> int:
        """How many classes a row of logits has."""

    @property
    def keeps_all(self) -> bool:
        """Whether every class's logit is in the record; a loss may need the label's."""

    @property
    def chunk_bytes(self) -> int | None:
        """How many bytes of each record the store compresses together, at best; None for whole records."""

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """The structured dtype of a record, little-endian and packed."""

    def fit(self, logits: ViewLogits) -> "Codec":
        """Return this codec fitted to a calibration sample; itself, if it has nothing to fit."""

    def encode(self, logits: ViewLogits) -> Records:
        """Return one record per view.

        Raises:
            CodecError: logits of another class count, not finite, or out of the record's range.
        """

    def decode(self, records: Records, device: torch.device | str = "cpu") -> TeacherRows:
        """Return the teacher's rows, decoded on `device`."""

    def stated_error(self, logits: ViewLogits) -> PerRow:
        """Return a bound on |decoded - exact| of the logits that a record keeps, one per view."""


def checked(logits: Logits, classes: int) -> Logits:
    """Return `logits` detached in float32.

    Raises:
        CodecError: another class count, or a value that is not finite (the first such row is named).
    """
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise CodecError(f"logits of shape {tuple(logits.shape)}; this codec holds rows of {classes} classes")
    logits = logits.detach().float()
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        raise CodecError(f"row {int((~finite).nonzero()[0])} of the batch holds NaN or infinite logits")
    return logits


def narrowed(values: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """Return `values` in `dtype`, float16 or bfloat16.

    Raises:
        CodecError: a value past its range.
    """
    out = values.to(dtype)
    if not bool(torch.isfinite(out).all()):
        name, limit = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
        raise CodecError(f"{what} of {float(values.abs().max()):.6g} do not fit {name} ({limit:,.6g}); use full:dtype=float32")
    return out


def to_fields(records: Records, device: torch.device | str) -> dict[str, Tensor]:
    """Return the fields of `records` as tensors on `device`, after a single copy of the record bytes.

    Unsigned fields come as int64, since torch has little arithmetic on unsigned types; uint8 stays as it is.
    """
    assert records.dtype.fields is not None
    raw = torch.from_numpy(np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize))
    if torch.device(device).type == "cuda":
        raw = raw.pin_memory()
    raw = raw.to(device, non_blocking=True)
    return {
        name: _field(raw[:, offset : offset + dtype.itemsize], dtype)
        for name, (dtype, offset, *_) in records.dtype.fields.items()
    }


def _field(raw: Tensor, dtype: "np.dtype[Any]") -> Tensor:
    base, width = dtype.base, dtype.base.itemsize
    signed = {
        "f": {2: torch.float16, 4: torch.float32},
        "i": {1: torch.int8, 2: torch.int16},
        "u": {1: torch.uint8, 2: torch.int16, 4: torch.int32},
    }
    # a clone, not contiguous(): a single row counts as contiguous wherever its field starts, and may be misaligned
    values = raw.clone(memory_format=torch.contiguous_format).view(signed[base.kind][width])
    if base.kind == "u" and width > 1:
        values = values.to(torch.int64) & (256**width - 1)
    return values.reshape(len(raw), *dtype.shape)
