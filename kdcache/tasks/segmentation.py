"""Segmentation: a map of class logits per view, and per head; targets are masks of the view.

Logits are the raw map at the head's stride. Labels are compared at the mask's size, with the logits
upsampled; what is compared with the teacher, and what a cache holds, is the map itself. Each
auxiliary head counts 0.4 times the main one, in both, see `AUXILIARY`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcache.errors import UsageError
from kdcache.losses import Loss
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.positions import AUXILIARY, Heads, Layout
from kdcache.runtime.distributed import all_sum, world_size
from kdcache.runtime.float64 import float64_device, in_float64
from kdcache.shapes import IGNORED, Labels, Maps, Masks, Rows, Scalar, ViewLogits, Views
from kdcache.soft_targets import (
    DenseTargets,
    PickedTargets,
    SegmentTargets,
    SoftTargets,
    segments_of,
)
from kdcache.targets import ClassMask
from kdcache.tasks.deviations import row_deviations
from kdcache.tasks.label_notes import class_text, missing_classes
from kdcache.tasks.losses import refuse_positions
from kdcache.tasks.map_predictions import MapPredictions
from kdcache.tasks.map_program import map_program
from kdcache.tasks.map_sizes import masks_at, upsampled
from kdcache.tasks.picture import Picture, ShownView
from kdcache.tasks.predictions import PredictionSettings
from kdcache.tasks.programs import Program
from kdcache.tasks.score_names import BEST
from kdcache.tasks.segmentation_picture import draw_segmentation
from kdcache.tasks.windows import slide

_FEW_MASKS = 4
_SOME_MASKS = 8
_AS_CLASS = (
    "; if 255 is meant as a class, say which: a line 255,CLASS in ids=FILE, or ids of the data set"
)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The task `segmentation`."""

    align_corners: bool = False
    """How logits are upsampled where labels are compared, see `upsampled`."""
    window: tuple[int, int] | None = None
    """Height and width of windows that slide over views in an evaluation; None if they are seen
    whole."""
    name: ClassVar[str] = ClassMask.task
    best: ClassVar[str] = BEST[name]
    summary: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy", "eval_loss")
    scores_whole_images: ClassVar[bool] = True
    can_compile: ClassVar[bool] = False

    def check(self, loss: Loss, spec: str, *, label_smoothing: float) -> None:
        """Refuse a loss that treats the label of a row apart, or leaves positions out.

        Raises:
            UsageError: it does.
        """
        if "label" in loss.requires:
            raise UsageError(
                f"loss {spec} needs a label for each row, which a pixel of a map has not; use dist,"
                " kl or cwd"
            )
        refuse_positions(loss, spec)

    def terms(
        self,
        loss: Loss,
        logits: ViewLogits,
        teacher: SoftTargets,
        labels: Labels,
        *,
        label_smoothing: float,
    ) -> dict[str, Scalar]:
        """Return the terms summed over the heads; a head that the teacher lacks learns from the
        labels alone."""
        masks = labels.first
        segments = segments_of(teacher)
        sums: dict[str, Scalar] = {}
        for head in range(logits.shape[1]):
            maps = logits[:, head]
            terms: dict[str, Scalar] = {}
            if head < len(segments):
                terms = _against(loss, maps, segments[head], masks)
            terms["task"] = loss.ce * pixel_loss(
                maps, masks, label_smoothing=label_smoothing, align_corners=self.align_corners
            )
            if head:
                _add_auxiliary(sums, terms)
            else:
                sums.update(terms)
        return sums

    def output(self, model: nn.Module, views: Views) -> ViewLogits:
        """Return the logits of views that are seen whole, or through windows."""
        if self.window is None:
            logits: ViewLogits = model(views)
            return logits
        return slide(model, views, self.window, align_corners=self.align_corners)

    def label_notes(
        self, labels: Sequence[Rows], classes: int, names: Sequence[str] | None
    ) -> list[str]:
        """Return a note if masks hold one class only or none, or if classes never occur; see
        `Task.label_notes`."""
        counts = np.zeros(IGNORED + 1, np.int64)
        for distinct in labels:
            counts[distinct] += 1
        num_views = len(labels)
        has_ignored = bool(counts[IGNORED])
        present = np.flatnonzero(counts[:classes])
        lead = f"the {num_views} masks looked at hold"
        if num_views >= _FEW_MASKS and not len(present):
            return [f"{lead} nothing but 255, which means no class{_AS_CLASS}"]
        if len(present) == 1:
            only = class_text(int(present[0]), names)
            if num_views >= _FEW_MASKS and has_ignored:
                return [f"{lead} class {only} and 255 only, and 255 means no class{_AS_CLASS}"]
            if num_views >= _SOME_MASKS and not has_ignored:
                return [f"{lead} class {only} only, of {classes}; are the masks right?"]
        return missing_classes(counts[:classes], num_views, "masks", names)

    def score(self, class_names: Sequence[str], device: torch.device | str) -> "MapScore":
        """Return an empty score."""
        return MapScore(class_names, device, align_corners=self.align_corners)

    def reports(self, class_names: Sequence[str], device: torch.device | str) -> Sequence[Any]:
        """Return none: the scores have each class."""
        return []

    def predictions(self, settings: PredictionSettings) -> MapPredictions:
        """Return what writes them, an image each.

        Raises:
            KdcacheError: they cannot be written so.
        """
        return MapPredictions(settings, align_corners=self.align_corners)

    def program(self, model: VisionModel, *, gives_logits: bool) -> Program:
        """Return `map_program`."""
        return map_program(model, gives_logits=gives_logits, align_corners=self.align_corners)

    def statistics(
        self, logits: TeacherLogits, targets: Masks | None, layout: Layout
    ) -> dict[str, Tensor]:
        """Return means over the pixels of the main map; the mask is looked at in the middle of
        each."""
        maps = logits.values[:, 0].float()
        confidence, predicted = torch.softmax(maps, dim=-1).max(-1)
        means = {
            "mean": maps.mean(),
            "std": row_deviations(maps).mean(),
            "confidence": confidence.mean(),
        }
        if targets is not None:
            labels = masks_at(targets, _size_of(maps))
            num_right = (predicted == labels).sum()
            num_pixels = (labels != IGNORED).sum()
            share_right = num_right / num_pixels.clamp_min(1)
            means["accuracy"] = 100 * in_float64(share_right)
        return means

    def shown(self, view: ShownView, output: Any, who: str) -> ShownView:
        """Return the view with the map of a student's main head."""
        maps = output[:, 0].float().cpu()
        layout = Heads((_size_of(maps),))
        targets = SegmentTargets([DenseTargets(maps.flatten(0, 2))], layout)
        return replace(view, teacher=targets, layout=layout, first_class=0, who=who)

    def picture(self, view: ShownView) -> Picture:
        """Return `draw_segmentation`."""
        return draw_segmentation(view)


def _add_auxiliary(sums: dict[str, Scalar], terms: Mapping[str, Scalar]) -> None:
    """Add the terms of an auxiliary head, with its weight, to the sums over heads."""
    for name, term in terms.items():
        weighted = AUXILIARY * term
        if name in sums:
            weighted = sums[name] + weighted
        sums[name] = weighted


def _against(loss: Loss, maps: Maps, teacher: SoftTargets, masks: Masks) -> dict[str, Scalar]:
    """Return the terms of a loss of maps, or of one of rows over all pixels, or over those that
    have a class."""
    terms: dict[str, Scalar] = {}
    for part in loss.parts:
        terms |= _against_one(part, maps, teacher, masks)
    return terms


def _against_one(loss: Loss, maps: Maps, teacher: SoftTargets, masks: Masks) -> dict[str, Scalar]:
    labels = masks_at(masks, _size_of(maps)).reshape(-1)
    if "maps" in loss.requires:
        return loss.terms(maps, teacher, labels)
    rows = maps.reshape(-1, maps.shape[-1])
    if "masks" not in loss.requires:
        return loss.terms(rows, teacher, labels)
    indices = (labels != IGNORED).nonzero()[:, 0]
    picked_targets = PickedTargets(teacher, indices, len(rows))
    return loss.terms(rows[indices], picked_targets, labels[indices])


def pixel_loss(
    maps: Maps, masks: Masks, *, label_smoothing: float = 0.0, align_corners: bool = False
) -> Scalar:
    """Return the cross-entropy at the masks' size, float32, the mean over the pixels that have a
    class; 0 if none has.

    Of several processes each returns its share: the mean of these is that over all pixels.
    """
    planes = upsampled(maps.float(), _size_of(masks), align_corners=align_corners)
    labels = masks.long()
    loss_sum = functional.cross_entropy(
        planes,
        labels,
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    num_pixels = all_sum((labels != IGNORED).sum()) / world_size()
    return loss_sum / num_pixels.clamp_min(1 / world_size())


def _size_of(maps: Maps | Masks) -> tuple[int, int]:
    """Return the height and width of maps or of masks."""
    height, width = maps.shape[1:3]
    return height, width


class MapScore:
    """Intersection over union, pixel accuracy in percent, and mean cross-entropy, over any number
    of batches and processes.

    All comes from the counts of (class, predicted class), as in torchvision's reference training:
    five lines, to which a library of metrics would add a dependency and no digit.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        device: torch.device | str = "cpu",
        *,
        align_corners: bool = False,
    ) -> None:
        self._names = class_names
        self._align_corners = align_corners
        num_pairs = len(class_names) ** 2
        home = float64_device(device)
        self._counts = torch.zeros(num_pairs, dtype=torch.float64, device=home)
        self._loss = torch.zeros(1, dtype=torch.float64, device=home)

    def add(self, logits: ViewLogits, labels: Labels) -> None:
        """Count a batch, of which the main head's maps are upsampled; no host waits for it."""
        size = _size_of(labels.first)
        planes = upsampled(logits[:, 0].float(), size, align_corners=self._align_corners)
        targets = labels.first.long()
        loss = functional.cross_entropy(planes, targets, ignore_index=IGNORED, reduction="sum")
        self._loss += in_float64(loss)
        predicted = planes.argmax(1)
        num_pairs = len(self._counts)
        pairs = targets * len(self._names) + predicted
        pairs = torch.where(targets != IGNORED, pairs, num_pairs)  # one more, for those without
        ones = torch.ones(1, dtype=torch.int32, device=pairs.device).expand(pairs.numel())
        # torch.bincount would ask the device how large the largest is
        counts = ones.new_zeros(num_pairs + 1).index_add_(0, pairs.flatten(), ones)
        self._counts += in_float64(counts[:num_pairs])

    def result(self) -> dict[str, float]:
        """Return `miou`, `pixel_accuracy`, `eval_loss`, and `iou/CLASS` of each class that is there
        or was predicted.

        `miou` is the mean of these. Every process of the run must ask.
        """
        sums = all_sum(torch.cat([self._loss, self._counts])).cpu()
        loss = sums[0]
        table = sums[1:].reshape(len(self._names), -1)
        both = table.diagonal()
        union = table.sum(0) + table.sum(1) - both
        ious: dict[str, float] = {}
        for name, num_hits, num_pixels in zip(self._names, both, union, strict=True):
            if num_pixels:
                ious[f"iou/{name}"] = 100 * float(num_hits / num_pixels)
        total = float(table.sum()) or 1.0
        return {
            "miou": sum(ious.values()) / max(len(ious), 1),
            "pixel_accuracy": 100 * float(both.sum()) / total,
            "eval_loss": float(loss) / total,
            **ious,
        }
