"""Examples of a classifier's views: the likeliest classes of the teacher and of students."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdcache.cache import Cache
from kdcache.cache.source import local_images, views_of
from kdcache.errors import KdcacheError
from kdcache.loader.cache_specs import CacheOptions
from kdcache.report.estimates import Estimate, estimate
from kdcache.report.example import (
    NUM_EACH,
    Answer,
    Example,
    Views,
    best_student,
    first_rows,
    image_address,
    output_of,
    seed_of,
)
from kdcache.report.groups import Group
from kdcache.report.teacher_classes import teacher_classes
from kdcache.runtime.device import Compute
from kdcache.shapes import Rows
from kdcache.soft_targets import SoftTargets
from kdcache.tools.teacher_names import class_names

_NUM_LOOKED_AT = 96
"""Views among which those are looked for in which teacher and students disagree."""
_NUM_OF_TEACHER = 4096
"""Views of which the teacher's confidence by class is taken."""
_TOP = 3
_MOST_STUDENTS = 8
_SMALL = 96
"""Pixels of a side."""


class Classified:
    """Views of a classifier's cache, and what is said of them."""

    def __init__(
        self,
        cache: Cache,
        data: str | None,
        groups: Sequence[Group],
        compute: Compute,
        *,
        options: CacheOptions,
    ) -> None:
        """Open the views.

        Args:
            cache: that holds them.
            data: spec of the source.
            groups: of runs, whose students are asked.
            compute: where these run.
            options: what the runs say of the cache.

        Raises:
            KdcacheError: the cache, or the data, cannot be opened.
        """
        self._cache = cache
        self._data = data
        self._groups = groups
        self._compute = compute
        self._seed = seed_of(cache)
        self._rows = first_rows(cache, self._seed, _NUM_LOOKED_AT)
        self._dataset = views_of(cache, data, size=cache.manifest.input_size)
        source = self._dataset.source
        self._names = class_names(source)
        self._classes = teacher_classes(cache, source, options)
        self._problems: list[str] = []
        if self._classes.problem is not None:
            self._problems.append(self._classes.problem)

    def views(self) -> Views:
        """Return all that is told of them."""
        batch = self._batch(self._cache.manifest.input_size)
        targets = batch.labels.first.numpy()
        teacher = self._teacher(self._rows)
        seen = self._classes.as_students_see(teacher).probs(1.0).numpy()
        own = teacher.probs(1.0).numpy()
        students = self._student_probabilities()
        examples: list[Example] = []
        for place in self._chosen(seen, [probabilities for _, _, probabilities in students]):
            target = int(targets[place])
            is_right = None
            if self._classes.is_comparable:
                is_right = int(seen[place].argmax()) == target
            top = _likeliest(own[place], self._classes.names)
            answers = [Answer(who="teacher", style=None, top=top, is_right=is_right)]
            for who, style, probabilities in students:
                row = probabilities[place]
                top = _likeliest(row, self._names)
                is_right = int(row.argmax()) == target
                answers.append(Answer(who=who, style=style, top=top, is_right=is_right))
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
        text = f"Views of seed {self._seed} of {self._cache}: {NUM_EACH} taken at random"
        if num_students and self._classes.is_comparable:
            text += (
                f", then of {len(self._rows)} the {NUM_EACH} in which students and teacher"
                " disagree most"
            )
        sentences = [f"{text}."]
        if num_students:
            sentences.append("Each student is the best of its line's first finished run.")
        if self._classes.caption:
            sentences.append(self._classes.caption)
        return " ".join(sentences)

    def _batch(self, size: Any) -> Any:
        dataset = self._dataset
        if size != self._cache.manifest.input_size:
            dataset = views_of(self._cache, self._data, size=size)
        units = np.unique(self._rows // self._cache.manifest.unit_rows)
        commits = [self._cache.commit_of(self._seed, int(unit)) for unit in units]
        with local_images(dataset.source, commits):
            return dataset.batch([(int(row), self._seed) for row in self._rows])

    def _teacher(self, rows: Rows) -> SoftTargets:
        return self._cache.codec.decode(self._cache.read(self._seed, rows))

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
        model = best_student(group, self._cache, classes, self._compute)
        views = self._batch(model.preprocessing.size).views[0]
        logits = output_of(model, self._compute, views)
        probabilities: np.ndarray = torch.softmax(logits.float(), dim=1).cpu().numpy()
        return probabilities

    def _chosen(self, teacher: np.ndarray, students: Sequence[np.ndarray]) -> list[int]:
        """Return the places of the examples: the first ones, and those of most disagreement."""
        first = list(range(min(NUM_EACH, len(self._rows))))
        if not students or not self._classes.is_comparable:
            return first
        distances = np.zeros(len(self._rows))
        for probabilities in students:
            distances += np.abs(probabilities - teacher).sum(1)
        others = [int(place) for place in np.argsort(-distances) if place not in first]
        return first + others[:NUM_EACH]

    def _by_class(self, targets: np.ndarray) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        """Return the teacher's confidence and accuracy by the class of the label, in percent.

        Views that mix two samples have two labels, and are left out.
        """
        if not self._classes.is_comparable or self._cache.recipe.mixes:
            return {}, {}
        rows = self._rows
        known_targets = getattr(self._dataset.source, "known_targets", None)
        all_targets = None
        if known_targets is not None:
            all_targets = known_targets()
        if all_targets is not None:
            rows = first_rows(self._cache, self._seed, _NUM_OF_TEACHER)
            targets = np.asarray(all_targets)[self._cache.order[rows]]
        probabilities = self._classes.as_students_see(self._teacher(rows)).probs(1.0).numpy()
        confidence: dict[str, Estimate] = {}
        accuracy: dict[str, Estimate] = {}
        for number in np.unique(targets):
            of_class = probabilities[targets == number]
            is_right = of_class.argmax(1) == number
            _put(confidence, self._names[int(number)], 100 * of_class.max(1))
            _put(accuracy, self._names[int(number)], 100.0 * is_right)
        return confidence, accuracy


def _likeliest(row: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
    """Return the likeliest classes of a row of probabilities, by name."""
    order = np.argsort(-row)[:_TOP]
    return [(names[int(number)], float(row[number])) for number in order]


def _put(table: dict[str, Estimate], name: str, values: np.ndarray) -> None:
    mean = estimate(values.tolist())
    if mean is not None:
        table[name] = mean


def _picture(pixels: Tensor) -> str:
    """Return a view, uint8 `[channels, height, width]`, as an address."""
    array = pixels.permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        array = array[:, :, 0]
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return image_address(file.getvalue())
