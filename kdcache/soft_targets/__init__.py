"""Soft targets: decoded logits of a teacher, as losses see them."""

from kdcache.soft_targets.combined import (
    AveragedTargets,
    JoinedTargets,
    MappedTargets,
    PickedTargets,
)
from kdcache.soft_targets.maps import MapTargets, as_maps, heads_of, per_head
from kdcache.soft_targets.protocol import DenseTargets, SoftTargets

__all__ = [
    "AveragedTargets",
    "DenseTargets",
    "JoinedTargets",
    "MapTargets",
    "MappedTargets",
    "PickedTargets",
    "SoftTargets",
    "as_maps",
    "heads_of",
    "per_head",
]
