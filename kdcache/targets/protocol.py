"""What a sample is labelled with: how it is checked, batched, stored and read back."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from PIL import Image

from kdcache.deferred import Tensor
from kdcache.shapes import Labels
from kdcache.targets.objects import ObjectBoxes

StoredTarget = int | Image.Image | ObjectBoxes
"""A target as a source gives it: a class index, an image of mode L that holds those of an image's
pixels, or the objects in it."""
ViewTarget = int | Tensor | ObjectBoxes
"""A target as it goes with a view: a class index, those of its pixels, uint8 `[height, width]`, or
the objects in it."""
MixedTarget = tuple[ViewTarget, int, float]
"""A view's target, the class index of the view that is mixed into it, and the share of the
first."""
NO_TARGET: MixedTarget = (-1, -1, 1.0)
"""That of a view whose image could not be read."""


@runtime_checkable
class TargetKind(Protocol):
    """Class indices, masks, boxes: one kind for each task."""

    task: ClassVar[str]
    """The task whose targets these are, as sources and manifests say it."""
    suffix: ClassVar[str]
    """What the name of its file ends with in a tar."""
    plural: ClassVar[str]
    """What messages call such targets."""
    follows_views: ClassVar[bool]
    """Whether it goes where its image goes, so that a recipe has to take it along."""
    layouts: ClassVar[frozenset[str]]
    """Kinds of layouts of which a model's logits for it may be."""
    eval_recipe: ClassVar[str]
    """The recipe that shows whole images to a model of which nothing says how it is evaluated."""
    is_small: ClassVar[bool]
    """Whether its file has few bytes, which are looked at where a tar's index is made."""

    def checked(self, target: Any, image: Image.Image, classes: int, name: str) -> StoredTarget:
        """Return the target that a user's code gave.

        Args:
            target: that was given.
            image: that it is of.
            classes: how many there are.
            name: of the sample, for messages.

        Raises:
            SourceError: it is none, or holds a class that there is not.
        """

    def encode(self, target: StoredTarget) -> bytes:
        """Return the file of a target; equal targets are equal bytes."""

    def identity(self, target: StoredTarget) -> bytes:
        """Return bytes that are equal where targets are, whatever made their files."""

    def check_stored(self, data: bytes) -> None:
        """Check what can be told from the bytes of a small file alone.

        Raises:
            ValueError: it is no file of a target.
        """

    def decode(self, data: bytes, image: Image.Image, classes: int, name: str) -> StoredTarget:
        """Return the target in a file that `encode` has made.

        Args:
            data: the file.
            image: that it is of.
            classes: how many there are.
            name: of the sample, for messages.

        Raises:
            OSError: (or another of decoding) it cannot be decoded.
            SourceError: it does not belong to the image, or holds a class that there is not.
        """

    def follower(self, target: StoredTarget, image: Image.Image) -> Any:
        """Return what torchvision's transforms move along with an image, or None of a target that
        does not follow its view."""

    def size_of(self, moved: Any) -> list[int]:
        """Return the height and width of the view that a `follower` has moved with.

        Raises:
            RecipeError: a transform has made something else of it.
        """

    def followed(self, target: StoredTarget, moved: Any, image: Image.Image) -> ViewTarget:
        """Return the target of a view.

        Args:
            target: of the image.
            moved: what the transforms have made of `follower`; None where there is none.
            image: that the view is of.
        """

    def batch(self, targets: Sequence[MixedTarget], size: Sequence[int], *, mixes: bool) -> Labels:
        """Return the labels of a batch of views.

        Args:
            targets: of the views.
            size: height and width of the views.
            mixes: whether the recipe mixes views.
        """
