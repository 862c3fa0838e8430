"""The names of ImageNet's classes, as timm has them: WordNet ids and synonyms. Its files are read,
and timm is not imported."""

import csv
from dataclasses import dataclass

from kdcache.config.library_sources import library_text
from kdcache.runtime.wording import counted

_FOLDER = "data/_info"
_IDS = {
    1000: "imagenet_synsets.txt",
    11221: "imagenet21k_miil_synsets.txt",
    11821: "imagenet12k_synsets.txt",
    21841: "imagenet22k_synsets.txt",
    21842: "imagenet22k_ms_synsets.txt",
    21843: "imagenet21k_goog_synsets.txt",
}
"""The file of the ids of each set of ImageNet, by its number of classes."""
_SYNONYMS = "imagenet_synset_to_lemma.txt"
"""The synonyms of each id, of all sets."""


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
    file = _IDS.get(num_classes)
    if file is None:
        return None
    ids = tuple(library_text("timm", f"{_FOLDER}/{file}").splitlines())
    if len(ids) != num_classes:
        return None
    lines = library_text("timm", f"{_FOLDER}/{_SYNONYMS}").splitlines()
    synonyms = dict(csv.reader(lines, delimiter="\t"))
    return ImageNetNames(ids, tuple(synonyms[word_id] for word_id in ids))


def imagenets_note(whose: str, num_classes: int) -> str:
    """Return what is said where classes are called as ImageNet's, since there are as many.

    Args:
        whose: classes they are.
        num_classes: how many there are.
    """
    return f"the {counted(num_classes, 'class')} of {whose} are taken for ImageNet's"
