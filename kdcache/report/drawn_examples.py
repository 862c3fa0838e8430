"""Examples of maps and boxes: the task's own pictures of views."""

import io
from collections.abc import Sequence
from functools import partial

from kdcache.cache import Cache
from kdcache.cache.source import views_of
from kdcache.codec_error.plot import require_matplotlib
from kdcache.errors import KdcacheError, ModelError
from kdcache.loader.cache_specs import NO_OPTIONS, CacheOptions
from kdcache.report.example import (
    NUM_EACH,
    Example,
    Views,
    best_student,
    first_rows,
    image_address,
    output_of,
    seed_of,
)
from kdcache.report.groups import Group
from kdcache.runtime.device import Compute
from kdcache.tools.show import DrawnView, Student, draw_view
from kdcache.tools.teacher_names import first_of_teacher, names_through_map

_MOST_DRAWN = 3
"""Students whose maps or boxes are drawn."""


def drawn_views(
    cache: Cache,
    data: str | None,
    groups: Sequence[Group],
    compute: Compute,
    *,
    options: CacheOptions,
) -> Views:
    """Return the task's own pictures of the first views of a cache: what the teacher says and what
    students say; for the arguments see `Classified`."""
    require_matplotlib()
    seed = seed_of(cache)
    students, problems = _students(cache, data, groups, compute)
    options, problem = _readable(options, cache, data)
    if problem:
        problems.append(problem)
    caption = (
        f"The first views of seed {seed} in the cache's order, which is random: what is right, and"
        " what the teacher and the best of each line's first finished run say."
    )
    examples: list[Example] = []
    draw = partial(draw_view, cache, seed=seed, data=data, options=options)
    for row in first_rows(cache, seed, NUM_EACH):
        index = int(cache.order[row])
        examples.append(_drawn_example(draw(index=index), None))
        for student in [*students]:
            try:
                examples.append(_drawn_example(draw(index=index, student=student), student))
            except ModelError as error:
                students.remove(student)
                problems.append(_problem(student.name, error))
    return Views(caption=caption, examples=examples, problems=problems)


def _readable(
    options: CacheOptions, cache: Cache, data: str | None
) -> tuple[CacheOptions, str | None]:
    """Return the options of a cache; none, and why, if the teacher's names or its map cannot be
    read."""
    source = views_of(cache, data).source
    try:
        if first_of_teacher(cache, source):
            names_through_map(cache, source, options)
    except KdcacheError as error:
        return NO_OPTIONS, f"The teacher's classes are called by other names: {error}"
    return options, None


def _drawn_example(drawn: DrawnView, student: Student | None) -> Example:
    file = io.BytesIO()
    drawn.picture.figure.savefig(file, dpi=110, format="png")
    who = "teacher" if student is None else student.name
    label = f"{who} is sure by {100 * drawn.picture.confidence:.1f} %"
    if not drawn.picture.confidence:
        label = f"{who} finds nothing"
    return Example(image=image_address(file.getvalue()), key=drawn.key, label=label)


def _problem(name: str, error: KdcacheError) -> str:
    return f"No student of {name} in the examples: {error}"


def _students(
    cache: Cache, data: str | None, groups: Sequence[Group], compute: Compute
) -> tuple[list[Student], list[str]]:
    """Return the students that are drawn, and why there are no others."""
    classes = views_of(cache, data).source.classes
    students: list[Student] = []
    problems: list[str] = []
    for group in groups[:_MOST_DRAWN]:
        if group.finished:
            try:
                model = best_student(group, cache, classes, compute)
            except KdcacheError as error:
                problems.append(_problem(group.name, error))
                continue
            students.append(Student(group.name, partial(output_of, model, compute)))
    return students, problems
