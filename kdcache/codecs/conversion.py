"""Records of one codec made from those of another, without the teacher: which can be, and how."""

import numpy as np
from torch import Tensor

from kdcache.codecs.full import Full
from kdcache.codecs.lowrank import LowRank
from kdcache.codecs.positions import PositionCodec, row_codec
from kdcache.codecs.protocol import Codec
from kdcache.codecs.registry import codec_spec
from kdcache.codecs.topk import TopK
from kdcache.shapes import Records

_COARSE_TO_FINE = ("uint4", "uint8", "bfloat16", "float16", "float32")
_MANTISSA = {"float32": 10, "float16": 10}
_LOSSY_MANTISSA = 7


def why_not(held: Codec, wanted: Codec, scale: float = 0.0) -> str | None:
    """Return why records of `wanted` cannot be made from those of `held`, with the way out, or None
    if they can.

    They cannot if they would seem to know what `held` does not: classes that it dropped, or finer
    values than it kept.

    Args:
        held: the codec of the records that there are.
        wanted: that of the records to be made.
        scale: what `full` in 8 or 4 bits rounds logits to, see `scale_of`.
    """
    held = row_codec(held)
    if codec_spec(held) == codec_spec(wanted):
        return "it has that codec already: copy the folder"
    if isinstance(wanted, TopK):
        return _why_not_topk(held, wanted)
    if isinstance(held, TopK):
        return (
            f"of {held.classes} classes it keeps the {held.k} largest: dump again, or choose topk"
            " with a smaller k"
        )
    if isinstance(wanted, LowRank):
        return _why_not_lowrank(held, wanted, scale)
    return _why_not_full(held, wanted)


def needs_scale(held: Codec, wanted: Codec) -> bool:
    """Return whether `why_not` depends on what the records of `held` are rounded to."""
    names = row_codec(held).record_dtype.names or ()
    return "scale" in names and isinstance(wanted, LowRank)


def scale_of(held: Codec, records: Records) -> float:
    """Return what `full` in 8 or 4 bits rounds logits to: the median over the rows of `records`.

    The records say it, not the codec. Those of absent rows hold zeros and do not count; without any
    others it is 0.
    """
    rows = held.row_records(records) if isinstance(held, PositionCodec) else records
    scales = rows["scale"]
    present = scales[scales > 0]
    return float(np.median(present)) if len(present) else 0.0


def converted(held: Codec, wanted: Codec, records: Records) -> tuple[Records, Tensor | None]:
    """Return the records of `wanted` made from those of `held`, and which rows are clipped, see
    `Codec.clipped`.

    What `topk` holds is cut, since the logits that it decodes to are an estimate in part.
    """
    if isinstance(row_codec(held), TopK):
        return _cut(held, wanted, records), None
    logits = held.decode(records).logits()
    if isinstance(held, PositionCodec) and isinstance(wanted, PositionCodec):
        return wanted.encode(logits, held.boxes_of(records)), wanted.clipped(logits)
    return wanted.encode(logits), wanted.clipped(logits)


def _cut(held: Codec, wanted: Codec, records: Records) -> Records:
    """Return records of fewer logits made from those of `held`, of one position or of several."""
    before = row_codec(held)
    after = row_codec(wanted)
    assert isinstance(before, TopK)
    assert isinstance(after, TopK), "of what topk holds nothing else can be made"
    if not (isinstance(held, PositionCodec) and isinstance(wanted, PositionCodec)):
        return after.cut(records, before)
    return wanted.of_rows(after.cut(held.row_records(records), before), held.boxes_of(records))


def _why_not_full(held: Codec, wanted: Codec) -> str | None:
    if not (isinstance(held, Full) and isinstance(wanted, Full)):
        return (
            "its logits are quantised on a basis: dump again, or choose lowrank with a larger step,"
            " or topk"
        )
    rank = _COARSE_TO_FINE.index(held.dtype)
    if _COARSE_TO_FINE.index(wanted.dtype) <= rank:
        return None
    coarser = [f"full:dtype={dtype}" for dtype in _COARSE_TO_FINE[:rank]]
    others = ", ".join(["lowrank", "topk", *coarser])
    return (
        f"{wanted.dtype} is finer than the {held.dtype} it holds: dump again, or choose from"
        f" {others}"
    )


def _why_not_topk(held: Codec, wanted: TopK) -> str | None:
    if isinstance(held, TopK):
        if wanted.k > held.k:
            return (
                f"it keeps {held.k} logits, not {wanted.k}: dump again, or choose k up to {held.k}"
            )
        if wanted.tau != held.tau:
            return (
                f"the mass of its tail is exact at tau {held.tau:g} only: dump again, or give"
                f" tau={held.tau:g}"
            )
    most = _mantissa(held)
    if wanted.mantissa > most:
        return (
            f"it does not hold {wanted.mantissa} bits of each logit: dump again, or give"
            f" mantissa={most} or less"
        )
    return None


def _mantissa(held: Codec) -> int:
    """Return how many bits of float16's mantissa a logit has."""
    if isinstance(held, TopK):
        return held.mantissa
    if isinstance(held, Full):
        return _MANTISSA.get(held.dtype, _LOSSY_MANTISSA)
    return _LOSSY_MANTISSA


def _why_not_lowrank(held: Codec, wanted: LowRank, scale: float) -> str | None:
    if wanted.error is not None and not held.is_exact:
        return (
            "an error is measured against exact logits, which it does not hold: give step= or"
            " bytes="
        )
    step = wanted.fitted.step if wanted.fitted else wanted.step
    if step is None:
        return None
    if isinstance(held, LowRank) and held.fitted and step <= held.fitted.step:
        own = f"{held.fitted.step:.3g}"
        return (
            f"step {step:.3g} is no coarser than its own, {own}: dump again, or give a larger step"
            " or fewer bytes"
        )
    if isinstance(held, Full) and step < scale:
        rounds = f"the {scale:.3g} that {held.dtype} rounds its logits to"
        return (
            f"step {step:.3g} is finer than {rounds}: dump again, or give a larger step or fewer"
            " bytes"
        )
    return None
