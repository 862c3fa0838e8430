"""What the bytes of a shard claim, looked at before anything is decompressed: they may come from anywhere.

zarr takes offsets and lengths from a shard's index, and zstd the size of its result from the head of a frame. A few kB that
claim much could so ask for any memory. Here every chunk is of the one size that the manifest gives, and says so.
"""

import numpy as np

_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM = 4
_ENTRY = 16
_ABSENT = 2**64 - 1
_SIZES = (0, 2, 4, 8)
"""Bytes of a zstd frame's content size, by its two flag bits."""


def check_shard(data: bytes, num_chunks: int, needed: int, chunk_bytes: int) -> None:
    """Check the index of a shard and the head of each of its chunks.

    Args:
        data: the shard, its index at the end.
        num_chunks: in its index.
        needed: how many of them, from the first, must be there; those after them are past the array's end.
        chunk_bytes: that each must have once it is decompressed.

    Raises:
        ValueError: a chunk that is absent, lies elsewhere or upon another, or is no zstd frame of that size.
    """
    end = len(data) - _ENTRY * num_chunks - _CHECKSUM
    if end <= 0:
        raise ValueError(f"it has {len(data)} bytes, too few for the index of {num_chunks} chunks")
    index = np.frombuffer(data, "<u8", 2 * num_chunks, end).reshape(num_chunks, 2)
    index = np.concatenate([index[:needed], index[needed:][(index[needed:] != _ABSENT).any(1)]])
    at = 0
    for offset, length in index[np.argsort(index[:, 0])].tolist():  # Python's integers: sums of uint64 wrap
        if offset < at or offset + length > end:
            raise ValueError(f"its index has a chunk at byte {offset} of {length} bytes, upon another or beyond the chunks")
        at = offset + length
        check_frame(data[offset : at - _CHECKSUM] if length < 64 else data[offset : offset + 64], chunk_bytes)


def check_frame(data: bytes, size: int) -> None:
    """Check that `data` begins with a zstd frame that says to hold `size` bytes.

    Raises:
        ValueError: no such frame.
    """
    found = content_size(data)
    if found != size:
        told = "does not say its size" if found is None else f"says to hold {found} bytes"
        raise ValueError(f"a zstd frame in it {told}, not {size}")


def content_size(frame: bytes) -> int | None:
    """Return the bytes that a zstd frame (RFC 8878, 3.1.1.1) says to hold, or None if it does not say.

    Raises:
        ValueError: no zstd frame.
    """
    if not frame.startswith(_MAGIC) or len(frame) < 6:
        raise ValueError("a chunk of it is no zstd frame")
    flags = frame[4]
    single, width = flags >> 5 & 1, _SIZES[flags >> 6]
    width = width or single  # the size takes one byte there, and else none
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    field = frame[start : start + width]
    if len(field) < width:
        raise ValueError("a zstd frame in it is cut short")
    return int.from_bytes(field, "little") + (256 if width == 2 else 0) if width else None
