"""What a layout says of the positions, and what is refused as none."""

import json
from typing import Any

import pytest
import torch
from layouts import LAYOUTS

from kdcache.errors import UsageError
from kdcache.positions import (
    KINDS,
    Heads,
    Layout,
    One,
    Proposals,
    Pyramid,
    common_layout,
    layout_from_dict,
    layout_of_sites,
)
from kdcache.shapes import MOST_SIDE

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@every_layout
def test_rows_are_split_by_segment_and_joined_again(layout: Layout) -> None:
    rows = torch.arange(2.0 * layout.num_positions * 3).reshape(2, layout.num_positions, 3)
    parts = layout.split(rows)
    sizes = [segment.num_positions for segment in layout.segments]
    assert [part.shape[1] for part in parts] == sizes and sum(sizes) == layout.num_positions
    assert torch.equal(layout.joined(parts), rows)
    assert rows.reshape(2, *layout.sites, 3).numel() == rows.numel()


@every_layout
def test_a_manifest_gives_the_layout_back(layout: Layout) -> None:
    content = json.loads(json.dumps(layout.to_dict()))
    assert content["kind"] in KINDS and layout_from_dict(content) == layout


def test_segments_are_what_a_loss_compares_together() -> None:
    assert [segment.shape for segment in Heads(((4, 3), (2, 2))).segments] == [(4, 3), (2, 2)]
    levels = Pyramid(((4, 3), (2, 2)), (9, 9)).segments
    assert [segment.num_positions for segment in levels] == [108, 36]
    assert [segment.name for segment in levels] == ["level0", "level1"]
    assert Proposals(100).segments[0].shape == (100,)


def test_a_row_begins_with_the_background_where_classes_exclude_each_other() -> None:
    levels = ((4, 3), (2, 2))
    assert Pyramid(levels, (3, 3)).row_width(80) == 80
    assert Pyramid(levels, (4, 6), "softmax").row_width(80) == 81
    assert Proposals(7).row_width(80) == 81 and One().row_width(80) == 80


def test_a_student_takes_other_proposals_and_no_other_levels() -> None:
    assert Proposals(7).holds_alike(Proposals(500)) and not Proposals(7).holds_alike(One())
    pyramid = Pyramid(((3, 4),), (2,))
    assert pyramid.holds_alike(Pyramid(((3, 4),), (2,)))
    assert not pyramid.holds_alike(Pyramid(((3, 4),), (3,)))


def test_logits_of_sites_are_maps_or_one_row() -> None:
    assert layout_of_sites(None) == layout_of_sites([]) == One() and One().sites == ()
    maps = layout_of_sites([2, 3, 4])
    assert maps == Heads(((3, 4), (3, 4))) and maps.sites == maps.maps == (2, 3, 4)
    assert Heads(((3, 4), (3, 5))).maps is None and Heads(((3, 4), (3, 5))).sites == (27,)


def test_only_heads_may_be_lacking() -> None:
    two = Heads(((3, 4), (1, 2)))
    assert common_layout([two, Heads(((3, 4),))]) == Heads(((3, 4),))
    pyramid = Pyramid(((3, 4), (1, 2)), (1, 2))
    assert common_layout([pyramid, pyramid]) == pyramid
    others = [
        (pyramid, Pyramid(((3, 4),), (1,))),
        (Pyramid(((3, 4),), (1,)), pyramid),
        (pyramid, Pyramid(((4, 3), (1, 2)), (1, 2))),
        (pyramid, Pyramid(((3, 4), (1, 2)), (2, 2))),
        (pyramid, Pyramid(((3, 4), (1, 2)), (1, 2), "softmax")),
        (Heads(((4, 4),)), Heads(((2, 8),))),
        (Heads(((3, 4), (1, 2))), pyramid),
    ]
    for layouts in others:
        with pytest.raises(UsageError, match=r"logits of layouts .* cannot be combined"):
            common_layout(layouts)


HUGE = MOST_SIDE + 1


def one_level(**changes: Any) -> dict[str, Any]:
    """Return a pyramid of one level."""
    content = Pyramid(((1, 1),), (1,)).to_dict()
    return {**content, **changes}


REFUSED: dict[str, tuple[Any, str]] = {
    "no kind": ({}, "kind of a layout is None"),
    "a kind that is a list": ({"kind": ["one"]}, "kind of a layout is"),
    "an unknown kind": ({"kind": "grid"}, "layout"),
    "a field too many": ({"kind": "one", "size": 3}, "a layout of kind one has"),
    "a field too few": ({"kind": "pyramid", "levels": [[2, 2]]}, "it must have"),
    "a huge side": ({"kind": "heads", "sizes": [[HUGE, 1]]}, "a side of sizes is 16385"),
    "a negative side": ({"kind": "heads", "sizes": [[3, -1]]}, "a side of sizes is -1"),
    "no side": ({"kind": "heads", "sizes": [[3, 0]]}, "a side of sizes is 0"),
    "a side that is true": ({"kind": "heads", "sizes": [[True, 1]]}, "a side of sizes is True"),
    "a side that is a float": ({"kind": "heads", "sizes": [[2.0, 1]]}, "a side of sizes is 2.0"),
    "a side that is text": ({"kind": "heads", "sizes": [["2", 1]]}, "a side of sizes is '2'"),
    "three sides": ({"kind": "heads", "sizes": [[1, 2, 3]]}, "each must be a height and a width"),
    "no sizes": ({"kind": "heads", "sizes": []}, "it must have 1 to 64 pairs"),
    "sizes that are a number": ({"kind": "heads", "sizes": 3}, "sizes is 3"),
    "sizes of sizes": ({"kind": "heads", "sizes": [[[2, 2], 2]]}, "a side of sizes is"),
    "sizes that are a table": ({"kind": "heads", "sizes": {"a": 1}}, "sizes is"),
    "many heads": ({"kind": "heads", "sizes": [[1, 1]] * 65}, "it must have 1 to 64 pairs"),
    "many levels": (
        one_level(levels=[[1, 1]] * 17, anchors=[1] * 17),
        "it must have 1 to 16 pairs",
    ),
    "no anchors": (one_level(anchors=[0]), "a number of anchors is 0"),
    "many anchors": (one_level(anchors=[65]), "from 1 to 64"),
    "anchors that are true": (one_level(anchors=[True]), "a number of anchors is True"),
    "one number of anchors": (one_level(anchors=1), "a number for each of the 1 levels"),
    "anchors of other levels": (one_level(anchors=[1, 1]), "a number for each of the 1 levels"),
    "an unknown activation": (one_level(activation="tanh"), "it must be softmax or sigmoid"),
    "a long digest": (one_level(anchor_boxes="0" * 65), "it must be a digest of anchors"),
    "a digest that is a number": (one_level(anchor_boxes=1), "it must be a digest of anchors"),
    "an activation that is a list": (one_level(activation=[1]), "activation is"),
    "no proposals": ({"kind": "proposals", "count": 0}, "from 1 to 10000"),
    "many proposals": ({"kind": "proposals", "count": 10_001}, "from 1 to 10000"),
    "proposals without end": ({"kind": "proposals", "count": 10**400}, "from 1 to 10000"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_layout_is_refused_in_one_line(content: Any, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        layout_from_dict(content)
    assert message in str(raised.value) and len(str(raised.value)) < 480
