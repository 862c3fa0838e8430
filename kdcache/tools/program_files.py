"""A model as a program that other libraries run: its file is written, read back and compared with
the model, so that no file is wrong without a word."""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdcache.errors import ModelError
from kdcache.runtime.console import say
from kdcache.runtime.user_code import user_code
from kdcache.shapes import Views, size_text
from kdcache.tasks.export_forms import EXPORTED, ONNX, SCRIPT
from kdcache.tasks.programs import Program

METADATA_FILE = "kdcache.json"
"""Of .pt2 and .pt files: what is said of the model. In ONNX it is the model's own metadata."""
Run = Callable[[Views], Any]
_EXAMPLE_IMAGES = 2
"""In the batch that is traced; torch would take 1 for the only size."""
_MOST_SIDE = 128
"""Pixels of the images that programs are traced and compared with that take any size."""
_MANY_PIXELS = 256 * 256
_TOLERANCE = 1e-3
"""Of the largest number that the model gives: other libraries add in another order."""
_WAY_OUT = (
    "its code may depend on pixels or on the size of a batch; mend it, or write another kind of"
    " file"
)


class ProgramFile(NamedTuple):
    """The file of a program."""

    data: bytes
    takes_any_size: bool
    """Whether its images may have any height and width."""


class _Images(NamedTuple):
    """The images that a program takes."""

    shape: tuple[int, int, int]
    """Of one: channels, height and width."""
    has_any_size: bool

    @property
    def are_large(self) -> bool:
        """Whether ONNX's own evaluator takes a minute or more for one of them."""
        _, height, width = self.shape
        return height * width > _MANY_PIXELS

    @property
    def example(self) -> Views:
        """The batch that is traced."""
        return torch.zeros(_EXAMPLE_IMAGES, *self.shape, dtype=torch.uint8)

    @property
    def sizes(self) -> dict[str, dict[int, Any]]:
        """How torch.export is told that a batch may have any number of images, and these any
        size."""
        free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
        if self.has_any_size:
            free |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        return {"images": free}

    def compared(self) -> Iterator[Views]:
        """Yield batches of other numbers of images than the one that is traced, of other pixels,
        and of another size if they may have one; of large images there is one only."""
        generator = torch.Generator().manual_seed(0)
        channels, height, width = self.shape
        sizes = [(1, height, width)]
        if not self.are_large:
            sizes.append((3, height, width))
        if self.has_any_size:
            sizes.append((2, height + 17, width + 42))
        for num_images, *size in sizes:
            shape = (num_images, channels, *size)
            yield torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        if not self.are_large:
            yield torch.full((1, *self.shape), 255, dtype=torch.uint8)


def write_program(
    program: Program,
    ending: str,
    *,
    shape: tuple[int, int, int],
    metadata: Mapping[str, str],
    spec: str,
) -> ProgramFile:
    """Return the file of a program that gives what a model gives, for any number of images.

    Where images may have any size, and the model's code allows none but one, that is said, and the
    file is for images of that size.

    Args:
        program: the model.
        ending: of the file, which says its format.
        shape: of the model's own images: channels, height and width.
        metadata: that the file holds.
        spec: of the model, for messages.

    Raises:
        ModelError: the model's code cannot be exported, or the program gives something else than
            the model.
    """
    if program.takes_any_size:
        try:
            images = _Images(_small(shape, program), has_any_size=True)
            return ProgramFile(_compared(program, ending, images, metadata, spec), True)
        except ModelError as error:
            say(f"note: not for images of any size: {error}")
    images = _Images(shape, has_any_size=False)
    return ProgramFile(_compared(program, ending, images, metadata, spec), False)


def _small(shape: tuple[int, int, int], program: Program) -> tuple[int, int, int]:
    """Return the shape of small images, of which no side is as long as the other; code that is
    compiled runs on images of the model's own size."""
    channels, height, width = shape
    if program.is_scripted:
        return shape
    return channels, min(height, _MOST_SIDE), min(width, _MOST_SIDE) + 32


def _compared(
    program: Program,
    ending: str,
    images: _Images,
    metadata: Mapping[str, str],
    spec: str,
) -> bytes:
    """Return the file of a program for some images, which gives what the model gives."""
    program_format = _FORMATS[ending]
    if images.are_large and ending == ONNX:
        size = size_text(images.shape[1:])
        say(f"note: the file is compared with the model on an image of {size}: it takes minutes")
    with _exporting(spec):
        data = program_format.write(program, images, metadata)
        run = program_format.read(data)
        program.open_up(run)
        for batch in images.compared():
            difference = difference_of(_tensors(run(batch)), program.expected(batch))
            if difference is not None:
                raise ModelError(
                    f"export of model {spec} fails: of a batch of {len(batch)} the {ending} file"
                    f" gives {difference}; {_WAY_OUT}"
                )
    return data


def _tensors(given: Any) -> list[Tensor]:
    """Return what a program gives as tensors: one of all images, or several of each."""
    if isinstance(given, Tensor):
        return [given]
    tensors: list[Tensor] = []
    for of_image in given:
        tensors += of_image.values()
    return tensors


def difference_of(given: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """Return in words how what a program gives differs from what its model gives; None if it does
    not."""
    for part, expected_part in zip(given, expected, strict=True):
        if part.shape != expected_part.shape:
            own_shape = list(expected_part.shape)
            return f"numbers of shape {list(part.shape)}, and the model {own_shape}"
        if not expected_part.numel():
            continue
        error = float((part - expected_part).abs().max())
        if not error <= _TOLERANCE * float(expected_part.abs().max()):
            return f"numbers that are off by up to {error:.3g} from those of the model"
    return None


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


def _onnx_bytes(program: Program, images: _Images, metadata: Mapping[str, str]) -> bytes:
    import onnx  # noqa: PLC0415

    exported = torch.onnx.export(
        program.module,
        (images.example,),
        dynamo=True,
        dynamic_shapes=images.sizes,
        input_names=["images"],
        output_names=[program.output],
        verbose=False,
    )
    assert exported is not None, "torch.onnx.export returns a program with dynamo=True"
    content = exported.model_proto
    onnx.helper.set_model_props(content, dict(metadata))
    onnx.checker.check_model(content)
    data: bytes = content.SerializeToString()
    return data


def _read_onnx(data: bytes) -> Run:
    """Return the program in the bytes of an ONNX file, run by onnx itself."""
    import onnx  # noqa: PLC0415
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    evaluator = ReferenceEvaluator(onnx.load_from_string(data))

    def run(images: Views) -> Tensor:
        (output,) = evaluator.run(None, {"images": images.numpy()})
        return torch.from_numpy(output)

    return run


def _exported_bytes(program: Program, images: _Images, metadata: Mapping[str, str]) -> bytes:
    exported = _exported(program, images)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    return buffer.getvalue()


def _read_exported(data: bytes) -> Run:
    """Return the program in the bytes of a file of torch.export."""
    module: Run = torch.export.load(io.BytesIO(data)).module()
    return module


def _script_bytes(program: Program, images: _Images, metadata: Mapping[str, str]) -> bytes:
    if program.is_scripted:
        script = torch.jit.script(program.module)
    else:
        script = _traced(program, images)
    buffer = io.BytesIO()
    extra_files = {METADATA_FILE: json.dumps(metadata).encode()}
    torch.jit.save(script, buffer, _extra_files=extra_files)
    return buffer.getvalue()


def _traced(program: Program, images: _Images) -> Any:
    """Return the trace of one run; it raises where code depends on pixels."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        script = torch.jit.trace(  # type: ignore[no-untyped-call]
            program.module, images.example
        )
    if "TracerWarning" in {warning.category.__name__ for warning in caught}:
        # of sizes, which is harmless, or of pixels: torch.export tells the two apart
        _exported(program, images)
    return script


def _read_script(data: bytes) -> Run:
    """Return the program in the bytes of a file of TorchScript."""
    module: Run = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return module


def _exported(program: Program, images: _Images) -> torch.export.ExportedProgram:
    """Return a model as a program of torch.export; it raises where code depends on pixels."""
    return torch.export.export(program.module, (images.example,), dynamic_shapes=images.sizes)


class _Format(NamedTuple):
    """How a kind of file is written, and how what is written is run."""

    write: Callable[[Program, _Images, Mapping[str, str]], bytes]
    read: Callable[[bytes], Run]


_FORMATS = {
    ONNX: _Format(_onnx_bytes, _read_onnx),
    EXPORTED: _Format(_exported_bytes, _read_exported),
    SCRIPT: _Format(_script_bytes, _read_script),
}
