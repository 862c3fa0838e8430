"""Images that a data set gives as values, Pillow's, arrays or tensors, and how messages describe
such a value."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcache.deferred import Tensor, torch
from kdcache.errors import SourceError, brief, shortened

_HALF_A_LEVEL = 0.5 / 255  # by which a resize may leave the range
_CHANNELS = (1, 3, 4)
_HINTS = {
    "bytes": "decode them: PIL.Image.open(io.BytesIO(...))",
    "str": "open the file: PIL.Image.open(path)",
    "PosixPath": "open the file: PIL.Image.open(path)",
    "NoneType": "cv2.imread gives None for a file that it cannot read",
    "dict": "give the image in it",
}
Array = np.ndarray[Any, np.dtype[Any]] | Tensor


def as_image(item: Any, name: str) -> Image.Image:
    """Return what a data set gives as an image, decoded.

    Taken are an image of Pillow's; arrays uint8 `[height, width]` and `[height, width, 1, 3 or 4]`;
    tensors uint8 `[height, width]` and `[1, 3 or 4, height, width]`; and both with floats from 0 to
    1.

    Args:
        item: that was given.
        name: of the sample, for messages.

    Raises:
        SourceError: it is anything else; the message says what came and what is wanted.
    """
    if isinstance(item, Image.Image):
        if 0 in item.size:
            raise _refused(item, name, "")
        try:
            item.load()
        except ValueError as error:
            if "closed file" not in str(error):
                raise
            raise SourceError(
                f"{name} has an image whose file was closed before it was read; call image.load()"
                " before"
            ) from error
        return item
    if not isinstance(item, (np.ndarray, Tensor)):
        raise _refused(item, name, _HINTS.get(type(item).__name__, ""))
    is_float = _is_float(item)
    if not is_float and item.dtype not in (np.uint8, torch.uint8):
        raise _refused(item, name, _dtype_hint(item))
    _check_shape(item, name)
    if is_float:
        _check_range(item, name)
    from torchvision.transforms.v2.functional import to_pil_image  # noqa: PLC0415

    if isinstance(item, Tensor) and item.dtype == torch.bfloat16:  # which numpy lacks
        item = item.float()
    return to_pil_image(item)  # type: ignore[no-any-return]


def _is_float(item: Array) -> bool:
    if isinstance(item, Tensor):
        return item.dtype.is_floating_point
    return item.dtype.kind == "f"


def _check_range(item: Array, name: str) -> None:
    low, high = _range(item)
    is_in_range = low >= -_HALF_A_LEVEL and high <= 1 + _HALF_A_LEVEL  # a NaN is in none
    if is_in_range:
        return
    hint = "leave normalisation to the model; a dump's recipe may be transforms of torchvision's"
    if low >= 0 and high <= 255:
        hint = "divide by 255"
    raise _refused(item, name, hint)


def _check_shape(item: Array, name: str) -> None:
    place = 2  # of the channels
    reordering = "transpose(1, 2, 0)"
    if isinstance(item, Tensor):
        place = 0
        reordering = "permute(2, 0, 1)"
    shape = tuple(item.shape)
    is_flat = len(shape) == 2
    has_channels = len(shape) == 3 and shape[place] in _CHANNELS
    if (is_flat or has_channels) and 0 not in shape:
        return
    hint = ""
    if len(shape) == 3 and shape[2 - place] in _CHANNELS:
        hint = reordering
    if len(shape) == 4:
        hint = "give one image, not a batch"
    raise _refused(item, name, hint)


def _refused(item: Any, name: str, hint: str) -> SourceError:
    """Return the error about what a data set gives in the place of an image."""
    way_out = ""
    if hint:
        way_out = f"; {hint}"
    return SourceError(
        f"{name} has {described(item)} as its image; wanted is an image of Pillow's, a uint8 array"
        " [height, width] or [height, width, 1, 3 or 4], a uint8 tensor [1, 3 or 4, height,"
        f" width], or either with floats from 0 to 1{way_out}"
    )


def described(item: Any) -> str:
    """Return what a value is, for messages: its type and, of an array, its numbers' type, shape and
    range."""
    if isinstance(item, Image.Image):
        return f"an image of {item.width}x{item.height} pixels, mode {item.mode}"
    if isinstance(item, (np.ndarray, Tensor)):
        return _described_array(item)
    if isinstance(item, dict):
        return f"a dict with {brief(', '.join(map(repr, item)))}"
    if isinstance(item, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in item[:5])
        return f"a {type(item).__name__} of {len(item)} ({kinds})"
    return _described_value(item)


def _described_value(item: Any) -> str:
    if item is None or isinstance(item, (int, np.integer)):
        return str(item)
    if isinstance(item, (str, bytes, float, np.generic, Path)):
        return f"{type(item).__name__} {shortened(repr(item), 40)}"
    # the repr of an unknown object could be anything
    return f"an object of class {type(item).__name__}"


def _described_array(item: Array) -> str:
    if isinstance(item, Tensor):
        kind = "a tensor"
        is_number = not item.dtype.is_complex
    else:
        kind = "an array"
        is_number = item.dtype.kind in "biuf"
    text = f"{kind} {_dtype_name(item)} {list(item.shape)}"
    if not is_number or 0 in item.shape:
        return text
    low, high = _range(item)
    return f"{text} from {low:g} to {high:g}"


def _range(item: Array) -> tuple[float, float]:
    if isinstance(item, Tensor):
        item = item.detach().to("cpu", torch.float64).numpy()
    return float(item.min()), float(item.max())


def _dtype_name(item: Array) -> str:
    return str(item.dtype).removeprefix("torch.")


def _dtype_hint(item: Array) -> str:
    name = _dtype_name(item)
    if name == "bool":
        return "for black and white multiply by 255 as uint8"
    if name == "uint16":
        return "keep the upper eight bits: (image >> 8).astype(numpy.uint8)"
    if not name.startswith(("int", "uint")) or 0 in item.shape:
        return ""
    low, high = _range(item)
    if low < 0 or high > 255:
        return ""
    return "make it uint8"
