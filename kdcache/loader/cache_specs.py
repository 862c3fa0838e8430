"""The caches that a loader is told, `PATH[,weight=X][,classes=FILE.csv[,names=FILE]]`
each."""

import os
from dataclasses import dataclass

from kdcache.config.fields import build
from kdcache.config.spec import parse_spec
from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What is said of one cache among several."""

    weight: float = 1.0
    """Of its teacher in the mean over all."""
    classes: str | None = None
    """A file that maps the student's classes to those of its teacher."""
    names: str | None = None
    """What names the classes of its teacher, for that map: a file with a name on each line, a run,
    or its weights."""


NO_OPTIONS = CacheOptions()
"""Of a cache of which nothing is said."""


def parse_cache(text: str) -> tuple[str, CacheOptions]:
    """Return the path or address of a cache, and its options.

    A folder that is there may have any name: none of it is taken for an option.

    Raises:
        UsageError: an unknown option, or a weight that is not above 0.
    """
    if os.path.isdir(text):  # noqa: PTH112 # which takes any text
        return text, NO_OPTIONS
    spec = parse_spec(f"cache:{text}")
    options = build(CacheOptions, spec.options, f"cache {text!r}")
    if not 0 < options.weight < float("inf"):
        raise UsageError(f"cache {text!r}: weight is {options.weight}; it must be above 0")
    if options.names is not None and options.classes is None:
        raise UsageError(
            f"cache {text!r}: names are for a map of classes, and there is none; add"
            " classes=FILE.csv, or leave names out"
        )
    return str(spec.arg), options
