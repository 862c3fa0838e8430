"""Where the teacher's rows of a training batch come from: a cache, a teacher in the loop, or nowhere."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from kdcache.cache import Cache, Slab
from kdcache.codecs import DenseRows, Tail, TeacherRows, codec_spec, set_tail
from kdcache.compute import Compute
from kdcache.errors import UsageError
from kdcache.losses import Dist, Loss
from kdcache.models import VisionModel, state_sha256
from kdcache.shapes import Rows
from kdcache.tracking import say
from kdcache.views import Batch

_NO_ROWS: Rows = np.empty(0, np.int64)
_PRIOR_ROWS = 65_536
"""Records from which the tail policy `prior` is estimated, at most."""
_LARGE_ERROR = 0.1
"""Of DIST's gradient, from which on a user is told."""


@runtime_checkable
class Teacher(Protocol):
    """Gives the teacher's rows of each batch."""

    identity: str
    """Tells one teacher from another, where the cache does not."""

    def start_seed(self, seed: int, following: int | None) -> Rows:
        """Make ready for views of `seed`, fetch `following` meanwhile, and return the rows that must be left out."""

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the teacher's rows of `batch`, on the training device."""


class CachedTeacher:
    """Reads rows from a cache: gathered from the seed's slab here, decoded on the device."""

    def __init__(self, cache: Cache, compute: Compute) -> None:
        self.identity = str(cache.manifest.teacher["sha256"])
        self._cache, self._compute = cache, compute
        self._codec = cache.codec
        self._fetcher = ThreadPoolExecutor(1, "kdcache-slab")
        self._slabs: dict[int, Future[Slab]] = {}
        self._slab: Slab | None = None

    def set_tail(self, tail: Tail, seed: int) -> None:
        """Spread the tail of the rows to come by another policy; `prior` is estimated from records of `seed`.

        Raises:
            UsageError: the codec keeps every class.
            CacheError: units of `seed` that are missing or damaged.
        """
        records = np.empty(0, self._cache.manifest.dtype)
        if tail == "prior":
            slab = self._cache.slab(seed)
            rows = np.setdiff1d(np.arange(min(len(slab), _PRIOR_ROWS + len(slab.absent))), slab.absent)[:_PRIOR_ROWS]
            records = slab.gather(rows)  # a cache's first rows are a random sample of its source
        self._codec = set_tail(self._cache.codec, tail, records)

    def start_seed(self, seed: int, following: int | None) -> Rows:
        """Return the rows whose samples could not be read at the dump.

        Raises:
            CacheError: units that are missing or damaged.
        """
        wanted = [seed] if following is None else [seed, following]
        self._slabs = {one: self._slabs.get(one) or self._fetcher.submit(self._cache.slab, one) for one in wanted}
        self._slab = self._slabs[seed].result()
        return self._slab.absent

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the decoded records of the batch's rows."""
        assert self._slab is not None, "start_seed comes first"
        return self._codec.decode(self._slab.gather(batch.rows.numpy()), self._compute.device)


class OnlineTeacher:
    """Runs a teacher on each batch: the reference that a cache must equal, and the cost that it saves."""

    def __init__(self, model: VisionModel, compute: Compute) -> None:
        self.identity = state_sha256(model.module)
        self._model = compute.place(model).eval()
        self._compute = compute

    def start_seed(self, seed: int, following: int | None) -> Rows:
        """Return no rows: nothing is left out."""
        return _NO_ROWS

    def rows(self, batch: Batch) -> TeacherRows:
        """Return the logits of the teacher on the batch's views of its input size."""
        with torch.no_grad(), self._compute.autocast():
            return DenseRows(self._model(self._compute.move(batch.views[-1])))


class NoTeacher:
    """For losses without a teacher; with a cache, the views and the rows left out are those of the cache."""

    def __init__(self, cache: Cache | None) -> None:
        self.identity = "none"
        self._cache = cache

    def start_seed(self, seed: int, following: int | None) -> Rows:
        """Return the rows that the cache records as absent, so that all losses train on the same samples."""
        if self._cache is None:
            return _NO_ROWS
        absent = [entry["row"] for commit in self._cache.commits(seed) for entry in commit.absent]
        return np.array(sorted(absent), dtype=np.int64)

    def rows(self, batch: Batch) -> TeacherRows:
        """Return rows of no classes; no loss without a teacher looks at them."""
        return DenseRows(torch.empty(len(batch.rows), 0))


def check_records(cache: Cache, loss: Loss, spec: str, tail: Tail) -> None:
    """Check that the records of `cache` hold what the loss of this spec needs, and a tail if one is to be spread.

    Raises:
        UsageError: they do not.
    """
    codec, name = cache.codec, f"{codec_spec(cache.codec)} of cache {cache.folder}"
    if loss.needs_all and not codec.keeps_all:
        raise UsageError(
            f"loss {spec} needs the label's logit, which {name} keeps only among the largest; "
            "use a cache with codec full or lowrank, or loss dist or kl"
        )
    if tail != "uniform" and codec.keeps_all:
        raise UsageError(f"tail {tail!r}: {name} keeps every class, there is no tail to spread; leave it out")
    if isinstance(loss, Dist) and loss.gamma > 0 and not codec.keeps_all:
        _note_error(cache, loss.tau, name)


def _note_error(cache: Cache, tau: float, name: str) -> None:
    """Say how far the records turn DIST's gradient, at the nearest temperature that was measured, if it is far."""
    measured = cache.manifest.gradient_error
    nearest = min(measured, key=lambda at: abs(at - tau), default=None)
    if nearest is not None and measured[nearest] > _LARGE_ERROR:
        turned = f"turns the gradient of DIST at tau {nearest:g} by {100 * measured[nearest]:.0f} % of its norm"
        way_out = "gamma's term weighs the classes that it drops like the others; codec lowrank keeps them all"
        say(f"note: {name} {turned}, as measured before the dump, since {way_out}")
