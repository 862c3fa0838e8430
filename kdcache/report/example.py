"""An example of a view, and what is needed to make one."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.cache import Cache
from kdcache.errors import KdcacheError
from kdcache.models.inference import model_code
from kdcache.models.model import open_model
from kdcache.report.estimates import Estimate
from kdcache.report.groups import Group
from kdcache.runtime.device import Compute
from kdcache.shapes import Rows
from kdcache.tools.saved_model import find_model

NUM_EACH = 3
"""Examples of each kind."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model says of a view."""

    who: str
    style: int | None
    """That of the student's line; None of the teacher."""
    top: Sequence[tuple[str, float]]
    """Its likeliest classes, and how likely it finds each, from 0 to 1."""
    is_right: bool | None
    """Whether the first is the label; None where that has no meaning."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One view."""

    image: str
    """As an address that holds the picture itself."""
    key: str
    """Of its sample."""
    label: str
    answers: Sequence[Answer] = ()
    is_small: bool = False
    """Whether it has few pixels, each of which is to be seen."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What looking at views of a cache has given."""

    caption: str = ""
    examples: Sequence[Example] = ()
    confidence: dict[str, Estimate] = field(default_factory=dict)
    """Of the teacher by class, in percent."""
    accuracy: dict[str, Estimate] = field(default_factory=dict)
    """Likewise."""
    problems: Sequence[str] = ()


def best_student(group: Group, cache: Cache, classes: int, compute: Compute) -> nn.Module:
    """Return the student of a group's first finished run, with its best weights."""
    run = group.finished[0]
    model = open_model(
        find_model(str(run.folder)).spec,
        classes=classes,
        recipe=cache.recipe,
        trained=True,
        task=cache.manifest.task,
    )
    return compute.place(model).eval()


@torch.no_grad()
def output_of(model: nn.Module, compute: Compute, views: Tensor) -> Any:
    """Return what a student gives of views."""
    with compute.autocast(), model_code("a student on views of its cache"):
        return model(compute.move(views))


def seed_of(cache: Cache) -> int:
    """Return the first seed of which all is there.

    Raises:
        KdcacheError: there is none.
    """
    seeds = cache.complete_seeds()
    if not seeds:
        raise KdcacheError(f"no seed of cache {cache} is complete yet; wait for its dump")
    return seeds[0]


def first_rows(cache: Cache, seed: int, count: int) -> Rows:
    """Return the first rows of a seed that have records."""
    is_present = cache.is_held.copy()
    for rows in cache.unavailable(cache.held_commits(seed)):
        is_present[rows] = False
    return np.flatnonzero(is_present)[:count]


def image_address(data: bytes) -> str:
    """Return a PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
