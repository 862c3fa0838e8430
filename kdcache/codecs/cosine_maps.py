"""The codec `cosine` of whole maps: the heads of a segmentation, or the levels of a pyramid.

The integers of a segment lie by falling expected size, so that those of one law lie side by side,
which is what a compressor sees; each kind's bytes of one place lie together.

A loss takes the mean over the positions of a segment, and sums segments. So a position of a segment
with a tenth of the positions weighs ten times as much, and its step is a tenth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from kdcache.codecs.cosine_fit import (
    LEAST_SIZES,
    LIMITS,
    NUM_BYTES,
    CosineFit,
    PlacedCosineFit,
    cosines,
    expected_sizes,
)
from kdcache.codecs.positions import LayoutCodec
from kdcache.codecs.protocol import RowCodec, checked, to_bytes
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.positions import Segment
from kdcache.shapes import Logits, PerRow, Records, ViewLogits
from kdcache.soft_targets import DenseTargets, SegmentTargets

MOST_LOGITS = 2**26
"""Logits that are encoded at a time, and the most of a view: a cache may say any layout."""


class CosineRows(RowCodec, Protocol):
    """The codec of a row, which holds the fit."""

    @property
    def fitted(self) -> CosineFit | None:
        """The fit, once it is made."""

    def require_fit(self) -> CosineFit:
        """Return the fit, or raise a CodecError."""

    def fit_on(self, device: "torch.device") -> PlacedCosineFit:
        """Return the fit on `device`."""


@dataclass(frozen=True)
class CosineMaps(LayoutCodec):
    """Integers on cosines over the places of each segment, and on axes over the classes."""

    chunk_bytes: ClassVar[int | None] = 8192
    """Few, so that integers of unlike laws have tables of their own."""
    rows: CosineRows

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """A field for each segment, of all its bytes. No fields before the fit."""
        if self.rows.fitted is None:
            return np.dtype([])
        fields: list[Any] = []
        for part in self._parts:
            fields.append((part.segment.name, "u1", (part.num_bytes,)))
        return np.dtype(fields)

    def encode(self, logits: ViewLogits) -> Records:
        """Return one record per view.

        Args:
            logits: `[views, positions, classes]`, or of maps of one size `[views, heads, height,
                width, classes]`.

        Raises:
            CodecError: logits of another shape, or not finite.
        """
        flat = self._flat(logits)
        records = np.empty(len(flat), self.record_dtype)
        views = max(MOST_LOGITS // max(flat[:1].numel(), 1), 1)
        for start in range(0, len(flat), views):
            group = flat[start : start + views]
            checked(group.flatten(0, 1), self.classes)
            for part, rows in zip(self._parts, self.layout.split(group), strict=True):
                values = part.bytes_of(self._integers(part, rows))
                records[part.segment.name][start : start + views] = values.cpu().numpy()
        return records

    def decode(self, records: Records, device: "torch.device | str" = "cpu") -> SegmentTargets:
        """Return the soft targets by segment, decoded on `device`."""
        raw = to_bytes(records, device)
        fit = self.rows.fit_on(raw.device)
        segments = []
        start = 0
        for part in self._parts:
            values = part.integers_of(raw[:, start : start + part.num_bytes])
            start += part.num_bytes
            coefficients = (values * part.scale).view(-1, *part.shape, self.classes)
            rows = part.to_places(coefficients).reshape(-1, self.classes)
            segments.append(DenseTargets(torch.addmm(fit.mean, rows, fit.scaled)))
        return SegmentTargets(segments, self.layout)

    def nearest(self, records: Records, exact: Logits) -> Logits:
        """Return the decoded logits of all positions, view by view: the records hold all of
        them."""
        return self.decode(records).logits().reshape(-1, self.classes)

    def stated_error(self, logits: ViewLogits) -> PerRow:
        """Return a bound on |decoded - exact|, for each view: the norm of the error of a segment,
        half a step per integer and what is past the largest of its kind."""
        flat = self._flat(logits.float())
        fit = self.rows.fit_on(flat.device)
        bounds = []
        for part, rows in zip(self._parts, self.layout.split(flat), strict=True):
            exact = self._coefficients(part, rows).flatten(1)
            past = (exact.abs() - part.limits(flat.device)).clamp_min(0)
            steps = (past + 0.5).square().sum(1).sqrt() * fit.step * part.scale
            # the last term: what float32 rounds
            largest = rows.flatten(1).norm(dim=1) + fit.mean.norm() * part.num_positions**0.5
            bounds.append(steps * 1.001 + largest * 2.0**-16)
        return torch.stack(bounds).amax(0)

    def _integers(self, part: "_Part", rows: ViewLogits) -> Tensor:
        """Return the integers of a segment's logits, `[views, integers]`."""
        exact = self._coefficients(part, rows).flatten(1)
        limits = part.limits(exact.device)
        return exact.round().maximum(-limits).minimum(limits).to(torch.int32)

    def _coefficients(self, part: "_Part", rows: ViewLogits) -> Tensor:
        """Return what the integers of a segment's logits would be without rounding, `[views, *shape
        of the segment, axes]`."""
        fit = self.rows.fit_on(rows.device)
        on_axes = (rows.float() - fit.mean) @ fit.basis.T
        of_places = on_axes.view(len(rows), *part.shape, self.classes)
        return part.to_frequencies(of_places) / (fit.step * part.scale)

    @cached_property
    def _parts(self) -> "list[_Part]":
        """The segments, as their integers lie in a record.

        Raises:
            CodecError: more logits than memory should be taken for.
        """
        num_logits = self.layout.num_positions * self.classes
        if num_logits > MOST_LOGITS:
            raise CodecError(
                f"cosine holds at most {MOST_LOGITS:,} logits of a view, not {num_logits:,};"
                " use full"
            )
        fit = self.rows.require_fit()
        segments = self.layout.segments
        most = max(segment.num_positions for segment in segments)
        fit.require_small(most)
        return [_Part(segment, most, fit) for segment in segments]


class _Part:
    """How the integers of a segment lie in a record."""

    def __init__(self, segment: Segment, most: int, fit: CosineFit) -> None:
        """Find their order and kinds.

        Args:
            segment: the segment.
            most: positions of the largest one.
            fit: that of the codec.
        """
        height, width, *anchors = segment.shape
        self.segment = segment
        self.shape = (height, width, *(anchors or [1]))
        self.num_positions = segment.num_positions
        self.scale = self.num_positions / most
        """Of its step to that of the largest segment."""
        self._fit = fit
        sizes = expected_sizes(fit, *self.shape)
        # a finer step makes larger integers: a power of two that is at least as large
        finer = 8 * (-(-most // self.num_positions) - 1).bit_length()
        self._counts = _counts(sizes + finer)
        self.num_bytes = sum(NUM_BYTES[kind] * count for kind, count in self._counts.items())
        self._placed: dict[tuple[str, torch.device], Tensor] = {}

    @cached_property
    def _order(self) -> Tensor:
        """The numbers of the integers, by falling size."""
        sizes = expected_sizes(self._fit, *self.shape)
        return torch.from_numpy(np.argsort(-sizes, kind="stable"))

    def bytes_of(self, integers: Tensor) -> Tensor:
        """Return the bytes of integers `[views, integers]`, uint8 `[views, bytes]`."""
        ordered = integers[:, self._order_on(integers.device)]
        # the sign comes last, so that the upper bytes of small integers are zeros
        unsigned = (ordered << 1) ^ (ordered >> 31)
        planes = []
        start = 0
        for kind, count in self._counts.items():
            values = unsigned[:, start : start + count]
            for byte in range(NUM_BYTES[kind]):
                planes.append((values >> 8 * byte & 255).to(torch.uint8))
            start += count
        return torch.cat(planes, 1)

    def integers_of(self, raw: Tensor) -> Tensor:
        """Return the integers whose bytes `bytes_of` gave, as float32."""
        parts = []
        start = 0
        for kind, count in self._counts.items():
            num_bytes = NUM_BYTES[kind]
            planes = raw[:, start : start + num_bytes * count].view(len(raw), num_bytes, count)
            values = planes[:, 0].to(torch.int32)
            for byte in range(1, num_bytes):
                values |= planes[:, byte].to(torch.int32) << 8 * byte
            parts.append(values)
            start += num_bytes * count
        unsigned = torch.cat(parts, 1)
        ordered = ((unsigned >> 1) ^ -(unsigned & 1)).float()
        integers = torch.empty_like(ordered)
        integers[:, self._order_on(raw.device)] = ordered
        return integers

    def limits(self, device: "torch.device") -> Tensor:
        """Return the largest integer at each place, float32 `[integers]`."""

        def made() -> Tensor:
            ordered = []
            for kind, count in self._counts.items():
                ordered.append(torch.full((count,), float(LIMITS[kind])))
            limits = torch.empty(len(self._order))
            limits[self._order] = torch.cat(ordered)
            return limits

        return self._on("limits", device, made)

    def to_frequencies(self, rows: Tensor) -> Tensor:
        """Return values `[views, height, width, anchors, axes]` by frequency in the place of
        place."""
        height, width, _ = self.shape
        of_rows = torch.einsum("uy,vyxak->vuxak", self._cosines_on(height, rows.device), rows)
        return torch.einsum("wx,vuxak->vuwak", self._cosines_on(width, rows.device), of_rows)

    def to_places(self, coefficients: Tensor) -> Tensor:
        """Return the values that `to_frequencies` took."""
        height, width, _ = self.shape
        device = coefficients.device
        of_rows = torch.einsum("wx,vuwak->vuxak", self._cosines_on(width, device), coefficients)
        return torch.einsum("uy,vuxak->vyxak", self._cosines_on(height, device), of_rows)

    def _cosines_on(self, side: int, device: "torch.device") -> Tensor:
        return self._on(f"cosines {side}", device, lambda: cosines(side))

    def _order_on(self, device: "torch.device") -> Tensor:
        return self._on("order", device, lambda: self._order)

    def _on(self, name: str, device: "torch.device", make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of a name on `device`, made and copied there once."""
        if (name, device) not in self._placed:
            self._placed[name, device] = make().to(device)
        return self._placed[name, device]


def _counts(sizes: np.ndarray) -> dict[str, int]:
    """Return how many integers of each kind there are, the longest first."""
    num_long = int((sizes > LEAST_SIZES["long"]).sum())
    num_wide = int((sizes > LEAST_SIZES["wide"]).sum()) - num_long
    return {"long": num_long, "wide": num_wide, "narrow": len(sizes) - num_long - num_wide}
