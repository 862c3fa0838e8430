"""Erasing what somebody else drew, see stored_transform.py."""

from typing import Any

from kdcache.views.stored_transform import StoredTransform
from kdcache.views.stored_views import StoredViews, ViewKey


class StoredErasing(StoredTransform):
    """Makes black the block that is stored of a view, if one is.

    Args:
        views: the digest of the stored views.
        stored_views: of that digest.
    """

    def __init__(self, views: str, stored_views: StoredViews | None = None) -> None:
        super().__init__(views, stored_views)

    def forward(self, image: Any, view: ViewKey | None = None) -> Any:
        """Return the image without its block.

        Raises:
            RecipeError: it is not said which view, or nothing is stored of it.
        """
        block = self._stored(view).block
        if block is None:
            return image
        top, left, bottom, right = block.corners(image.height, image.width)
        erased = image.copy()
        erased.paste(0, (left, top, right, bottom))
        return erased
