"""The command `predict`: what a model sees in images, in files."""

from collections.abc import Mapping
from typing import Any

import click

from kdcache.runtime.wording import counted
from kdcache_cli.options import (
    BATCH_SIZE,
    JSON,
    TASK,
    check_early,
    compute,
    configured,
    maps,
    window_sides,
)
from kdcache_cli.output import print_result
from kdcache_cli.sections import SectionedCommand

SECTIONS = {
    "Output": ["--out", "--top-k", "--threshold", "--json"],
    "Views": ["--data", "--recipe", "--window"],
    "Model": ["--task", "--classes", "--align-corners"],
    "Machine": ["--batch-size", "--device", "--workers", "--precision"],
}


@click.command(
    cls=SectionedCommand,
    sections=SECTIONS,
    short_help="Write the classes, boxes or maps that a model sees in images.",
)
@click.argument("model", metavar="RUN|MODEL")
@click.option(
    "-o",
    "--out",
    required=True,
    help="File that is written, .csv or .parquet, of boxes also .json, which is COCO's results; of"
    " segmentation a new folder.",
    metavar="FILE|FOLDER",
)
@click.option(
    "--data",
    help="Folder of images, one image, or a source  [the run's evaluation data].",
    metavar="PATH|SPEC",
)
@click.option("--top-k", type=int, help="Classes of each image  [5, or all if fewer].", metavar="N")
@click.option(
    "--threshold",
    type=float,
    help="Score from which a box is written, 0 to 1  [all that the detector gives].",
    metavar="SCORE",
)
@maps
@TASK
@click.option(
    "--classes",
    help="Number of classes, or a file with a name on each line  [what the weights say].",
    metavar="N|FILE",
)
@click.option(
    "--recipe", help="Recipe of the views  [the run's, else the task's].", metavar="NAME|FILE"
)
@BATCH_SIZE
@compute
@JSON
def predict(model: str, window: str | None, as_json: bool, **flags: Any) -> None:
    """Write what a model sees in images: of a classifier a line for each image with its likeliest
    classes, of a detector a line for each box, of a model of segmentation a PNG of class indices
    for each image.

    The model is the best student of the run in folder RUN, or MODEL, a spec with weights. Images in
    a folder need no labels.
    """
    from kdcache.tools.predict_config import PredictConfig, check_specs

    flags["model"] = model
    flags["window"] = window_sides(window)
    config = configured(PredictConfig, "predict", None, flags)
    check_early(check_specs, config)
    from kdcache.tools.predict import predict_saved

    result = predict_saved(config)
    images = counted(result["images"], "image")
    lines = [
        ("model", result["model"]),
        ("data", f"{images} of {result['data']}, recipe {result['recipe']}"),
        ("written", f"{result['out']}: {_written(result)}"),
    ]
    if result["unreadable"]:
        lines.append(("left out", f"{counted(result['unreadable'], 'image')} unreadable"))
    print_result(result, lines, as_json=as_json)


def _written(result: Mapping[str, Any]) -> str:
    """Return what was written of each image, or of all."""
    classes = f"of {counted(result['classes'], 'class')}"
    if "boxes" in result:
        return f"{counted(result['boxes'], 'box')} {classes}"
    if "maps" in result:
        return f"{counted(result['maps'], 'map')} {classes}"
    return f"top {result['top_k']} {classes}"
