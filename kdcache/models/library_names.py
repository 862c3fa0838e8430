"""Names of libraries' models, judged without importing the libraries."""

import re

from kdcache.config.library_sources import LibrarySources
from kdcache.config.spec import Spec

_DECORATED = r"\n(?:[@ )][^\n]*\n)*def (\w+)"
"""Further decorators, of one line or several, and the function."""
_TIMM = LibrarySources(
    "timm",
    files=("models/*.py",),
    registered=re.compile(rf"^@register_model\b[^\n]*{_DECORATED}", re.MULTILINE),
)
_TORCHVISION = LibrarySources(
    "torchvision",
    files=("models/*.py", "models/segmentation/*.py", "models/detection/*.py"),
    registered=re.compile(rf"^@register_model\(\){_DECORATED}", re.MULTILINE),
    left_out=re.compile(r"keypointrcnn.*"),
)


def check_timm(spec: Spec) -> None:
    """Check that timm's sources have a model of that name; of the weights' tag after a dot, and of
    repositories and folders, timm itself knows.

    Raises:
        UsageError: they do not; the nearest is suggested.
    """
    name = spec.arg or ""
    if not name.startswith("hf") and ":" not in name:
        _TIMM.require(name.partition(".")[0], "timm model")


def check_torchvision(spec: Spec) -> None:
    """Check that torchvision's sources have a model of that name.

    Raises:
        UsageError: they do not; the nearest is suggested.
    """
    _TORCHVISION.require(spec.arg or "", "torchvision model")
