"""What becomes of a batch's logits: records and statistics, made where the logits are.

A device is kept busy by a host that never waits for it between two batches. So all is queued right
after the forward pass, and what is needed of it comes to the host in one copy, while the device
works on the next batches.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.codecs import Packed, as_records, encoded, packed
from kdcache.codecs.protocol import is_small, logits_fault
from kdcache.errors import CodecError
from kdcache.models.first_batch import tell_no_logits
from kdcache.models.vision_model import TeacherLogits, VisionModel
from kdcache.runtime.device import Compute
from kdcache.runtime.float64 import in_float64
from kdcache.shapes import Labels, Records
from kdcache.sources import Source
from kdcache.tasks import open_task
from kdcache.views import Batch


class EncodedBatch(NamedTuple):
    """What a cache keeps of a batch's logits."""

    records: Records
    """Of all of its views."""
    statistics: dict[str, float]
    """Means over the views that could be read, see `Task.statistics`, and `clipped`, the share of
    rows that lose more to clipping than to rounding, of a codec that clips; none if there are no
    such views."""


class BatchEncoder:
    """Encodes the batches of a dump."""

    def __init__(
        self,
        cache: Cache,
        source: Source,
        teacher: VisionModel,
        compute: Compute,
        *,
        is_scored: bool,
    ) -> None:
        """Prepare to encode.

        Args:
            cache: that the records are for.
            source: of the views.
            teacher: whose logits come.
            compute: where it runs.
            is_scored: whether the labels are of the teacher's classes.
        """
        self._cache = cache
        self._source = source
        self._teacher = teacher
        self._compute = compute
        self._is_scored = is_scored
        self._task = open_task(cache.manifest.task)
        self._is_first = True

    def begin(self, batch: Batch, logits: list[TeacherLogits]) -> Callable[[], EncodedBatch]:
        """Queue what is to be done with the teacher's logits of a batch; return what waits for it,
        and gives the records.

        Raises:
            CodecError: (by what is returned) logits that no record holds.
        """
        (of_teacher,) = logits
        if self._is_first:
            tell_no_logits(self._teacher, of_teacher.values)
        self._is_first = False
        made, statistics = self.queued(batch, of_teacher)
        tensors = [made.raw, made.is_held]
        if statistics:
            tensors.append(torch.stack([in_float64(value) for value in statistics.values()]))
        fetch = self._compute.fetch(tensors)

        def finish() -> EncodedBatch:
            raw, is_held, *values = fetch()
            if not bool(is_held.all()):
                self._refuse(batch, of_teacher)
            means = {}
            if values:
                means = dict(zip(statistics, values[0].tolist(), strict=True))
            return EncodedBatch(as_records(raw, self._cache.codec.record_dtype), means)

        return finish

    def queued(self, batch: Batch, logits: TeacherLogits) -> tuple[Packed, dict[str, Tensor]]:
        """Return the records and statistics of a batch on the device, without a wait for it."""
        made = packed(self._cache.codec, logits.values, logits.boxes)
        places = batch.present_places
        if not len(places):
            return made, {}
        targets = None
        if self._is_scored:
            labels = Labels(batch.labels.first, batch.labels.mixed)
            targets = labels.to(self._compute.move).leading
        if len(places) < len(batch.rows):
            on_device = self._compute.move(torch.from_numpy(places))
            logits = logits.at(on_device)
            if targets is not None:
                targets = targets[on_device]
        statistics = self._task.statistics(logits, targets, self._cache.manifest.layout)
        is_clipped = self._cache.codec.clipped(logits.values)
        if is_clipped is not None:
            statistics["clipped"] = is_clipped.float().mean()
        return made, statistics

    def _refuse(self, batch: Batch, logits: TeacherLogits) -> None:
        """Raise the CodecError of logits that no record holds, of which the first sample is
        named."""
        try:
            encoded(self._cache.codec, logits.values, logits.boxes)
        except CodecError as error:
            bad_places = (~is_small(logits.values.flatten(1))).nonzero().flatten().tolist()
            if not bad_places:
                raise
            row = int(batch.rows[bad_places[0]])
            key = self._source.key(int(self._cache.order[row]))
            what = logits_fault(logits.values[bad_places[0]])
            raise CodecError(
                f"teacher {self._teacher.spec} gives {what} for sample {key}"
                f" (row {row}, seed {int(batch.seeds[0])}); check its weights, and its precision"
                " (float16 overflows past 65,504)"
            ) from error
