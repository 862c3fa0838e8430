"""Views: sample `index` under augmentation `seed`, a pure function of (source, recipe, index,
seed)."""

from typing import TYPE_CHECKING

from kdcache.deferred import door

if TYPE_CHECKING:
    from kdcache.views.composed import recipe_of
    from kdcache.views.dataset import Batch, ViewDataset
    from kdcache.views.loading import ViewLoader
    from kdcache.views.many_seeds import ManySeedLoader, RowsUnderSeeds
    from kdcache.views.mixing import Mixing, in_pairs, partners
    from kdcache.views.permutation import keyed_permutation, row_order
    from kdcache.views.pixels import crc32
    from kdcache.views.recipe import Recipe
    from kdcache.views.recipe_files import (
        as_recipe,
        check_recipe,
        load_recipe,
        own_function,
        recipe_table,
        shipped_recipes,
    )
    from kdcache.views.view import Trace

__getattr__ = door(
    "kdcache.views",
    {
        "Batch": "dataset",
        "ManySeedLoader": "many_seeds",
        "Mixing": "mixing",
        "Recipe": "recipe",
        "RowsUnderSeeds": "many_seeds",
        "Trace": "view",
        "ViewDataset": "dataset",
        "ViewLoader": "loading",
        "as_recipe": "recipe_files",
        "check_recipe": "recipe_files",
        "own_function": "recipe_files",
        "crc32": "pixels",
        "in_pairs": "mixing",
        "keyed_permutation": "permutation",
        "load_recipe": "recipe_files",
        "partners": "mixing",
        "recipe_of": "composed",
        "recipe_table": "recipe_files",
        "row_order": "permutation",
        "shipped_recipes": "recipe_files",
    },
)

__all__ = [
    "Batch",
    "ManySeedLoader",
    "Mixing",
    "Recipe",
    "RowsUnderSeeds",
    "Trace",
    "ViewDataset",
    "ViewLoader",
    "as_recipe",
    "check_recipe",
    "crc32",
    "in_pairs",
    "keyed_permutation",
    "load_recipe",
    "own_function",
    "partners",
    "recipe_of",
    "recipe_table",
    "row_order",
    "shipped_recipes",
]
