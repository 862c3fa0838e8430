"""Recipes from transforms that somebody has already: `torchvision.transforms.v2.Compose` and its
like, from a training loop.

Such a pipeline ends in floats that are normalised for one model. A view is uint8 pixels, so that
steps that only convert are left out. Where the last resize or crop makes views of the recipe's
size, it follows the input size of each model, as in the shipped recipes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdcache.errors import RecipeError, brief
from kdcache.runtime.console import say
from kdcache.shapes import Size, as_size, sides
from kdcache.views.recipe import Recipe
from kdcache.views.sizes import size_entry
from kdcache.views.transform_tables import Table, library_name, single_transforms, table_of

_TO_TENSORS = frozenset(("MaybeToTensor", "ToTensor"))
_TO_DTYPES = frozenset(("ConvertImageDtype", "ToDtype"))
_CONVERSIONS = frozenset(
    ("MaybePILToTensor", "PILToTensor", "RGB", "ToImage", "ToPILImage", "ToPureTensor")
)
_SIZED = frozenset(("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize", "kdcache.Letterbox"))
"""Transforms after which an image has the size that they say."""
_FLIPS = frozenset(("RandomHorizontalFlip", "RandomVerticalFlip"))
_BY_LEVELS = frozenset(("RandomPosterize", "RandomSolarize"))
"""Transforms whose parameters depend on whether pixels are bytes or floats."""


def recipe_of(
    transforms: Any,
    *,
    size: Size | None = None,
    mode: str | None = None,
    eval: str = "eval",
    mixing: Mapping[str, Any] | None = None,
    name: str = "own",
) -> Recipe:
    """Return the recipe of transforms that are there already.

    What converts pixels or normalises them is left out: a view is uint8 pixels, and each model has
    a mean and a standard deviation. A note says which they were.

    Args:
        transforms: a transform of torchvision's, v1 or v2, or of timm's; what torchvision composes;
            a preset of its weights; a table as in a recipe's file; or a list of these.
        size: of the views; by default what the last resize or crop makes.
        mode: of the images, `RGB` or `L`; by default `L` if a `Grayscale` to one channel is among
            them.
        eval: the recipe that evaluates students trained with this one.
        mixing: the table `mixing` of a recipe, such as `{"mixup": 0.8}`.
        name: for messages.

    Raises:
        RecipeError: code of one's own, which a cache cannot keep, a parameter that cannot be read
            off, or transforms that do not say how large a view is.
        UsageError: a table of a transform that does not exist.
    """
    pipeline = _Pipeline(f"recipe {brief(name)}")
    for transform in single_transforms(transforms):
        pipeline.add(transform)
    tables = pipeline.tables
    view_size = size
    if view_size is None:
        view_size = _size_of(tables, pipeline.title)
    table: Table = {
        "mode": mode or pipeline.mode,
        "size": size_entry(view_size),
        "eval": eval,
        "transforms": _following_input(tables, view_size),
    }
    if mixing is not None:
        table["mixing"] = dict(mixing)
    recipe = Recipe(name, table)
    pipeline.tell()
    return recipe


class _Pipeline:
    """What was read of transforms so far, in order."""

    def __init__(self, title: str) -> None:
        self.title = title
        """How messages name the recipe."""
        self.tables: list[Table] = []
        self.mode = "RGB"
        self._white: float | None = None
        """What a white pixel is where pixels are floats: 1 after most conversions; None before."""
        self._mean: Sequence[float] = ()
        self._std: Sequence[float] = ()

    def add(self, transform: Any) -> None:
        """Read one transform.

        Raises:
            RecipeError: it cannot stand in a recipe, or not where it stands.
        """
        name = library_name(transform)
        if name in _CONVERSIONS:
            return
        if name in _TO_TENSORS:
            self._white = 1.0
        elif name in _TO_DTYPES:
            if transform.dtype != torch.uint8:
                is_scaled = getattr(transform, "scale", True)  # ConvertImageDtype always does
                self._white = 1.0 if is_scaled else 255.0
        elif name == "Normalize":
            self._mean = self._levels(transform.mean)
            self._std = self._levels(transform.std)
        elif name == "Grayscale" and self._may_be_gray(transform):
            self.mode = "L"
        else:
            self.tables.append(self._placed(table_of(transform)))

    def _levels(self, numbers: Any) -> list[float]:
        """Return the mean or standard deviation of a Normalize, of pixels scaled to 0 to 1."""
        # they may be a tensor of float32
        return [round(float(number) / (self._white or 1), 6) for number in np.atleast_1d(numbers)]

    def _may_be_gray(self, transform: Any) -> bool:
        """Return whether images may be made gray before all other transforms, and not here."""
        names = {table.get("name") for table in self.tables}
        return transform.num_output_channels == 1 and names <= _SIZED | _FLIPS

    def tell(self) -> None:
        """Say what was left out that a model still needs."""
        mean: Any = 0
        std: Any = 1
        if self._mean:
            mean, std = [*self._mean], [*self._std]
        elif self._white is None:
            return
        say(
            f"note: {self.title}: a view is uint8 pixels, so that what makes floats of them is left"
            f" out; a model without a mean of its own takes mean={mean}, std={std}"
        )

    def _placed(self, table: Table) -> Table:
        """Return the table of a transform that does to bytes what it did where it stood.

        Raises:
            RecipeError: there is none.
        """
        name = table.get("name")
        is_of_bytes = self._white is None and not self._mean
        if is_of_bytes or name in _FLIPS:
            return table
        if name == "RandomErasing":
            return self._erasing(table)
        if name == "timm.RandomErasing":
            return {**table, **self._as_pixels(), **table}
        if self._mean or _depends_on_levels(table):
            raise RecipeError(
                f"{self.title}: {name} stands after what makes floats of pixels or normalises them;"
                " put it before, where pixels are from 0 to 255"
            )
        return table

    def _as_pixels(self) -> Table:
        """Return what timm's erasing is told of the pixels that it stood behind."""
        if not self._mean:
            return {}
        return {"pixel_mean": [*self._mean], "pixel_std": [*self._std]}

    def _erasing(self, table: Table) -> Table:
        """Return the table of an erasing that stood behind floats: its colour in bytes."""
        colour = np.asarray(table.get("value", 0.0))
        if self._mean:
            levels = 255 * (colour * self._std + self._mean)
        else:
            levels = 255 * colour / (self._white or 1)
        return {**table, "value": np.rint(levels).clip(0, 255).astype(int).tolist()}


def _depends_on_levels(table: Table) -> bool:
    """Return whether a transform means something else by its parameters where pixels are floats."""
    if table.get("name") in _BY_LEVELS or table.get("fill", 0) != 0:
        return True
    return any(map(_depends_on_levels, table.get("transforms", [])))


def _size_of(tables: Sequence[Table], title: str) -> Size:
    """Return the size of the images that the last transform with one makes.

    Raises:
        RecipeError: none says it.
    """
    for table in reversed(tables):
        size = _crop_of(table).get("size")
        if isinstance(size, int):
            return size
        if isinstance(size, list) and len(size) == 2:
            height, width = size
            return as_size((height, width))
    raise RecipeError(
        f"{title}: no transform says how large a view is; give size, such as size=224, or end them"
        " with a resize or a crop"
    )


def _crop_of(table: Table) -> Table:
    """Return the table that says the size of images: the first of several of one kind and size
    among which one is drawn; an empty one if there is none."""
    if table.get("name") == "RandomChoice":
        crops = [_crop_of(inner) for inner in table.get("transforms", [])]
        kinds = {(crop.get("name"), str(crop.get("size"))) for crop in crops}
        if len(kinds) == 1:
            return crops[0]
    if table.get("name") in _SIZED:
        return table
    return {}


def _following_input(tables: Sequence[Table], size: Size) -> list[Table]:
    """Return the tables of transforms that make views of any input size, and of this one the same
    as before."""
    last = None
    for position, table in enumerate(tables):
        if _crop_of(table):
            last = position
    if last is None:
        return [*tables, {"name": "Resize", "size": "input"}]
    is_whole = _is_of(_crop_of(tables[last]).get("size"), size)
    before = [*tables[:last]]
    name = _crop_of(tables[last])["name"]
    if name == "CenterCrop" and is_whole and isinstance(size, int):
        before, is_whole = _with_relative_resize(before, size)
    elif name == "RandomCrop":
        is_whole = False
    if not is_whole:  # a crop of so many pixels, which are then brought to the input size
        return [*tables, {"name": "Resize", "size": "input"}]
    return [*before, _at_input(tables[last]), *tables[last + 1 :]]


def _is_of(table_size: Any, size: Size) -> bool:
    """Return whether a table's size is that of the views."""
    if isinstance(table_size, int):
        return table_size == size
    return table_size in ("input", [*sides(size)])


def _with_relative_resize(tables: list[Table], size: int) -> tuple[list[Table], bool]:
    """Return tables in which the last resize of the shorter side goes with the input size, and
    whether there is one."""
    for position in reversed(range(len(tables))):
        table = tables[position]
        shorter = table.get("size")
        if table.get("name") != "Resize" or not isinstance(shorter, int):
            continue
        ratio = size / shorter
        text = "input" if ratio == 1 else f"input/{ratio!r}"
        if round(size / ratio) == shorter:
            return [*tables[:position], {**table, "size": text}, *tables[position + 1 :]], True
    return tables, False


def _at_input(table: Table) -> Table:
    """Return the table of a resize or crop to the input size."""
    if table.get("name") == "RandomChoice":
        return {**table, "transforms": [_at_input(inner) for inner in table["transforms"]]}
    if isinstance(table["size"], list):  # of Resize one number would be the shorter side
        return {**table, "size": ["input", "input"]}
    return {**table, "size": "input"}
