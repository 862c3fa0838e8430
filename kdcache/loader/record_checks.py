"""Whether the records of a cache hold what a loss needs, and how far they turn its gradient."""

from collections.abc import Mapping

from kdcache.cache import Cache
from kdcache.codec_error.gradients import is_far
from kdcache.codecs import Codec, Tail, codec_spec, default_codec, row_codec
from kdcache.codecs.tail import has_tail
from kdcache.errors import UsageError
from kdcache.losses import Loss
from kdcache.positions import Layout
from kdcache.runtime.console import say

_AXES_WITH_ANCHORS = 3
"""Of a segment whose places have anchors side by side."""


def check_tail(cache: Cache, tail: Tail, *, is_mapped: bool) -> None:
    """Raise a UsageError if the records of `cache` have no tail that could be spread, or if it
    would have to follow a student of other classes."""
    if tail != "uniform" and not has_tail(row_codec(cache.codec)):
        name = f"{codec_spec(cache.codec)} of cache {cache}"
        raise UsageError(f"tail {tail!r}: {name} leaves no tail that could be spread; leave it out")
    if tail == "ghost" and is_mapped:
        raise UsageError(
            f"tail 'ghost' follows the student over the classes of the teacher, and cache {cache}"
            " has a map of classes, so that these are others; use tail uniform or none"
        )


def check_records(cache: Cache, loss: Loss, spec: str, tail: Tail = "uniform") -> None:
    """Check that the records of `cache` hold what the loss of this spec needs, and that it reads
    their tail if one is chosen; say so if they turn its gradient far, or if labels that were
    imported are taken at another temperature.

    Raises:
        UsageError: they do not, or it does not.
    """
    name = f"{codec_spec(cache.codec)} of cache {cache}"
    layout = cache.manifest.layout
    if tail != "uniform" and not any(_reads_tail(part, layout) for part in loss.parts):
        raise UsageError(
            f"tail {tail!r} is of a softmax of each position, and loss {spec} takes the logits of"
            f" {name}, in which the tail is even; leave it out"
        )
    if "label" in loss.requires and not cache.codec.keeps_all:
        raise UsageError(
            f"loss {spec} needs the label's logit, which {name} keeps only among the largest; "
            "use a cache with codec full or lowrank, or loss dist or kl"
        )
    tau = _highest_tau(loss)
    if cache.manifest.made_by.imported_from is not None and tau > 1:
        say(
            f"note: labels of cache {cache} were imported, and say nothing of most classes; loss"
            f" {spec} has them at tau {tau:g}, where the even share of these outweighs the labels:"
            " stay at tau=1"
        )
    elif loss.batch_tau is not None:
        _note_error(cache, loss.batch_tau, name)


def _reads_tail(part: Loss, layout: Layout) -> bool:
    """Return whether a loss takes a teacher's softmax of each position by itself: logits, also
    those of anchors side by side or of chosen positions, have an even tail."""
    standardizes = getattr(part, "standardize", False)  # takes a deviation of the logits alone
    if "logits" in part.requires and not standardizes:
        return False
    if "teacher" not in part.requires or "positions" in part.requires:
        return False
    activation = getattr(part, "activation", None) or layout.activation
    if activation == "sigmoid":
        return False
    return all(len(segment.shape) < _AXES_WITH_ANCHORS for segment in layout.segments)


def _highest_tau(loss: Loss) -> float:
    """Return the highest temperature at which a loss, or a part of it, has the teacher; 1 where
    none has a temperature."""
    taus = [1.0]
    for part in loss.parts:
        taus += [getattr(part, "tau", 1.0), *getattr(part, "taus", ())]
    return max(taus)


def _note_error(cache: Cache, tau: float, name: str) -> None:
    """Say how far the records turn DIST's gradient, at the nearest temperature that was measured,
    if it is far or not known."""
    codec = cache.codec
    manifest = cache.manifest
    errors = manifest.gradient_error
    origin, origin_errors = manifest.origin_error or ("", {})
    distance = _far_text(errors or origin_errors, tau, codec)
    if errors and distance:
        message = f"{name} turns {distance}, as measured when it was made"
    elif distance:
        message = (
            f"{name} was recoded from {origin}, which turns {distance}: it turns it further, how"
            " far was not measured"
        )
    elif errors or codec.keeps_all:
        return
    else:
        message = f"how far {name} turns the gradient of DIST was not measured"
    if codec.keeps_all:
        way_out = "a smaller step, or codec full, is nearer"
    else:
        layout = manifest.layout
        nearer = "lowrank"
        if layout.activation == "sigmoid":  # which lowrank is not for
            nearer = default_codec(manifest.classes, layout)
        way_out = (
            f"gamma's term weighs the classes that it drops like the others; codec {nearer} keeps"
            " them all"
        )
    say(f"note: {message}; {way_out}")


def _far_text(errors: Mapping[float, float], tau: float, codec: Codec) -> str:
    """Return what is said of the error at the temperature nearest to `tau`; nothing where it is not
    far."""
    nearest = min(errors, key=lambda at: abs(at - tau), default=None)
    if nearest is None or not is_far(errors[nearest], codec):
        return ""
    return f"the gradient of DIST at tau {nearest:g} by {100 * errors[nearest]:.0f} % of its norm"
