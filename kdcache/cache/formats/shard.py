"""From the bytes of a shard to its rows, with all that it claims looked at first: it may come from
anywhere.

A shard's index says where chunks lie, and the head of a zstd frame how large its content is. A few
kB that claim much could so ask for any memory. Here every chunk is of the one size that the
manifest gives, and says so. zarr writes shards and reads them like any other array; its own
pipeline takes 1.4 to 2.4 times as long for a whole shard, and had to read one at a time.
"""

from collections.abc import Iterator

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import Zstd

Shape = tuple[int, int]
"""Rows, and bytes of each."""
_MAGIC = b"\x28\xb5\x2f\xfd"
_CHECKSUM = 4
_ENTRY = 16
_ABSENT = 2**64 - 1
_SIZES = (0, 2, 4, 8)
"""Bytes of a zstd frame's content size, by its two flag bits."""
_DICTIONARY_SIZES = (0, 1, 2, 4)
"""The same of the number of its dictionary."""


def read_shard(data: bytes, rows: np.ndarray, *, shard: Shape, chunk: Shape) -> None:
    """Write the first rows of a shard into `rows`.

    Args:
        data: the shard: chunks, each a zstd frame and its crc32c, then the index.
        rows: uint8 `[rows, bytes of a row]`, of which the shard may have more.
        shard: its rows and bytes of a row.
        chunk: those of a chunk, which holds byte 0 of all its rows, then byte 1, and so on.

    Raises:
        ValueError: bytes that are no such shard, or differ from their checksums.
    """
    num_rows = len(rows)
    shard_rows, shard_bytes = shard
    chunk_rows, chunk_bytes = chunk
    num_columns = shard_bytes // chunk_bytes
    num_chunks = -(-shard_rows // chunk_rows) * num_columns
    num_needed = -(-num_rows // chunk_rows) * num_columns
    frames = _frames(data, num_chunks, num_needed, chunk_rows * chunk_bytes)
    decode = Zstd().decode
    scratch = np.empty((chunk_bytes, chunk_rows), np.uint8)
    for number, frame in enumerate(frames):
        row = number // num_columns * chunk_rows
        column = number % num_columns * chunk_bytes
        target = rows[row : row + chunk_rows, column : column + chunk_bytes]
        is_plain = chunk_rows == 1 and target.shape == chunk
        out = target if is_plain else scratch
        try:
            decode(frame, out)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"chunk {number} of it cannot be decompressed: {error}") from error
        if not is_plain:
            target_rows, target_bytes = target.shape
            target[:] = scratch.T[:target_rows, :target_bytes]


def most_shard(num_chunks: int, chunk_bytes: int) -> int:
    """Return the bytes of a shard whose chunks cannot be compressed: zstd then adds a head, and
    a little for each block."""
    frame = chunk_bytes + chunk_bytes // 256 + 512
    return num_chunks * (frame + _CHECKSUM + _ENTRY) + _CHECKSUM


def _frames(data: bytes, num_chunks: int, num_needed: int, size: int) -> Iterator[bytes]:
    """Yield the zstd frames of the first `num_needed` chunks of a shard, of `size` bytes each once
    they are decompressed.

    Raises:
        ValueError: a chunk that is absent, lies elsewhere or upon another, is no zstd frame of that
            size, or differs from its checksum.
    """
    end = len(data) - _ENTRY * num_chunks - _CHECKSUM
    if end <= 0:
        raise ValueError(f"it has {len(data)} bytes, too few for the index of {num_chunks} chunks")
    _content(data, end, len(data), "its index")
    index = np.frombuffer(data, "<u8", 2 * num_chunks, end).reshape(num_chunks, 2)
    places = index[:num_needed]
    other_places = index[num_needed:]
    is_present = (other_places != _ABSENT).any(1)
    _check_places(np.concatenate([places, other_places[is_present]]), end)
    for number, (offset, length) in enumerate(places.tolist()):
        frame = _content(data, offset, offset + length, f"chunk {number} of it")
        check_frame(frame, size)
        yield frame


def _check_places(places: np.ndarray, end: int) -> None:
    """Raise a ValueError if chunks, each an offset and a length, overlap or end after `end`."""
    order = np.argsort(places[:, 0])
    last_stop = 0
    for offset, length in places[order].tolist():  # Python's integers: sums of uint64 wrap
        if offset < last_stop or offset + length > end:
            raise ValueError(
                f"its index has a chunk at byte {offset} of {length} bytes, upon another or beyond"
                " the chunks"
            )
        last_stop = offset + length


def _content(data: bytes, start: int, stop: int, what: str) -> bytes:
    """Return a part of `data` without the crc32c at its end, after a look at that."""
    end = stop - _CHECKSUM
    content = data[start:end]
    checksum = int.from_bytes(data[end:stop], "little")
    if crc32c(content) != checksum:
        raise ValueError(f"{what} differs from its checksum (crc32c)")
    return content


def check_frame(data: bytes, size: int) -> None:
    """Check that `data` begins with a zstd frame that says to hold `size` bytes.

    Raises:
        ValueError: no such frame.
    """
    frame_size = content_size(data)
    if frame_size is None:
        raise ValueError(f"a zstd frame in it does not say its size, not {size}")
    if frame_size != size:
        raise ValueError(f"a zstd frame in it says to hold {frame_size} bytes, not {size}")


def content_size(frame: bytes) -> int | None:
    """Return the bytes that a zstd frame (RFC 8878, 3.1.1.1) says to hold, or None if it does not
    say.

    Raises:
        ValueError: no zstd frame.
    """
    if not frame.startswith(_MAGIC) or len(frame) < 6:
        raise ValueError("a chunk of it is no zstd frame")
    flags = frame[4]
    is_single = flags >> 5 & 1
    width = _SIZES[flags >> 6]
    if width == 0:
        width = is_single  # the size takes one byte there, and else none
    # a byte of the window, but in a single segment, and the number of a dictionary
    start = 5 + (not is_single) + _DICTIONARY_SIZES[flags & 3]
    field = frame[start : start + width]
    if len(field) < width:
        raise ValueError("a zstd frame in it is cut short")
    if not width:
        return None
    size = int.from_bytes(field, "little")
    if width == 2:
        size += 256  # two bytes hold what a size is over 256
    return size
