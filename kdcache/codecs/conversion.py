"""Records of one codec made from those of another, without the teacher: which can be, and how."""

import numpy as np

from kdcache.codecs.cosine import Cosine
from kdcache.codecs.full import Full
from kdcache.codecs.lowrank import LowRank
from kdcache.codecs.positions import PositionCodec, boxes_of, encoded, row_codec
from kdcache.codecs.protocol import Codec
from kdcache.codecs.registry import codec_spec
from kdcache.codecs.topk import TopK
from kdcache.deferred import Tensor
from kdcache.shapes import Records

_COARSE_TO_FINE = ("uint4", "uint8", "bfloat16", "float16", "float32")
_MANTISSA = {"float32": 10, "float16": 10}
_LOSSY_MANTISSA = 7


def why_not(source: Codec, target: Codec, scale: float = 0.0) -> str | None:
    """Return why records of `target` cannot be made from those of `source`, with the way out, or
    None if they can.

    They cannot if they would seem to know what `source` does not: classes that it dropped, or finer
    values than it kept.

    Args:
        source: the codec of the records that there are.
        target: that of the records to be made.
        scale: what `full` in 8 or 4 bits rounds logits to, see `scale_of`.
    """
    source = row_codec(source)
    if codec_spec(source) == codec_spec(target):
        return "it has that codec already: copy the folder"
    if isinstance(target, TopK):
        return _why_not_topk(source, target)
    if isinstance(source, TopK):
        return (
            f"of {source.classes} classes it keeps the {source.k} largest: dump again, or choose"
            " topk with a smaller k"
        )
    if isinstance(target, LowRank):
        return _why_not_lowrank(source, target, scale)
    if isinstance(target, Cosine):
        return _why_not_cosine(source)
    return _why_not_full(source, target)


def needs_scale(source: Codec, target: Codec) -> bool:
    """Return whether `why_not` depends on what the records of `source` are rounded to."""
    names = row_codec(source).record_dtype.names or ()
    return "scale" in names and isinstance(target, LowRank)


def scale_of(source: Codec, records: Records) -> float:
    """Return what `full` in 8 or 4 bits rounds logits to: the median over the rows of `records`.

    The records say it, not the codec. Those of absent rows hold zeros and do not count; without any
    others it is 0.
    """
    rows = records
    if isinstance(source, PositionCodec):
        rows = source.row_records(records)
    scales = rows["scale"]
    present_scales = scales[scales > 0]
    if not len(present_scales):
        return 0.0
    return float(np.median(present_scales))


def converted(source: Codec, target: Codec, records: Records) -> tuple[Records, Tensor | None]:
    """Return the records of `target` made from those of `source`, and which rows are clipped, see
    `Codec.clipped`.

    What `topk` holds is cut, since the logits that it decodes to are an estimate in part.
    """
    if isinstance(row_codec(source), TopK):
        return _cut(source, target, records), None
    logits = source.decode(records).logits()
    return encoded(target, logits, boxes_of(source, records)), target.clipped(logits)


def _cut(source: Codec, target: Codec, records: Records) -> Records:
    """Return records of fewer logits made from those of `source`, of one position or of several."""
    source_rows = row_codec(source)
    target_rows = row_codec(target)
    assert isinstance(source_rows, TopK)
    assert isinstance(target_rows, TopK), "of what topk holds nothing else can be made"
    if not (isinstance(source, PositionCodec) and isinstance(target, PositionCodec)):
        return target_rows.cut(records, source_rows)
    cut_rows = target_rows.cut(source.row_records(records), source_rows)
    return target.of_rows(cut_rows, source.boxes_of(records))


def _why_not_full(source: Codec, target: Codec) -> str | None:
    if not (isinstance(source, Full) and isinstance(target, Full)):
        return (
            "its logits are quantised on a basis: dump again, or choose lowrank with a larger step,"
            " or topk"
        )
    rank = _COARSE_TO_FINE.index(source.dtype)
    if _COARSE_TO_FINE.index(target.dtype) <= rank:
        return None
    coarser = [f"full:dtype={dtype}" for dtype in _COARSE_TO_FINE[:rank]]
    others = ", ".join(["lowrank", "topk", *coarser])
    return (
        f"{target.dtype} is finer than the {source.dtype} it holds: dump again, or choose from"
        f" {others}"
    )


def _why_not_topk(source: Codec, target: TopK) -> str | None:
    if isinstance(source, TopK):
        if target.k > source.k:
            return (
                f"it keeps {source.k} logits, not {target.k}: dump again, or choose k up to"
                f" {source.k}"
            )
        if target.tau != source.tau:
            return (
                f"the mass of its tail is exact at tau {source.tau:g} only: dump again, or give"
                f" tau={source.tau:g}"
            )
    most = _mantissa(source)
    if target.mantissa > most:
        return (
            f"it does not hold {target.mantissa} bits of each logit: dump again, or give"
            f" mantissa={most} or less"
        )
    return None


def _why_not_cosine(source: Codec) -> str | None:
    if source.is_exact:
        return None
    return (
        f"cosine is made of exact logits, and {codec_spec(source)} has rounded them: dump again, or"
        " keep it as it is"
    )


def _mantissa(source: Codec) -> int:
    """Return how many bits of float16's mantissa a logit has."""
    if isinstance(source, TopK):
        return source.mantissa
    if isinstance(source, Full):
        return _MANTISSA.get(source.dtype, _LOSSY_MANTISSA)
    return _LOSSY_MANTISSA


def _why_not_lowrank(source: Codec, target: LowRank, scale: float) -> str | None:
    if target.error is not None and not source.is_exact:
        return (
            "an error is measured against exact logits, which it does not hold: give step= or"
            " bytes="
        )
    step = target.step
    if target.fitted:
        step = target.fitted.step
    if step is None:
        return None
    if isinstance(source, LowRank) and source.fitted and step <= source.fitted.step:
        own = f"{source.fitted.step:.3g}"
        return (
            f"step {step:.3g} is no coarser than its own, {own}: dump again, or give a larger step"
            " or fewer bytes"
        )
    if isinstance(source, Full) and step < scale:
        rounds = f"the {scale:.3g} that {source.dtype} rounds its logits to"
        return (
            f"step {step:.3g} is finer than {rounds}: dump again, or give a larger step or fewer"
            " bytes"
        )
    return None
