"""What is looked at before the JSON of a manifest is believed: its version, its task and positions,
its codec and the dtype of its records."""

from typing import Any

import numpy as np

from kdcache.cache.documents.document import Content
from kdcache.cache.documents.limits import require_known_task
from kdcache.cache.documents.positions import layout_of, require_known_layout
from kdcache.codecs import codec_from_dict, codec_spec
from kdcache.errors import CacheError, CodecError, UsageError, quoted

FORMAT_VERSION = 1


def version_of(document: Any, where: str) -> Any:
    """Return the format version that a document says, if any.

    Raises:
        CacheError: that of a newer kdcache.
    """
    if not isinstance(document, dict):
        return None
    version = document.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise CacheError(
            f"{where} has format version {quoted(version)}; "
            f"this kdcache reads up to {FORMAT_VERSION}: upgrade kdcache"
        )
    return version


def require_known(content: Content, where: str) -> None:
    """Raise a CacheError if a manifest is for a task, or for positions, that this version does not
    know: a newer one may."""
    try:
        require_known_task(content.get("task"))
        require_known_layout(content.get("positions"))
    except ValueError as error:
        raise CacheError(f"{where}: {error}") from error


def check_records(content: Content, where: str) -> None:
    """Check that the codec is known, and that the records are its own, as far as that does not take
    its fit.

    Raises:
        CacheError: a codec or an option that this version does not know.
        ValueError: a fit where there can be none, or records of another codec.
    """
    table = content["codec"]
    try:
        layout = layout_of(content)
        row_width = layout.row_width(content["classes"])
        codec = codec_from_dict(table, classes=row_width, layout=layout)
    except (UsageError, CodecError) as error:
        raise CacheError(
            f"{where}: its codec cannot be opened: {error}; use the kdcache that wrote it"
        ) from error
    needs_fit = codec.record_dtype.itemsize == 0
    has_fit = "fit" in table
    if needs_fit and not has_fit:
        raise ValueError(f"codec {codec.name} has no fit, which it needs")
    if has_fit and not needs_fit:
        raise ValueError(f"codec {codec.name} has a fit, which it does not need")
    dtype = dtype_of(content["record_dtype"])
    if not needs_fit and dtype != codec.record_dtype:
        raise ValueError(
            f"its records {quoted(dtype)} are not those of {codec_spec(codec)},"
            f" {quoted(codec.record_dtype)}"
        )


def dtype_of(lists: list[Any]) -> "np.dtype[Any]":
    """Return the dtype of fields as the JSON has them: with lists where numpy wants tuples."""
    fields: list[Any] = []
    for name, kind, *shapes in lists:
        tuples = [tuple(shape) for shape in shapes]
        fields.append((name, kind, *tuples))
    return np.dtype(fields)
