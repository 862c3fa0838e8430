"""Recipes by name: those that come with kdcache, TOML files, and functions of one's own that give
transforms."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import kdcache.views
from kdcache.config.names import choose
from kdcache.config.spec import Spec, parse_spec
from kdcache.config.user_functions import load_function, require_module
from kdcache.errors import RecipeError, UsageError, quoted
from kdcache.runtime.text_files import read_text

_WHAT = "recipe"


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with kdcache."""
    names = []
    for file in _shipped_files().iterdir():
        name = file.name
        if name.endswith(".toml"):
            names.append(name.removesuffix(".toml"))
    return sorted(names)


def _shipped_files() -> Traversable:
    return resources.files("kdcache.views") / "recipes"


def load_recipe(name: str | Path) -> "kdcache.views.Recipe":
    """Return the recipe in TOML file `name`, the shipped one of that name, or that of the
    transforms which a function `module:function` gives.

    Raises:
        RecipeError: a file that is not TOML, a transform or parameter that does not exist, or a
            function that fails.
        UsageError: neither a file nor a shipped recipe, of which the nearest is suggested; or no
            such function.
    """
    function = own_function(name)
    if function is None:
        table = recipe_table(name)
        return kdcache.views.Recipe(Path(name).stem, table)
    given = load_function(function, _WHAT, shipped_recipes(), error=RecipeError)
    if isinstance(given, kdcache.views.Recipe):
        return given
    return kdcache.views.recipe_of(given, name=function.arg or function.name)


def as_recipe(recipe: Any) -> "kdcache.views.Recipe":
    """Return a recipe: itself, the one of a name or a file, or that of transforms.

    Raises:
        RecipeError: as `load_recipe` and `recipe_of`.
        UsageError: likewise.
    """
    if isinstance(recipe, kdcache.views.Recipe):
        return recipe
    if isinstance(recipe, str | Path):
        return load_recipe(recipe)
    if not callable(recipe) and not isinstance(recipe, list | tuple | Mapping):
        raise UsageError(
            f"recipe is {quoted(recipe)}; give the name of a shipped one, the path of a .toml file,"
            " or transforms of torchvision's"
        )
    return kdcache.views.recipe_of(recipe)


def own_function(name: str | Path) -> Spec | None:
    """Return the spec of the user's own function that a recipe's name is; None if it is none."""
    if isinstance(name, Path) or ":" not in str(name) or str(name).endswith(".toml"):
        return None
    return parse_spec(str(name))


def check_recipe(name: str) -> None:
    """Check that there is a recipe of this name, without torch: of an own function that there is
    its module.

    Raises:
        RecipeError: a file that is absent, or not TOML; or a package that cannot be imported.
        UsageError: neither a file nor a shipped recipe, or no such module.
    """
    function = own_function(name)
    if function is None:
        recipe_table(name)
    else:
        require_module(function, _WHAT, shipped_recipes(), error=RecipeError)


def recipe_table(name: str | Path) -> dict[str, Any]:
    """Return the keys of TOML file `name`, or of the shipped recipe of that name.

    Raises:
        RecipeError: a file that is absent, or not TOML.
        UsageError: neither a file nor a shipped recipe; the nearest is suggested.
    """
    if not isinstance(name, str | Path):
        raise UsageError(f"recipe is {quoted(name)}; give a name, or the path of a .toml file")
    path = Path(name)
    name = str(name)
    if path.suffix != ".toml":
        choose(name, shipped_recipes(), "recipe (and no .toml file)")
        text = (_shipped_files() / f"{name}.toml").read_text("utf-8")
    elif path.is_file():
        text = read_text(path, "recipe file")
    else:
        raise RecipeError(
            f"recipe file {name} does not exist; shipped recipes: {', '.join(shipped_recipes())}"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe file {name} is not TOML: {error}") from error
