"""JSON documents that carry a hash of their own content, so that a flipped byte in one is
noticed."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from kdcache.errors import CacheError, brief, quoted

Content = Mapping[str, Any]
"""What a document says, by name."""
_MOST_DEPTH = 64
_FIELD = "digest"
_MOST_NAMES = 3
"""Unknown fields that a message names."""


def parsed(data: bytes, *, most_values: int) -> Any:
    """Return the JSON document in `data`, which may come from anywhere.

    Args:
        data: the document; who reads it has bounded its bytes.
        most_values: how many values it may hold.

    Raises:
        ValueError: no JSON, not UTF-8, a key twice in one object, a number that is not finite,
            nested too deeply, or of too many values.
    """
    # before anything is made of it: each value would take many times its bytes in memory
    num_marks = data.count(b",") + data.count(b"[") + data.count(b"{")
    if num_marks > most_values:
        raise ValueError(f"it holds more than {most_values} values")
    too_deep = ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise too_deep from None
    level = [document]
    for _ in range(_MOST_DEPTH):
        level = _one_deeper(level)
    if level:
        raise too_deep
    return document


def with_digest(content: Content) -> dict[str, Any]:
    """Return `content` with its digest added."""
    return {**content, _FIELD: digest(content)}


def checked_content(document: Any) -> dict[str, Any]:
    """Return the content of a document with a digest, which is checked.

    Raises:
        ValueError: the digest is absent or is not that of the content.
    """
    if not isinstance(document, dict) or _FIELD not in document:
        raise ValueError("it has no digest")
    content = {**document}
    if content.pop(_FIELD) != digest(content):
        raise ValueError("its digest does not match its content")
    return content


def refuse_unknown(content: Content, names: Collection[str], where: str) -> None:
    """Check that a whole document has no fields but those of these names.

    Raises:
        CacheError: it has; they may change what the others mean.
    """
    others = sorted({*content} - {*names})
    if not others:
        return
    listing = ", ".join(brief(name) for name in others[:_MOST_NAMES])
    if len(others) > _MOST_NAMES:
        listing += f" and {len(others) - _MOST_NAMES} more"
    raise CacheError(
        f"{where}: written by a newer kdcache, with fields that this one does not know"
        f" ({listing}): upgrade kdcache"
    )


def digest(content: Content) -> str:
    """Return the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(
            f"a key comes twice in one object, which begins with {quoted(pairs[0][0])}"
        )
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{brief(text)} is a number past the range of floats")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _one_deeper(level: list[Any]) -> list[Any]:
    """Return what the objects and lists of a level hold."""
    inner: list[Any] = []
    for value in level:
        if isinstance(value, dict):
            inner += value.values()
        elif isinstance(value, list):
            inner += value
    return inner
