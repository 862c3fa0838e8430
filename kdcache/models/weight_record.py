"""What weights were trained as: the spec of the model, in the metadata of a run's weight files.

It is compared with the spec that opens them: the same weights mean something else in a model of
another stride or normalisation, and nothing in their names or shapes tells.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from kdcache.config.spec import Spec, Value, parse_spec
from kdcache.errors import ModelError, UsageError, shortened
from kdcache.runtime.console import say
from kdcache.version import __version__

ORIGINS = frozenset(("weights", "weights_key", "pretrained"))
"""Options of a model's spec that say where its weights come from, and not what they mean."""

_SPEC = "kdcache_spec"
_LONGEST = 2000
_SHOWN = 160
_VIEWS = frozenset(("mean", "std", "input_size"))
_IN_TRAINING = frozenset(
    (
        "attention_dropout",
        "attn_drop_rate",
        "drop_block_rate",
        "drop_path_rate",
        "drop_rate",
        "dropout",
        "patch_drop_rate",
        "pos_drop_rate",
        "proj_drop_rate",
        "stochastic_depth_prob",
        "weights_backbone",
    )
)
"""Options on which the logits of a trained model do not depend."""


def weight_record(spec: str) -> dict[str, str]:
    """Return the metadata of a file of weights that were trained as `spec` says."""
    return {"kdcache": __version__, _SPEC: str(_without(parse_spec(spec), ORIGINS))}


def require_recorded(metadata: Mapping[str, str], spec: Spec, path: Path) -> None:
    """Compare what weights were trained as with the spec that opens them.

    A spec that leaves out an option has forgotten it, and is refused. One that says another value
    means it, which is only told.

    Raises:
        ModelError: the spec leaves out an option that the weights were trained with.
    """
    unseen = ORIGINS | _IN_TRAINING
    then = _recorded(metadata, unseen)
    now = _without(spec, unseen)
    if then is None or then == now:
        return
    trained = f"weights file {path} was trained as {shortened(str(then), _SHOWN)}"
    forgotten = _forgotten(then, now)
    if forgotten:
        texts = [_option_text(name, then.options[name]) for name in forgotten]
        options = shortened(", ".join(texts), _SHOWN)
        raise ModelError(
            f"{trained}, and its spec here leaves out {options}, without which the same weights "
            "give other logits: add it, or say another value if that is meant"
        )
    say(f"note: {trained}, and is opened as {now}: it may give other logits than it did")


def _forgotten(then: Spec, now: Spec) -> list[str]:
    """Return the options that a spec leaves out; another model's own options are another's."""
    is_same_model = (then.name, then.arg) == (now.name, now.arg)
    left_out = [name for name in then.options if name not in now.options]
    return [name for name in left_out if is_same_model or name in _VIEWS]


def _recorded(metadata: Mapping[str, str], unseen: Collection[str]) -> Spec | None:
    text = metadata.get(_SPEC, "")
    try:
        return _without(parse_spec(text), unseen) if len(text) <= _LONGEST else None
    except UsageError:  # none, or not as we write it
        return None


def _without(spec: Spec, names: Collection[str]) -> Spec:
    kept = {name: value for name, value in sorted(spec.options.items()) if name not in names}
    return Spec(spec.name, spec.arg, kept)


def _option_text(name: str, value: Value) -> str:
    return str(Spec("", None, {name: value})).removeprefix(":")
