"""The recipes of a saved model: of the views that it was trained for, and of those that it is to
see."""

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError
from kdcache.loader.cache_specs import parse_cache
from kdcache.runtime.console import say
from kdcache.shapes import Size
from kdcache.targets import target_kind
from kdcache.tools.saved_model import SavedModel
from kdcache.train.evaluation import evaluation_recipe
from kdcache.views import Recipe, load_recipe

_TRIAL_SIDE = 512
"""Pixels of the view on which a model is tried that takes views as large as their images."""


def saved_recipes(saved: SavedModel, name: str | None, task: str) -> tuple[Recipe, Recipe]:
    """Return the recipe that a model is opened for, and that of the views.

    Of a run these are the recipe of its training, and the one that is named or that the run is
    evaluated with. Of weights both are the one that is named, or one of the task, such as `eval`,
    at the size that they say; so they are of a run whose cache is gone, which is told.

    Args:
        saved: the model.
        name: of a recipe, if the user names one.
        task: of the model.

    Raises:
        KdcacheError: a recipe or a cache that cannot be opened; of a cache only if the weights do
            not say their size.
    """
    run = saved.run
    if run is None:
        return _recipes_of_weights(saved, name, task)
    eval_recipe = name or run.eval_recipe
    if run.recipe is not None:
        training = load_recipe(run.recipe)
    else:
        try:
            training = open_cache(parse_cache(run.caches[0])[0]).recipe
        except KdcacheError as error:
            if saved.facts is None:
                raise
            return _recipes_without_cache(saved, str(error), eval_recipe, task)
    views = evaluation_recipe(eval_recipe, training, is_from_cache=run.recipe is None)
    return training, views


def _recipes_without_cache(
    saved: SavedModel, problem: str, eval_recipe: str | None, task: str
) -> tuple[Recipe, Recipe]:
    """Return the recipes of a run whose cache cannot be opened: images are as its weights say."""
    training, views = _recipes_of_weights(saved, None, task)
    about = f"the recipe of views is taken for {views.name}; --recipe names another"
    if eval_recipe is not None:
        views = load_recipe(eval_recipe).with_mode(training.mode)
        about = f"views are those of recipe {eval_recipe}"
    say(f"note: {problem}; mode and size of images are those that the weights say, {about}")
    return training, views


def _recipes_of_weights(saved: SavedModel, name: str | None, task: str) -> tuple[Recipe, Recipe]:
    """Return the recipes of weights alone; views that are as large as their images stay so."""
    recipe = load_recipe(name or target_kind(task).eval_recipe)
    size: Size = _TRIAL_SIDE
    if saved.facts is not None:
        size = saved.facts.size
        if name is None:
            recipe = recipe.with_mode(saved.facts.mode)
    if recipe.size is None:
        return recipe.at(size), recipe
    if name is None and saved.facts is not None:
        recipe = recipe.at(size)
    return recipe, recipe
