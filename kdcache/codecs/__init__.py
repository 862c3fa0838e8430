"""Codecs: logits of a view <-> one fixed-width record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdcache.codecs.full import Full
from kdcache.codecs.protocol import Codec, DenseRows, TeacherRows
from kdcache.codecs.topk import TopK
from kdcache.errors import UsageError
from kdcache.spec import Spec, build, choose, parse_spec

__all__ = [
    "Codec",
    "DenseRows",
    "Full",
    "TeacherRows",
    "TopK",
    "codec_from_dict",
    "codec_to_dict",
    "open_codec",
]

_CODECS: dict[str, type[Any]] = {cls.name: cls for cls in (Full, TopK)}


def open_codec(text: str, *, classes: int) -> Codec:
    """Return the codec that a spec names, such as `topk:k=16` or `full:dtype=float32`.

    Raises:
        UsageError: an unknown codec or option; the nearest is suggested.
        CodecError: an option out of range.
    """
    spec = parse_spec(text)
    if spec.arg is not None:
        raise UsageError(f"codec {text!r}: {spec.arg!r} is not key=value; write for example topk:k=16")
    return _build(spec.name, spec.options, classes)


def codec_to_dict(codec: Codec) -> dict[str, Any]:
    """Return `{name, configuration}` as a manifest keeps it."""
    configuration = dataclasses.asdict(codec)  # type: ignore[call-overload]
    del configuration["classes"]
    return {"name": codec.name, "configuration": configuration}


def codec_from_dict(stored: Mapping[str, Any], *, classes: int) -> Codec:
    """Return the codec that a manifest keeps.

    Raises:
        UsageError: a codec or option that this version does not know.
    """
    return _build(stored["name"], stored["configuration"], classes)


def codec_spec(codec: Codec) -> str:
    """Return the spec that opens `codec`."""
    stored = codec_to_dict(codec)
    return str(Spec(stored["name"], None, stored["configuration"]))


def _build(name: str, options: Mapping[str, Any], classes: int) -> Codec:
    choose(name, _CODECS, "codec")
    if "classes" in options:
        raise UsageError(f"codec {name}: classes come from the source, they are not an option")
    codec: Codec = build(_CODECS[name], {**options, "classes": classes}, f"codec {name}")
    return codec
