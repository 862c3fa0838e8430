"""Class maps: which class of the student each class of a teacher is."""

from collections.abc import Container, Sequence

import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.runtime.text_files import read_columns
from kdcache.sources import Source


def read_class_map(path: str, source: Source, teacher_classes: int) -> Tensor:
    """Return the student's class of each of the teacher's classes, int64 `[teacher classes]`, -1
    for none.

    The file has lines `student class,teacher class`: numbers from 0, the student's also by name. A
    first line of words, of which none is a class, is taken for a heading, which is told. Several
    classes of the teacher may belong to one of the student, not the other way round.

    Raises:
        UsageError: no such file, a line of another form, a class that does not exist or belongs to
            two.
    """
    class_names = getattr(source, "class_names", None) or ()
    lines = read_columns(path, "class map", class_names)
    names = {name: index for index, name in enumerate(class_names)}
    classes = torch.full((teacher_classes,), -1)
    first_lines: dict[int, int] = {}
    for line in lines:
        where = f"class map {path}, line {line.number}"
        if not _are_two_classes(line.fields, names):
            raise UsageError(f"{where}: {line.text!r} is not STUDENT CLASS,TEACHER CLASS")
        student_text, teacher_text = line.fields
        if class_names.count(student_text) > 1:
            raise UsageError(
                f"{where}: two classes of the student are called {student_text!r}; give the number"
                " of the one"
            )
        if student_text in names:
            student = names[student_text]
        else:
            student = int(student_text)
        teacher = int(teacher_text)
        if student >= source.classes or teacher >= teacher_classes:
            raise UsageError(
                f"{where}: {line.text!r} is out of range; the student has {source.classes} "
                f"classes, the teacher {teacher_classes}, counted from 0"
            )
        if teacher in first_lines:
            raise UsageError(
                f"{where}: class {teacher} of the teacher has a class of the student already, by"
                f" line {first_lines[teacher]}"
            )
        first_lines[teacher] = line.number
        classes[teacher] = student
    if not (classes >= 0).any():
        raise UsageError(f"class map {path} names no class")
    return classes


def _are_two_classes(fields: Sequence[str], names: Container[str]) -> bool:
    """Return whether the fields of a line are a class of the student, by name or number, and the
    number of one of the teacher."""
    if len(fields) != 2:
        return False
    student, teacher = fields
    return teacher.isdecimal() and (student in names or student.isdecimal())
