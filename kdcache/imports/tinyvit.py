"""The soft labels of TinyViT (Wu et al., ECCV 2022), see tinyvit_files.py.

An entry holds the seed of a view, k classes, and their probabilities at temperature 1. How a view
follows from its seed says the configuration of its program, see tinyvit_config.py.
"""

from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import UsageError
from kdcache.imports.protocol import CropLabels, ViewSettings, checked
from kdcache.imports.tinyvit_config import TinyVitSettings, read_settings
from kdcache.imports.tinyvit_files import Epoch, SampleKeys, entry_type, epoch_folders
from kdcache.sources import Source
from kdcache.views.numpy_draws import require_known_draws
from kdcache.views.stored_arrays import DRAW_SEEDS


class TinyVit:
    """A folder with a folder of labels for each epoch."""

    program_config: ClassVar[str | None] = (
        "the config.json that TinyViT's save_logits.py wrote, or the YAML file that it was run with"
    )

    def __init__(self, folder: Path, source: Source, program_config: Path | None) -> None:
        """Read how views were drawn.

        Raises:
            CacheError: there are no labels, or views cannot be drawn again.
            UsageError: the configuration cannot be read, or numpy draws other numbers than it did.
        """
        require_known_draws()
        self._folder = folder
        self._source = source
        self._drawing = _settings(program_config)
        self.settings = ViewSettings(
            size=self._drawing.size, interpolation=self._drawing.interpolation
        )
        folders, num_labels = epoch_folders(folder)
        self._entry_type = entry_type(num_labels)
        self._keys = _keys(source, has_names=self._drawing.has_names)
        self._epochs = [Epoch(path, num_labels, self._keys) for path in folders]

    @staticmethod
    def check_files(folder: Path, program_config: Path | None) -> None:
        """Check that there are labels, and how views were drawn; errors as `__init__`."""
        epoch_folders(folder)
        _settings(program_config)

    def place(self, index: int) -> str:
        """Return how messages name the entries of a sample."""
        return f"key {self._keys.keys[index]} in folder {self._folder}"

    def labels(self, index: int, most_crops: int | None = None) -> CropLabels:
        """Return the labels of a sample, checked: a crop for each epoch.

        Args:
            index: the sample.
            most_crops: how many of the first epochs are needed; None for all.

        Raises:
            FileNotFoundError: there are none of it.
            CacheError: a file that cannot be read.
        """
        entries = [epoch.entry(index) for epoch in self._epochs[:most_crops]]
        if not any(entries):
            raise FileNotFoundError(self.place(index))
        return checked(lambda: self._labels(entries), self._source, self.place(index), "TinyViT's")

    def transforms(self, digest: str, settings: ViewSettings) -> list[dict[str, Any]]:
        """Return the one transform of the recipe, which draws a view and renders it."""
        return [self._drawing.transform(digest, settings.interpolation)]

    def _labels(self, entries: list[bytes | None]) -> CropLabels:
        """Return what the entries of a sample say.

        Raises:
            ValueError: a seed that is none.
        """
        nothing = bytes(self._entry_type.itemsize)
        values = np.frombuffer(b"".join(entry or nothing for entry in entries), self._entry_type)
        lacking = [crop for crop, entry in enumerate(entries) if entry is None]
        seeds = values["seed"].astype(np.int64)
        if seeds.min() < 0:
            raise ValueError(f"seed {seeds.min()}; seeds are from 0 on")
        seeds += 1
        classes = values["classes"].astype(np.int32)
        seeds[lacking] = 0
        classes[lacking] = np.arange(classes.shape[1])
        return CropLabels(
            views={DRAW_SEEDS: seeds.astype(np.uint32)},
            classes=classes,
            probabilities=values["probabilities"].astype(np.float32),
            lacking=frozenset(lacking),
        )


def _settings(program_config: Path | None) -> TinyVitSettings:
    """Return how views were drawn.

    Raises:
        UsageError: no configuration, or one that cannot be read.
        CacheError: views that cannot be drawn again.
    """
    if program_config is None:
        raise UsageError(f"format tinyvit needs {TinyVit.program_config}")
    return read_settings(program_config)


def _keys(source: Source, *, has_names: bool) -> SampleKeys:
    """Return the keys of all samples: their numbers, or the names of their images up to the first
    dot.

    Raises:
        CacheError: two samples have one name.
    """
    if not has_names:
        return SampleKeys([str(index) for index in range(len(source))], is_complete=True)
    names: list[str] = []
    for index in range(len(source)):
        name, _, _ = PurePosixPath(source.key(index)).name.partition(".")
        names.append(name)
    return SampleKeys(names, is_complete=False)
