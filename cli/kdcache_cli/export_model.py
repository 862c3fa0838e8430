"""The command `export-model`: a model as one file that other programs run."""

from typing import Any

import click

from kdcache.runtime.wording import human_bytes
from kdcache_cli.options import JSON, TASK, check_early, configured
from kdcache_cli.output import print_result


@click.command(short_help="Write a model as ONNX, torch.export or TorchScript.")
@click.argument("model", metavar="RUN|MODEL")
@click.argument("out", metavar="OUT.onnx|.pt2|.pt")
@TASK
@click.option("--logits", is_flag=True, default=None, help="Give logits, not probabilities.")
@click.option(
    "--classes",
    help="Number of classes, or a file with a name on each line  [what the weights say].",
    metavar="N|FILE",
)
@click.option(
    "--recipe", help="Recipe of the images  [the run's, else the task's].", metavar="NAME|FILE"
)
@JSON
def export_model(model: str, out: str, as_json: bool, **flags: Any) -> None:
    """Write the best student of the run in folder RUN, or MODEL, a spec with weights, to a file
    that runs without kdcache.

    It takes pixels, uint8 [images, channels, height, width], and normalises them itself. It gives
    probabilities of each image, or of its pixels, or boxes. The names of the classes are in its
    metadata.
    """
    from kdcache.tools.export_model_config import ExportModelConfig, check_specs

    values = {"model": model, "out": out, **flags}
    config = configured(ExportModelConfig, "export-model", None, values)
    check_early(check_specs, config)
    from kdcache.tools.export_model import export_model as write_model

    result = write_model(config)
    channels, height, width = result["input_size"]
    size = f"{channels}, {height}, {width}"
    if height is None:
        size = f"{channels}, any height, any width"
    lines = [
        ("model", result["model"]),
        ("written", f"{result['out']}, {human_bytes(result['bytes'])}"),
        ("takes", f"images, uint8 [any number, {size}]"),
        ("gives", result["gives"]),
    ]
    print_result(result, lines, as_json=as_json)
