"""Batches of views, rendered in this process or in loader workers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcache.errors import KdcacheError, RecipeError, UnreadableSampleError
from kdcache.shapes import Rows, Targets, Views
from kdcache.sources import Source
from kdcache.views.recipe import Recipe
from kdcache.views.view import draw, preserved_generators, seed_generators

Request = Sequence[tuple[int, int]]
"""(row, seed) of each view of a batch."""
T = TypeVar("T")


class Batch(NamedTuple):
    """A batch of views, rendered once for each input size that was asked for."""

    views: tuple[Views, ...]
    targets: Targets
    rows: Tensor
    seeds: Tensor
    absent: tuple[tuple[int, str], ...]
    """Positions in the batch whose image could not be read, with the reason; their pixels are zeros."""


class ViewDataset(Dataset[Batch]):
    """Renders batches of views of (row, seed); row r is sample `order[r]`.

    Errors come back as values: an exception raised in a loader worker would reach the user as a traceback's text.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        order: Rows,
        *,
        sizes: Sequence[int],
        skip_unreadable: bool = False,
    ) -> None:
        self.source = source
        self.order = order
        self.recipes = [recipe.at(size) for size in sizes]
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.order)

    def __getitems__(self, request: Request) -> Batch | KdcacheError:
        """Return the batch of the views asked for, or the error that prevented it."""
        try:
            with preserved_generators():
                return self._render(request)
        except KdcacheError as error:
            return error

    def _render(self, request: Request) -> Batch:
        views = [
            torch.zeros(len(request), recipe.channels, recipe.size, recipe.size, dtype=torch.uint8) for recipe in self.recipes
        ]
        targets = torch.full((len(request),), -1, dtype=torch.int64)
        absent: list[tuple[int, str]] = []
        for position, (row, seed) in enumerate(request):
            index = int(self.order[row])
            seed_generators(*self.recipes[0].key, seed, index)  # a data set may draw too
            try:
                image, target = self.source.sample(index)
            except UnreadableSampleError as error:
                if not self.skip_unreadable:
                    raise
                absent.append((position, str(error)))
                continue
            targets[position] = target
            try:
                for out, recipe in zip(views, self.recipes, strict=True):
                    out[position] = draw(image, recipe, index, seed)
            except RecipeError as error:
                raise RecipeError(f"sample {index} ({self.source.key(index)}): {error}") from error
        rows, seeds = torch.tensor(np.asarray(request, dtype=np.int64).reshape(-1, 2)).unbind(1)
        return Batch(tuple(views), targets, rows, seeds, tuple(absent))


class ViewLoader:
    """Iterates over batches of views in the order of `requests`, which is walked anew for each iteration."""

    def __init__(self, dataset: ViewDataset, requests: Iterable[Request], *, workers: int, pin_memory: bool) -> None:
        self.dataset = dataset
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=requests,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else each epoch would draw from the student's generator
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches.

        Raises:
            KdcacheError: what a view raised, as the same class, or a worker that was killed.
        """
        try:
            for batch in self._loader:
                if isinstance(batch, KdcacheError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise KdcacheError(
                "a loader worker was killed, most likely for memory; use fewer --workers or a smaller --batch-size, "
                "or give the container more shared memory (/dev/shm)"
            ) from error


def _unchanged(batch: T) -> T:
    return batch
