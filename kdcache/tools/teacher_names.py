"""What the classes of a cache's teacher are called, where they are others than the data's."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.cache import Cache
from kdcache.config.files import recorded_settings
from kdcache.loader.cache_specs import CacheOptions
from kdcache.loader.class_map import read_class_map, read_teacher_names
from kdcache.models.imagenet_names import imagenet_names, imagenets_note
from kdcache.runtime.console import say
from kdcache.sources import Source, class_names_of


@dataclass(frozen=True, kw_only=True)
class TeacherNames:
    """Names of a teacher's own classes."""

    names: list[str]
    """Of all classes."""
    stated: Sequence[str] | None = None
    """The same, if the user says them."""
    are_imagenets: bool = False
    """Whether they are taken for ImageNet's, since there are as many."""


def class_names(source: Source) -> list[str]:
    """Return the names of a source's classes; their numbers where it has none."""
    names = class_names_of(source) or range(source.classes)
    return list(map(str, names))


def first_of_teacher(cache: Cache, source: Source) -> int:
    """Return where the teacher's classes begin among all that are drawn: 0 if they are those of the
    data.

    A teacher of other classes, dumped with `teacher_classes`, is neither right nor wrong, and the
    names of the data are not those of its classes.
    """
    made_by = cache.manifest.made_by
    for origin in made_by.origins():
        made_by = origin.made_by
    has_others = cache.manifest.classes != source.classes
    if has_others or "teacher_classes" in recorded_settings(made_by.config):
        return source.classes
    return 0


def numbered_names(cache: Cache) -> list[str]:
    """Return what a teacher's classes are called of which no name is known."""
    return [f"teacher's {number}" for number in range(cache.manifest.classes)]


def teacher_names(cache: Cache, options: CacheOptions) -> TeacherNames:
    """Return the names of a teacher's own classes: as the user says, else ImageNet's of as many,
    else their numbers.

    Raises:
        UsageError: a file that is not there, or of another number of names.
        ModelError: no such file of weights.
    """
    num_classes = cache.manifest.classes
    if options.names is not None:
        stated = read_teacher_names(options.names, num_classes)
        return TeacherNames(names=list(stated), stated=stated)
    imagenet = imagenet_names(num_classes)
    if imagenet is not None:
        return TeacherNames(names=list(imagenet.short_names()), are_imagenets=True)
    return TeacherNames(names=numbered_names(cache))


def names_through_map(cache: Cache, source: Source, options: CacheOptions) -> list[str]:
    """Return the names of a teacher's own classes, each with the class of the data that a map says
    it is, in brackets, if there is a map.

    Raises:
        UsageError: a file that is not there, or does not fit.
        ModelError: no such file of weights.
    """
    own = teacher_names(cache, options)
    if options.classes is None:
        if own.are_imagenets:
            say(f"note: {imagenets_note('the teacher', len(own.names))}")
        return own.names
    places = read_class_map(
        options.classes, source, cache.manifest.classes, teacher_names=own.stated
    )
    data_names = class_names(source)
    names = []
    for name, place in zip(own.names, places.tolist(), strict=True):
        if place < 0 or data_names[place] == name:
            names.append(name)
        else:
            names.append(f"{name} ({data_names[place]})")
    return names
