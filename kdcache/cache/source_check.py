"""Whether a source is what a cache was made from, and in what it differs: the one place that says.

Compared are the number of classes, the number of samples, the fingerprint (names, labels, pixels
held in memory) and the sizes of files. The names come from the list that the cache keeps.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.cache import Cache
from kdcache.cache.documents.parts import SourceEntry
from kdcache.cache.source_list import SourceList, list_of, read_list, sizes_digest
from kdcache.errors import CacheError, MismatchError, printable, shortened
from kdcache.runtime.console import say
from kdcache.runtime.contrast import joined
from kdcache.sources import Source
from kdcache.sources.files import NO_FILE, Numbers
from kdcache.sources.protocol import Listed
from kdcache.targets import task_of

WAY_OUT = "give the same data, or dump into a new cache"
_COMPARED = {
    "classes": "number of classes",
    "fingerprint": "fingerprint (names, labels)",
    "sizes": "digest of sizes",
    "contents": "digest of contents",
}
"""What manifests say of their sources, in words."""
_MOST_PLACE = 60
_MOST_TOLD = 290
_MOST_NAME = 32
_SHOWN = (5, 3, 2, 1)
"""Names that a line shows: the most for which there is room."""


@dataclass(frozen=True)
class Change:
    """Something that differs, and the samples or files that it befalls."""

    noun: str
    """What it befalls: `sample` or `file`."""
    predicate: str
    """What became of one, as `is gone`."""
    examples: Sequence[str]

    def line(self, num_shown: int) -> str:
        """Return the change in words, with the first names."""
        count = len(self.examples)
        shown = ", ".join(self.examples[:num_shown])
        if count > num_shown:
            shown += ", ..."
        if count == 1:
            return f"1 {self.noun} {self.predicate} ({shown})"
        plural = self.predicate.replace("is ", "are ", 1).replace("has ", "have ", 1)
        return f"{count} {self.noun}s {plural} ({shown})"


def require_source(cache: Cache, source: Source) -> None:
    """Check that `source` is what `cache` was made from: classes, samples, labels, sizes of files.

    Raises:
        MismatchError: it is not; the message says what differs, with the first names.
        SourceError: the size of a file that cannot be found out.
    """
    difference = _difference(cache, source)
    if difference:
        raise MismatchError(
            f"data {shortened(source.spec, _MOST_PLACE)} is not what cache "
            f"{shortened(str(cache), _MOST_PLACE)} was made from: {difference}; {WAY_OUT}"
        )


def source_differences(first: Cache, second: Cache) -> list[str]:
    """Return in what the sources of two caches differ; nothing if, as far as is known, in nothing.

    What one of them does not know, since it is older, is not compared.
    """
    mine, theirs = _common_entries(first, second)
    changed = [name for name in mine if mine[name] != theirs[name]]
    if not changed:
        return []
    if "classes" in changed:
        return [f"data of {mine['classes']} classes there, of {theirs['classes']} here"]
    then = _list_if_whole(first)
    now = _list_if_whole(second)
    if then is not None and now is not None:
        changes = list_changes(then, now)
        if changes:
            return [f"their data differ, from there to here: {_difference_in_words([], changes)}"]
    digests = " and ".join(_COMPARED[name] for name in changed)
    return [f"data of another {digests}"]


def _common_entries(first: Cache, second: Cache) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return of two caches what both know of their sources, of what is compared."""
    entries_of_first: dict[str, Any] = {}
    entries_of_second: dict[str, Any] = {}
    for name in _COMPARED:
        value = getattr(first.manifest.source, name)
        other_value = getattr(second.manifest.source, name)
        if value is not None and other_value is not None:
            entries_of_first[name] = value
            entries_of_second[name] = other_value
    return entries_of_first, entries_of_second


def _difference(cache: Cache, source: Source) -> str:
    """Return in what a source differs, the most telling first; nothing if it does not."""
    entry = cache.manifest.source
    rows = cache.manifest.rows
    task = task_of(source)
    if task != cache.manifest.task:
        return f"data is for {task}, the cache for {cache.manifest.task}"
    if entry.classes not in (None, source.classes):
        difference = f"data has {source.classes} classes, the cache was made from {entry.classes}"
        if cache.manifest.layout.is_of_softmaxes:
            difference += (
                " (where labels are others on purpose, dump this data with"
                f" --teacher-classes {cache.manifest.classes}, and train with a map of classes)"
            )
        return difference
    is_other = source.fingerprint != entry.fingerprint or len(source) != rows
    if not is_other and _has_sizes_of(source, entry):
        return ""
    then = _list_if_whole(cache)
    now = list_of(source)
    changes: list[Change] = []
    if then is not None:
        changes = list_changes(then, now)
    if len(source) != rows:
        count = f"data has {len(source)} samples, the cache was made from {rows}"
        return _difference_in_words([count], changes)
    if changes:
        return _difference_in_words([], changes)
    return _unnamed(cache, source, is_other=is_other, is_listed=then is not None)


def _has_sizes_of(source: Source, entry: SourceEntry) -> bool:
    """Return whether the files of a source have the sizes that a manifest knows, if it does."""
    if entry.sizes is None or not isinstance(source, Listed):
        return True
    sizes = source.file_sizes()
    if sizes is None:
        return False
    return sizes_digest(sizes) == entry.sizes


def _list_if_whole(cache: Cache) -> SourceList | None:
    """Return the list of a cache's source, if it can be read: without it there is less to tell."""
    try:
        return read_list(cache)
    except CacheError as error:
        say(f"note: {error}; what differs in the data is told without it")
        return None


def _unnamed(cache: Cache, source: Source, *, is_other: bool, is_listed: bool) -> str:
    """Return in what a source differs, where no sample can be named."""
    if not is_other:
        return "files have other sizes"
    if is_listed:
        return "its names are the same; classes, boxes or pixels held in memory are others"
    message = "samples were added, removed, renamed, reordered or relabelled"
    if cache.manifest.source.classes is None and source.classes != cache.manifest.classes:
        message += f" (data has {source.classes} classes, the teacher {cache.manifest.classes})"
    return message


def _difference_in_words(counts: Sequence[str], changes: Sequence[Change]) -> str:
    """Return counts and changes in words, with as many names as there is room for."""
    for num_shown in _SHOWN:
        lines = [*counts, *(change.line(num_shown) for change in changes)]
        message = "; ".join(lines)
        if len(message) <= _MOST_TOLD:
            return message
    return joined(lines, _MOST_TOLD)


def list_changes(then: SourceList, now: SourceList) -> list[Change]:
    """Return what differs between two lists of samples; nothing if nothing does."""
    names_then = list(then.names)
    names_now = list(now.names)
    before = _Side.of(then, names_then)
    after = _Side.of(now, names_now)
    gone = _without(names_then, after.places)
    new = _without(names_now, before.places)
    common = [name for name in names_then if name in after.places]
    changes = [
        *_name_changes(before, after, gone, new),
        *_file_changes(before, after, common),
        Change("sample", "is relabelled", _relabelled(before, after, common)),
    ]
    changes = [change for change in changes if change.examples]
    if not changes and len(names_then) == len(names_now):
        return _reordered(names_then, names_now)
    return changes


@dataclass(frozen=True)
class _Side:
    """A list, and where its names are in it."""

    listing: SourceList
    places: Mapping[str, int]

    @classmethod
    def of(cls, listing: SourceList, names: Sequence[str]) -> "_Side":
        return cls(listing, {name: place for place, name in enumerate(names)})

    def rows(self, names: Sequence[str], numbers: Numbers) -> Numbers:
        """Return the numbers of some samples."""
        places = [self.places[name] for name in names]
        rows: Numbers = numbers[places]
        return rows

    def size(self, name: str) -> Hashable:
        """Return the sizes of a sample's files; None if they are not known."""
        sizes = self.listing.sizes
        if sizes is None:
            return None
        own_sizes = sizes[self.places[name]].tolist()
        if NO_FILE in own_sizes:
            return None
        return tuple(own_sizes)

    def last_part(self, name: str) -> Hashable:
        """Return the last part of a name, and the sizes of its files."""
        return name.rpartition("/")[2], self.size(name)


def _name_changes(then: _Side, now: _Side, gone: Sequence[str], new: Sequence[str]) -> list[Change]:
    """Return what became of the samples whose names one list alone has."""
    new_names = _new_names(then, now, gone, new)
    pairs: list[str] = []
    look_alikes: list[str] = []
    for name, new_name in new_names.items():
        if _composed(name) == _composed(new_name):
            look_alikes.append(name)
        else:
            pairs.append(f"{shown_name(name)} to {shown_name(new_name)}")
    really_gone = _without(gone, new_names.keys())
    really_new = _without(new, new_names.values())
    return [
        Change("sample", "is gone", _shown(really_gone)),
        Change("sample", "is new", _shown(really_new)),
        Change("sample", "is renamed", pairs),
        Change("sample", "is named in another form of Unicode (NFC, NFD)", _shown(look_alikes)),
    ]


def _new_names(then: _Side, now: _Side, gone: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """Return the new names of samples that most likely have another name now.

    First come those that look the same: some file systems and tools write an accent apart from its
    letter. Then those that keep the last part of it, then those whose size no other has.
    """
    alike = _matched(_traits(gone, _composed), _traits(new, _composed))
    if alike:
        others = _new_names(then, now, _without(gone, alike), _without(new, alike.values()))
        return alike | others
    last_parts_then = _traits(gone, then.last_part)
    last_parts_now = _traits(new, now.last_part)
    new_names = _matched(last_parts_then, last_parts_now)
    sizes_then = _traits(_without(gone, new_names.keys()), then.size)
    sizes_now = _traits(_without(new, new_names.values()), now.size)
    return new_names | _matched(sizes_then, sizes_now)


def _composed(name: str) -> str:
    """Return a name with each accent in its letter, where Unicode has one character for both."""
    return unicodedata.normalize("NFC", name)


def _without(names: Sequence[str], others: Iterable[str]) -> list[str]:
    """Return the names that are not among others, in their order."""
    excluded = {*others}
    return [name for name in names if name not in excluded]


def _matched(then: Mapping[Hashable, str], now: Mapping[Hashable, str]) -> dict[str, str]:
    """Return the name now of each name then, where they have a trait in common."""
    new_names: dict[str, str] = {}
    for trait, name in then.items():
        if trait in now:
            new_names[name] = now[trait]
    return new_names


def _traits(names: Sequence[str], trait_of: Callable[[str], Hashable]) -> dict[Hashable, str]:
    """Return the name that has a trait, where one name alone has it."""
    traits = [trait_of(name) for name in names]
    counts = Counter(traits)
    name_of = dict(zip(traits, names, strict=True))
    for trait, count in counts.items():
        if trait is None or count > 1:
            del name_of[trait]
    return name_of


def _file_changes(then: _Side, now: _Side, names: Sequence[str]) -> list[Change]:
    """Return what became of the files of samples that are there in both lists."""
    sizes_then = then.listing.sizes
    sizes_now = now.listing.sizes
    if sizes_then is None:
        return []
    if sizes_now is None or sizes_now.shape[1] != sizes_then.shape[1]:
        return [Change("sample", "has no files any more", _shown(names))]
    before = then.rows(names, sizes_then)
    after = now.rows(names, sizes_now)
    is_lost = (after == NO_FILE) & (before != NO_FILE)
    is_changed = (after != before) & ~is_lost
    return [
        Change("file", "is gone", _files(names, is_lost)),
        Change("file", "has another size", _files(names, is_changed)),
    ]


def _files(names: Sequence[str], mask: "np.ndarray[Any, np.dtype[np.bool_]]") -> list[str]:
    """Return the names of the files that a mask of `[samples, files]` chooses."""
    files: list[str] = []
    for place, column in np.argwhere(mask).tolist():
        name = shown_name(names[place])
        files.append(f"mask of {name}" if column else name)
    return files


def _relabelled(then: _Side, now: _Side, names: Sequence[str]) -> list[str]:
    """Return the samples whose class is another, with both classes."""
    targets_then = then.listing.targets
    targets_now = now.listing.targets
    if targets_then is None or targets_now is None:
        return []
    before = then.rows(names, targets_then)
    after = now.rows(names, targets_now)
    examples: list[str] = []
    for place in np.flatnonzero(before != after).tolist():
        name = shown_name(names[place])
        examples.append(f"{name}: class {before[place]}, now {after[place]}")
    return examples


def _reordered(then: Sequence[str], now: Sequence[str]) -> list[Change]:
    """Return the places of two lists of the same names that hold other names."""
    moved: list[str] = []
    for place, (before, after) in enumerate(zip(then, now, strict=True)):
        if before != after:
            moved.append(f"sample {place} was {shown_name(before)} and is {shown_name(after)}")
    if not moved:
        return []
    return [Change("sample", "is in another place", moved)]


def _shown(names: Sequence[str]) -> list[str]:
    return [shown_name(name) for name in names]


def shown_name(name: str) -> str:
    """Return a name as messages show it: on one line, and not too long."""
    return shortened(printable(name), _MOST_NAME)
