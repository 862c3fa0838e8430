"""The layouts by kind: read from a manifest, or made from the shape of logits."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.config.names import choose
from kdcache.errors import UsageError, quoted
from kdcache.positions.heads import Heads
from kdcache.positions.one import One
from kdcache.positions.proposals import Proposals
from kdcache.positions.protocol import Layout
from kdcache.positions.pyramid import Pyramid

KINDS: dict[str, type[Layout]] = {
    One.kind: One,
    Heads.kind: Heads,
    Pyramid.kind: Pyramid,
    Proposals.kind: Proposals,
}
"""By the word for it in a manifest."""


def layout_from_dict(content: Mapping[str, Any]) -> Layout:
    """Return the layout that `Layout.to_dict` told.

    Raises:
        UsageError: an unknown kind, or a value that is absent, of another type or out of range.
    """
    kind: object = content
    if isinstance(content, Mapping):
        kind = content.get("kind")
    if not isinstance(kind, str):
        raise UsageError(f"kind of a layout is {quoted(kind)}; it must be {' or '.join(KINDS)}")
    return KINDS[choose(kind, KINDS, "layout")].from_dict(content)


def common_layout(layouts: Sequence[Layout]) -> Layout:
    """Return the layout that the logits of several teachers share; only auxiliary heads may be
    lacking in some.

    Raises:
        UsageError: they do not lie alike.
    """
    count = min(len(layout.segments) for layout in layouts)
    first = layouts[0].first(count)
    for layout in layouts[1:]:
        other = layout.first(count)
        if other != first:
            raise UsageError(
                f"logits of layouts {quoted(first.to_dict())} and {quoted(other.to_dict())} cannot"
                " be combined; choose teachers whose logits lie alike"
            )
    return first


def layout_of_sites(sites: Sequence[int] | None) -> Layout:
    """Return the layout of logits `[views, *sites, classes]`.

    Args:
        sites: the heads, and the height and width of their maps; none of one row a view.

    Raises:
        UsageError: sizes out of range.
    """
    if not sites:
        return One()
    heads, height, width = sites
    return Heads(((height, width),) * heads)
