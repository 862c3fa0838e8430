"""Views: sample `index` under augmentation `seed`, a pure function of (source, recipe, index,
seed)."""

from typing import TYPE_CHECKING

from kdcache.deferred import door

if TYPE_CHECKING:
    from kdcache.views.dataset import Batch, ViewDataset
    from kdcache.views.loading import ViewLoader
    from kdcache.views.mixing import Mixing, in_pairs, partners
    from kdcache.views.permutation import keyed_permutation, row_order
    from kdcache.views.recipe import Recipe
    from kdcache.views.recipe_files import load_recipe, recipe_table, shipped_recipes
    from kdcache.views.view import Trace, crc32, preserved_generators, seed_generators

__getattr__ = door(
    "kdcache.views",
    {
        "Batch": "dataset",
        "Mixing": "mixing",
        "Recipe": "recipe",
        "Trace": "view",
        "ViewDataset": "dataset",
        "ViewLoader": "loading",
        "crc32": "view",
        "in_pairs": "mixing",
        "keyed_permutation": "permutation",
        "load_recipe": "recipe_files",
        "partners": "mixing",
        "preserved_generators": "view",
        "recipe_table": "recipe_files",
        "row_order": "permutation",
        "seed_generators": "view",
        "shipped_recipes": "recipe_files",
    },
)

__all__ = [
    "Batch",
    "Mixing",
    "Recipe",
    "Trace",
    "ViewDataset",
    "ViewLoader",
    "crc32",
    "in_pairs",
    "keyed_permutation",
    "load_recipe",
    "partners",
    "preserved_generators",
    "recipe_table",
    "row_order",
    "seed_generators",
    "shipped_recipes",
]
