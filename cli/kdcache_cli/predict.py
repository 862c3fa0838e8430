"""The command `predict`: the classes of images, in a file."""

from typing import Any

import click

from kdcache.runtime.wording import counted
from kdcache_cli.options import BATCH_SIZE, JSON, check_early, compute, configured
from kdcache_cli.output import print_result


@click.command(short_help="Write the classes that a model sees in images to a file.")
@click.argument("model", metavar="RUN|MODEL")
@click.option(
    "-o", "--out", required=True, help="File that is written, .csv or .parquet.", metavar="FILE"
)
@click.option(
    "--data",
    help="Folder of images, one image, or a source  [the run's evaluation data].",
    metavar="PATH|SPEC",
)
@click.option("--top-k", type=int, help="Classes of each image  [5, or all if fewer].", metavar="N")
@click.option(
    "--classes",
    help="Number of classes, or a file with a name on each line  [what the weights say].",
    metavar="N|FILE",
)
@click.option("--recipe", help="Recipe of the views  [the run's, else eval].", metavar="NAME|FILE")
@BATCH_SIZE
@compute
@JSON
def predict(model: str, as_json: bool, **flags: Any) -> None:
    """Write a line for each image: its key, and its likeliest classes with their probabilities.

    The model is the best student of the run in folder RUN, or MODEL, a spec with weights. Images in
    a folder need no labels.
    """
    from kdcache.tools.predict_config import PredictConfig, check_specs

    flags["model"] = model
    config = configured(PredictConfig, "predict", None, flags)
    check_early(check_specs, config)
    from kdcache.tools.predict import predict_saved

    result = predict_saved(config)
    images = counted(result["images"], "image")
    lines = [
        ("model", result["model"]),
        ("data", f"{images} of {result['data']}, recipe {result['recipe']}"),
        ("written", f"{result['out']}: top {result['top_k']} of {result['classes']} classes"),
    ]
    if result["unreadable"]:
        lines.append(("left out", f"{counted(result['unreadable'], 'image')} unreadable"))
    print_result(result, lines, as_json=as_json)
