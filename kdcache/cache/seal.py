"""JSON documents that carry a hash of their own content, so that a flipped byte in one is noticed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kdcache.errors import CacheError

_FIELD = "digest"


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
