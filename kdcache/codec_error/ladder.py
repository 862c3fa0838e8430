"""The codecs that are measured where none is named, and how many rows all are fitted to."""

from collections.abc import Sequence

from kdcache.codec_error.calibration import sample_views
from kdcache.codecs import can_code_whole, open_codec, require_fitting
from kdcache.errors import UsageError
from kdcache.positions import Layout

_DTYPES = ("float16", "bfloat16", "uint8", "uint4")
_COSINES = (3, 4, 6, 8, 12, 16, 24)
_STEPS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
_STEPS_OF_POSITIONS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0)
"""Finer: teachers of maps tell less of each position, and logits of some are small."""
_KS = (2, 5, 10, 16, 50, 100, 200)


def default_ladder(classes: int, layout: Layout) -> list[str]:
    """Return the specs that are measured if none are given: every codec that the logits can have,
    at several settings.

    Args:
        classes: logits of a position.
        layout: what the positions of a view are.
    """
    specs = [f"full:dtype={dtype}" for dtype in _DTYPES]
    if can_code_whole(classes, layout):
        specs += [f"cosine:steps={steps}" for steps in _COSINES]
    steps = _STEPS_OF_POSITIONS if layout.sites else _STEPS
    specs += [f"lowrank:step={step:g}" for step in steps]
    specs += [f"topk:k={k}" for k in _KS if k <= classes // 2]
    return [spec for spec in specs if _fits(spec, classes, layout)]


def _fits(spec: str, classes: int, layout: Layout) -> bool:
    try:
        require_fitting(open_codec(spec, classes=classes), layout)
    except UsageError:
        return False
    return True


def most_positions(codecs: Sequence[str], classes: int, layout: Layout) -> int:
    """Return how many positions these codecs, by default those of the ladder, are fitted to: the
    most that a dump with one of them takes.

    Raises:
        UsageError: an unknown codec.
    """
    counts = []
    for spec in codecs or default_ladder(classes, layout):
        counts.append(sample_views(open_codec(spec, classes=classes)))
    return max(counts)
