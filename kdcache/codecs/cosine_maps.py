"""The codec `cosine` of whole maps: the heads of a segmentation, or the levels of a pyramid.

Each anchor has maps of its own. The integers of a map lie by falling expected size, so that those
of one law lie side by side, which is what a compressor sees.

A loss takes the mean over the positions of a segment, and sums segments. So a position of a segment
with a tenth of the positions weighs ten times as much, and its step is a tenth.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kdcache.codecs.cosine_digits import KINDS, kind_counts, num_bytes, packed, unpacked
from kdcache.codecs.cosine_fit import CosineFit, PlacedCosineFit, cosines, expected_sizes
from kdcache.codecs.positions import LayoutCodec
from kdcache.codecs.protocol import RowCodec, checked, is_small
from kdcache.codecs.record_bytes import Packed, as_records, to_bytes
from kdcache.deferred import Tensor, torch
from kdcache.errors import CodecError
from kdcache.positions import Segment
from kdcache.shapes import Logits, PerRow, Records, ViewLogits
from kdcache.soft_targets import DenseTargets, SegmentTargets

MOST_LOGITS = 2**26
"""Logits that are encoded at a time, and the most of a view: a cache may say any layout."""
_CHUNK_BYTES = 4096
_LARGE_RECORD = 2**21
_IN_CACHE = 2**19
"""Logits that a CPU works on at a time, so that they stay in its cache."""
_ON_GPU = 2**25
"""Those of a GPU, which wants many."""


@runtime_checkable
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

    rows: CosineRows

    @property
    def chunk_bytes(self) -> int | None:  # type: ignore[override]
        """Few, so that integers of unlike laws have tables of their own; more of a large record, of
        which a unit has few, and a chunk should not be tiny."""
        return _CHUNK_BYTES * max(self.record_dtype.itemsize // _LARGE_RECORD, 1)

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """A field for each segment, of all its bytes. No fields before the fit."""
        if self.rows.fitted is None:
            return np.dtype([])
        fields: list[Any] = []
        for part in self._parts:
            fields.append((part.segment.name, "u1", (part.num_bytes,)))
        return np.dtype(fields)

    def pack(self, logits: ViewLogits) -> Packed:
        """Return one record per view on the device of the logits, without a wait for it.

        Args:
            logits: `[views, positions, classes]`, or of maps of one size `[views, heads, height,
                width, classes]`.

        Raises:
            CodecError: logits of another shape.
        """
        flat = self._flat(logits.detach())
        fit = self.rows.fit_on(flat.device)
        num_bytes = self.record_dtype.itemsize
        raw = torch.empty(len(flat), num_bytes, dtype=torch.uint8, device=flat.device)
        is_held = torch.empty(len(flat), dtype=torch.bool, device=flat.device)
        views = max(MOST_LOGITS // max(flat[:1].numel(), 1), 1)
        sizes = [part.num_bytes for part in self._parts]
        for start in range(0, len(flat), views):
            group = slice(start, start + views)
            is_held[group] = is_small(flat[group].flatten(1))
            parts = zip(
                self._parts,
                self.layout.split(flat[group]),
                torch.split(raw[group], sizes, dim=1),
                strict=True,
            )
            for part, rows, of_part in parts:
                of_part.copy_(part.encode(rows, fit))
        return Packed(raw, is_held)

    def encode(self, logits: ViewLogits) -> Records:
        """Return one record per view, the bytes of `pack`.

        Raises:
            CodecError: logits of another shape, or not finite.
        """
        made = self.pack(logits)
        if not bool(made.is_held.all()):
            checked(self._flat(logits).flatten(0, 1), self.classes)
        return as_records(made.raw, self.record_dtype)

    def decode(self, records: Records, device: "torch.device | str" = "cpu") -> SegmentTargets:
        """Return the soft targets by segment, decoded on `device`."""
        raw = to_bytes(records, device)
        fit = self.rows.fit_on(raw.device)
        sizes = [part.num_bytes for part in self._parts]
        segments = []
        for part, values in zip(self._parts, torch.split(raw, sizes, dim=1), strict=True):
            rows = part.decode(values, fit)
            segments.append(DenseTargets(rows.flatten(0, 1)))
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
            steps = part.steps_lost(rows, fit) * fit.step * part.scale
            # the last term: what float32 rounds
            largest = rows.flatten(1).norm(dim=1) + fit.mean.norm() * part.num_positions**0.5
            bounds.append(steps * 1.001 + largest * 2.0**-16)
        return torch.stack(bounds).amax(0)

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
    """How a segment lies in a record: the maps of its anchors."""

    def __init__(self, segment: Segment, most: int, fit: CosineFit) -> None:
        """Find the order and the kinds of its integers.

        Args:
            segment: the segment.
            most: positions of the largest one.
            fit: that of the codec.
        """
        self.segment = segment
        self.num_positions = segment.num_positions
        self.scale = self.num_positions / most
        """Of its step to that of the largest segment."""
        self._height, self._width, *anchors = segment.shape
        self._num_maps = anchors[0] if anchors else 1
        self._fit = fit
        sizes = expected_sizes(fit, self._height, self._width)
        self._num_integers = len(sizes)
        """Of a map."""
        # a finer step makes larger integers: a power of two that is at least as large
        finer = 8 * (-(-most // self.num_positions) - 1).bit_length()
        self._counts = kind_counts(sizes + finer)
        self._map_bytes = num_bytes(self._counts)
        self.num_bytes = self._num_maps * self._map_bytes
        self._placed: dict[tuple[str, torch.device], Tensor] = {}

    def encode(self, rows: ViewLogits, fit: PlacedCosineFit) -> Tensor:
        """Return the bytes of logits `[views, positions, classes]`, uint8 `[views, bytes]`."""
        raw = torch.empty((len(rows), self.num_bytes), dtype=torch.uint8, device=rows.device)
        raw_by_map = raw.view(len(rows), self._num_maps, self._map_bytes)
        by_map = self._by_map(rows)
        for group in self._groups(len(rows), rows.device):
            exact = self._exact(by_map[group], fit)
            for kind, values in zip(KINDS, torch.split(exact, self._counts, dim=1), strict=True):
                values.round_().clamp_(-kind.limit, kind.limit)
            of_group = raw_by_map[group]
            of_group.copy_(packed(exact.to(torch.int32), self._counts).view(of_group.shape))
        return raw

    def decode(self, raw: Tensor, fit: PlacedCosineFit) -> ViewLogits:
        """Return the logits `[views, positions, classes]` whose bytes `encode` gave."""
        num_classes = len(fit.mean)
        basis = fit.scaled * self.scale
        rows = torch.empty((len(raw), self.num_positions, num_classes), device=raw.device)
        raw_by_map = raw.view(len(rows), self._num_maps, self._map_bytes)
        by_map = self._by_map(rows)
        for group in self._groups(len(raw), raw.device):
            integers = unpacked(raw_by_map[group].flatten(0, 1), self._counts)
            of_places = self._at_places(integers)
            logits = torch.addmm(fit.mean, of_places.view(-1, num_classes), basis)
            of_group = by_map[group]
            of_group.copy_(logits.view(of_group.shape))
        return rows

    def steps_lost(self, rows: ViewLogits, fit: PlacedCosineFit) -> PerRow:
        """Return the norm of what `encode` may lose of each view, in steps."""
        squares = torch.zeros(len(rows), device=rows.device)
        exact = self._exact(self._by_map(rows), fit)
        for kind, values in zip(KINDS, torch.split(exact, self._counts, dim=1), strict=True):
            past = (values.abs() - kind.limit).clamp_min(0)
            squares += (past + 0.5).square().view(len(rows), -1).sum(1)
        return squares.sqrt()

    def _by_map(self, rows: ViewLogits) -> Tensor:
        """Return rows `[views, positions, classes]` as `[views, maps, height, width, classes]`, in
        the same memory."""
        shape = (len(rows), self._height, self._width, self._num_maps, rows.shape[2])
        return rows.view(shape).permute(0, 3, 1, 2, 4)

    def _groups(self, num_views: int, device: "torch.device") -> Iterator[tuple[slice, slice]]:
        """Yield the views and the maps of them that are worked on at a time."""
        at_once = _IN_CACHE if device.type == "cpu" else _ON_GPU
        num_maps = max(at_once // self._num_integers, 1)
        for views in _slices(num_views, max(num_maps // self._num_maps, 1)):
            for maps in _slices(self._num_maps, num_maps):
                yield views, maps

    def _exact(self, logits: Tensor, fit: PlacedCosineFit) -> Tensor:
        """Return what the integers of maps of logits, `[views, maps, height, width, classes]`,
        would be without rounding, by falling size, `[views * maps, integers]`."""
        height, width = self._height, self._width
        on_axes = (logits.float() - fit.mean) @ fit.basis.T
        rows = self._cosines_on(width, logits.device) @ on_axes.flatten(0, 2)
        columns = rows.view(-1, height, width * rows.shape[2])
        frequencies = self._cosines_on(height, logits.device) @ columns
        frequencies /= fit.step * self.scale
        by_place = frequencies.view(-1, self._num_integers)
        return by_place.index_select(1, self._order_on(logits.device))

    def _at_places(self, integers: Tensor) -> Tensor:
        """Return what maps of integers, by falling size, `[maps, integers]`, are at the places,
        float32 `[maps, height, width * axes]`."""
        height, width = self._height, self._width
        device = integers.device
        frequencies = integers.index_select(1, self._place_on(device))
        rows = frequencies.view(len(integers) * height, width, -1)
        columns = self._cosines_on(width, device).T @ rows
        by_row = columns.view(len(integers), height, -1)
        return self._cosines_on(height, device).T @ by_row

    def _order_on(self, device: "torch.device") -> Tensor:
        """Return the numbers of a map's integers by falling size, int32."""

        def order() -> Tensor:
            sizes = expected_sizes(self._fit, self._height, self._width)
            return torch.from_numpy(np.argsort(-sizes, kind="stable").astype(np.int32))

        return self._on("order", device, order)

    def _place_on(self, device: "torch.device") -> Tensor:
        """Return where in that order each integer is, int32."""

        def places() -> Tensor:
            order = self._order_on(torch.device("cpu"))
            place = torch.empty_like(order)
            place[order.long()] = torch.arange(len(order), dtype=torch.int32)
            return place

        return self._on("place", device, places)

    def _cosines_on(self, side: int, device: "torch.device") -> Tensor:
        return self._on(f"cosines {side}", device, lambda: cosines(side))

    def _on(self, name: str, device: "torch.device", make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of a name on `device`, made and copied there once."""
        if (name, device) not in self._placed:
            self._placed[name, device] = make().to(device)
        return self._placed[name, device]


def _slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` that make up `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
