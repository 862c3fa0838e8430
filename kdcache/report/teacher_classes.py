"""What the classes of a cache's teacher are called, and which of them are which of the data's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.errors import KdcacheError
from kdcache.loader.cache_specs import CacheOptions
from kdcache.loader.class_map import read_class_map
from kdcache.models.imagenet_names import imagenets_note
from kdcache.soft_targets import SoftTargets
from kdcache.soft_targets.combined import MappedTargets
from kdcache.sources import Source
from kdcache.tools.teacher_names import (
    class_names,
    first_of_teacher,
    numbered_names,
    teacher_names,
)


@dataclass(frozen=True, kw_only=True)
class TeacherClasses:
    """The classes of a teacher beside those of the data."""

    names: list[str]
    """Of the teacher's classes."""
    num_classes: int
    """Of the data."""
    has_others: bool = False
    """Whether they are other classes than the data's."""
    places: Tensor | None = None
    """The data's class of each, int64, -1 for none; None if they are the data's, or if nothing says
    which are which."""
    caption: str = ""
    """What a page says of them, a sentence; nothing if they are the data's."""
    problem: str | None = None
    """Why their names, or the map, cannot be had."""

    @property
    def is_comparable(self) -> bool:
        """Whether what the teacher says can be told in classes of the data."""
        return not self.has_others or self.places is not None

    def as_students_see(self, teacher: SoftTargets) -> SoftTargets:
        """Return soft targets of the data's classes; of teachers that are not comparable the
        teacher's own."""
        if self.places is None:
            return teacher
        return MappedTargets(teacher, self.places, self.num_classes)


def teacher_classes(cache: Cache, source: Source, options: CacheOptions) -> TeacherClasses:
    """Return the classes of a cache's teacher.

    Args:
        cache: of the teacher.
        source: the data.
        options: what a run says of the cache: a map of classes, and names.
    """
    if not first_of_teacher(cache, source):
        return TeacherClasses(names=class_names(source), num_classes=source.classes)
    names = numbered_names(cache)
    places = None
    problem = None
    caption = "The teacher's classes are its own."
    try:
        own = teacher_names(cache, options)
        names = own.names
        if own.are_imagenets:
            note = imagenets_note("the teacher", len(names))
            caption = f"{note[0].upper()}{note[1:]}."
        if options.classes is not None:
            class_map = read_class_map(
                options.classes, source, cache.manifest.classes, teacher_names=own.stated
            )
            places = torch.from_numpy(class_map)
            caption += " It is right where the label is likeliest through the map of classes."
    except KdcacheError as error:
        problem = f"The teacher is compared with no label: {error}"
    return TeacherClasses(
        names=names,
        num_classes=source.classes,
        has_others=True,
        places=places,
        caption=caption,
        problem=problem,
    )
