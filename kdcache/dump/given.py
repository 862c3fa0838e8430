"""What a program gives of a dump as objects, in the place of what a configuration names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdcache.errors import UsageError
from kdcache.models.modules import class_name
from kdcache.models.preprocessing import NOTHING_GIVEN, GivenPreprocessing
from kdcache.sources import Source, as_source
from kdcache.views import Recipe, as_recipe


@dataclass(frozen=True, kw_only=True)
class GivenObjects:
    """The objects of a program; None where the configuration names one."""

    source: Source | None = None
    recipe: Recipe | None = None
    teacher: nn.Module | None = None
    preprocessing: GivenPreprocessing = NOTHING_GIVEN
    """Of the teacher."""


NO_OBJECTS = GivenObjects()


def given_teacher(
    teacher: str | nn.Module, preprocessing: GivenPreprocessing
) -> tuple[nn.Module | None, str]:
    """Return the teacher that is given as a module, if it is, and what a configuration calls it."""
    if not isinstance(teacher, str):
        return teacher, class_name(teacher)
    if not preprocessing.is_empty:
        raise UsageError("size, mean and std are of a module; a spec says them itself: mean=0.5")
    return None, teacher


def given_source(data: Any) -> tuple[Source | None, str]:
    """Return the source of data that are given as an object, if they are, and their spec."""
    if isinstance(data, str):
        return None, data
    source = as_source(data)
    return source, source.spec


def given_recipe(recipe: Any) -> tuple[Recipe | None, str]:
    """Return the recipe that is given as an object, if it is, and its name."""
    if isinstance(recipe, str | Path):
        return None, str(recipe)
    own_recipe = as_recipe(recipe)
    return own_recipe, own_recipe.name
