"""One layout of each kind with logits of it, and a task whose logits lie so, until there is one of
detection."""

from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdcache.codecs import Codec, RowCodec, open_codec, with_layout
from kdcache.positions import Boxes, Heads, Layout, One, Proposals, Pyramid
from kdcache.targets import ClassLabel

CLASSES = 6
"""Of a row of logits, the background among them where there is one."""
VIEWS = 3
LAYOUTS: dict[str, Layout] = {
    "one": One(),
    "heads of one size": Heads(((2, 3), (2, 3))),
    "heads of unlike sizes": Heads(((4, 3), (2, 2))),
    "pyramid": Pyramid(((4, 3), (2, 2), (1, 1)), (2, 2, 2)),
    "pyramid with background": Pyramid(((4, 3), (2, 2)), (1, 3), "softmax"),
    "proposals": Proposals(5),
}
ROW_SPECS = ("full:dtype=float32", "full:dtype=uint8", "topk:k=3", "lowrank:step=0.25")
"""Of codecs that code each position by itself."""
SPECS = (*ROW_SPECS, "cosine:steps=8")


class BoxedLabel(ClassLabel):
    """A task of one-stage and two-stage detectors, as far as their logits go."""

    task: ClassVar[str] = "boxes of a test"
    layouts: ClassVar[frozenset[str]] = frozenset({"pyramid", "proposals"})


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def row_codec_of(spec: str) -> RowCodec:
    """Return the codec of rows, fitted if it needs a fit."""
    codec = open_codec(spec, classes=CLASSES)
    return codec.fit(random_logits(60, CLASSES, seed=1))


def boxes_for(layout: Layout, views: int = VIEWS, seed: int = 0) -> Boxes | None:
    """Return boxes of no proposal, one, all that there may be, none, one ..."""
    if not layout.has_boxes:
        return None
    count = layout.num_positions
    corners = random_logits(views, count, 4, seed=seed).abs()
    return Boxes(corners, torch.tensor([0, 1, count])[torch.arange(views) % 3])


def encoded(codec: Codec, layout: Layout, logits: Tensor, seed: int = 0) -> Any:
    """Return records of logits `[views, positions, classes]`, with boxes if they are to have any."""
    boxes = boxes_for(layout, len(logits), seed)
    if boxes is None:
        return codec.encode(logits.reshape(len(logits), *layout.sites, CLASSES))
    return codec.encode(logits, boxes)  # type: ignore[call-arg]


def manifest_fields(layout: Layout) -> dict[str, Any]:
    """Return the fields of a manifest that its layout decides."""
    teacher = {
        "spec": "random",
        "sha256": "2" * 64,
        "size": 8,
        "mean": [0.5],
        "std": [0.5],
        "precision": "float32",
    }
    if layout.kind == "heads":
        teacher["stride"] = 2
    tasks = {"one": "classification", "heads": "segmentation"}
    task = tasks.get(layout.kind, BoxedLabel.task)
    classes = CLASSES - int(layout.has_background)
    return {"task": task, "teacher": teacher, "classes": classes, "layout": layout}


def codec_of(spec: str, layout: Layout) -> Codec:
    return with_layout(row_codec_of(spec), layout)
