"""The codecs by name: opened from a spec or from a manifest, and told as one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.codecs.cosine import Cosine
from kdcache.codecs.cosine_maps import MOST_LOGITS
from kdcache.codecs.full import Full
from kdcache.codecs.lowrank import LowRank
from kdcache.codecs.positions import row_codec, with_layout, with_rows
from kdcache.codecs.protocol import Codec, RowCodec
from kdcache.codecs.tail import Tail, with_tail
from kdcache.codecs.topk import TopK
from kdcache.config.fields import build, is_option
from kdcache.config.names import choose
from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import UsageError
from kdcache.positions import Layout, One

FEW_CLASSES = 64
"""Up to here all logits in float16 take no more than 128 bytes."""
DEFAULT_ERROR = 0.3
"""By how much of its norm the default of many classes may turn DIST's gradient: students that DIST
trained from records of that error were none the worse (docs/results/codecs.md)."""

CODECS: dict[str, type[Any]] = {cls.name: cls for cls in (Full, LowRank, Cosine, TopK)}


def check_codec(text: str) -> None:
    """Check the spec of a codec as far as that does not take the number of classes.

    Raises:
        UsageError: see `open_codec`.
    """
    codec = CODECS.get(parse_spec(text).name)
    open_codec(text, classes=getattr(codec, "most_classes", 1))


def open_codec(text: str, *, classes: int) -> RowCodec:
    """Return the codec that a spec names, such as `topk:k=16` or `full:dtype=float32`.

    Raises:
        UsageError: an unknown codec or option, of which the nearest is suggested, or an option out
            of range.
    """
    spec = parse_spec(text)
    if spec.arg is not None:
        raise UsageError(
            f"codec {text!r}: {spec.arg!r} is not key=value; write for example topk:k=16"
        )
    return _build(spec.name, spec.options, classes)


def default_codec(classes: int, layout: Layout) -> str:
    """Return the spec of the codec for so many classes at such positions, where none is chosen
    (docs/results/codecs.md has the measurements).

    Of `lowrank` it says what is lost, not a step: a step that suits one teacher erases the logits
    of another, or takes bytes for nothing.
    """
    if can_code_whole(classes, layout) and not layout.has_background:
        return "cosine"
    if layout.activation == "sigmoid" or layout.has_background:
        return "full:dtype=uint8"
    if classes <= FEW_CLASSES:
        return "full:dtype=float16"
    return f"lowrank:error={DEFAULT_ERROR:g}"


def can_code_whole(classes: int, layout: Layout) -> bool:
    """Return whether the maps or levels of a view can be coded as a whole, by `cosine`."""
    if layout.num_positions == 1 or layout.has_boxes:
        return False
    num_logits = layout.num_positions * classes
    return classes <= Cosine.most_classes and num_logits <= MOST_LOGITS


def codec_to_dict(codec: Codec) -> dict[str, Any]:
    """Return `{name, configuration}` as a manifest keeps it."""
    codec = row_codec(codec)
    configuration = _without(_options(codec), _older_defaults(codec.name))
    return {"name": codec.name, "configuration": configuration}


def codec_from_dict(
    stored: Mapping[str, Any],
    *,
    classes: int,
    fit: Mapping[str, np.ndarray] | None = None,
    layout: Layout | None = None,
) -> Codec:
    """Return the codec that a manifest keeps.

    Args:
        stored: its name and configuration.
        classes: of a row of logits.
        fit: the arrays of its fit, if it has one.
        layout: what the positions of a view are; by default it has one.

    Raises:
        UsageError: a codec or option that this version does not know.
        CodecError: arrays that are not a fit for these classes.
    """
    options = {**_older_defaults(stored["name"]), **stored["configuration"]}
    codec = _build(stored["name"], options, classes)
    if fit is not None:
        codec = codec.with_fit_arrays(fit)
    return with_layout(codec, layout or One())


def set_tail(codec: Codec, tail: Tail) -> Codec:
    """Return `codec` with another tail policy for what it decodes; its records and its place in a
    manifest stay as they are.

    Raises:
        UsageError: a codec without a tail.
    """
    return with_rows(codec, with_tail(row_codec(codec), tail))


def codec_spec(codec: Codec) -> str:
    """Return the spec that opens `codec`, without the options that are at their defaults unless
    that leaves none."""
    codec = row_codec(codec)
    fields = dataclasses.fields(codec)  # type: ignore[arg-type]
    defaults = {field.name: field.default for field in fields}
    options = _options(codec)
    chosen = _without(options, defaults) or options
    return str(Spec(codec.name, None, {name: _written(chosen[name]) for name in chosen}))


def _written(value: Any) -> Any:
    """Return an option as pages and people write it: a whole number without a point."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _without(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not at their defaults."""
    return {name: value for name, value in options.items() if value != defaults.get(name)}


def _options(codec: Codec) -> dict[str, Any]:
    """Return the options of a codec that have a value."""
    options = {}
    for name in _option_names(codec):
        value = getattr(codec, name)
        if value is not None:
            options[name] = value
    return options


def _option_names(codec: Any) -> list[str]:
    """Return the names of the options of a codec, or of a class of codecs."""
    names = []
    for field in dataclasses.fields(codec):
        if field.name == "classes" or not is_option(field):
            continue
        names.append(field.name)
    return names


def _older_defaults(name: str) -> Mapping[str, Any]:
    """Return what a manifest means that does not say an option, for options that came later."""
    older_defaults: Mapping[str, Any] = getattr(CODECS.get(name), "older_defaults", {})
    return older_defaults


def _build(name: str, options: Mapping[str, Any], classes: int) -> RowCodec:
    """Return the codec of a name with these options."""
    choose(name, CODECS, "codec")
    if "classes" in options:
        raise UsageError(f"codec {name}: classes come from the source, they are not an option")
    for option in options:
        choose(option, _option_names(CODECS[name]), f"codec {name} key")
    codec: RowCodec = build(CODECS[name], {**options, "classes": classes}, f"codec {name}")
    return codec
