"""A user's own data set of (image, mask) pairs as a source, with its own classes and ids."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.runtime.image_items import described
from kdcache.shapes import IGNORED
from kdcache.sources.masks import LARGEST_ID, MaskSource
from kdcache.targets.label import is_integer


def open_own_masks(dataset: Any, spec: Spec) -> MaskSource:
    """Return the source of a user's own data set, which says its `classes` (a number or names) and,
    if need be, `ids`.

    Raises:
        SourceError: it does not say its classes, or ids that are no map.
    """
    count, names = _own_classes(dataset, spec)
    ids = getattr(dataset, "ids", None)
    if ids is not None:
        ids = _checked_ids(ids, count, spec)
    return MaskSource(
        dataset,
        spec,
        classes=count,
        class_names=names,
        ids=ids,
        ids_hint=(
            "give the right number of classes, or say in its attribute `ids` of every id which"
            " class it is: {{{}: 255}} is an id without a class"
        ),
    )


def _own_classes(dataset: Any, spec: Spec) -> tuple[int, tuple[str, ...] | None]:
    """Return how many classes a user's data set has, and their names, if it says them."""
    classes: Any = getattr(dataset, "classes", None)
    if is_integer(classes):
        return int(classes), None
    if isinstance(classes, (list, tuple)):
        return len(classes), tuple(map(str, classes))
    what = "does not say its classes"
    if classes is not None:
        what = f"says that its classes are {described(classes)}"
    raise SourceError(
        f"source {spec} {what}; give the data set an attribute `classes`: names or a number"
    )


def _checked_ids(ids: Any, classes: int, spec: Spec) -> dict[int, int]:
    """Return the class of each id as a data set says it.

    Raises:
        SourceError: it is no such map.
    """
    if not isinstance(ids, Mapping):
        raise SourceError(
            f"source {spec}: its ids are {described(ids)}; they must be a dict of id: class"
        )
    for key, target in ids.items():
        if not (_is_id(key) and _is_class(target, classes)):
            raise SourceError(
                f"source {spec}: its ids have {key!r}: {target!r}; ids are from 0 to {LARGEST_ID},"
                f" classes from 0 to {classes - 1}, or {IGNORED} for none"
            )
    return dict(ids)


def _is_id(value: Any) -> bool:
    if not isinstance(value, (int, np.integer)):
        return False
    return 0 <= int(value) <= LARGEST_ID


def _is_class(value: Any, classes: int) -> bool:
    if not isinstance(value, (int, np.integer)):
        return False
    number = int(value)
    return 0 <= number < classes or number == IGNORED
