"""Codecs: logits of a view <-> one fixed-width record."""

from kdcache.codecs.basis import BasisCodec
from kdcache.codecs.checks import check_records
from kdcache.codecs.full import Full
from kdcache.codecs.lowrank import LowRank
from kdcache.codecs.positions import PositionCodec, boxes_of, encoded, row_codec, with_layout
from kdcache.codecs.protocol import Codec, RowCodec
from kdcache.codecs.registry import (
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
    "Full",
    "LowRank",
    "PositionCodec",
    "RowCodec",
    "Tail",
    "TopK",
    "boxes_of",
    "check_records",
    "codec_from_dict",
    "codec_spec",
    "codec_to_dict",
    "default_codec",
    "encoded",
    "open_codec",
    "row_codec",
    "set_tail",
    "with_layout",
]
