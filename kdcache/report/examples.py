"""Examples of views: what they show, what is right, what the teacher says and what students say."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdcache.cache import Cache, open_cache
from kdcache.cache.source import local_images, views_of
from kdcache.codec_error.plot import require_matplotlib
from kdcache.errors import KdcacheError
from kdcache.models.model import open_model
from kdcache.positions import One
from kdcache.report.caches import cache_paths
from kdcache.report.estimates import Estimate, estimate
from kdcache.report.groups import Group
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Rows
from kdcache.tools.evaluate_config import EvaluateConfig, model_of
from kdcache.tools.show import Student, class_names, draw_view, first_of_teacher

_NUM_LOOKED_AT = 96
"""Views among which those are looked for in which teacher and students disagree."""
_NUM_OF_TEACHER = 4096
"""Views of which the teacher's confidence by class is taken."""
_NUM_EACH = 3
"""Examples of each kind."""
_TOP = 3
_MOST_STUDENTS = 8
_MOST_DRAWN = 3
"""Students whose maps are drawn."""
_SMALL = 96
"""Pixels of a side."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model says of a view."""

    who: str
    style: int | None
    """That of the student's line; None of the teacher."""
    top: Sequence[tuple[str, float]]
    """Its likeliest classes, and how likely it finds each, from 0 to 1."""
    is_right: bool | None
    """Whether the first is the label; None where that has no meaning."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One view."""

    image: str
    """As an address that holds the picture itself."""
    key: str
    """Of its sample."""
    label: str
    answers: Sequence[Answer] = ()
    is_small: bool = False
    """Whether it has few pixels, each of which is to be seen."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What looking at views of a cache has given."""

    caption: str = ""
    examples: Sequence[Example] = ()
    confidence: dict[str, Estimate] = field(default_factory=dict)
    """Of the teacher by class, in percent."""
    accuracy: dict[str, Estimate] = field(default_factory=dict)
    """Likewise."""
    problems: Sequence[str] = ()


def looked_at(groups: Sequence[Group], compute: ComputeConfig) -> Views:
    """Return examples of views of the first cache of some groups, and what its teacher says by
    class; what cannot be had is told in `problems`."""
    for group in groups:
        paths = cache_paths(group.runs)
        if not paths:
            continue
        data = group.config.data
        try:
            cache = open_cache(paths[0])
            if isinstance(cache.manifest.layout, One):
                return _Classified(cache, data, groups, Compute(compute)).views()
            return _drawn(cache, data, groups, Compute(compute))
        except KdcacheError as error:
            return Views(problems=[f"No examples of views: {error}"])
    return Views(problems=["No examples of views: no run reads a cache."])


def _drawn(cache: Cache, data: str | None, groups: Sequence[Group], compute: Compute) -> Views:
    """Return the task's own pictures of the first views of a cache: what the teacher says and, of
    segmentation, what students say."""
    require_matplotlib()
    seed = _seed_of(cache)
    students: list[Student] = []
    problems: list[str] = []
    caption = f"The first views of seed {seed} in the cache's order, which is random: what is right"
    if cache.manifest.layout.maps:
        students, problems = _map_students(cache, data, groups, compute)
        caption += ", and what the teacher and the best of each line's first finished run say."
    else:
        caption += ", and what the teacher says. Boxes of students are not drawn."
    examples: list[Example] = []
    for row in _rows(cache, seed, _NUM_EACH):
        for student in (None, *students):
            examples.append(_drawn_example(cache, int(row), seed, data, student))
    return Views(caption=caption, examples=examples, problems=problems)


def _drawn_example(
    cache: Cache, row: int, seed: int, data: str | None, student: Student | None
) -> Example:
    index = int(cache.order[row])
    drawn = draw_view(cache, index=index, seed=seed, data=data, student=student)
    file = io.BytesIO()
    drawn.picture.figure.savefig(file, dpi=110, format="png")
    who = "teacher" if student is None else student.name
    confidence = f"{who} is sure by {100 * drawn.picture.confidence:.1f} %"
    return Example(image=_address(file.getvalue()), key=drawn.key, label=confidence)


def _map_students(
    cache: Cache, data: str | None, groups: Sequence[Group], compute: Compute
) -> tuple[list[Student], list[str]]:
    """Return students of segmentation, and why there are no others."""
    classes = views_of(cache, data).source.classes
    students: list[Student] = []
    problems: list[str] = []
    for group in groups[:_MOST_DRAWN]:
        if group.finished:
            try:
                model = _best_student(group, cache, classes, compute)
            except KdcacheError as error:
                problems.append(f"No student of {group.name} in the examples: {error}")
                continue
            students.append(Student(group.name, partial(_said, model, compute)))
    return students, problems


def _best_student(group: Group, cache: Cache, classes: int, compute: Compute) -> nn.Module:
    """Return the student of a group's first finished run, with its best weights."""
    run = group.finished[0]
    model = open_model(
        model_of(EvaluateConfig(model=str(run.folder)), run.config),
        classes=classes,
        recipe=cache.recipe,
        trained=True,
        task=cache.manifest.task,
    )
    return compute.place(model).eval()


@torch.no_grad()
def _said(model: nn.Module, compute: Compute, views: Tensor) -> Tensor:
    """Return what a student says of views, float32 on the CPU."""
    with compute.autocast():
        logits: Tensor = model(compute.move(views))
    return logits.float().cpu()


class _Classified:
    """Views of a classifier's cache, and what is said of them."""

    def __init__(
        self, cache: Cache, data: str | None, groups: Sequence[Group], compute: Compute
    ) -> None:
        self._cache = cache
        self._data = data
        self._groups = groups
        self._compute = compute
        self._seed = _seed_of(cache)
        self._rows = _rows(cache, self._seed, _NUM_LOOKED_AT)
        self._dataset = views_of(cache, data, size=cache.manifest.input_size)
        source = self._dataset.source
        self._names = class_names(source)
        self._first_class = first_of_teacher(cache, source)
        self._teacher_names = self._names
        if self._first_class:
            numbers = range(cache.manifest.classes)
            self._teacher_names = [f"teacher's {number}" for number in numbers]
        self._problems: list[str] = []

    def views(self) -> Views:
        """Return all that is told of them."""
        batch = self._batch(self._cache.manifest.input_size)
        targets = batch.labels.first.numpy()
        teacher = self._teacher_probabilities(self._rows)
        students = self._student_probabilities()
        examples: list[Example] = []
        for place in self._chosen(teacher, [probabilities for _, _, probabilities in students]):
            target = int(targets[place])
            answers = [self._answer("teacher", None, teacher[place], target)]
            for who, style, probabilities in students:
                answers.append(self._answer(who, style, probabilities[place], target))
            key = self._dataset.source.key(int(self._cache.order[self._rows[place]]))
            image = _picture(batch.views[0][place])
            label = self._names[target]
            is_small = batch.views[0].shape[-1] < _SMALL
            example = Example(image=image, key=key, label=label, answers=answers, is_small=is_small)
            examples.append(example)
        confidence, accuracy = self._by_class(targets)
        return Views(
            caption=self._caption(len(students)),
            examples=examples,
            confidence=confidence,
            accuracy=accuracy,
            problems=self._problems,
        )

    def _caption(self, num_students: int) -> str:
        text = f"Views of seed {self._seed} of {self._cache}: {_NUM_EACH} taken at random"
        if not num_students:
            return f"{text}."
        return (
            f"{text}, then of {len(self._rows)} the {_NUM_EACH} in which students and teacher"
            " disagree most. Each student is the best of its line's first finished run."
        )

    def _batch(self, size: Any) -> Any:
        dataset = self._dataset
        if size != self._cache.manifest.input_size:
            dataset = views_of(self._cache, self._data, size=size)
        units = np.unique(self._rows // self._cache.manifest.unit_rows)
        commits = [self._cache.commit_of(self._seed, int(unit)) for unit in units]
        with local_images(dataset.source, commits):
            return dataset.batch([(int(row), self._seed) for row in self._rows])

    def _teacher_probabilities(self, rows: Rows) -> np.ndarray:
        teacher = self._cache.codec.decode(self._cache.read(self._seed, rows))
        return teacher.probs(1.0).float().numpy()

    def _student_probabilities(self) -> list[tuple[str, int, np.ndarray]]:
        """Return the name, the style and the probabilities of each group's student."""
        students: list[tuple[str, int, np.ndarray]] = []
        for style, group in enumerate(self._groups[:_MOST_STUDENTS]):
            if not group.finished:
                continue
            try:
                students.append((group.name, style, self._probabilities_of(group)))
            except KdcacheError as error:
                self._problems.append(f"No student of {group.name} in the examples: {error}")
        return students

    def _probabilities_of(self, group: Group) -> np.ndarray:
        classes = self._dataset.source.classes
        model = _best_student(group, self._cache, classes, self._compute)
        views = self._batch(model.preprocessing.size).views[0]
        logits = _said(model, self._compute, views)
        probabilities: np.ndarray = torch.softmax(logits, dim=1).numpy()
        return probabilities

    def _chosen(self, teacher: np.ndarray, students: Sequence[np.ndarray]) -> list[int]:
        """Return the places of the examples: the first ones, and those of most disagreement."""
        first = list(range(min(_NUM_EACH, len(self._rows))))
        if not students or self._first_class:
            return first
        distances = np.zeros(len(self._rows))
        for probabilities in students:
            distances += np.abs(probabilities - teacher).sum(1)
        others = [int(place) for place in np.argsort(-distances) if place not in first]
        return first + others[:_NUM_EACH]

    def _answer(self, who: str, style: int | None, row: np.ndarray, target: int) -> Answer:
        names = self._names
        is_right: bool | None = int(row.argmax()) == target
        if style is None and self._first_class:
            names = self._teacher_names
            is_right = None
        order = np.argsort(-row)[:_TOP]
        top = [(names[int(number)], float(row[number])) for number in order]
        return Answer(who=who, style=style, top=top, is_right=is_right)

    def _by_class(self, targets: np.ndarray) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        """Return the teacher's confidence and accuracy by the class of the label, in percent.

        Views that mix two samples have two labels, and are left out.
        """
        if self._first_class or self._cache.recipe.mixing is not None:
            return {}, {}
        rows = self._rows
        known_targets = getattr(self._dataset.source, "known_targets", None)
        all_targets = None
        if known_targets is not None:
            all_targets = known_targets()
        if all_targets is not None:
            rows = _rows(self._cache, self._seed, _NUM_OF_TEACHER)
            targets = np.asarray(all_targets)[self._cache.order[rows]]
        probabilities = self._teacher_probabilities(rows)
        confidence: dict[str, Estimate] = {}
        accuracy: dict[str, Estimate] = {}
        for number in np.unique(targets):
            of_class = probabilities[targets == number]
            is_right = of_class.argmax(1) == number
            _put(confidence, self._names[int(number)], 100 * of_class.max(1))
            _put(accuracy, self._names[int(number)], 100.0 * is_right)
        return confidence, accuracy


def _put(table: dict[str, Estimate], name: str, values: np.ndarray) -> None:
    mean = estimate(values.tolist())
    if mean is not None:
        table[name] = mean


def _seed_of(cache: Cache) -> int:
    """Return the first seed of which all is there.

    Raises:
        KdcacheError: there is none.
    """
    seeds = cache.complete_seeds()
    if not seeds:
        raise KdcacheError(f"no seed of cache {cache} is complete yet; wait for its dump")
    return seeds[0]


def _rows(cache: Cache, seed: int, count: int) -> Rows:
    """Return the first rows of a seed that have records."""
    is_present = cache.is_held.copy()
    for rows in cache.unavailable(cache.held_commits(seed)):
        is_present[rows] = False
    return np.flatnonzero(is_present)[:count]


def _picture(pixels: Tensor) -> str:
    """Return a view, uint8 `[channels, height, width]`, as an address."""
    array = pixels.permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        array = array[:, :, 0]
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return _address(file.getvalue())


def _address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
