"""JSON documents that carry a hash of their own content, so that a flipped byte in one is noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

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


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
