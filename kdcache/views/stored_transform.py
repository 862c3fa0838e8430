"""Transforms that do what is stored of a view, for caches that were imported. They draw nothing.

[[transforms]]
name = "kdcache.StoredCrop"
size = "input"
views = "..."                 # the digest of the stored views, which the cache keeps

[[transforms]]
name = "kdcache.StoredOperations"
operations = [["Rotate", 9.0], ["Rotate", -9.0], ["Equalize", 0.0]]
views = "..."

[[transforms]]
name = "kdcache.StoredErasing"
views = "..."

Or, where the seed of a generator is all that is stored of a view, one transform alone:

[[transforms]]
name = "kdcache.StoredDraw"
size = "input"
policy = "rand-m9-mstd0.5-inc1"
views = "..."
"""

from torch import nn

from kdcache.errors import RecipeError
from kdcache.views.stored_views import StoredView, StoredViews, ViewKey


class StoredTransform(nn.Module):
    """A transform that does what is stored of a view, whose key it is given."""

    def __init__(self, views: str, stored_views: StoredViews | None) -> None:
        """Check that the views are there.

        Args:
            views: their digest.
            stored_views: of that digest.

        Raises:
            ValueError: they are not.
        """
        super().__init__()
        if stored_views is None or stored_views.digest != views:
            raise ValueError(
                "its views are kept in the cache that was imported with it, and are not here; take"
                " the recipe from that cache"
            )
        self._views = stored_views

    def _stored(self, view: ViewKey | None) -> StoredView:
        """Return what is stored of a view.

        Raises:
            RecipeError: it is not said which view, or nothing is stored of it.
        """
        return self._views.view(self._key(view))

    def _draw_seed(self, view: ViewKey | None) -> int:
        """Return the seed that is stored of a view; errors as `_stored`."""
        return self._views.draw_seed(self._key(view))

    def _key(self, view: ViewKey | None) -> ViewKey:
        """Return which view it is.

        Raises:
            RecipeError: that is not said.
        """
        if view is None:
            raise RecipeError(
                f"kdcache.{type(self).__name__} does what is stored of a sample under a seed, and"
                " an image alone says neither; render it by a ViewDataset, and name the transform"
                " outside of others"
            )
        return view
