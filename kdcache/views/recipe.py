"""Recipes: an ordered list of torchvision v2 transforms in TOML, with a fingerprint.

    mode = "RGB"                  # or "L"; the image is converted before the first transform
    size = 224                    # where the model has no wish of its own; or [height, width]
    eval = "eval"                 # the recipe that evaluates students trained with this one

    [[transforms]]
    name = "RandomResizedCrop"    # of torchvision.transforms.v2, with plain parameters
    size = "input"                # the model's input size; also "input/0.875"

    [mixing]                      # optional: mixup and CutMix between views, see mixing.py
    mixup = 0.8
    cutmix = 1.0

Of a sample with a mask, geometry moves the mask as it moves the image, nearest neighbour, and what
comes in from outside has no class; nothing else touches it. `size = "image"`, for evaluation only,
makes each view as large as its image.

A view is uint8 pixels; normalisation belongs to each model. `size = "input"` lets a teacher and a
student of different input sizes see the same draw of the same view, each rendered at its own
resolution. Besides torchvision's transforms there are `timm.AutoAugment` and `timm.RandomErasing`,
see timm_transforms.py, `kdcache.RandomScale`, see random_scale.py, and those of imported caches,
see stored_transform.py.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from PIL import Image

from kdcache.config.fields import build
from kdcache.errors import RecipeError, UsageError, brief
from kdcache.runtime.files import write_file
from kdcache.runtime.generators import Generators, plain_defaults
from kdcache.runtime.images import to_mode
from kdcache.shapes import Size, View, sides, size_text
from kdcache.views.bounds import check_transforms
from kdcache.views.mixing import Mixing
from kdcache.views.pixels import Pixels, as_view
from kdcache.views.sizes import checked_size, pixels_text, size_entry
from kdcache.views.stored_transform import StoredTransform
from kdcache.views.stored_views import StoredViews, ViewKey
from kdcache.views.transform_facts import (
    MOVING_ALONE,
    drawn_by_input_size,
    generators_of,
    single_transforms,
)
from kdcache.views.transforms import REFUSALS, ViewForm, build_transform

Step = tuple[str, Pixels, Any]
"""The name of a step, and after it the image, and what follows it, see `TargetKind.follower`."""

_SCHEMA = 1  # counts up when the same recipe text would render other pixels


@dataclass(frozen=True, kw_only=True)
class RecipeTable:
    """The keys of a recipe's TOML file."""

    size: int | tuple[int, ...] | str
    """The side of a square view, [height, width], or `image`."""
    transforms: list[Any]
    mode: Literal["RGB", "L"] = "RGB"
    eval: str = "eval"
    mixing: Mixing | None = None


class Recipe:
    """How a sample becomes a view of `size` pixels, or, where that is None, of as many as its image
    has."""

    def __init__(
        self, name: str, table: Mapping[str, Any], *, views: StoredViews | None = None
    ) -> None:
        """Build a recipe.

        Args:
            name: for messages.
            table: the keys of its TOML file.
            views: that are stored, of a recipe that names their digest.

        Raises:
            RecipeError: a transform or a parameter that cannot be used.
            UsageError: one that does not exist; the nearest is suggested.
        """
        title = f"recipe {brief(name)}"
        checked = build(RecipeTable, table, title)
        check_transforms(checked.transforms, title)
        self.name = name
        self.mode = checked.mode
        self.size = checked_size(checked.size, name)
        self.eval = checked.eval
        self.transforms = json.loads(json.dumps(checked.transforms))
        self.mixing = checked.mixing
        self.views = views
        # now, so that a wrong parameter is told before any work
        form = ViewForm(recipe=title, mode=self.mode, size=self.size, views=views)
        with plain_defaults():  # some keep tensors, of which they draw
            self._transforms = [build_transform(entry, form) for entry in self.transforms]

    def __repr__(self) -> str:
        """Return its size and its transforms, for a notebook or a prompt."""
        names = [entry["name"] for entry in self.transforms]
        if self.mixing is not None:
            names.append("mixing")
        return f"<Recipe {brief(self.name)}: {self.mode} {size_entry(self.size)}, {names}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest keeps: enough to render the same views anywhere."""
        table = {
            "mode": self.mode,
            "size": size_entry(self.size),
            "eval": self.eval,
            "transforms": self.transforms,
        }
        if self.mixing:
            table["mixing"] = asdict(self.mixing)
        return {"name": self.name, "fingerprint": self.fingerprint, "table": table}

    def save(self, path: str | Path) -> None:
        """Write the recipe as a TOML file, which `--recipe` and `load_recipe` take.

        Raises:
            RecipeError: its views are stored in a cache, without which it renders none.
            UsageError: a name that does not end in `.toml`.
            KdcacheError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix != ".toml":
            raise UsageError(f"recipe file {path} must end in .toml, as --recipe takes it")
        if self.stored_views is not None:
            raise RecipeError(
                f"recipe {brief(self.name)} renders views that its cache stores; give the cache"
            )
        write_file(path, tomli_w.dumps(self.to_dict()["table"]).encode())

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], views: StoredViews | None = None) -> "Recipe":
        """Return the recipe that a manifest keeps, with the stored views that its cache has.

        Raises:
            RecipeError: this version of kdcache would render other views from it.
        """
        recipe = cls(stored["name"], stored["table"], views=views)
        if recipe.fingerprint != stored["fingerprint"]:
            raise RecipeError(
                f"recipe {brief(recipe.name)} of this cache has fingerprint "
                f"{stored['fingerprint'][:12]}, here it reads as "
                f"{recipe.fingerprint[:12]}; use the kdcache version that the manifest names"
            )
        return recipe

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides the random draws; the input size and the evaluation recipe are
        not among it."""
        parts: list[Any] = [_SCHEMA, self.mode, self.transforms]
        if self.mixing:
            parts.append(asdict(self.mixing))
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def key(self) -> tuple[int, int]:
        """The fingerprint as two 32-bit words, for the generator of a view."""
        first = int(self.fingerprint[:8], 16)
        second = int(self.fingerprint[8:16], 16)
        return first, second

    @cached_property
    def generators(self) -> Generators:
        """The global generators that its transforms may draw from."""
        return generators_of(self.transforms)

    @property
    def is_drawn(self) -> bool:
        """Whether views under other seeds are other ones, for all that it knows: a data set of a
        user's own may draw, too."""
        return bool(self.generators) or self.mixing is not None

    @property
    def stored_views(self) -> StoredViews | None:
        """The stored views that its transforms name; None if they draw."""
        if any(isinstance(transform, StoredTransform) for transform in self._transforms):
            return self.views
        return None

    @property
    def mixes(self) -> bool:
        """Whether views are mixed with others, as drawn or as stored."""
        stored = self.stored_views
        return self.mixing is not None or (stored is not None and stored.mixes)

    @property
    def channels(self) -> int:
        """Channels of a view: 3 or 1."""
        return 3 if self.mode == "RGB" else 1

    @property
    def input_size(self) -> Size:
        """The size of its views.

        Raises:
            RecipeError: they are as large as their images.
        """
        if self.size is None:
            raise RecipeError(
                f'recipe {brief(self.name)} has size = "image", which is for evaluation only; give'
                " it a size in pixels, onto which kdcache.Letterbox puts images of any shape"
            )
        return self.size

    def at(self, size: Size | None) -> "Recipe":
        """Return the same recipe rendered at another input size, or at its own: same draws, same
        fingerprint."""
        if size is None or size == self.size:
            return self
        return self._with(size=size_entry(size))

    def require_one_draw(self, *sizes: Size) -> None:
        """Check that the recipe draws the same at all of these input sizes.

        Raises:
            RecipeError: a transform after the first that knows the input size draws from a range
                that depends on it.
        """
        if len(set(sizes)) < 2:
            return
        name = drawn_by_input_size(self.transforms)
        if name is not None:
            first, second = map(pixels_text, sizes[:2])
            raise RecipeError(
                f"recipe {brief(self.name)} draws other views at {first} than at {second}"
                f" pixels: {name} comes after the resize to the model's input; use a"
                f" model with input_size={second}, or put it first"
            )

    def require_following(self, targets: str) -> None:
        """Check that targets can follow the recipe's views.

        Args:
            targets: what they are called, such as `masks`.

        Raises:
            RecipeError: it mixes views, or has a transform that moves pixels of the image alone.
        """
        if self.mixes:
            raise RecipeError(
                f"recipe {brief(self.name)} mixes views, which {targets} cannot follow; leave its"
                " table mixing out"
            )
        for entry in single_transforms(self.transforms):
            if entry["name"] == "SanitizeBoundingBoxes":
                raise RecipeError(
                    f"recipe {brief(self.name)}: SanitizeBoundingBoxes is not needed; boxes of"
                    " which a view leaves less than a pixel are left out in any case"
                )
            if entry["name"] in MOVING_ALONE:
                raise RecipeError(
                    f"recipe {brief(self.name)}: {entry['name']} moves images without their"
                    f" {targets}; use torchvision's transforms"
                )

    def with_mode(self, mode: str) -> "Recipe":
        """Return the same recipe for images of `mode`, RGB or L."""
        return self._with(mode=mode)

    def _with(self, **changes: Any) -> "Recipe":
        """Return a recipe whose table differs in some keys."""
        table = self.to_dict()["table"]
        return Recipe(self.name, table | changes, views=self.views)

    def __call__(self, image: Image.Image) -> View:
        """Return the pixels of one view, uint8 `[channels, size, size]`, drawn from the global
        generators.

        Raises:
            RecipeError: a transform fails on this image, or the result has another size.
        """
        view, _ = self.render(image, None)
        return view

    def render(
        self, image: Image.Image, follower: Any, view: ViewKey | None = None
    ) -> tuple[View, Any]:
        """Return the pixels of one view as a call does, and what has followed the image.

        Args:
            image: decoded.
            follower: a mask or boxes, as torchvision's transforms move them.
            view: which one it is, for stored views.

        Raises:
            RecipeError: a transform fails on this image, or the view has another size.
        """
        pixels: Pixels = image
        moved = follower
        for step in self.steps(image, follower, view):
            _, pixels, moved = step
        shape = None
        if self.size is not None:
            shape = sides(self.size)
        return as_view(pixels, self.channels, shape, f"recipe {brief(self.name)}"), moved

    def require_together(self, view: View, size: Sequence[int]) -> None:
        """Check that a target has moved as its view did.

        Args:
            view: the view.
            size: height and width that the target goes with now.

        Raises:
            RecipeError: that is another size than the view's.
        """
        if [*view.shape[1:]] != [*size]:
            raise RecipeError(
                f"recipe {brief(self.name)} gives a view of {size_text(view.shape[1:])} and "
                f"a target of {size_text(size)}: "
                "a transform changes the image alone; take one of torchvision's"
            )

    def steps(
        self, image: Image.Image, follower: Any = None, view: ViewKey | None = None
    ) -> Iterator[Step]:
        """Yield the name of each step from a decoded image to its view, and after it the image, and
        what follows it.

        They are `decode` (the image itself, in its own mode), `convert` (in the recipe's mode), and
        the transforms in order, which draw from the global generators. Mixing comes after them, see
        mixing.py.

        Raises:
            RecipeError: a transform fails on this image.
        """
        yield "decode", image, follower
        try:
            pixels: Pixels = to_mode(image, self.mode)
            yield "convert", pixels, follower
            for entry, transform in zip(self.transforms, self._transforms, strict=True):
                options: dict[str, Any] = {}
                if isinstance(transform, StoredTransform):
                    options["view"] = view
                # timm's erasing, which moves no pixel
                if follower is None or not isinstance(transform, torch.nn.Module):
                    pixels = transform(pixels, **options)
                else:
                    pixels, follower = transform(pixels, follower, **options)
                yield entry["name"], pixels, follower
        except REFUSALS as error:
            reason = str(error) or type(error).__name__
            raise RecipeError(
                f"recipe {brief(self.name)} fails on an image of size {image.size}: {reason}"
            ) from error
