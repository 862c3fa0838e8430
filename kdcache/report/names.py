"""Short names for groups of runs, made of the settings in which they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import UsageError, one_line, printable
from kdcache.runtime.wording import without_common_folder

MOST_CHARS = 48
"""Characters of a name."""
_SPEAKING = ("loss", "student", "cache", "teacher", "data", "recipe")
"""Settings whose values tell which setting they are of."""
OF_CACHE = "that of the cache"
"""What a run trained with that does not say it, since its cache does; its name says the cache."""
_SHORT = 16
"""Characters of a value that is not shortened."""


def names_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for each of some groups, no two alike.

    Args:
        settings: of each group the values of the same keys, in which groups differ.
    """
    pieces: list[list[str]] = [[] for _ in settings]
    for key in settings[0]:
        values = [_text(group[key]) for group in settings]
        for place, value in enumerate(_short_values(values)):
            pieces[place].append(_piece(key, value))
    return _distinct([_joined(texts) for texts in pieces])


def _joined(pieces: Sequence[str]) -> str:
    """Return pieces as one name; of too many those in the middle are left out whole."""
    pieces = [piece for piece in pieces if piece]
    whole = printable(", ".join(pieces))
    if len(whole) <= MOST_CHARS:
        return whole
    for num_hidden in range(1, len(pieces) - 1):
        start = (len(pieces) - num_hidden + 1) // 2
        shown = [*pieces[:start], "...", *pieces[start + num_hidden :]]
        name = printable(", ".join(shown))
        if len(name) <= MOST_CHARS:
            return name
    return one_line(", ".join(pieces), MOST_CHARS)


def _piece(key: str, value: str) -> str:
    last = key.rpartition(".")[2]
    if not value:
        return ""
    if value == "none":
        return f"no {last}"
    if key in _SPEAKING:
        return value
    return f"{last} {value}"


def _text(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if value == OF_CACHE:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " and ".join(map(str, value))
    return str(value)


def _short_values(texts: Sequence[str]) -> list[str]:
    """Return texts as short as they can be while unlike ones stay so."""
    values = _without_folders(texts)
    if max(map(len, values)) <= _SHORT:
        return values
    specs = [_spec(value) for value in values]
    heads = [str(Spec(spec.name, spec.arg)) for spec in specs]
    if len(set(heads)) == len(set(values)):
        return heads
    differing: list[str] = []
    for head, spec in zip(heads, specs, strict=True):
        differing.append(_with_differing_options(head, spec, specs))
    return differing


def _without_folders(texts: Sequence[str]) -> list[str]:
    """Return paths without the folders that all have in common."""
    different = sorted(set(texts) - {"none", ""})
    if len(different) < 2:
        return list(texts)
    short = dict(zip(different, without_common_folder(different)[1], strict=True))
    return [short.get(text, text) for text in texts]


def _spec(text: str) -> Spec:
    try:
        return parse_spec(text)
    except UsageError:  # no spec
        return Spec(text)


def _with_differing_options(head: str, spec: Spec, specs: Sequence[Spec]) -> str:
    """Return a spec's head with those of its options that others of that head have otherwise."""
    options = {}
    for key, value in spec.options.items():
        for other in specs:
            is_alike = (other.name, other.arg) == (spec.name, spec.arg)
            if is_alike and other.options.get(key) != value:
                options[key] = value
    texts = str(Spec("x", None, options)).removeprefix("x").removeprefix(":")
    if not texts:
        return head
    return f"{head} {texts}"


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names, with a number behind those that came before."""
    distinct: list[str] = []
    for name in names:
        number = 1
        unique = name
        while unique in distinct:
            number += 1
            unique = f"{name} ({number})"
        distinct.append(unique)
    return distinct
