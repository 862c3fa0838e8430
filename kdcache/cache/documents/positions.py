"""How a manifest says what the positions of a view's logits are: maps of one size by `sites`, as
the first caches of maps do, other layouts by `positions`."""

from collections.abc import Mapping
from typing import Any

from kdcache.cache.documents.document import Content
from kdcache.errors import UsageError
from kdcache.positions import (
    KINDS,
    Layout,
    One,
    layout_from_dict,
    layout_of_sites,
)
from kdcache.positions.protocol import MOST_SEGMENTS


def layout_of(content: Content) -> Layout:
    """Return the layout that a manifest says.

    Raises:
        UsageError: a layout that this version does not know, or out of range.
    """
    positions = content.get("positions")
    if positions is None:
        return layout_of_sites(content.get("sites"))
    return layout_from_dict(positions)


def layout_fields(layout: Layout) -> dict[str, Any]:
    """Return the fields of a manifest that say a layout."""
    if isinstance(layout, One):
        return {}
    if layout.maps:
        return {"sites": list(layout.maps)}
    return {"positions": layout.to_dict()}


def check_positions(content: Content) -> Layout:
    """Return the layout that a manifest says, after it was checked.

    Raises:
        ValueError: a layout out of range, that `sites` contradicts, or that `sites` is to say.
    """
    positions = content.get("positions")
    sites = content.get("sites")
    try:
        layout = layout_of(content)
    except UsageError as error:
        raise ValueError(f"positions: {error}") from error
    if positions is None:
        return layout
    if sites is not None:
        raise ValueError(f"sites is {sites}, and positions says what the logits are: leave it out")
    if "positions" not in layout_fields(layout):
        raise ValueError(f"positions is of kind {layout.kind}, which sites says: leave it out")
    if len(layout.segments) > MOST_SEGMENTS:
        raise ValueError(
            f"positions has {len(layout.segments)} segments; at most {MOST_SEGMENTS} are read"
        )
    return layout


def require_known_layout(positions: Any) -> None:
    """Raise a ValueError if a layout is of a kind that this version does not know; what is no text
    at all `check_positions` refuses."""
    if not isinstance(positions, Mapping):
        return
    kind = positions.get("kind")
    if isinstance(kind, str) and kind not in KINDS:
        raise ValueError(
            f"its positions are of a kind that this kdcache does not know; it knows"
            f" {', '.join(KINDS)}, and a newer one may know it: upgrade kdcache"
        )
