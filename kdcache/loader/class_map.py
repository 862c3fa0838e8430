"""Class maps: which class of the student each class of a teacher is."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache import Cache
from kdcache.config.names import choose
from kdcache.errors import MismatchError, UsageError
from kdcache.loader.cache_specs import CacheOptions
from kdcache.models.imagenet_names import imagenet_names, imagenets_note
from kdcache.models.run_folders import run_folder, weights_in
from kdcache.models.weight_facts import read_facts
from kdcache.runtime.console import say
from kdcache.runtime.text_files import Columns, read_columns, read_text
from kdcache.runtime.wording import counted
from kdcache.shapes import ClassMap
from kdcache.sources import Classed, class_names_of
from kdcache.sources.class_files import read_class_names
from kdcache.targets import task_of

_WEIGHTS = ".safetensors"
_MOST_NAMED = 5
_FILE = "class map"


class _Side:
    """The classes of the student, or of the teacher, by what a line may call them."""

    def __init__(self, owner: str, num_classes: int) -> None:
        self.owner = owner
        self.num_classes = num_classes
        self.places: dict[str, list[int]] = defaultdict(list)

    def add(self, word: str, place: int) -> None:
        """Let a word name a class; it may name others, too."""
        if place not in self.places[word]:
            self.places[word].append(place)

    def is_known(self, text: str) -> bool:
        """Return whether a text is a name, or a number."""
        return text in self.places or text.isdecimal()

    def place(self, text: str, where: str) -> int:
        """Return the class that a text names.

        Raises:
            UsageError: several have the name.
        """
        places = self.places.get(text)
        if places is None:
            return int(text)
        if len(places) > 1:
            count = "two" if len(places) == 2 else str(len(places))
            raise UsageError(
                f"{where}: {count} classes of the {self.owner} are called {text!r}; give the number"
                " of the one"
            )
        return places[0]


@dataclass(frozen=True)
class KnownClasses:
    """The classes of a source that need not be opened to tell them."""

    spec: str
    """Of the source."""
    class_names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.class_names)


def class_map_of(cache: Cache, options: CacheOptions, source: Classed) -> ClassMap | None:
    """Return the student's class of each class of a cache's teacher, as the options say; None
    where the classes are the same.

    Raises:
        UsageError: a map or names that do not fit, see `read_class_map`.
        MismatchError: the teacher has another number of classes, and there is no map.
    """
    num_classes = cache.manifest.classes
    task = task_of(source)
    if task != cache.manifest.task:
        raise MismatchError(
            f"cache {cache} is for {cache.manifest.task}, data {source.spec} for {task}; give the"
            " data that the cache was made from"
        )
    if options.classes is not None:
        names = None
        if options.names is not None:
            names = read_teacher_names(options.names, num_classes)
        return read_class_map(options.classes, source, num_classes, teacher_names=names)
    if num_classes != source.classes:
        raise MismatchError(
            f"the teacher of cache {cache} has {num_classes} classes, data {source.spec}"
            f" {source.classes}; say which are which: --cache PATH,classes=FILE.csv"
        )
    return None


def require_readable(options: CacheOptions) -> None:
    """Raise a UsageError if a map of classes is no text file."""
    if options.classes is not None:
        read_text(options.classes, _FILE)


def read_class_map(
    path: str, source: Classed, teacher_classes: int, *, teacher_names: Sequence[str] | None = None
) -> ClassMap:
    """Return the student's class of each of the teacher's classes.

    The file has lines `student class,teacher class`: numbers from 0, or names. Those of a teacher
    of as many classes as ImageNet are ImageNet's, unless others are given: WordNet ids or
    synonyms. A first line of words, of which none is a class, is taken for a heading, which is
    told unless it is `student,teacher`. Several classes of the teacher may belong to one of the
    student, not the other way round.

    Args:
        path: of the file.
        source: of the student's classes.
        teacher_classes: how many classes the teacher has.
        teacher_names: of these.

    Raises:
        UsageError: no such file, a line of another form, a class that does not exist or belongs to
            two.
    """
    student = _Side("student", source.classes)
    for place, name in enumerate(getattr(source, "class_names", None) or ()):
        student.add(name, place)
    teacher = _teacher_side(teacher_classes, teacher_names)
    words = {*student.places, *teacher.places}
    lines = read_columns(path, _FILE, words, titles=("student", "teacher"))
    is_imagenet = teacher_names is None and bool(teacher.places)
    if is_imagenet and _names_classes(lines):
        say(f"note: {imagenets_note(f'the teacher (class map {path})', teacher_classes)}")
    classes = np.full(teacher_classes, -1, np.int64)
    first_lines: dict[int, int] = {}
    for line in lines:
        where = f"class map {path}, line {line.number}"
        student_class, teacher_class = _classes_of(line, student, teacher, where)
        if teacher_class in first_lines:
            raise UsageError(
                f"{where}: class {teacher_class} of the teacher has a class of the student already,"
                f" by line {first_lines[teacher_class]}"
            )
        first_lines[teacher_class] = line.number
        classes[teacher_class] = student_class
    if not (classes >= 0).any():
        raise UsageError(
            f"class map {path} names no class; write lines STUDENT CLASS,TEACHER CLASS"
        )
    _tell_untaught(path, source, classes)
    return classes


def _tell_untaught(path: str, source: Classed, classes: ClassMap) -> None:
    """Say which classes of the student have no class of the teacher."""
    names = class_names_of(source) or tuple(map(str, range(source.classes)))
    taught = set(classes.tolist())
    untaught = [name for place, name in enumerate(names) if place not in taught]
    if untaught:
        others = len(untaught) - _MOST_NAMED
        text = ", ".join(untaught[:_MOST_NAMED])
        if others > 0:
            text += f" and {others} more"
        say(f"note: class map {path} has no class of the teacher for {text}")


def read_teacher_names(path: str, teacher_classes: int) -> tuple[str, ...]:
    """Return the names of a teacher's classes, from a text file with one on each line or from a
    run: its folder, or its weights.

    Raises:
        UsageError: no such file, one without names, or another number of names.
        ModelError: no such file of weights.
    """
    if Path(path).is_dir():
        path = str(weights_in(run_folder(path)))
    if path.endswith(_WEIGHTS):
        facts = read_facts(Path(path))
        names = facts and facts.label_names
        if not names:
            raise UsageError(f"weights {path} say no names of classes; give a text file of names")
    else:
        names = read_class_names(path, "names of the teacher's classes", may_be_number=False)
    if len(names) != teacher_classes:
        raise UsageError(
            f"{path} names {counted(len(names), 'class')}, and the teacher has {teacher_classes};"
            " give a name for each"
        )
    return names


def _teacher_side(num_classes: int, names: Sequence[str] | None) -> _Side:
    side = _Side("teacher", num_classes)
    if names is not None:
        for place, name in enumerate(names):
            side.add(name, place)
        return side
    imagenet = imagenet_names(num_classes)
    if imagenet is not None:
        for place in range(num_classes):
            for word in imagenet.words(place):
                side.add(word, place)
    return side


def _names_classes(lines: Sequence[Columns]) -> bool:
    """Return whether a line calls a class of the teacher by its name."""
    return any(len(line.fields) == 2 and not line.fields[1].isdecimal() for line in lines)


def _classes_of(line: Columns, student: _Side, teacher: _Side, where: str) -> tuple[int, int]:
    """Return the student's class and the teacher's that a line names.

    Raises:
        UsageError: it names no two, or one that there is not.
    """
    problem = f"{where}: {line.text!r} is not STUDENT CLASS,TEACHER CLASS"
    if len(line.fields) != 2:
        raise UsageError(problem)
    for side, word in zip((student, teacher), line.fields, strict=True):
        if side.is_known(word):
            continue
        if side.places:
            choose(word, side.places, f"class of the {side.owner} ({where})")
        way_out = ""
        if side is teacher:
            way_out = ", or give their names: names=FILE, or names=RUN"
        raise UsageError(
            f"{problem}; the {side.owner}'s classes have no names here: write their numbers"
            f" from 0{way_out}"
        )
    student_class = student.place(line.fields[0], where)
    teacher_class = teacher.place(line.fields[1], where)
    if student_class >= student.num_classes or teacher_class >= teacher.num_classes:
        raise UsageError(
            f"{where}: {line.text!r} is out of range; the student has {student.num_classes} "
            f"classes, the teacher {teacher.num_classes}, counted from 0"
        )
    return student_class, teacher_class
