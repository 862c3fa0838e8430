"""Evaluation: a model's scores on a source, divided among the processes of a run."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from kdcache.compute import Compute
from kdcache.distributed import rank, world_size
from kdcache.errors import MismatchError, UsageError, quoted
from kdcache.shapes import Size, ViewLogits, Views
from kdcache.sources import Source, open_source, task_of
from kdcache.tasks import open_task
from kdcache.tasks.segmentation import check_window, slide
from kdcache.views import Recipe, ViewDataset, ViewLoader, load_recipe, shipped_recipes


class Evaluation:
    """The views that students are evaluated on."""

    def __init__(
        self,
        data: str,
        training: Source,
        recipe: Recipe,
        *,
        size: Size,
        batch_size: int,
        compute: Compute,
        window: Sequence[int] | None = None,
    ) -> None:
        """Open `data`.

        Args:
            data: spec of the source.
            training: the source of the training views, which must have the same classes.
            recipe: of evaluation views.
            size: of the model's input; views of segmentation have the recipe's own size.
            batch_size: views of a batch, over all processes; of views as large as their images there is one in a batch.
            compute: where and how models run.
            window: height and width of windows that slide over the views of segmentation; by default they are seen whole.

        Raises:
            MismatchError: other classes than the training source has, or targets of another kind.
            UsageError: a window that is none, or for classification.
        """
        self.source, self._compute = open_source(data), compute
        _require_same_classes(training, self.source)
        self._task, self._window = open_task(task_of(self.source)), check_window(window)
        is_map = self._task.name == "segmentation"
        if self._window and not is_map:
            raise UsageError("eval_window is for segmentation; leave it out")
        dataset = ViewDataset(self.source, recipe, np.arange(len(self.source)), sizes=[None if is_map else size])
        mine, share = range(len(self.source))[rank() :: world_size()], max(batch_size // world_size(), 1)
        share = 1 if recipe.size is None else share
        batches = [[(row, 0) for row in mine[start : start + share]] for start in range(0, len(mine), share)]
        self._loader = ViewLoader(dataset, batches, workers=compute.config.workers, pin_memory=compute.pin_memory)

    @torch.no_grad()
    def scores(self, models: dict[str, nn.Module]) -> dict[str, float]:
        """Return the task's scores of each model, under its name and theirs: all in one pass over the views."""
        names = getattr(self.source, "class_names", None) or tuple(map(str, range(self.source.classes)))
        scores = {name: self._task.score(names, self._compute.device) for name in models}
        for model in models.values():
            model.eval()
        for batch in self._loader:
            views, targets = self._compute.move(batch.views[0]), self._compute.move(batch.labels.first)
            for name, model in models.items():
                with self._compute.autocast():
                    logits = self._logits(model, views)
                scores[name].add(logits, targets)
        return {f"{name}{key}": value for name, score in scores.items() for key, value in score.result().items()}

    def _logits(self, model: nn.Module, views: Views) -> ViewLogits:
        logits: ViewLogits = slide(model, views, self._window) if self._window else model(views)
        return logits


def evaluation_recipe(named: str | None, training: Recipe, *, is_from_cache: bool) -> Recipe:
    """Return the recipe of evaluation views: the one named, else the one that the training recipe names.

    Args:
        named: a shipped recipe or a TOML file, if the user names one.
        training: the recipe of the training views.
        is_from_cache: whether that comes from a cache, which may then name a shipped recipe, but no file of this machine.

    Raises:
        UsageError: the recipe of a cache names another than a shipped one.
    """
    if named is None and is_from_cache and training.eval not in shipped_recipes():
        raise UsageError(
            f"the cache names evaluation recipe {quoted(training.eval)}, which is not one of "
            "kdcache's; name the recipe "
            "yourself: --set eval_recipe=NAME or FILE.toml"
        )
    return load_recipe(named or training.eval).with_mode(training.mode)


def _require_same_classes(training: Source, evaluated: Source) -> None:
    if task_of(evaluated) != task_of(training):
        raise MismatchError(
            f"eval_data {evaluated.spec} is for {task_of(evaluated)}, data {training.spec} for {task_of(training)}"
        )
    if evaluated.classes != training.classes:
        raise MismatchError(
            f"eval_data {evaluated.spec} has {evaluated.classes} classes, data {training.spec} {training.classes}; "
            "give sets of the same classes"
        )
    names = [getattr(one, "class_names", None) for one in (training, evaluated)]
    if None not in names and names[0] != names[1]:
        differing = next((a, b) for a, b in zip(*names, strict=True) if a != b)
        raise MismatchError(
            f"eval_data {evaluated.spec} calls a class {differing[1]!r} that data {training.spec} calls {differing[0]!r}; "
            "give sets of the same classes"
        )
