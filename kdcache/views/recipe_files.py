"""Recipes by name: those that come with kdcache, and TOML files of one's own."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import kdcache.views
from kdcache.config.spec import choose
from kdcache.errors import RecipeError, UsageError, quoted
from kdcache.runtime.text_files import read_text


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
    """Return the recipe in TOML file `name`, or the shipped one of that name.

    Raises:
        RecipeError: a file that is not TOML, or a transform or parameter that does not exist.
        UsageError: neither a file nor a shipped recipe; the nearest is suggested.
    """
    table = recipe_table(name)
    return kdcache.views.Recipe(Path(name).stem, table)


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
