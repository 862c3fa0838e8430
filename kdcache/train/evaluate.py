"""A model of a program, scored on a source."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from kdcache.config.arguments import checked_arguments, given
from kdcache.config.fields import build
from kdcache.errors import UsageError
from kdcache.models.modules import device_of, kept_modes
from kdcache.models.preprocessing import GivenPreprocessing
from kdcache.models.wrapping import wrapped
from kdcache.runtime.batch_size import require_batch_size
from kdcache.runtime.device import Compute, ComputeConfig
from kdcache.shapes import Size
from kdcache.sources import source_from
from kdcache.targets import task_of
from kdcache.train.evaluation import Evaluation
from kdcache.views import as_recipe


@checked_arguments
def evaluate(
    model: nn.Module,
    data: Any,
    *,
    recipe: Any = "eval",
    size: Size | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    precision: Literal["float32", "bfloat16", "float16"] = "float32",
    window: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> dict[str, float]:
    """Return the scores of a model: `top1`, `top5` and `eval_loss`; of segmentation `miou`, of
    detection `ap`, and others.

    Of several processes (torch.distributed) each takes its share, and all get the same scores.

    Args:
        model: any module that takes normalised images, or one of kdcache's own. All
            its parts come back in the modes that they were in.
        data: the data set, or its spec.
        recipe: of the views: a shipped one such as `eval`, a TOML file, a recipe that is loaded, or
            transforms of torchvision's or timm's, see `kdcache.recipe_of`.
        size: input size; by default the model's, as timm's say it that take no other, or the
            recipe's.
        mean: of pixels scaled to 0 to 1, one number or one a channel; by default the model's.
        std: as `mean`.
        batch_size: views of a batch, over all processes; by default 256, on a CPU fewer large ones.
        num_workers: processes that render views; by default one for each core, up to 8.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`, to which the model goes; by default
            where it is.
        precision: the autocast type of the model.
        window: height and width of windows that slide over the views of segmentation.
        align_corners: whether maps of segmentation are upsampled between the centres of the pixels
            in the corners, and not between their edges.

    Raises:
        UsageError: an argument that cannot be meant.
        KdcacheError: data that cannot be opened, samples that cannot be read, a model that does not
            take them.
    """
    require_batch_size(batch_size)
    if window is not None and min(window) < 1:
        raise UsageError(f"window is {window}; give its height and width, at least a pixel each")
    options = given(workers=num_workers, device=device or device_of(model), precision=precision)
    compute = Compute(build(ComputeConfig, options, "evaluate:"))
    source = source_from(data)
    views = as_recipe(recipe)
    preprocessing = GivenPreprocessing(size=size, mean=mean, std=std)
    student = wrapped(model, views, preprocessing, task=task_of(source))
    evaluation = Evaluation(
        source,
        None,
        views,
        sizes=[student.preprocessing.size],
        batch_size=batch_size,
        window=window,
        align_corners=align_corners,
        compute=compute,
    )
    try:
        with kept_modes(model):
            return evaluation.scores([compute.place(student)])[0]
    finally:
        evaluation.close()
