"""Names that users give, among those that there are."""

import difflib
from collections.abc import Iterable, Sequence

from kdcache.errors import UsageError, brief, quoted

_MOST_LISTED = 30
"""Names that a message lists."""
_MOST_LISTED_CHARS = 370
"""Characters of these names: a message is cut in its middle beyond `errors.MOST_MESSAGE`."""


def choose(name: str, names: Iterable[str], what: str, *, all_in: str = "") -> str:
    """Return `name` if it is among `names`; otherwise raise a UsageError that suggests the
    nearest.

    Args:
        name: that is looked for.
        names: that there are.
        what: they name.
        all_in: the page that has all of them, told where they are too many for a message.
    """
    names = sorted(names)
    if name in names:
        return name
    hint = ""
    nearest = difflib.get_close_matches(brief(name), names, n=1)
    if nearest:
        hint = f"; did you mean {nearest[0]!r}?"
    raise UsageError(f"unknown {what} {quoted(name)}{hint} ({_choices(name, names, all_in)})")


def _choices(name: str, names: Sequence[str], all_in: str) -> str:
    """Return which names there are; of many those that hold `name`, and how many there are."""
    names_text = ", ".join(names)
    if len(names) <= _MOST_LISTED and len(names_text) <= _MOST_LISTED_CHARS:
        return f"known: {names_text or 'none'}"
    choices = f"{len(names)} are known"
    if all_in:
        choices += f", all in {all_in}"
    alike_text = ", ".join([known for known in names if name and name in known])
    if 0 < len(alike_text) <= _MOST_LISTED_CHARS:
        choices += f"; with {quoted(name)} in it: {alike_text}"
    return choices
