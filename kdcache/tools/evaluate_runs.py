"""Scores of the students of several runs: those that see the same views are scored side by side, so
that each image is decoded and rendered once."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kdcache.errors import KdcacheError, UnreadableSampleError
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.runtime.wording import counted
from kdcache.sources import Source, open_source
from kdcache.targets import target_kind, task_of
from kdcache.tools.opened_model import model_of_source
from kdcache.tools.saved_model import SavedModel, find_model
from kdcache.tools.saved_views import saved_recipes
from kdcache.train.evaluation import Evaluation
from kdcache.views import Recipe

_MOST_TOGETHER = 16
"""Students side by side, all of which are in memory."""
Scores = Mapping[str, float]
Results = dict[str, Scores | KdcacheError]
"""The scores of each run by its folder, or why there are none."""


class _Student(NamedTuple):
    """The best student of a run."""

    folder: str
    saved: SavedModel
    source: Source
    training: Recipe
    views: Recipe

    @property
    def pass_key(self) -> str:
        """What students must have in common to be scored in one pass."""
        run = self.saved.run
        assert run is not None, "it is of a run"
        key = [
            run.eval_data,
            self.views.to_dict(),
            run.eval_window,
            run.align_corners,
            self.saved.label_names,
        ]
        return json.dumps(key, sort_keys=True)


def evaluate_runs(folders: Sequence[str], compute: ComputeConfig) -> Results:
    """Return the scores of the best students of some runs, each on its run's evaluation data, as
    `evaluate_saved` gives them; of a run that cannot be evaluated the error.

    Args:
        folders: of the runs.
        compute: where and how models run.
    """
    results: Results = {}
    sources: dict[str, Source] = {}
    passes: dict[str, list[_Student]] = {}
    for folder in folders:
        try:
            student = _student_of(folder, sources)
        except KdcacheError as error:
            results[folder] = error
            continue
        passes.setdefault(student.pass_key, []).append(student)
    for students in passes.values():
        for start in range(0, len(students), _MOST_TOGETHER):
            results |= _evaluated(students[start : start + _MOST_TOGETHER], Compute(compute))
    return results


def _student_of(folder: str, sources: dict[str, Source]) -> _Student:
    """Return the student of a run; its data is opened once for all."""
    saved = find_model(folder)
    data = saved.data_or_own(None)
    if data not in sources:
        sources[data] = open_source(data)
    source = sources[data]
    saved.require_order(source)
    training, views = saved_recipes(saved, None, task_of(source))
    return _Student(folder, saved, source, training, views)


def _evaluated(students: Sequence[_Student], compute: Compute) -> Results:
    """Return the scores of students that see the same views."""
    results: Results = {}
    models: dict[str, VisionModel] = {}
    for student in students:
        try:
            model = model_of_source(student.saved, student.source, student.training)
        except KdcacheError as error:
            results[student.folder] = error
            continue
        models[student.folder] = model
    if models:
        say(f"evaluating {counted(len(models), 'run')} on {students[0].source.spec}")
    for part in _of_one_size(students[0], models):
        if part:
            results |= _scored(students[0], part, compute)
    return results


def _of_one_size(first: _Student, models: dict[str, VisionModel]) -> list[dict[str, VisionModel]]:
    """Return models in parts that are scored in one pass: labels that follow their view are those
    of one size."""
    if not target_kind(task_of(first.source)).follows_views:
        return [models]
    parts: dict[str, dict[str, VisionModel]] = {}
    for folder, model in models.items():
        parts.setdefault(str(model.preprocessing.size), {})[folder] = model
    return list(parts.values())


def _scored(first: _Student, models: Mapping[str, VisionModel], compute: Compute) -> Results:
    """Return the scores of models from one pass; if that fails, which is one model's fault, from a
    pass for each."""
    try:
        scores = _pass(first, [*models.values()], compute)
    except UnreadableSampleError as error:
        return dict.fromkeys(models, error)
    except KdcacheError as error:
        results: Results = {}
        for folder, model in models.items():
            if len(models) == 1:
                results[folder] = error
            else:
                results |= _scored(first, {folder: model}, compute)
        return results
    return dict(zip(models, scores, strict=True))


def _pass(first: _Student, models: Sequence[VisionModel], compute: Compute) -> list[Scores]:
    """Return the scores of models from one pass over the views of the first student."""
    run = first.saved.run
    assert run is not None, "it is of a run"
    sizes = [model.preprocessing.size for model in models]
    evaluation = Evaluation(
        first.source,
        None,
        first.views,
        sizes=list(dict.fromkeys(sizes)),
        window=run.eval_window,
        align_corners=run.align_corners,
        compute=compute,
        class_names=first.saved.label_names,
    )
    try:
        placed_models = [compute.place(model) for model in models]
        return [*evaluation.scores(placed_models, sizes=sizes, has_reports=True)]
    finally:
        evaluation.close()
