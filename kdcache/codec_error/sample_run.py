"""A teacher run over the batches of a sample, or over some of them, which a later run goes on from.

A plan has seconds for what a dump may take minutes for. So it runs the first batches of the dump's
own sample and keeps what the teacher gave under KDCACHE_HOME; the dump that follows runs the others
alone. Nothing depends on it: a file that is absent or damaged costs the time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch

from kdcache.models.inference import ModelsOnViews
from kdcache.models.vision_model import TeacherLogits
from kdcache.runtime.console import progress
from kdcache.sources.index_cache import (
    Arrays,
    load_arrays,
    remove_all_but_newest,
    remove_arrays,
    save_arrays,
)
from kdcache.views import Batch
from kdcache.views.dataset import Request

_KIND = "samples"
_MOST_KEPT = 4
_MOST_BYTES = 1 << 29
"""Of a sample that is kept: the most that a fit takes, in rows and in whole views of maps."""
_CHECKED_VIEWS = 4
_ROUNDING = 0.05
"""Part of the standard deviation of all logits by which another batch size may move one."""
Gathered: TypeAlias = Callable[[Batch, list[TeacherLogits]], Arrays]
"""Gives what is wanted of a batch; of its first views alone the first rows of the same arrays.
`teacher` are the teacher's logits."""


class SampleRun:
    """What models give of the batches of a sample."""

    def __init__(self, identity: str | None = None, seconds: float | None = None) -> None:
        """Prepare to run.

        Args:
            identity: says all that decides what the models give; None keeps nothing.
            seconds: after which no further batch is begun; by default all are run.
        """
        self.seconds = seconds
        self.views_left = 0
        """Of the sample, that time did not allow."""
        self._identity = identity
        self._parts: list[Arrays] = []

    def parts(
        self,
        on_views: ModelsOnViews,
        requests: Sequence[Request],
        gathered: Gathered,
        *,
        step: int = 1,
    ) -> list[Arrays]:
        """Return what `gathered` gives of each batch, of the first ones only where time is short.

        Args:
            on_views: the models that are run, and on which views.
            requests: the batches.
            gathered: gives what is wanted of a batch.
            step: batches that belong together: as many are run, or none of them.
        """

        def run(todo: Sequence[Request]) -> Iterator[Arrays]:
            for batch, logits in on_views.run(todo):
                yield gathered(batch, logits)

        self._parts = self._parts or self._kept()
        if self._parts:
            (fresh,) = run([requests[0][:_CHECKED_VIEWS]])
            if not _are_alike(self._parts[0], fresh):
                self._parts = []
        start = time.monotonic()
        with progress("views", sum(map(len, requests)), "views") as bar:
            bar.advance(sum(map(len, requests[: len(self._parts)])))
            for part in run(requests[len(self._parts) :]):
                bar.advance(len(requests[len(self._parts)]))
                self._parts.append(part)
                is_late = self.seconds is not None and time.monotonic() - start > self.seconds
                if is_late and len(self._parts) % step == 0:
                    break
        self.views_left = sum(map(len, requests[len(self._parts) :]))
        return self._parts

    def _kept(self) -> list[Arrays]:
        """Return the arrays of each batch that `save` kept."""
        if self._identity is None:
            return []
        parts: dict[int, Arrays] = {}
        for name, array in (load_arrays(_KIND, self._identity) or {}).items():
            number, _, part_name = name.partition(" ")
            parts.setdefault(int(number), {})[part_name] = array
        return [parts[number] for number in sorted(parts)]

    def save(self) -> None:
        """Keep what was run, in place of what was kept of other samples long ago."""
        assert self._identity is not None
        arrays = {}
        for number, part in enumerate(self._parts):
            for name, array in part.items():
                arrays[f"{number} {name}"] = array
        if sum(array.nbytes for array in arrays.values()) <= _MOST_BYTES:
            save_arrays(_KIND, self._identity, arrays)
            remove_all_but_newest(_KIND, _MOST_KEPT)

    def forget(self) -> None:
        """Let go of what was run, and remove what was kept of it."""
        self._parts = []
        if self._identity is not None:
            remove_arrays(_KIND, self._identity)


def _are_alike(kept: Arrays, fresh: Arrays) -> bool:
    """Return whether the logits of a few views are what was kept of them: a model's code may have
    changed, or what is kept, which no fingerprint tells."""
    if kept.keys() != fresh.keys():
        return False
    fresh_logits = torch.from_numpy(fresh["teacher"])
    kept_logits = torch.from_numpy(kept["teacher"][: len(fresh_logits)])
    if kept_logits.shape != fresh_logits.shape:
        return False
    most = _ROUNDING * float(kept_logits.std(correction=0))
    return bool(((fresh_logits - kept_logits).abs() <= most).all())
