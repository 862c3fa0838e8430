"""The recipes of a saved model: of the views that it was trained for, and of those that it is to
see."""

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.loader.cache_specs import parse_cache
from kdcache.runtime.console import say
from kdcache.tools.saved_model import SavedModel
from kdcache.train.evaluation import evaluation_recipe
from kdcache.views import Recipe, load_recipe

_DEFAULT_RECIPE = "eval"


def saved_recipes(saved: SavedModel, name: str | None) -> tuple[Recipe, Recipe]:
    """Return the recipe that a model is opened for, and that of the views.

    Of a run these are the recipe of its training, and the one that is named or that the run is
    evaluated with. Of weights both are the one that is named, or `eval` at the size that they say;
    so they are of a run whose cache is gone, which is told. A recipe of whole images has no size
    to open a model for: that is the one that the weights say.

    Args:
        saved: the model.
        name: of a recipe, if the user names one.

    Raises:
        KdcacheError: a recipe or a cache that cannot be opened; of a cache only if the weights do
            not say their size.
    """
    run = saved.run
    if run is None:
        views = _recipe_of_weights(saved, name)
        return _with_size(views, saved), views
    if run.recipe is not None:
        training = load_recipe(run.recipe)
    else:
        training = _recipe_of_cache(saved, run.caches[0], name or run.eval_recipe)
    views = evaluation_recipe(name or run.eval_recipe, training, is_from_cache=run.recipe is None)
    return training, views


def _recipe_of_cache(saved: SavedModel, cache: str, eval_recipe: str | None) -> Recipe:
    """Return the recipe of a run's cache; where that cannot be opened, one for images as the
    weights of the run say them."""
    try:
        return open_cache(parse_cache(cache)[0]).recipe
    except KdcacheError as error:
        if saved.facts is None:
            raise
        views = f"views are those of recipe {eval_recipe}"
        if eval_recipe is None:
            views = f"the recipe of views is taken for {_DEFAULT_RECIPE}; --recipe names another"
        say(f"note: {error}; mode and size of images are those that the weights say, {views}")
        return _recipe_of_weights(saved, None)


def _with_size(views: Recipe, saved: SavedModel) -> Recipe:
    """Return a recipe that has a size: of whole images, which a model sees at any, the one that
    the weights say, or that of `eval`."""
    if views.size is not None:
        return views
    if saved.facts is not None:
        return views.at(saved.facts.size)
    return views.at(load_recipe(_DEFAULT_RECIPE).size)


def _recipe_of_weights(saved: SavedModel, name: str | None) -> Recipe:
    if name is not None:
        return load_recipe(name)
    recipe = load_recipe(_DEFAULT_RECIPE)
    if saved.facts is None:
        return recipe
    return recipe.with_mode(saved.facts.mode).at(saved.facts.size)
