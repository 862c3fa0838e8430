"""The names of ImageNet's classes, as timm has them: WordNet ids and synonyms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageNetNames:
    """What the classes of ImageNet, or of a set around it, are called."""

    ids: tuple[str, ...]
    """The WordNet id of each class, such as `n01440764`."""
    descriptions: tuple[str, ...]
    """The synonyms of each class, such as `tench, Tinca tinca`."""

    def short_names(self) -> tuple[str, ...]:
        """Return one name for each class, no two alike: its first synonym, with its id where
        others begin with the same."""
        firsts = [description.split(",")[0].strip() for description in self.descriptions]
        names = []
        for first, word_id in zip(firsts, self.ids, strict=True):
            name = first
            if firsts.count(first) > 1:
                name = f"{first} ({word_id})"
            names.append(name)
        return tuple(names)

    def words(self, place: int) -> list[str]:
        """Return all that a class may be called: its id, each of its synonyms, and all of them."""
        description = self.descriptions[place]
        synonyms = [synonym.strip() for synonym in description.split(",")]
        return [self.ids[place], description, *synonyms]


def imagenet_names(num_classes: int) -> ImageNetNames | None:
    """Return the names of the set of ImageNet that has so many classes: 1,000, or one of the larger
    ones that timm knows; None if there is no such set."""
    from timm.data import ImageNetInfo, infer_imagenet_subset  # noqa: PLC0415

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    ids = tuple(info.label_names())
    if len(ids) != num_classes:
        return None
    return ImageNetNames(ids, tuple(info.label_descriptions()))
