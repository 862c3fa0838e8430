"""JSON documents that carry a hash of their own content, so that a flipped byte in one is noticed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from kdcache.errors import CacheError

MOST_DOCUMENT = 16 * 2**20
"""Bytes of a commit or of a manifest."""
_MOST_VALUES = 1_000_000  # a unit of 65,536 rows that all are absent has a third of it
_MOST_DEPTH = 64
_FIELD = "digest"


def parsed(data: bytes) -> Any:
    """Return the JSON document in `data`, which may come from anywhere.

    Raises:
        ValueError: no JSON, not UTF-8, a key twice in one object, NaN, nested too deeply, or of too many values.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES} values")  # each would take many times its bytes in memory
    too_deep = ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise too_deep from None
    level = [document]
    for _ in range(_MOST_DEPTH):
        level = [value for one in level if isinstance(one, dict | list) for value in _values(one)]
    if level:
        raise too_deep
    return document


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with its digest added."""
    return {**content, _FIELD: digest(content)}


def unseal(document: Any) -> dict[str, Any]:
    """Return the content of a sealed document.

    Raises:
        ValueError: the digest is absent or is not that of the content.
    """
    if not isinstance(document, dict) or _FIELD not in document:
        raise ValueError("it has no digest")
    content = {key: value for key, value in document.items() if key != _FIELD}
    if document[_FIELD] != digest(content):
        raise ValueError("its digest does not match its content")
    return content


def refuse_unknown(content: Mapping[str, Any], cls: type, where: str) -> None:
    """Check that a whole document has no fields but those of the dataclass `cls`.

    Raises:
        CacheError: it has; they may change what the others mean.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    if others := ", ".join(sorted(set(content) - known)):
        raise CacheError(
            f"{where}: written by a newer kdcache, with fields that this one does not know ({others}): upgrade kdcache"
        )


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key comes twice in one object, which begins with {pairs[0][0][:40]!r}")
    return values


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _values(one: Any) -> Any:
    return one.values() if isinstance(one, dict) else one
