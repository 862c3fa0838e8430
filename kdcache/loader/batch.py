"""What a loader yields: views, targets and soft targets of a part of a step."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from kdcache.runtime.wording import counted, named
from kdcache.shapes import Labels
from kdcache.soft_targets import SegmentTargets, SoftTargets
from kdcache.targets.boxes import torchvision_targets


@dataclass(frozen=True)
class DistillationBatch:
    """One batch of this process, on the device of the loader."""

    images: Tensor
    """Views, uint8 `[views, channels, height, width]`; floats, normalised, where the loader knows
    how."""
    labels: Labels
    """Classes of the views, or of their pixels; of mixed views with a second class and a share."""
    teacher: SoftTargets
    """Soft targets: `logits()` are the teacher's, `probs(tau)` their softmax at a temperature."""
    rows: Tensor
    """Which sample each view is of: its place in the cache's order, int64 `[views]`, on the CPU."""
    seeds: Tensor
    """The augmentation seed of each view, int64 `[views]`, on the CPU."""
    num_classes: int

    def __repr__(self) -> str:
        """Return what a batch is in a line, for a notebook or a prompt; tensors in full are not."""
        kind = str(self.images.dtype).removeprefix("torch.")
        seeds = torch.unique(self.seeds).tolist()
        return (
            f"<DistillationBatch: images {kind} {[*self.images.shape]} on {self.images.device},"
            f" {type(self.teacher).__name__} of {counted(self.num_classes, 'class')},"
            f" {named(seeds, 'seed')}>"
        )

    @property
    def targets(self) -> Tensor | list[dict[str, Tensor]]:
        """What cross-entropy takes: class indices, int64, of views `[views]` or of their pixels
        `[views, height, width]`, where 255 is none; of mixed views probabilities, float32 `[views,
        classes]`. Of detection what torchvision's detectors take: of each view `boxes` and
        `labels`, without crowds; labels count from 1 where the teacher's rows begin with the
        background."""
        if self.labels.objects is not None:
            return torchvision_targets(self.labels, has_background=self._has_background)
        first = self.labels.first.long()
        if self.labels.mixed is None:
            return first
        second, share = self.labels.mixed
        of_first = one_hot(first, self.num_classes).float()
        of_second = one_hot(second.long(), self.num_classes).float()
        return torch.lerp(of_second, of_first, share[:, None])

    @property
    def _has_background(self) -> bool:
        """Whether the first class of the teacher's rows is the background."""
        return isinstance(self.teacher, SegmentTargets) and self.teacher.layout.has_background
