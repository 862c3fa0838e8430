"""The recipes of a saved model: of the views that it was trained for, and of those that it is to
see."""

from kdcache.cache import open_cache
from kdcache.loader.cache_specs import parse_cache
from kdcache.tools.saved_model import SavedModel
from kdcache.train.evaluation import evaluation_recipe
from kdcache.views import Recipe, load_recipe

_DEFAULT_RECIPE = "eval"


def saved_recipes(saved: SavedModel, name: str | None) -> tuple[Recipe, Recipe]:
    """Return the recipe that a model is opened for, and that of the views.

    Of a run these are the recipe of its training, and the one that is named or that the run is
    evaluated with. Of weights both are the one that is named, or `eval` at the size that they say.

    Args:
        saved: the model.
        name: of a recipe, if the user names one.
    """
    run = saved.run
    if run is None:
        recipe = _recipe_of_weights(saved, name)
        return recipe, recipe
    if run.recipe is not None:
        training = load_recipe(run.recipe)
    else:
        training = open_cache(parse_cache(run.caches[0])[0]).recipe
    views = evaluation_recipe(name or run.eval_recipe, training, is_from_cache=run.recipe is None)
    return training, views


def _recipe_of_weights(saved: SavedModel, name: str | None) -> Recipe:
    if name is not None:
        return load_recipe(name)
    recipe = load_recipe(_DEFAULT_RECIPE)
    if saved.facts is None:
        return recipe
    return recipe.with_mode(saved.facts.mode).at(saved.facts.size)
