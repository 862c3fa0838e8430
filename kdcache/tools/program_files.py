"""A classifier as a program that other libraries run: its file is written, read back and compared
with the model, so that no file is wrong without a word."""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Logits, Probabilities, Views
from kdcache.tools.export_model_config import EXPORTED, ONNX, SCRIPT

METADATA_FILE = "kdcache.json"
"""Of .pt2 and .pt files: what is said of the model. In ONNX it is the model's own metadata."""
Run = Callable[[Views], Logits | Probabilities]
_EXAMPLE_IMAGES = 2
"""In the batch that is traced; torch would take 1 for the only size."""
_TOLERANCE = 1e-3
"""Of the largest number that the model gives: other libraries add in another order."""
_WAY_OUT = (
    "its code may depend on pixels or on the size of a batch; mend it, or write another kind of"
    " file"
)


def write_program(
    model: nn.Module,
    ending: str,
    *,
    shape: tuple[int, int, int],
    output: str,
    metadata: Mapping[str, str],
    spec: str,
) -> bytes:
    """Return the file of a program that gives what a model gives, for any number of images.

    Args:
        model: takes uint8 `[images, *shape]`.
        ending: of the file, which says its format.
        shape: of an image: channels, height and width.
        output: the name of what it gives.
        metadata: that the file holds.
        spec: of the model, for messages.

    Raises:
        ModelError: the model's code cannot be exported, or the program gives something else than
            the model.
    """
    program_format = _FORMATS[ending]
    example = torch.zeros(_EXAMPLE_IMAGES, *shape, dtype=torch.uint8)
    with _exporting(spec):
        data = program_format.write(model, example, output, metadata)
        run = program_format.read(data)
        for images in _compared_batches(shape):
            difference = difference_of(run(images), model(images))
            if difference is not None:
                raise ModelError(
                    f"export of model {spec} fails: of a batch of {len(images)} the {ending} file"
                    f" gives {difference}; {_WAY_OUT}"
                )
    return data


def _compared_batches(shape: tuple[int, int, int]) -> Iterator[Views]:
    """Yield batches of other sizes than the one that is traced, and of other pixels."""
    generator = torch.Generator().manual_seed(0)
    for num_images in (1, 3):
        yield torch.randint(256, (num_images, *shape), dtype=torch.uint8, generator=generator)
    yield torch.full((1, *shape), 255, dtype=torch.uint8)


def difference_of(given: Tensor, expected: Tensor) -> str | None:
    """Return in words how what a program gives differs from what its model gives; None if it does
    not."""
    if given.shape != expected.shape:
        return f"numbers of shape {list(given.shape)}, and the model {list(expected.shape)}"
    error = float((given - expected).abs().max())
    if error <= _TOLERANCE * float(expected.abs().max()):
        return None
    return f"numbers that are off by up to {error:.3g} from those of the model"


@contextmanager
def _exporting(spec: str) -> Iterator[None]:
    """Export a model in the block: what torch says against it becomes one line.

    Raises:
        ModelError: its code cannot be exported.
    """
    with (
        warnings.catch_warnings(),
        redirect_stderr(io.StringIO()),  # the libraries print graphs, and log of their own insides
        user_code(f"export of model {spec}", ModelError, way_out=_WAY_OUT),
    ):
        warnings.simplefilter("ignore")  # of torch about itself
        yield


def _onnx_bytes(
    model: nn.Module, example: Views, output: str, metadata: Mapping[str, str]
) -> bytes:
    import onnx  # noqa: PLC0415

    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=_any_number(),
        input_names=["images"],
        output_names=[output],
        verbose=False,
    )
    assert program is not None, "torch.onnx.export returns a program with dynamo=True"
    content = program.model_proto
    onnx.helper.set_model_props(content, dict(metadata))
    onnx.checker.check_model(content)
    data: bytes = content.SerializeToString()
    return data


def _read_onnx(data: bytes) -> Run:
    """Return the program in the bytes of an ONNX file, run by onnx itself."""
    import onnx  # noqa: PLC0415
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    evaluator = ReferenceEvaluator(onnx.load_from_string(data))

    def run(images: Views) -> Logits | Probabilities:
        (output,) = evaluator.run(None, {"images": images.numpy()})
        return torch.from_numpy(output)

    return run


def _exported_bytes(
    model: nn.Module, example: Views, output: str, metadata: Mapping[str, str]
) -> bytes:
    program = _exported(model, example)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    return buffer.getvalue()


def _read_exported(data: bytes) -> Run:
    """Return the program in the bytes of a file of torch.export."""
    module: Run = torch.export.load(io.BytesIO(data)).module()
    return module


def _script_bytes(
    model: nn.Module, example: Views, output: str, metadata: Mapping[str, str]
) -> bytes:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        script = torch.jit.trace(model, example)  # type: ignore[no-untyped-call]
    if "TracerWarning" in {warning.category.__name__ for warning in caught}:
        # of sizes, which is harmless, or of pixels: torch.export tells the two apart
        _exported(model, example)
    buffer = io.BytesIO()
    extra_files = {METADATA_FILE: json.dumps(metadata).encode()}
    torch.jit.save(script, buffer, _extra_files=extra_files)
    return buffer.getvalue()


def _read_script(data: bytes) -> Run:
    """Return the program in the bytes of a file of TorchScript."""
    module: Run = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return module


def _exported(model: nn.Module, example: Views) -> torch.export.ExportedProgram:
    """Return a model as a program of torch.export; it raises where code depends on pixels."""
    return torch.export.export(model, (example,), dynamic_shapes=_any_number())


def _any_number() -> dict[str, dict[int, Any]]:
    """Return how torch.export is told that a batch may have any number of images."""
    return {"images": {0: torch.export.Dim("batch", min=1)}}


class _Format(NamedTuple):
    """How a kind of file is written, and how what is written is run."""

    write: Callable[[nn.Module, Views, str, Mapping[str, str]], bytes]
    read: Callable[[bytes], Run]


_FORMATS = {
    ONNX: _Format(_onnx_bytes, _read_onnx),
    EXPORTED: _Format(_exported_bytes, _read_exported),
    SCRIPT: _Format(_script_bytes, _read_script),
}
