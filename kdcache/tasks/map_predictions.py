"""The classes of the pixels of images: for each image one of class indices."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from kdcache.errors import KdcacheError, UsageError, printable, quoted
from kdcache.runtime.files import write_file
from kdcache.shapes import IGNORED, Objects, ViewLogits
from kdcache.sources.folder_files import IMG_EXTENSIONS
from kdcache.tasks.map_sizes import upsampled
from kdcache.tasks.predictions import PredictionSettings
from kdcache.views import Batch

NAMES_FILE = "classes.txt"
"""In the folder: the names of the classes, a line each."""
_ENDING = ".png"
_NUM_COLOURS = 256


class MapPredictions:
    """A PNG of class indices for each image, of its name and size, in a folder; a palette gives
    each class a colour."""

    def __init__(self, settings: PredictionSettings, *, align_corners: bool) -> None:
        """Prepare to write.

        Args:
            settings: where to, and of which images.
            align_corners: how maps are upsampled to the size of the view, see `upsampled`.

        Raises:
            UsageError: more classes than such an image holds.
            KdcacheError: two images of which the maps would have one name, or a name that leads out
                of the folder.
        """
        num_classes = len(settings.class_names)
        if num_classes > IGNORED:
            raise UsageError(
                f"the model has {num_classes} classes, and an image of class indices holds"
                f" {IGNORED}; take a model of fewer classes"
            )
        self._settings = settings
        self._align_corners = align_corners
        self._files = _file_names(settings.keys)
        self._palette = _palette()
        self._num_maps = 0

    def read(self, output: ViewLogits, batch: Batch) -> list[Tensor]:
        """Return the classes of the pixels of each image, uint8 `[height, width]`; nothing of
        images that could not be read."""
        objects = batch.labels.objects
        assert objects is not None, "images are opened with where they are in their views"
        height, width = batch.views[0].shape[2:]
        logits = output[:, 0].float()
        planes = upsampled(logits, (height, width), align_corners=self._align_corners)
        is_absent = objects.image_sizes.prod(1) == 0
        maps = []
        for view, of_view in enumerate(planes):
            if is_absent[view]:
                maps.append(planes.new_zeros(0, 0, dtype=torch.uint8))
            else:
                in_image = _in_image(of_view, objects, view)
                maps.append(in_image.argmax(0).to(torch.uint8))
        return maps

    def add(self, fetched: Sequence[Tensor], batch: Batch, keys: Mapping[int, str]) -> None:
        """Write the maps of a batch.

        Raises:
            KdcacheError: a file cannot be written.
        """
        for place, key in keys.items():
            image = Image.fromarray(fetched[place].numpy()).convert("P")
            image.putpalette(self._palette)
            content = io.BytesIO()
            image.save(content, "PNG")
            path = self._settings.out / self._files[key]
            _require_free(path, key)
            _make_folder(path.parent)
            write_file(path, content.getvalue(), is_synced=False)
            self._num_maps += 1

    def write(self) -> dict[str, Any]:
        """Write the names of the classes, and return how many `maps` there are.

        Raises:
            KdcacheError: the file cannot be written.
        """
        lines = [f"{printable(name)}\n" for name in self._settings.class_names]
        _make_folder(self._settings.out)
        write_file(self._settings.out / NAMES_FILE, "".join(lines).encode())
        return {"maps": self._num_maps}


def _in_image(planes: Tensor, objects: Objects, view: int) -> Tensor:
    """Return planes of a view, `[classes, height, width]`, at the pixels of its image, bilinear
    between the centres of pixels."""
    left, upper, right, lower = objects.frames[view].tolist()
    height, width = map(int, objects.image_sizes[view].tolist())
    view_height, view_width = planes.shape[1:]
    is_view = (view_height, view_width) == (height, width)
    if is_view and (left, upper, right, lower) == (0, 0, width, height):
        return planes
    rows = _places(upper, lower, height, view_height, planes.device)
    columns = _places(left, right, width, view_width, planes.device)
    grid_rows, grid_columns = torch.meshgrid(rows, columns, indexing="ij")
    grid = torch.stack([grid_columns, grid_rows], dim=-1)
    in_image = functional.grid_sample(
        planes[None], grid[None], padding_mode="border", align_corners=False
    )
    return in_image[0]


def _places(start: float, end: float, count: int, length: int, device: torch.device) -> Tensor:
    """Return where the centres of an image's pixels are along a side of its view, from -1 at one
    edge of the view to 1 at the other.

    Args:
        start: where the image begins, in pixels of the view.
        end: where it ends.
        count: pixels of the image.
        length: pixels of the view.
        device: of the result.
    """
    centres = (torch.arange(count, device=device) + 0.5) / count
    return 2 * (start + centres * (end - start)) / length - 1


def _file_names(keys: Sequence[str]) -> dict[str, PurePosixPath]:
    """Return the name of the file of each image, by its key: of images its own with another ending.

    Raises:
        KdcacheError: two would have one name, or one leads out of the folder.
    """
    names: dict[str, PurePosixPath] = {}
    keys_of_names: dict[PurePosixPath, str] = {}
    for key in keys:
        name = _file_name(key)
        other = keys_of_names.setdefault(name, key)
        if other != key:
            raise KdcacheError(
                f"images {quoted(other)} and {quoted(key)} would both be written as {name}; rename"
                " one of them, or predict them apart"
            )
        names[key] = name
    return names


def _file_name(key: str) -> PurePosixPath:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in key:
        raise KdcacheError(
            f"image {quoted(key)} has a name that leads out of the folder; rename it, or leave it"
            " out of the data"
        )
    if path.suffix.lower() in IMG_EXTENSIONS:
        return path.with_suffix(_ENDING)
    return path.with_name(path.name + _ENDING)


def _require_free(path: Path, key: str) -> None:
    """Check that no other image's map, in a folder that was new, has the name on this file system:
    some look neither at case nor at how accents are written.

    Raises:
        KdcacheError: one has.
    """
    if path.exists():
        raise KdcacheError(
            f"image {quoted(key)} would be written over the map of another, for this file system"
            f" takes {path.name} for its name; rename one of them, or predict them apart"
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdcacheError(
            f"cannot make folder {path}: {error.strerror or error}; write elsewhere, or make room"
        ) from error


def _palette() -> bytes:
    """Return the colours of class indices as red, green and blue, those that PASCAL VOC's masks
    have: of each index bits 0, 3, 6 are the highest of red, 1, 4, 7 of green, 2, 5 of blue."""
    colours = bytearray()
    for index in range(_NUM_COLOURS):
        for colour in range(3):
            level = 0
            for place in range(3):
                bit = index >> (3 * place + colour) & 1
                level |= bit << (7 - place)
            colours.append(level)
    return bytes(colours)
