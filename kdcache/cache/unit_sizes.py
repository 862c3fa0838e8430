"""How records of a codec are laid out in units and chunks, and what they take on disk."""

from typing import Any

import numpy as np

from kdcache.cache.arrays import arrays_digest
from kdcache.cache.documents.limits import MOST_UNIT_BYTES
from kdcache.cache.documents.parts import CodecEntry
from kdcache.cache.formats.zarr import ZarrFormat
from kdcache.codecs import Codec, codec_to_dict
from kdcache.errors import CodecError, UsageError
from kdcache.shapes import Records

_BLOCK = 512
_TAR_BYTES = 64_000_000
_LEAST_UNIT_ROWS = 64
_LARGE = 1_000_000  # rows of a cache whose units and chunks are as large as they get


def record_layout(
    codec: Codec, rows: int, unit_rows: int | None = None, *, block: int = 1
) -> dict[str, Any]:
    """Return the fields of a manifest that follow from the codec, with its fit if it needs one, and
    the number of rows.

    Units are powers of two of rows near 4 MB, of large records 64 rows or at most 256 MiB; chunks
    are near 256 kB. Both are sizes before compression.

    Args:
        codec: the codec.
        rows: views per seed.
        unit_rows: rows per unit, where the default is not wanted.
        block: rows that must be in one unit, as the views of a recipe that mixes are made from
            others of their block.

    Raises:
        CodecError: a codec that needs a fit and has none.
        UsageError: a number of rows that divides into small chunks only, or is no multiple of
            `block`.
    """
    if not codec.record_dtype.itemsize:
        raise CodecError(
            f"codec {codec.name} has no fit yet; fit it to a sample of the teacher's logits first"
        )
    width = codec.record_dtype.itemsize
    fit = codec.fit_arrays()
    require_blocks(unit_rows, block)
    unit = unit_rows or _up_to_multiple(default_unit(width, rows), block)
    chunk_bytes = codec.chunk_bytes
    if not chunk_bytes or chunk_bytes >= width:
        chunk_bytes = None
    fit_digest = None
    if fit:
        fit_digest = arrays_digest(fit)
    return {
        "codec": CodecEntry(**codec_to_dict(codec), fit=fit_digest),
        "record_dtype": np.lib.format.dtype_to_descr(codec.record_dtype),
        "unit_rows": unit,
        "chunk_rows": chunk_rows(unit, chunk_bytes or width, least=codec.least_chunk_rows),
        "chunk_bytes": chunk_bytes,
        "zstd_level": codec.zstd_level,
    }


def require_blocks(unit_rows: int | None, block: int) -> None:
    """Raise a UsageError if units of so many rows would cut blocks of rows that are mixed."""
    if unit_rows and unit_rows % block:
        raise UsageError(
            f"unit_rows is {unit_rows}; it must be a multiple of {block}, the block of rows that"
            " the recipe mixes"
        )


def tar_layout(
    codec: Codec,
    rows: int,
    unit_rows: int | None = None,
    *,
    block: int = 1,
    seeds: int,
    image_bytes: float | None,
) -> dict[str, Any]:
    """Return the fields of a manifest of a webdataset store.

    Units are powers of two of rows near 64 MB.

    Args:
        codec: the codec, with its fit if it needs one.
        rows: views per seed.
        unit_rows: rows per unit, where the default is not wanted.
        block: rows that must be in one unit.
        seeds: that share a unit.
        image_bytes: of a sample's image, on average; None if units hold no images.

    Raises:
        UsageError: a number of rows that is no multiple of `block`.
    """
    row_bytes = tar_row_bytes(codec.record_dtype.itemsize, seeds, image_bytes)
    default_rows = _few(_power_of_two(_TAR_BYTES // row_bytes, 1, 65_536), rows)
    unit = unit_rows or _up_to_multiple(default_rows, block)
    fields = record_layout(codec, rows, unit, block=block)
    return fields | {
        "chunk_rows": unit,
        "chunk_bytes": None,
        "zstd_level": 5,
        "store": "webdataset",
        "seeds_per_unit": seeds,
        "has_images": image_bytes is not None,
    }


def tar_row_bytes(width: int, seeds: int, image_bytes: float | None) -> int:
    """Return the bytes of a row in a tar: 512 for each member's header, and each filled up to a
    multiple of 512."""
    members: list[float] = [128 + seeds * width]
    if image_bytes is not None:
        members += [1, image_bytes]
    total = 0
    for size in members:
        total += _BLOCK + _up_to_multiple(int(size), _BLOCK)
    return total


def stored_bytes(codec: Codec, records: Records) -> float:
    """Return the bytes per view that a large cache of such records takes on disk, index and
    checksums included, commits apart.

    Whole chunks of a large cache are measured. If there are too few records for one, they are
    repeated in other orders: that keeps how often each value comes, which decides the bytes, and
    gives the compressor no longer match to find. A table of values for a chunk then costs what it
    costs in a large cache. Records of many positions are not repeated: a compressor finds thousands
    of bytes that come again, and a table costs little there.
    """
    layout = record_layout(codec, _LARGE)
    chunk_rows = layout["chunk_rows"]
    if codec.least_chunk_rows > 1:
        num_chunks = max(len(records) // chunk_rows, 1)
        records = _repeated(records, num_chunks * chunk_rows)
    unit_format = ZarrFormat(
        rows=chunk_rows,
        unit_rows=chunk_rows,
        chunk_rows=chunk_rows,
        dtype=records.dtype,
        chunk_bytes=layout["chunk_bytes"] or records.dtype.itemsize,
        zstd_level=layout["zstd_level"],
    )
    return unit_format.bytes_per_record(records)


def _repeated(records: Records, rows: int) -> Records:
    """Return `rows` records: the first ones, or all of them over and over, each time in another
    order."""
    if len(records) >= rows:
        return records[:rows]
    generator = np.random.default_rng(0)
    num_times = -(-rows // len(records))
    orders = [generator.permutation(len(records)) for _ in range(num_times)]
    repeated: Records = records[np.concatenate(orders)[:rows]]
    return repeated


def default_unit(record_bytes: int, rows: int) -> int:
    """Return the rows of a unit: a power of two near 4 MB, or of large records 64 as far as 256
    MiB hold them; of a small data set at most about a quarter."""
    least = _power_of_two(MOST_UNIT_BYTES // record_bytes, 1, _LEAST_UNIT_ROWS)
    return _few(_power_of_two(4_000_000 // record_bytes, least, 65_536), rows)


def _few(unit: int, rows: int) -> int:
    """Return `unit`, or of a small data set less: at least some units to a seed, since a kill costs
    one."""
    quarter = _power_of_two(rows // 4, 1, 65_536)
    few = min(1024, _power_of_two(rows, 1, 65_536, up=True))
    return min(unit, max(quarter, few))


def chunk_rows(unit_rows: int, chunk_bytes: int, *, least: int = 16) -> int:
    """Return the largest divisor of `unit_rows`, since a shard holds whole chunks, for chunks near
    256 kB, of `least` rows.

    Raises:
        UsageError: it would be far smaller, and small chunks do not compress.
    """
    most = min(_power_of_two(256_000 // chunk_bytes, least, 65_536), unit_rows)
    rows = most
    while unit_rows % rows:
        rows -= 1
    if rows < most // 4:
        raise UsageError(
            f"unit_rows is {unit_rows}, which divides into chunks of {rows} rows only; give a power"
            " of two"
        )
    return rows


def _power_of_two(value: int, low: int, high: int, *, up: bool = False) -> int:
    if up:
        exponent = max(value - 1, 0).bit_length()
    else:
        exponent = max(value, 1).bit_length() - 1
    return min(max(1 << exponent, low), high)


def _up_to_multiple(number: int, step: int) -> int:
    return -(-number // step) * step
