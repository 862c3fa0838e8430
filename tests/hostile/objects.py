"""Attacks by what lies where an object should be: links, devices, shards with forged heads, records
that are no numbers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from caches import manifest
from hostile.forge import (
    BOMB_BYTES,
    Attack,
    attack,
    bomb,
    change_object,
    chunk,
    many,
    maps,
    shard,
    summed,
    without_size,
    zarr,
)

from kdcache.cache import create_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.commit import commit_key
from kdcache.codecs import open_codec, with_layout
from kdcache.positions import layout_of_sites


def _instead(make: Callable[[Path], object], what: str = "seeds/00000/records/c/0/0") -> Attack:
    def forge(path: Path) -> None:
        zarr(path)
        target = path / what
        (path.parent / "outside").write_bytes(target.read_bytes())
        target.unlink()
        make(target)

    return forge


LINKS = {
    "object_that_is_a_link_out": _instead(lambda at: at.symlink_to("../../../../../../outside")),
    "object_that_is_a_device": _instead(lambda at: at.symlink_to("/dev/zero")),
    "object_that_is_a_pipe": _instead(os.mkfifo),
    "object_that_is_a_loop": _instead(lambda at: at.symlink_to(at.name)),
    "object_that_is_a_folder": _instead(lambda at: at.mkdir()),
    "commit_that_is_a_link_out": _instead(
        lambda at: at.symlink_to("../../../outside"), commit_key(0, 0)
    ),
    "commit_that_is_a_device": _instead(lambda at: at.symlink_to("/dev/zero"), commit_key(0, 0)),
    "manifest_that_is_a_pipe": _instead(os.mkfifo, "zarr.json"),
    "manifest_that_is_a_link_out": _instead(lambda at: at.symlink_to("../outside"), "zarr.json"),
}
many(
    "it is not a plain file|is a link out of|cannot read .*symbolic links", LINKS, lambda case: case
)


WHOLE = bytes(4 * 10)  # a chunk of 4 rows of 10 bytes
SMALL = bytes(1 << 20)  # which takes a few bytes when it is compressed

SHARDS: dict[str, Callable[[], bytes]] = {
    "bomb_that_says_its_size": lambda: shard([bomb(), chunk(WHOLE)]),
    "bomb_that_does_not": lambda: shard([without_size(BOMB_BYTES), chunk(WHOLE)]),
    "chunk_without_its_size": lambda: shard([without_size(len(WHOLE)), chunk(WHOLE)]),
    "chunk_too_small": lambda: shard([chunk(WHOLE[:-1]), chunk(WHOLE)]),
    "chunk_that_is_no_frame": lambda: shard([summed(b"\x80\x04pickle." + bytes(30)), chunk(WHOLE)]),
    "chunk_cut_short": lambda: shard([summed(chunk(WHOLE)[:5]), chunk(WHOLE)]),
    "chunk_cut_behind_its_head": lambda: shard([summed(chunk(WHOLE)[:-6]), chunk(WHOLE)]),
    "chunk_with_a_bomb_behind_its_frame": lambda: shard(
        [summed(chunk(WHOLE)[:-4] + bomb()[:-4]), chunk(WHOLE)]
    ),
    "chunk_of_another_checksum": lambda: shard([chunk(WHOLE)[:-1] + b"?", chunk(WHOLE)]),
    "index_of_another_checksum": lambda: shard([chunk(WHOLE)] * 2)[:-1] + b"?",
    "index_beyond_the_object": lambda: shard([chunk(WHOLE)] * 2, [(0, 30), (1 << 40, 30)]),
    "index_with_a_length_beyond": lambda: shard([chunk(WHOLE)] * 2, [(0, 10), (30, 1 << 62)]),
    "index_that_wraps": lambda: shard([chunk(WHOLE)] * 2, [(0, 10), (2**64 - 8, 8)]),
    "index_of_one_chunk_twice": lambda: shard([chunk(WHOLE)] * 2, [(0, len(chunk(WHOLE)))] * 2),
    "index_into_itself": lambda: shard([chunk(WHOLE)] * 2, [(0, 10), (10, 2 * len(chunk(WHOLE)))]),
    "index_of_an_absent_chunk": lambda: shard(
        [chunk(WHOLE)] * 2, [(0, len(chunk(WHOLE))), (2**64 - 1, 2**64 - 1)]
    ),
    "index_alone": lambda: shard([])[:20],
    "one_byte": lambda: b"\x00",
    "small_bomb_that_says_its_size": lambda: shard([chunk(SMALL), chunk(WHOLE)]),
    "small_bomb_that_does_not": lambda: shard([without_size(len(SMALL)), chunk(WHOLE)]),
    "small_bomb_behind_a_frame": lambda: shard(
        [summed(chunk(WHOLE)[:-4] + chunk(SMALL)[:-4]), chunk(WHOLE)]
    ),
}


def _shard(make: Callable[[], bytes]) -> Attack:
    return lambda path: (zarr(path), change_object(path, make()))[-1]


many(
    r"unit 0 .*(a zstd frame in it|a chunk of it|chunk 0 of it|its index|it has \d+ bytes|such a"
    r" unit has at most \d+)",
    {f"shard_{k}": v for k, v in SHARDS.items()},
    _shard,
)


def _records(codec: str, field: str, value: Any) -> Attack:
    def forge(path: Path) -> None:
        cache = zarr(path, codec)
        records = cache.read_unit(cache.commit_of(0, 0)).copy()
        records[field][3, ...] = value
        change_object(path, cache.format.encode(0, records[None]))

    return forge


VALUES = {
    "records_with_nan_float32": _records("full:dtype=float32", "logits", np.nan),
    "records_with_infinity_float16": _records("full:dtype=float16", "logits", np.inf),
    "records_with_nan_bfloat16": _records("full:dtype=bfloat16", "logits", 0x7FC0),
    "records_with_a_nan_scale": _records("full:dtype=uint8", "scale", np.nan),
    "records_with_a_nan_tail": _records("topk:k=2", "tail_var", np.nan),
    "records_with_a_class_beyond": _records("topk:k=2", "classes", 5),
    "records_with_a_class_twice": _records("topk:k=2", "classes", 1),
    "records_with_a_negative_variance": _records("topk:k=2", "tail_var", -1),
    "records_with_a_huge_scale": _records("full:dtype=uint8", "scale", 3e38),
    "records_with_a_huge_offset": _records("full:dtype=uint4", "offset", -3e38),
    "records_with_a_huge_float32": _records("full:dtype=float32", "logits", 2.0**40),
    "records_with_a_huge_bfloat16": _records("full:dtype=bfloat16", "logits", 0x7E00),
}
many(
    r"unit 0 .*record 3 of it holds (NaN or infinity|NaN, infinity or a number past 1.1e\+12|a"
    r" class beyond 4|a class twice|a "
    r"negative variance) in",
    VALUES,
    lambda case: case,
)


@attack("unit 0 .*a pixel of record 3 of it holds a class beyond 4 in classes")
def records_of_maps_with_a_class_beyond(path: Path) -> None:
    codec = with_layout(open_codec("topk:k=2", classes=5), layout_of_sites((1, 2, 3)))
    cache = create_cache(path, manifest(codec, **maps([1, 2, 3])))
    start_seed(cache, 0)
    for unit in range(cache.manifest.num_units):
        records = np.zeros(len(cache.manifest.unit_range(unit)), cache.manifest.dtype)
        records["maps"][3, 0, 4, 1, 2] = 5  # byte 4 of a row is its first class
        commit_unit(cache, 0, unit, records)
