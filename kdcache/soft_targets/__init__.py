"""Soft targets: decoded logits of a teacher, as losses see them."""

from kdcache.soft_targets.combined import (
    AveragedTargets,
    JoinedTargets,
    MappedTargets,
    PickedTargets,
)
from kdcache.soft_targets.protocol import AnchorTargets, DenseTargets, SoftTargets, keeps_all
from kdcache.soft_targets.segments import (
    SegmentTargets,
    by_segment,
    compared_rows,
    per_segment,
    require_one_segment,
    segments_of,
)

__all__ = [
    "AnchorTargets",
    "AveragedTargets",
    "DenseTargets",
    "JoinedTargets",
    "MappedTargets",
    "PickedTargets",
    "SegmentTargets",
    "SoftTargets",
    "by_segment",
    "compared_rows",
    "keeps_all",
    "per_segment",
    "require_one_segment",
    "segments_of",
]
