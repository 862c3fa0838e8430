"""Layouts: what the positions of a view's logits are, one kind a file."""

from kdcache.positions.heads import AUXILIARY, Heads
from kdcache.positions.one import One
from kdcache.positions.proposals import MOST_COORDINATE, MOST_PROPOSALS, Boxes, Proposals
from kdcache.positions.protocol import Layout, Segment
from kdcache.positions.pyramid import Pyramid
from kdcache.positions.registry import KINDS, common_layout, layout_from_dict, layout_of_sites

__all__ = [
    "AUXILIARY",
    "KINDS",
    "MOST_COORDINATE",
    "MOST_PROPOSALS",
    "Boxes",
    "Heads",
    "Layout",
    "One",
    "Proposals",
    "Pyramid",
    "Segment",
    "common_layout",
    "layout_from_dict",
    "layout_of_sites",
]
