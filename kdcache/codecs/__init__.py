"""Codecs: logits of a view <-> one fixed-width record."""

from kdcache.codecs.basis import BasisCodec
from kdcache.codecs.checks import check_records
from kdcache.codecs.cosine import Cosine
from kdcache.codecs.full import Full
from kdcache.codecs.lowrank import LowRank
from kdcache.codecs.positions import (
    GridCodec,
    PositionCodec,
    boxes_of,
    encoded,
    packed,
    require_fitting,
    row_codec,
    with_layout,
)
from kdcache.codecs.protocol import Codec, RowCodec
from kdcache.codecs.record_bytes import Packed, as_records
from kdcache.codecs.registry import (
    can_code_whole,
    check_codec,
    codec_from_dict,
    codec_spec,
    codec_to_dict,
    default_codec,
    open_codec,
    set_tail,
)
from kdcache.codecs.tail import Tail
from kdcache.codecs.topk import TopK

__all__ = [
    "BasisCodec",
    "Codec",
    "Cosine",
    "Full",
    "GridCodec",
    "LowRank",
    "Packed",
    "PositionCodec",
    "RowCodec",
    "Tail",
    "TopK",
    "as_records",
    "boxes_of",
    "can_code_whole",
    "check_codec",
    "check_records",
    "codec_from_dict",
    "codec_spec",
    "codec_to_dict",
    "default_codec",
    "encoded",
    "open_codec",
    "packed",
    "require_fitting",
    "row_codec",
    "set_tail",
    "with_layout",
]
