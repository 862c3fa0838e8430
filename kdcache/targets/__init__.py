"""Targets: what a sample is labelled with, one kind a file."""

from kdcache.targets.boxes import ClassBoxes
from kdcache.targets.label import ClassLabel
from kdcache.targets.mask import ClassMask
from kdcache.targets.protocol import NO_TARGET, MixedTarget, StoredTarget, TargetKind, ViewTarget
from kdcache.targets.registry import KINDS, gives_maps, target_kind, task_of

__all__ = [
    "KINDS",
    "NO_TARGET",
    "ClassBoxes",
    "ClassLabel",
    "ClassMask",
    "MixedTarget",
    "StoredTarget",
    "TargetKind",
    "ViewTarget",
    "gives_maps",
    "target_kind",
    "task_of",
]
