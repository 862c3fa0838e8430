"""Evaluation: a model's scores on a source, divided among the processes of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcache.errors import (
    KdcacheError,
    ModelError,
    UnreadableSampleError,
    UsageError,
    quoted,
)
from kdcache.models.batch_trial import fastest_run
from kdcache.models.inference import model_code
from kdcache.models.vision_model import num_classes
from kdcache.runtime.batch_size import (
    AUTO,
    BatchSize,
    usual_batch_size,
    views_at_once,
)
from kdcache.runtime.console import progress
from kdcache.runtime.device import Compute
from kdcache.runtime.distributed import (
    StopLook,
    gather,
    is_main,
    on_main,
    raise_together,
    rank,
    world_size,
)
from kdcache.runtime.waiting import waiting
from kdcache.shapes import Size, Views, size_text
from kdcache.sources import Source, class_names_of, source_from
from kdcache.sources.read_check import ReadCheck
from kdcache.targets import task_of
from kdcache.tasks import Score, open_task
from kdcache.train.same_classes import require_same_classes
from kdcache.views import (
    Batch,
    Recipe,
    ViewDataset,
    ViewLoader,
    load_recipe,
    shipped_recipes,
)
from kdcache.views.repeated import few_views


class Evaluation:
    """The views that students are evaluated on."""

    def __init__(
        self,
        data: str | Source,
        training: Source | None,
        recipe: Recipe,
        *,
        sizes: Sequence[Size],
        compute: Compute,
        batch_size: BatchSize | None = None,
        window: Sequence[int] | None = None,
        align_corners: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Open `data`.

        Args:
            data: the source, or its spec.
            training: the source of the training views, which must have the same classes, if there
                is one.
            recipe: of evaluation views.
            sizes: of the models' inputs, each once; views of segmentation have the recipe's own
                size.
            compute: where and how models run.
            batch_size: views of a batch, over all processes; by default what is usual on the
                device. Of views as large as their images there is one in a batch. With `auto`,
                `take_fastest_batches` is to follow.
            window: height and width of windows that slide over the views of segmentation; by
                default they are seen whole.
            align_corners: how maps of segmentation are upsampled.
            class_names: of the model, for data that has no names.

        Raises:
            MismatchError: other classes than the training source has, or targets of another kind.
            UsageError: a window that is none, or one of these two for another task.
        """
        self.source = source_from(data)
        self._compute = compute
        self.recipe = recipe
        if training is not None:
            require_same_classes(training, self.source)
        self._task = open_task(task_of(self.source), align_corners=align_corners, window=window)
        numbers = [str(number) for number in range(self.source.classes)]
        self._class_names = class_names_of(self.source) or class_names or numbers
        # of what is not installed it is told before the run
        self._task.score(self._class_names, compute.device)
        order = np.arange(len(self.source))
        self._sizes = [*sizes]
        view_sizes: list[Size | None] = [*sizes]
        if self._task.scores_whole_images:
            view_sizes = [None]
        # all that cannot be read is told at once
        self._dataset = ViewDataset(
            self.source, recipe, order, sizes=view_sizes, skip_unreadable=True
        )
        self._divide(self._share(batch_size))

    def _share(self, batch_size: BatchSize | None) -> int:
        """Return how many views this process has of a batch."""
        if batch_size == AUTO or self.recipe.size is None:
            return 1
        if batch_size is None:
            sizes = [recipe.input_size for recipe in self._dataset.recipes]
            batch_size = usual_batch_size(self._compute.device.type, sizes)
        return max(batch_size // world_size(), 1)

    def _divide(self, share: int) -> None:
        """Divide the views into batches of which this process has `share` views each."""
        self._batches = _own_batches(len(self.source), share)
        self._num_looks = -(-(len(self.source) // world_size()) // share)  # batches that all have
        self._loader = ViewLoader(
            self._dataset,
            self._batches,
            workers=self._compute.config.workers,
            pin_memory=self._compute.pin_memory,
        )

    @torch.no_grad()
    def take_fastest_batches(self, model: nn.Module) -> None:
        """Divide the views into batches of the size that takes a model, on its device, the least
        time for a view, and say so; views as large as their images stay one by one.

        Raises:
            KdcacheError: not even one view fits into memory, or none of the first few can be read.
        """
        if self.recipe.size is None:
            return
        few = few_views(self._dataset, np.arange(len(self.source)))
        model.eval()

        def run(batch: Batch) -> None:
            score = self._task.score(self._class_names, self._compute.device)
            self._add_batch(batch, [model], [0], [[score]])

        size = fastest_run(run, few, self._compute, most=len(self._batches))
        self.close()
        self._divide(min(gather(size, "the size of a batch")))  # all look for a stop together

    def close(self) -> None:
        """End the loader workers."""
        self._loader.close()

    def require_readable(self) -> None:
        """Render every view once, without a model; of files that were read before one is enough.

        Raises:
            UnreadableSampleError: samples that cannot be read, in every process.
            KdcacheError: views that cannot be rendered.
        """
        check = ReadCheck(self.source)
        if on_main(check.is_known, "what was read of the evaluation data"):
            self._dataset.batch([(0, 0)])  # that may have been under another recipe
            return
        raise_together(self._unreadable(), "the evaluation data to be read")
        if is_main():
            check.keep()

    def _unreadable(self) -> KdcacheError | None:
        """Return what is wrong with this process's share of the data."""
        reasons: list[str] = []
        try:
            num_samples = len(self.source)
            with progress("evaluation data", num_samples, "samples", is_shown=is_main()) as bar:
                for batch in self._loader:
                    for _, reason in batch.absent:
                        reasons.append(reason)
                    bar.advance(len(batch.rows) * world_size())
        except KdcacheError as error:
            return error
        if not reasons:
            return None
        others = ""
        if len(reasons) > 1:
            others = f" (and {len(reasons) - 1} more)"
        return UnreadableSampleError(f"eval_data: {reasons[0]}{others}")

    @torch.no_grad()
    def try_out(self, model: nn.Module) -> None:
        """Run a model on the first view, where evaluation has views of other sizes than training.

        Raises:
            ModelError: it fails; scores would fail after a whole epoch.
        """
        if not self._task.scores_whole_images or not self._batches:
            return
        first_view = self._batches[0][:1]
        is_training = model.training
        views = self._compute.move(self._dataset.batch(first_view).views[0])
        with self._compute.autocast():
            self._output(model.eval(), views)
        model.train(is_training)

    @torch.no_grad()
    def scores(
        self,
        models: Sequence[nn.Module],
        *,
        sizes: Sequence[Size] | None = None,
        has_reports: bool = False,
    ) -> list[dict[str, float]]:
        """Return the task's scores of each model, from one pass over the views.

        Args:
            models: to score.
            sizes: of their inputs; by default the first that was asked for.
            has_reports: whether what is told of single models comes too.

        Raises:
            UnreadableSampleError: a sample that cannot be read any more.
            StoppedError: a process of the run was told to stop.
        """
        look = StopLook()
        class_names = self._class_names
        places = [0] * len(models)
        if sizes is not None and not self._task.scores_whole_images:
            places = [self._sizes.index(size) for size in sizes]
        scores: list[list[Score]] = []
        for model in models:
            model.eval()
            own_scores = [self._task.score(class_names, self._compute.device)]
            if has_reports:
                own_scores += self._task.reports(class_names, self._compute.device)
            scores.append(own_scores)
        with progress("evaluate", len(self._batches), "batches", is_shown=is_main()) as bar:
            for number, batch in enumerate(self._loader):
                if number < self._num_looks:
                    look()
                self._add_batch(batch, models, places, scores)
                bar.advance(1)
        results = []
        with waiting("the scores of all processes"):
            for own_scores in scores:
                result: dict[str, float] = {}
                for score in own_scores:
                    result |= score.result()
                results.append(result)
        return results

    def _add_batch(
        self,
        batch: Batch,
        models: Sequence[nn.Module],
        places: Sequence[int],
        scores: Sequence[Sequence[Score]],
    ) -> None:
        """Add a batch to the scores of each model, whose views are at its place among the sizes."""
        for _, reason in batch.absent:
            raise UnreadableSampleError(f"eval_data: {reason}")
        views = [self._compute.move(of_size) for of_size in batch.views]
        labels = batch.labels.to(self._compute.move)
        for model, place, own_scores in zip(models, places, scores, strict=True):
            with views_at_once(len(batch.rows)):
                with self._compute.autocast():
                    output = self._output(model, views[place])
                for score in own_scores:
                    score.add(output, labels)

    def _output(self, model: nn.Module, views: Views) -> Any:
        with model_code(f"a model on evaluation views of {size_text(views.shape[2:])}"):
            output: Any = self._task.output(model, views)
        given_classes = num_classes(output)
        if given_classes != self.source.classes:
            raise ModelError(
                f"the model gives {given_classes} classes, and {self.source.spec} has"
                f" {self.source.classes}; give data of the model's classes"
            )
        return output


def evaluation_recipe(name: str | None, training: Recipe, *, is_from_cache: bool) -> Recipe:
    """Return the recipe of evaluation views: the one named, else the one that the training recipe
    names.

    Args:
        name: a shipped recipe or a TOML file, if the user names one.
        training: the recipe of the training views.
        is_from_cache: whether that comes from a cache, which may then name a shipped recipe, but no
            file of this machine.

    Raises:
        UsageError: the recipe of a cache names another than a shipped one.
    """
    if name is None and is_from_cache and training.eval not in shipped_recipes():
        raise UsageError(
            f"the cache names evaluation recipe {quoted(training.eval)}, which is not one of "
            "kdcache's; name the recipe "
            "yourself: --set eval_recipe=NAME or FILE.toml"
        )
    return load_recipe(name or training.eval).with_mode(training.mode)


def _own_batches(num_samples: int, size: int) -> list[list[tuple[int, int]]]:
    """Return the (row, seed) of each batch of this process's share of the samples."""
    rows = range(num_samples)[rank() :: world_size()]
    requests = [(row, 0) for row in rows]
    return [requests[start : start + size] for start in range(0, len(requests), size)]
