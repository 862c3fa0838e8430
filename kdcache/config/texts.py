"""The gate of texts that users give, on a command line, in settings or in a program: none is empty,
and none is a path below a `~` that only a shell understands."""

import os

from kdcache.errors import UsageError, quoted


def require_text(text: str, what: str) -> None:
    """Raise a UsageError if a text that was given is empty, or a path below `~`."""
    require_given(text, what)
    require_whole_path(text, what)


def require_given(text: str, what: str) -> None:
    """Raise a UsageError if a text is empty, as that of a variable that is not set."""
    if not text.strip():
        raise UsageError(f"{what} is empty; give a value, or leave it out")


def require_whole_path(text: str, what: str) -> None:
    """Raise a UsageError if a text is a path below `~`.

    A shell replaces `~` at the start of a word, but not after `--data=` or `imagefolder:`. Python
    never does: it would make a folder of that name.
    """
    if text == "~" or text.startswith("~/"):
        whole = os.environ.get("HOME", "$HOME") + text[1:]
        raise UsageError(f"{what} is {quoted(text)}; ~ stays as it is here: write {whole}")
