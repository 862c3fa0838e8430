"""What the students of training_study.py see, as the cache has it."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.loader.order import epoch_views, num_steps
from kdcache.sources import Source, open_source
from kdcache.views import Recipe, ViewDataset, load_recipe


class Data:
    """Views and teacher's logits of a cache, in its order of rows, and what to evaluate on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.cache = open_cache(options.cache)
        self.recipe = self.cache.recipe
        self.seeds = self.cache.complete_seeds()
        source = open_source(options.data)
        test = open_source(options.eval_data)
        self.targets = torch.tensor([source.sample(int(at)).target for at in self.cache.order])
        self.views = {seed: self._views(source, seed, options.out) for seed in self.seeds}
        self.logits = {seed: _logits(self.cache, seed) for seed in self.seeds}
        recipe = load_recipe(self.recipe.eval).with_mode(self.recipe.mode).at(self.recipe.size)
        self.test_views, self.test_targets = _rendered(test, recipe, np.arange(len(test)), 0)

    def batches(self, run_seed: int, epoch: int, batch: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (seed, rows) of an epoch's batches, as `train-student` takes them."""
        seed = self.seeds[epoch % len(self.seeds)]
        length = len(self.targets)
        rows = epoch_views(
            np.arange(length), length, [seed], self.recipe, run_seed=run_seed, epoch=epoch
        )[:, 0]
        for step in range(num_steps(length, batch)):
            yield seed, rows[step * batch : (step + 1) * batch]

    def _views(self, source: Source, seed: int, out: Path) -> Tensor:
        path = out / f"views-{self.cache.manifest.digest[:12]}-{seed}.npy"
        if not path.exists():
            # another process may be rendering the same views
            own = path.with_name(f".{os.getpid()}-{path.name}")
            np.save(own, _rendered(source, self.recipe, self.cache.order, seed)[0].numpy())
            own.replace(path)
        return torch.from_numpy(np.load(path))


def _rendered(
    source: Source, recipe: Recipe, order: np.ndarray, seed: int
) -> tuple[Tensor, Tensor]:
    dataset = ViewDataset(source, recipe, order, sizes=[recipe.size])
    batch = dataset.__getitems__([(row, seed) for row in range(len(order))])
    if isinstance(batch, Exception):
        raise batch
    return batch.views[0], batch.labels.first


def _logits(cache: Cache, seed: int) -> Tensor:
    return cache.codec.decode(cache.read(seed, np.arange(cache.manifest.rows))).logits()
