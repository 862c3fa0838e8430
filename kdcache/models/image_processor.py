"""What an image processor of transformers makes of images, measured: its numbers alone do not say
whether it scales, or normalises twice, or puts blue first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.models.hub_files import PROCESSORS


@dataclass(frozen=True)
class ProcessedViews:
    """What an image processor makes of images."""

    mean: list[float]
    std: list[float]
    size: tuple[int, int] | None
    """None if it leaves the size as it is."""
    is_bgr: bool
    """Whether it puts blue first."""


def processed_views(folder: Path, channels: int) -> ProcessedViews | None:
    """Return what the image processor beside a model makes of a black, a white and a red image;
    None if there is no processor, or one that does more than to scale and to normalise."""
    import transformers  # noqa: PLC0415

    if not _has_processor(folder):
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        stated = getattr(processor, "image_mean", None)
        if isinstance(stated, list | tuple):
            channels = len(stated)
        black = _processed(processor, (0,) * channels)
        white = _processed(processor, (255,) * channels)
        red = white
        if channels == 3:
            red = _processed(processor, (255, 0, 0))
    except Exception:  # of any processor: mean and std can then be given
        return None
    height, width = black.shape[1:]
    middle = (slice(None), height // 2, width // 2)
    low = black[middle]
    high = white[middle]
    if not (high > low).all():
        return None
    std = 1 / (high - low)
    mean = -low * std
    of_red = abs(red[middle] - low)
    is_bgr = channels == 3 and bool(of_red[0] < of_red[2])
    if is_bgr:
        mean = mean[::-1]
        std = std[::-1]
    size = None
    if getattr(processor, "do_resize", None) or getattr(processor, "do_center_crop", None):
        size = (height, width)
    return ProcessedViews(
        mean=_as_stated(mean, stated),
        std=_as_stated(std, getattr(processor, "image_std", None)),
        size=size,
        is_bgr=is_bgr,
    )


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in PROCESSORS)


def _processed(processor: Any, colour: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return what a processor makes of an image of one colour, `[channels, height, width]`."""
    image = np.full((64, 64, len(colour)), colour, np.uint8)
    output = processor(images=image, input_data_format="channels_last", return_tensors="np")
    (pixels,) = output["pixel_values"]
    if pixels.ndim != 3 or len(pixels) != len(colour):
        raise ValueError(f"pixels of {pixels.shape}")
    return np.asarray(pixels, np.float64)


def _as_stated(measured: Any, stated: Any) -> list[float]:
    """Return the numbers that a processor states if it does what they say, else what was
    measured."""
    is_list = isinstance(stated, list | tuple) and len(stated) == len(measured)
    if is_list and np.allclose(measured, stated, rtol=0, atol=1e-5):
        return [float(value) for value in stated]
    return [round(float(value), 6) for value in measured]
