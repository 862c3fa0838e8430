"""The gate of texts that users give, on a command line, in settings or in a program: none is empty,
and none is a path that only a shell understands."""

import os
import re

from kdcache.errors import UsageError, quoted

_HOME = re.compile(r"(^|[:=,])~(?=/|$)")
"""A user's own folder, in the place of a path."""


def require_text(text: str, what: str) -> None:
    """Raise a UsageError if a text that was given is empty, or holds a path below `~`.

    A shell replaces `~` at the start of a word, but not after `--data=imagefolder:`. Python never
    does: it would make a folder of that name.
    """
    if not text.strip():
        raise UsageError(f"{what} is empty; give a value, or leave it out")
    if _HOME.search(text):
        home = os.environ.get("HOME", "$HOME")
        whole = _HOME.sub(lambda match: match[1] + home, text)
        raise UsageError(f"{what} is {quoted(text)}; ~ stays as it is here: write {whole}")
