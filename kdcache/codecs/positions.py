"""Logits of several positions a view: a codec of rows applied to each of them, as one record.

A record holds, segment by segment, byte 0 of all positions' rows, then byte 1, and so on, each in
the order of the positions: neighbours are alike, and so are the bytes of one place, which is what a
compressor sees (docs/results/maps.md has what other orders take).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from kdcache.codecs.basis import BasisCodec
from kdcache.codecs.protocol import Codec, RowCodec
from kdcache.codecs.record_bytes import Packed, as_records, plane_fields, to_bytes
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError, UsageError
from kdcache.positions import Boxes, Layout, One
from kdcache.positions.proposals import (
    are_believable,
    is_there,
    require_believable,
    require_shape,
)
from kdcache.shapes import Logits, PerRow, Records, ViewLogits
from kdcache.soft_targets import SegmentTargets

_ROWS = 2**17  # encoded at a time
_COUNT_BYTES = 2
Own = TypeVar("Own", bound="LayoutCodec")


@runtime_checkable
class GridCodec(RowCodec, Protocol):
    """A codec of rows that codes the maps or levels of a view as a whole, not position by
    position."""

    def over_grid(self, layout: Layout) -> Codec:
        """Return the codec of the maps or levels of a layout."""


@dataclass(frozen=True)
class LayoutCodec:
    """What is true of a codec of several positions a view, whatever its records look like."""

    chunk_bytes: ClassVar[int | None] = None
    least_chunk_rows: ClassVar[int] = 1
    """A record of many positions is large."""
    rows: RowCodec
    layout: Layout

    @property
    def name(self) -> str:
        """The name of the codec of a position's row."""
        return self.rows.name

    @property
    def classes(self) -> int:
        """How many classes a position's row of logits has."""
        return self.rows.classes

    @property
    def keeps_all(self) -> bool:
        """Whether every class's logit is in the record."""
        return self.rows.keeps_all

    @property
    def keeps_mean(self) -> bool:
        """Whether the mean of a position's row is in the record."""
        return self.rows.keeps_mean

    @property
    def is_exact(self) -> bool:
        """Whether a position's row is the teacher's but for the rounding of a float."""
        return self.rows.is_exact

    @property
    def views(self) -> int:
        """How many rows the codec of rows is fitted to and measured on."""
        return self.rows.views

    @property
    def zstd_level(self) -> int:
        """The level of the codec of rows."""
        return self.rows.zstd_level

    def fit(self: Own, logits: ViewLogits) -> Own:
        """Return this codec fitted to the positions of a calibration sample."""
        rows = logits.reshape(-1, logits.shape[-1])
        return replace(self, rows=self.rows.fit(rows))

    def fit_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the fit of the codec of rows."""
        return self.rows.fit_arrays()

    def with_fit_arrays(self: Own, arrays: Mapping[str, np.ndarray]) -> Own:
        """Return this codec with the fit whose arrays a cache keeps."""
        return replace(self, rows=self.rows.with_fit_arrays(arrays))

    def clipped(self, logits: ViewLogits) -> Tensor | None:
        """Return None; of several positions a view it is not counted."""
        return None

    def _flat(self, logits: ViewLogits) -> Tensor:
        """Return logits as `[views, positions, classes]`."""
        flat = (self.layout.num_positions, self.classes)
        shape = tuple(logits.shape[1:])
        if shape in (flat, (*self.layout.sites, self.classes)):
            return logits.reshape(len(logits), *flat)
        fault = f"logits of shape {tuple(logits.shape)}; this codec holds"
        if self.layout.maps:
            raise CodecError(
                f"{fault} maps of {(*self.layout.maps, self.classes)}, heads, height, width and"
                " classes"
            )
        raise CodecError(f"{fault} {self.layout.kind} of {flat}, positions and classes")


@dataclass(frozen=True)
class PositionCodec(LayoutCodec):
    """The codec `rows` at every position of a layout."""

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """A field for each segment, of each byte of a row all positions; of maps of one size a
        single field, `maps`; and of proposals `boxes` and `count`. No fields before the fit."""
        itemsize = self._itemsize
        if not itemsize:
            return np.dtype([])
        if self.layout.maps:
            heads, height, width = self.layout.maps
            return np.dtype([("maps", "u1", (heads, itemsize, height, width))])
        fields: list[Any] = []
        for segment in self.layout.segments:
            shape = (itemsize, segment.num_positions)
            fields.append((segment.name, "u1", shape))
        if self.layout.has_boxes:
            fields += [("boxes", "<f4", (self.layout.num_positions, 4)), ("count", "<u2")]
        return np.dtype(fields)

    def pack(self, logits: ViewLogits, boxes: Boxes | None = None) -> Packed:
        """Return one record per view on the device of the logits, without a wait for it.

        Args:
            logits: `[views, positions, classes]`, or of maps of one size `[views, heads, height,
                width, classes]`.
            boxes: of proposals, and only of these, on the same device; logits past a view's count
                are not looked at.

        Raises:
            CodecError: logits or boxes of another shape, boxes that are absent, or that this layout
                does not hold.
        """
        flat = self._flat_rows(logits, boxes)
        parts = [self.rows.pack(part) for part in torch.split(flat, _ROWS)]
        raw = torch.cat([part.raw for part in parts])
        is_held = torch.cat([part.is_held for part in parts])
        is_view_held = is_held.view(len(logits), self.layout.num_positions).all(1)
        if boxes is not None:
            is_view_held = is_view_held & are_believable(boxes)
        return Packed(self._of_rows(raw, boxes), is_view_held)

    def encode(self, logits: ViewLogits, boxes: Boxes | None = None) -> Records:
        """Return one record per view, the bytes of `pack`.

        Args:
            logits: as `pack` takes them.
            boxes: as `pack` takes them.

        Raises:
            CodecError: logits or boxes of another shape, not finite, or out of the record's range.
        """
        packed = self.pack(logits, boxes)
        if not bool(packed.is_held.all()):
            if boxes is not None:
                require_believable(boxes)
            self.rows.encode(self._flat_rows(logits, boxes))
        return as_records(packed.raw, self.record_dtype)

    def _flat_rows(self, logits: ViewLogits, boxes: Boxes | None) -> Logits:
        """Return the rows at all positions of all views; zeros past a view's count."""
        flat = self._flat(logits)
        if boxes is not None:
            require_shape(boxes, len(logits), self.layout.num_positions)
            is_proposal = is_there(boxes.counts, self.layout.num_positions)
            flat = torch.where(is_proposal[:, :, None], flat, 0.0)
        return flat.reshape(-1, self.classes)

    def of_rows(self, records: Records, boxes: Boxes | None = None) -> Records:
        """Return the records of views from those of all their positions, view by view.

        Raises:
            CodecError: boxes that are absent, or that this layout or a record does not hold.
        """
        if boxes is not None:
            require_believable(boxes)
        raw = torch.from_numpy(_bytes_of(np.ascontiguousarray(records)))
        return as_records(self._of_rows(raw, boxes), self.record_dtype)

    def _of_rows(self, raw: Tensor, boxes: Boxes | None) -> Tensor:
        """Return the bytes of the records of views, `[views, bytes of one]`, from those of all
        their positions, `[views * positions, bytes of one]`."""
        num_positions = self.layout.num_positions
        views = len(raw) // num_positions
        if boxes is None and self.layout.has_boxes:
            raise CodecError(f"a record of layout {self.layout.kind} needs boxes of its views")
        if boxes is not None and not self.layout.has_boxes:
            raise CodecError(f"a record of layout {self.layout.kind} has no boxes of its views")
        by_view = raw.view(views, num_positions, self._itemsize)
        whole = raw.new_empty(views, self.record_dtype.itemsize)
        if boxes is not None:
            require_shape(boxes, views, num_positions)
            by_view = by_view * is_there(boxes.counts, num_positions)[:, :, None]
            _write_boxes(boxes, whole[:, num_positions * self._itemsize :])
        for plane, part in zip(self._planes(whole), self.layout.split(by_view), strict=True):
            plane.copy_(part.transpose(1, 2))
        return whole

    def row_records(self, records: Records) -> Records:
        """Return the records of all positions of `records`, view by view; zeros past a view's
        number of proposals."""
        planes = self._planes(torch.from_numpy(_bytes_of(np.ascontiguousarray(records))))
        raw = self.layout.joined([plane.transpose(1, 2) for plane in planes]).contiguous().numpy()
        return raw.reshape(-1, self._itemsize).view(self.rows.record_dtype)[:, 0]

    def boxes_of(self, records: Records) -> Boxes | None:
        """Return the boxes of proposals; None of other layouts."""
        if not self.layout.has_boxes:
            return None
        places = torch.from_numpy(records["boxes"].copy())
        return Boxes(places, torch.from_numpy(records["count"].astype(np.int64)))

    def decode(self, records: Records, device: "torch.device | str" = "cpu") -> SegmentTargets:
        """Return the soft targets by segment, decoded on `device`."""
        dtype = self.rows.record_dtype
        planes = self._planes(to_bytes(records, device))
        boxes = self.boxes_of(records)
        if boxes is None:
            segments = []
            for plane in planes:
                fields = plane_fields(plane, dtype)
                segments.append(self.rows.from_fields(fields))
            return SegmentTargets(segments, self.layout)
        counts = boxes.counts.to(device)
        is_proposal = is_there(counts, self.layout.num_positions).flatten()
        fields = plane_fields(planes[0], dtype)
        fields_of_proposals = {name: values[is_proposal] for name, values in fields.items()}
        proposals = self.rows.from_fields(fields_of_proposals)
        return SegmentTargets([proposals], self.layout, boxes.places.to(device), counts)

    def nearest(self, records: Records, exact: Logits) -> Logits:
        """Return the logits nearest to `exact` that the records of all positions allow, in the
        order of `row_records`."""
        return self.rows.nearest(self.row_records(records), exact)

    def stated_error(self, logits: ViewLogits) -> PerRow:
        """Return a bound on |decoded - exact|, for each view that of its worst position."""
        bound = self.rows.stated_error(logits.reshape(-1, self.classes))
        return bound.reshape(len(logits), self.layout.num_positions).amax(1)

    @property
    def _itemsize(self) -> int:
        return self.rows.record_dtype.itemsize

    def _planes(self, raw: Tensor) -> list[Tensor]:
        """Return of each segment the bytes of rows, `[views, bytes of a row, positions]`, of those
        of records, `[views, bytes of a record]`; they share memory."""
        planes = []
        start = 0
        for segment in self.layout.segments:
            stop = start + self._itemsize * segment.num_positions
            part = raw[:, start:stop]
            planes.append(part.view(len(raw), self._itemsize, segment.num_positions))
            start = stop
        return planes


def _write_boxes(boxes: Boxes, raw: Tensor) -> None:
    """Write boxes and counts as a record ends with them into `raw`, uint8 `[views, bytes]`."""
    counts = boxes.counts
    is_proposal = is_there(counts, boxes.places.shape[1])
    places = torch.where(is_proposal[:, :, None], boxes.places.float(), 0.0)
    raw[:, :-_COUNT_BYTES] = places.flatten(1).view(torch.uint8)
    raw[:, -_COUNT_BYTES:] = counts.to(torch.int16)[:, None].view(torch.uint8)


def _bytes_of(records: Records) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the bytes of contiguous records, `[records, bytes of one]`, in the same memory."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def with_layout(rows: RowCodec, layout: Layout) -> Codec:
    """Return the codec for logits of a layout: `rows` itself, if a view has one row."""
    if isinstance(layout, One):
        return rows
    if isinstance(rows, GridCodec) and not layout.has_boxes:
        return rows.over_grid(layout)
    return PositionCodec(rows, layout)


def require_fitting(rows: RowCodec, layout: Layout) -> None:
    """Check that a codec holds what a loss sees of logits of a layout, and can be fitted to them.

    Raises:
        UsageError: it does not, or cannot.
    """
    if layout.activation == "sigmoid" and not rows.keeps_mean:
        raise UsageError(
            f"codec {rows.name} does not hold the mean of a row, which the sigmoids of these"
            " logits see; use cosine or full"
        )
    if isinstance(layout, One) or not isinstance(rows, BasisCodec):
        return
    if rows.bytes is not None:
        raise UsageError(
            f"codec {rows.name}:bytes={rows.bytes:g} is fitted to single rows, and a view has"
            f" {layout.num_positions} of them here, which would take more; give step= or error="
        )


def with_rows(codec: Codec, rows: RowCodec) -> Codec:
    """Return `codec` with another codec of its rows."""
    if isinstance(codec, LayoutCodec):
        return replace(codec, rows=rows)
    return rows


def boxes_of(codec: Codec, records: Records) -> Boxes | None:
    """Return the boxes in records of proposals; None of other layouts."""
    if isinstance(codec, PositionCodec):
        return codec.boxes_of(records)
    return None


def encoded(codec: Codec, logits: ViewLogits, boxes: Boxes | None = None) -> Records:
    """Return one record per view; of proposals with their boxes.

    Raises:
        CodecError: see `PositionCodec.encode`.
    """
    if isinstance(codec, PositionCodec):
        return codec.encode(logits, boxes)
    return codec.encode(logits)


def packed(codec: Codec, logits: ViewLogits, boxes: Boxes | None = None) -> Packed:
    """Return one record per view on the device of the logits; of proposals with their boxes.

    Raises:
        CodecError: see `PositionCodec.pack`.
    """
    if isinstance(codec, PositionCodec):
        return codec.pack(logits, boxes)
    return codec.pack(logits)


def row_codec(codec: Codec) -> RowCodec:
    """Return the codec of a single row of logits."""
    if isinstance(codec, LayoutCodec):
        return codec.rows
    assert isinstance(codec, RowCodec)
    return codec
