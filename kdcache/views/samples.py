"""The samples of a batch of views, each decoded once for all seeds under which it is seen."""

from collections import Counter
from collections.abc import Collection

import numpy as np

from kdcache.runtime.generators import ALL_GENERATORS, generator_states, hashed_words, seed_from
from kdcache.shapes import Rows
from kdcache.sources import Sample, Source
from kdcache.sources.protocol import may_draw
from kdcache.views.recipe import Recipe


class BatchSamples:
    """Gives the samples of a batch's views, and seeds the generators for each.

    A sample is held from its first view to its last: where those of a row lie side by side, one at
    a time. Code of a user's may draw a sample from the global generators. It is shared only if it
    was read without: another seed would give another.
    """

    def __init__(
        self, source: Source, order: Rows, recipe: Recipe, views: Collection[tuple[int, int]]
    ) -> None:
        """Prepare to read.

        Args:
            source: of the samples.
            order: row r is sample `order[r]`.
            recipe: of the views.
            views: (row, seed) of all that will be asked for, each as often as it is.
        """
        self._source = source
        self._order = order
        self._generators = recipe.generators
        self._may_draw = may_draw(source)
        self._words: dict[tuple[int, int], list[int]] = {}
        if self._may_draw or self._generators:
            self._words = self._hashed(recipe, views)
        self._num_left = Counter(row for row, _ in views)
        self._held: dict[int, Sample] = {}

    def _hashed(
        self, recipe: Recipe, views: Collection[tuple[int, int]]
    ) -> dict[tuple[int, int], list[int]]:
        """Return the words that the generators of each view are seeded from."""
        pairs = np.array([*views], np.int64).reshape(-1, 2)
        keys = np.empty((len(pairs), 4), np.uint32)
        keys[:, :2] = recipe.key
        keys[:, 2] = pairs[:, 1]
        keys[:, 3] = self._order[pairs[:, 0]]
        return dict(zip(views, hashed_words(keys).tolist(), strict=True))

    def index(self, row: int) -> int:
        """Return which sample a row is."""
        return int(self._order[row])

    def seed(self, row: int, seed: int) -> None:
        """Seed the generators that the recipe draws a view from: each takes microseconds."""
        if self._generators:
            seed_from(self._words[row, seed], self._generators)

    def sample(self, row: int, seed: int) -> Sample:
        """Return the sample of a view.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
        """
        self._num_left[row] -= 1
        is_last = self._num_left[row] <= 0
        sample = self._held.pop(row, None)
        is_shared = True
        if sample is None:
            sample, is_shared = self._read(row, seed, is_last=is_last)
        if is_shared and not is_last:
            self._held[row] = sample
        return sample

    def _read(self, row: int, seed: int, *, is_last: bool) -> tuple[Sample, bool]:
        """Return a sample, and whether it is the same under other seeds."""
        index = self.index(row)
        if not self._may_draw:
            return self._source.sample(index), True
        seed_from(self._words[row, seed], ALL_GENERATORS)
        if is_last:  # and it does not matter
            return self._source.sample(index), True
        before = generator_states()
        sample = self._source.sample(index)
        return sample, before == generator_states()
