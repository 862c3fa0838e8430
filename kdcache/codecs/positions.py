"""Maps of logits: a codec of rows applied to every pixel of every head of a view, as one record.

A record holds byte 0 of all pixels' rows, then byte 1, and so on, each in the order of the pixels:
neighbours are alike, and so are the bytes of one place, which is what a compressor sees
(docs/results.md has what other orders take).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcache.codecs.protocol import Codec, RowCodec, plane_fields, to_bytes
from kdcache.errors import CodecError
from kdcache.shapes import Logits, PerRow, Records, ViewLogits
from kdcache.soft_targets import MapTargets

_ROWS = 2**17  # encoded at a time


@dataclass(frozen=True)
class MapCodec:
    """The codec `rows` over the pixels of maps, `sites` being (heads, height, width)."""

    chunk_bytes: ClassVar[int | None] = None
    least_chunk_rows: ClassVar[int] = 1
    """A record of maps is large."""
    rows: RowCodec
    sites: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The name of the codec of a pixel's row."""
        return self.rows.name

    @property
    def classes(self) -> int:
        """How many classes a pixel's row of logits has."""
        return self.rows.classes

    @property
    def keeps_all(self) -> bool:
        """Whether every class's logit is in the record."""
        return self.rows.keeps_all

    @property
    def keeps_mean(self) -> bool:
        """Whether the mean of a pixel's row is in the record."""
        return self.rows.keeps_mean

    @property
    def is_exact(self) -> bool:
        """Whether a pixel's row is the teacher's but for the rounding of a float."""
        return self.rows.is_exact

    @property
    def views(self) -> int:
        """How many rows the codec of rows is fitted to and measured on."""
        return self.rows.views

    @property
    def zstd_level(self) -> int:
        """The level of the codec of rows."""
        return self.rows.zstd_level

    @property
    def record_dtype(self) -> "np.dtype[Any]":
        """`maps`, of each head the bytes of a pixel's row, and of each byte all pixels."""
        heads, height, width = self.sites
        itemsize = self.rows.record_dtype.itemsize
        return np.dtype([("maps", "u1", (heads, itemsize, height, width))] if itemsize else [])

    def fit(self, logits: ViewLogits) -> "MapCodec":
        """Return this codec fitted to the pixels of a calibration sample."""
        return replace(self, rows=self.rows.fit(logits.reshape(-1, logits.shape[-1])))

    def fit_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the fit of the codec of rows."""
        return self.rows.fit_arrays()

    def with_fit_arrays(self, arrays: Mapping[str, np.ndarray]) -> "MapCodec":
        """Return this codec with the fit whose arrays a cache keeps."""
        return replace(self, rows=self.rows.with_fit_arrays(arrays))

    def encode(self, logits: ViewLogits) -> Records:
        """Return one record per view.

        Raises:
            CodecError: maps of another shape, not finite, or out of the record's range.
        """
        if tuple(logits.shape[1:]) != (*self.sites, self.classes):
            raise CodecError(
                f"logits of shape {tuple(logits.shape)}; this codec holds maps of"
                f" {(*self.sites, self.classes)}, heads, height, width and classes"
            )
        rows = logits.reshape(-1, self.classes)
        parts = [
            self.rows.encode(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)
        ]
        return self.of_rows(np.concatenate(parts) if parts else np.empty(0, self.rows.record_dtype))

    def of_rows(self, records: Records) -> Records:
        """Return the records of views from those of all their pixels, head by head."""
        heads, height, width = self.sites
        raw = torch.from_numpy(
            np.ascontiguousarray(records)
            .view(np.uint8)
            .reshape(-1, heads, height * width, self._itemsize)
        )
        return raw.transpose(2, 3).contiguous().numpy().reshape(-1).view(self.record_dtype)

    def row_records(self, records: Records) -> Records:
        """Return the records of all pixels of `records`, view by view, head by head."""
        return np.stack(
            [self._of_head(records, head) for head in range(self.sites[0])], axis=1
        ).reshape(-1)

    def decode(self, records: Records, device: torch.device | str = "cpu") -> MapTargets:
        """Return the teacher's maps, decoded on `device`."""
        planes = to_bytes(records, device).reshape(
            len(records), self.sites[0], self._itemsize, math.prod(self.sites[1:])
        )
        fields = [
            plane_fields(planes[:, head], self.rows.record_dtype) for head in range(self.sites[0])
        ]
        return MapTargets([self.rows.from_fields(one) for one in fields], self.sites[1:])

    def nearest(self, records: Records, exact: Logits) -> Logits:
        """Return the logits nearest to `exact` that the records of all pixels allow, in the order
        of `row_records`."""
        return self.rows.nearest(self.row_records(records), exact)

    def clipped(self, logits: ViewLogits) -> Tensor | None:
        """Return None; of maps it is not counted."""
        return None

    def stated_error(self, logits: ViewLogits) -> PerRow:
        """Return a bound on |decoded - exact|, for each view that of its worst pixel."""
        return (
            self.rows.stated_error(logits.reshape(-1, self.classes))
            .reshape(len(logits), -1)
            .amax(1)
        )

    @property
    def _itemsize(self) -> int:
        return self.rows.record_dtype.itemsize

    def _of_head(self, records: Records, head: int) -> Records:
        """Return the records of a head's pixels, `[views, pixels]`."""
        pixels = math.prod(self.sites[1:])
        raw = (
            np.ascontiguousarray(records)
            .view(np.uint8)
            .reshape(len(records), self.sites[0], self._itemsize, pixels)
        )
        of_pixels = torch.from_numpy(raw)[:, head].transpose(1, 2).contiguous().numpy()
        return of_pixels.reshape(len(records), pixels * self._itemsize).view(self.rows.record_dtype)


def with_sites(rows: RowCodec, sites: Sequence[int] | None) -> Codec:
    """Return the codec for logits of `sites`: itself, if there are none."""
    if not sites:
        return rows
    heads, height, width = sites
    return MapCodec(rows, (heads, height, width))


def with_rows(codec: Codec, rows: RowCodec) -> Codec:
    """Return `codec` with another codec of its rows."""
    return replace(codec, rows=rows) if isinstance(codec, MapCodec) else rows


def row_codec(codec: Codec) -> RowCodec:
    """Return the codec of a single row of logits."""
    rows = codec.rows if isinstance(codec, MapCodec) else codec
    assert isinstance(rows, RowCodec)
    return rows
