"""Operations on a view that somebody else drew, as torchvision's policies do them, see
stored_transform.py."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torchvision.transforms.v2 import functional

from kdcache.config.names import choose
from kdcache.errors import RecipeError, quoted
from kdcache.views.stored_transform import StoredTransform
from kdcache.views.stored_views import StoredViews, ViewKey

Operation = Callable[[Any, float], Any]
"""Returns what an operation makes of an image, at a magnitude."""


def _affine(image: Any, **options: Any) -> Any:
    """Return an image whose pixels are moved, with the nearest ones, and black from outside."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return functional.affine(image, **(still | options))


def _shear(image: Any, slope_x: float, slope_y: float) -> Any:
    """Return an image that is sheared from its upper left corner."""
    degrees = [math.degrees(math.atan(slope)) for slope in (slope_x, slope_y)]
    return _affine(image, shear=degrees, center=[0, 0])


def _translate(image: Any, share_x: float, share_y: float) -> Any:
    """Return an image that is moved by whole pixels."""
    height, width = functional.get_size(image)
    return _affine(image, translate=[round(share_x * width), round(share_y * height)])


def _scaled(adjust: Operation) -> Operation:
    """Return an operation whose magnitude is by how much a factor differs from 1."""
    return lambda image, change: adjust(image, 1 + change)


class OperationKind(NamedTuple):
    """An operation, and which magnitudes it may have."""

    apply: Operation
    least: float
    most: float


OPERATIONS: Mapping[str, OperationKind] = {
    "Identity": OperationKind(lambda image, _: image, 0, 0),
    "ShearX": OperationKind(lambda image, slope: _shear(image, slope, 0.0), -1, 1),
    "ShearY": OperationKind(lambda image, slope: _shear(image, 0.0, slope), -1, 1),
    "TranslateX": OperationKind(lambda image, share: _translate(image, share, 0.0), -1, 1),
    "TranslateY": OperationKind(lambda image, share: _translate(image, 0.0, share), -1, 1),
    "Rotate": OperationKind(functional.rotate, -360, 360),
    "Brightness": OperationKind(_scaled(functional.adjust_brightness), -1, 1),
    "Color": OperationKind(_scaled(functional.adjust_saturation), -1, 1),
    "Contrast": OperationKind(_scaled(functional.adjust_contrast), -1, 1),
    "Sharpness": OperationKind(_scaled(functional.adjust_sharpness), -1, 1),
    "Posterize": OperationKind(lambda image, bits: functional.posterize(image, int(bits)), 1, 8),
    "Solarize": OperationKind(functional.solarize, 0, 255),
    "AutoContrast": OperationKind(lambda image, _: functional.autocontrast(image), 0, 0),
    "Equalize": OperationKind(lambda image, _: functional.equalize(image), 0, 0),
}
"""By torchvision's names. Magnitudes are as there, but those of a translation, which are shares of
the width or height."""


class StoredOperations(StoredTransform):
    """Does one after the other the operations that are stored of a view.

    Args:
        operations: the table that is stored numbers of, `[name, magnitude]`.
        views: the digest of the stored views.
        stored_views: of that digest.
    """

    def __init__(
        self,
        operations: Sequence[Sequence[Any]],
        views: str,
        stored_views: StoredViews | None = None,
    ) -> None:
        super().__init__(views, stored_views)
        self._operations: list[tuple[Operation, float]] = []
        for entry in operations:
            if not isinstance(entry, list) or len(entry) != 2:
                raise ValueError(f"an operation is [name, magnitude], not {quoted(entry)}")
            name, magnitude = entry
            check_operation(name, magnitude)
            self._operations.append((OPERATIONS[name].apply, magnitude))

    def forward(self, image: Any, view: ViewKey | None = None) -> Any:
        """Return the image after its operations.

        Raises:
            RecipeError: it is not said which view, nothing is stored of it, or an operation that is
                not in the table.
        """
        for number in self._stored(view).operations:
            if number >= len(self._operations):
                raise RecipeError(
                    f"operation {number} is stored, and the table has {len(self._operations)}"
                )
            operation, magnitude = self._operations[number]
            image = operation(image, magnitude)
        return image


def check_operation(name: Any, magnitude: Any) -> None:
    """Check an operation of a table.

    Raises:
        UsageError: one that does not exist; the nearest is suggested.
        ValueError: a magnitude that it cannot have.
    """
    kind = OPERATIONS[choose(str(name), OPERATIONS, "operation")]
    is_number = type(magnitude) in (int, float)
    if not is_number or not kind.least <= magnitude <= kind.most:  # nor is NaN
        raise ValueError(
            f"operation {name} has magnitude {quoted(magnitude)}; it must be from {kind.least:g} to"
            f" {kind.most:g}"
        )
