"""A data set of views: batches of (row, seed), rendered from a source's samples under a recipe."""

from collections.abc import Sequence
from functools import partial
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdcache.errors import (
    KdcacheError,
    RecipeError,
    UnreadableSampleError,
    UsageError,
    quoted,
)
from kdcache.runtime.generators import preserved_generators
from kdcache.shapes import Labels, Rows, Size, Views, sides
from kdcache.sources import Source
from kdcache.sources.protocol import sample_name
from kdcache.sources.sample_warnings import SampleWarning, about_sample, heard_warnings
from kdcache.targets import NO_TARGET, MixedTarget, target_kind, task_of
from kdcache.views.mixing import blend, mix, mix_as_stored, partner
from kdcache.views.pairs import Pair, Unmixed, UnmixedViews, mixed, unmixed
from kdcache.views.recipe import Recipe
from kdcache.views.samples import BatchSamples
from kdcache.views.stored_views import StoredMix, ViewKey
from kdcache.views.view import Trace, trace

_Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Request = Sequence[tuple[int, int]]
"""(row, seed) of each view of a batch."""


class Batch(NamedTuple):
    """A batch of views, rendered once for each input size that was asked for."""

    views: tuple[Views, ...]
    labels: Labels
    """Of the views of the first size; of absent ones -1, of their pixels 255."""
    rows: Tensor
    seeds: Tensor
    absent: tuple[tuple[int, str], ...]
    """Positions in the batch whose image could not be read, with the reason; their pixels are
    zeros."""
    warnings: tuple[SampleWarning, ...] = ()
    """That were raised while samples of the batch were worked on."""

    @property
    def present_places(self) -> Rows:
        """The positions in the batch whose image could be read."""
        is_present = np.ones(len(self.rows), bool)
        for place, _ in self.absent:
            is_present[place] = False
        return np.flatnonzero(is_present)


class ViewDataset(Dataset[Batch]):
    """Renders batches of views of (row, seed); row r is sample `order[r]`.

    Errors come back as values: an exception raised in a loader worker would reach the user as a
    traceback's text.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        order: Rows,
        *,
        sizes: Sequence[Size | None],
        skip_unreadable: bool = False,
    ) -> None:
        self.source = source
        self.order = order
        self._kind = target_kind(task_of(source))
        require_following(recipe, source)
        self.recipes = [recipe.at(size) for size in sizes]
        self.skip_unreadable = skip_unreadable
        self._stored_views = recipe.stored_views
        self._row_of = order
        if self._stored_views is not None and self._stored_views.mixes:
            self._row_of = np.argsort(order)  # by sample, as stored partners are named

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.order)

    def __getitems__(self, request: Request) -> Batch | KdcacheError:
        """Return the batch of the views asked for, or the error that prevented it."""
        try:
            return self.batch(request)
        except KdcacheError as error:
            return error

    def batch(self, request: Request) -> Batch:
        """Return the batch of the views asked for; the caller's random generators are left as they
        were.

        Raises:
            UsageError: no pairs of a row that there is and a seed.
            UnreadableSampleError: an image cannot be decoded, and these are not to be skipped.
            RecipeError: the recipe does not fit an image.
        """
        views = self._checked_views(request)
        with preserved_generators(), heard_warnings() as warnings:
            batch = self._render(views)
        return batch._replace(warnings=tuple(warnings))

    def _checked_views(self, request: Request) -> list[tuple[int, int]]:
        """Return what is asked for as integers of Python, if they are rows and seeds."""
        try:
            views = [(index(row), index(seed)) for row, seed in request]
        except (TypeError, ValueError):
            raise UsageError(
                f"views are asked for by {quoted(request)}; give pairs (row, seed)"
            ) from None
        for row, seed in views:
            if not 0 <= row < len(self):
                raise UsageError(f"row is {row}; rows are from 0 to {len(self) - 1}")
            if not 0 <= seed < 1 << 32:
                raise UsageError(f"seed is {seed}; seeds are from 0 to 2^32 - 1")
        return views

    def trace(self, row: int, seed: int) -> Trace:
        """Return the trace of a view of the first size; the caller's random generators are left as
        they were.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            RecipeError: the recipe does not fit the image.
        """
        # the view itself was rendered, and its warnings told
        with preserved_generators(), heard_warnings():
            samples = self._samples([(row, seed)])
            index = samples.index(row)
            image, target = samples.sample(row, seed)
            follower = self._kind.follower(target, image)
            return trace(image, self.recipes[0], index, seed, follower=follower)

    def _render(self, request: Request) -> Batch:
        targets = [NO_TARGET] * len(request)
        absences: list[tuple[int, str]] = []
        samples = self._samples(request)
        unmixed_views = UnmixedViews(partial(self._draw, samples))
        pixels = self._blank_pixels(request, unmixed_views)
        for position, (row, seed) in enumerate(request):
            try:
                views, targets[position] = self._mixed(row, seed, samples, unmixed_views)
            except UnreadableSampleError as error:
                if not self.skip_unreadable:
                    raise
                absences.append((position, str(error)))
                continue
            _place(views, pixels, position)
        pairs = np.asarray(request, dtype=np.int64).reshape(-1, 2)
        rows, seeds = torch.tensor(pairs).unbind(1)
        rendered = tuple(map(torch.from_numpy, pixels))
        mixes = self.recipes[0].mixes
        view_sides = rendered[0].shape[2:]
        labels = self._kind.batch(targets, view_sides, mixes=mixes)
        return Batch(rendered, labels, rows, seeds, tuple(absences))

    def _blank_pixels(self, request: Request, unmixed_views: UnmixedViews) -> list[_Pixels]:
        """Return zeros for a batch's views of each size.

        They are arrays, since numpy takes half as long as torch to put channels first, which is how
        views come from Pillow.
        """
        pixels = []
        for recipe in self.recipes:
            height, width = self._sides(recipe, request, unmixed_views)
            shape = (len(request), recipe.channels, height, width)
            pixels.append(np.zeros(shape, np.uint8))
        return pixels

    def _sides(
        self, recipe: Recipe, request: Request, unmixed_views: UnmixedViews
    ) -> tuple[int, int]:
        """Return the height and width of a batch's views; where they are as large as their images,
        those of the first that can be read."""
        if recipe.size is not None:
            return sides(recipe.size)
        for row, seed in request:
            try:
                views, _ = unmixed_views[row, seed]
            except UnreadableSampleError:  # which is told when the view is rendered
                continue
            height, width = views[0].shape[1:]
            return height, width
        return 1, 1

    def _mixed(
        self, row: int, seed: int, samples: BatchSamples, unmixed_views: UnmixedViews
    ) -> tuple[list[Tensor], MixedTarget]:
        """Return the view at each size, and what its target is."""
        mixing = self.recipes[0].mixing
        if mixing is not None:
            own = unmixed_views[row, seed]
            other_row = partner(row, len(self), mixing, self.recipes[0].key, seed)
            # even if it will not show: a pair is absent together
            other = unmixed_views[other_row, seed]
            draw = blend(mixing, self.recipes[0].key, seed, row, other_row)
            return mixed(Pair(own, other, partial(mix, draw=draw)))
        own = unmixed_views.taken(row, seed)
        stored = self._stored_mix(row, seed)
        if stored is None:
            return unmixed(own)
        key = ViewKey(samples.index(row), seed, is_partner=True)
        other = self._draw(samples, int(self._row_of[stored.partner]), seed, key)
        return mixed(Pair(own, other, partial(mix_as_stored, stored=stored)))

    def _stored_mix(self, row: int, seed: int) -> StoredMix | None:
        """Return how a view is mixed as stored; None if it is not."""
        if self._stored_views is None:
            return None
        return self._stored_views.mix(ViewKey(int(self.order[row]), seed))

    def _draw(
        self, samples: BatchSamples, row: int, seed: int, key: ViewKey | None = None
    ) -> Unmixed:
        """Return the unmixed view of a row, or of one that is the partner of another's `key`."""
        image, target = samples.sample(row, seed)
        index = samples.index(row)
        view_key = key or ViewKey(index, seed)

        def name() -> str:
            return sample_name(self.source.spec, index, self.source.key(index))

        try:
            with about_sample(name):  # converting an image may warn too
                follower = self._kind.follower(target, image)
                views = []
                followers = []
                for recipe in self.recipes:
                    samples.seed(row, seed)
                    view, moved = recipe.render(image, follower, view_key)
                    if moved is not None:
                        recipe.require_together(view, self._kind.size_of(moved))
                    views.append(view)
                    followers.append(moved)
                return views, self._kind.followed(target, followers[0], image)
        except RecipeError as error:
            raise RecipeError(f"sample {index} ({self.source.key(index)}): {error}") from error

    def _samples(self, request: Request) -> BatchSamples:
        """Return what gives the samples of some views, and of their partners."""
        recipe = self.recipes[0]
        unique_views = set(request)
        if recipe.mixing is not None:
            for row, seed in request:
                other = partner(row, len(self), recipe.mixing, recipe.key, seed)
                unique_views.add((other, seed))
        views = [*unique_views]
        for row, seed in unique_views:
            stored = self._stored_mix(row, seed)
            if stored is not None:
                views.append((int(self._row_of[stored.partner]), seed))
        return BatchSamples(self.source, self.order, recipe, views)


def require_following(recipe: Recipe, source: Source) -> None:
    """Check that the targets of a source can follow a recipe's views, if they go where their images
    go.

    Raises:
        RecipeError: they cannot.
    """
    kind = target_kind(task_of(source))
    if kind.follows_views:
        recipe.require_following(kind.plural)


def _place(views: Sequence[Tensor], pixels: Sequence[_Pixels], position: int) -> None:
    """Write a view of each size into the pixels of its batch."""
    for view, batch in zip(views, pixels, strict=True):
        shape = batch[position].shape
        if shape != view.shape:
            raise RecipeError(
                f"views of {shape} and {tuple(view.shape)} in one batch; use a recipe with a size"
            )
        batch[position] = view.numpy()
