"""What weights were trained as: the spec of the model, in the metadata of a run's weight files.

It is compared with the spec that opens them: the same weights mean something else in a model of
another stride or normalisation, and nothing in their names or shapes tells. Beside it lies what
`weight_facts.py` has, which is used and not compared.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from kdcache.config.spec import Spec, Value, parse_spec
from kdcache.errors import ModelError, UsageError, shortened
from kdcache.models.weight_facts import WeightFacts, facts_of
from kdcache.runtime.console import say
from kdcache.shapes import sides
from kdcache.version import __version__

ORIGINS = frozenset(("head", "weights", "weights_key", "pretrained"))
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
_OF_BOXES = frozenset(
    (
        "detections_per_img",
        "iou_thresh",
        "nms_thresh",
        "positive_fraction",
        "score_thresh",
        "topk_candidates",
        "bg_iou_thresh",
        "fg_iou_thresh",
    )
)
_OF_STAGES = ("box_", "rpn_")
"""Options of torchvision's detectors that say which boxes are trained on and kept, not what logits
these have; those of two stages begin so."""
_OF_PROPOSALS = frozenset(
    ("rpn_nms_thresh", "rpn_post_nms_top_n_test", "rpn_pre_nms_top_n_test", "rpn_score_thresh")
)
"""Those that say which proposals a cache holds."""
OF_RESIZING = frozenset(("max_size", "min_size"))
"""Options of the detectors' own resizing, which is left out: older records may have them."""


def weight_record(spec: str, facts: WeightFacts | None = None) -> dict[str, str]:
    """Return the metadata of a file of weights that were trained as `spec` says.

    Args:
        spec: of the model.
        facts: what else is to be said of it.
    """
    record = {"kdcache": __version__, _SPEC: str(without_options(parse_spec(spec), ORIGINS))}
    if facts is not None:
        record |= facts.to_metadata()
    return record


def require_recorded(metadata: Mapping[str, str], spec: Spec, path: Path) -> None:
    """Compare what weights were trained as with the spec that opens them.

    A spec that leaves out an option has forgotten it, and is refused. One that says another value
    means it, which is only told.

    Raises:
        ModelError: the spec leaves out an option that the weights were trained with.
    """
    recorded_spec = _recorded_spec(metadata)
    opened_spec = _without_same_size(_compared(spec), recorded_spec, metadata)
    if recorded_spec is None or recorded_spec == opened_spec:
        return
    lead = f"weights file {path} was trained as {shortened(str(recorded_spec), _SHOWN)}"
    forgotten_options = _forgotten_options(recorded_spec, opened_spec)
    if forgotten_options:
        options = shortened(", ".join(forgotten_options), _SHOWN)
        raise ModelError(
            f"{lead}, and its spec here leaves out {options}, without which the same weights "
            "give other logits: add it, or say another value if that is meant"
        )
    say(f"note: {lead}, and is opened as {opened_spec}: {_meaning(recorded_spec, opened_spec)}")


def without_options(spec: Spec, names: Collection[str]) -> Spec:
    """Return a spec without options of these names, and in the order of its names."""
    options = dict(sorted(spec.options.items()))
    for name in names:
        options.pop(name, None)
    return Spec(spec.name, spec.arg, options)


def without_idle_options(spec: Spec) -> Spec:
    """Return a recorded spec without options that never did anything, and are refused today."""
    if spec.name != "torchvision" or not OF_RESIZING.intersection(spec.options):
        return spec
    return without_options(spec, OF_RESIZING)


def cached_as(architecture: str) -> str:
    """Return what decides the logits that a teacher's cache holds: its spec without weights and
    preprocessing, and without options of its training and of the boxes that it would keep.

    What is no spec stays as it is.
    """
    try:
        spec = parse_spec(architecture)
    except UsageError:
        return architecture
    names = {*_IN_TRAINING}
    if spec.name == "torchvision":
        names |= _idle_of_boxes(spec) - _OF_PROPOSALS
    return str(without_options(spec, names))


def _idle_of_boxes(spec: Spec) -> set[str]:
    """Return the options of a detector of torchvision that its logits do not depend on."""
    stages = {name for name in spec.options if name.startswith(_OF_STAGES)}
    return {*_OF_BOXES, *OF_RESIZING, *stages}


def _forgotten_options(recorded_spec: Spec, opened_spec: Spec) -> list[str]:
    """Return the options that a spec leaves out; another model's own options are another's."""
    recorded_model = (recorded_spec.name, recorded_spec.arg)
    is_same_model = recorded_model == (opened_spec.name, opened_spec.arg)
    options = []
    for name, value in recorded_spec.options.items():
        if name in opened_spec.options:
            continue
        if is_same_model or name in _VIEWS:
            options.append(_option_text(name, value))
    return options


def _compared(spec: Spec) -> Spec:
    """Return what is compared of a spec: what the logits of a trained model depend on."""
    names = {*ORIGINS, *_IN_TRAINING}
    if spec.name == "torchvision":
        names |= _idle_of_boxes(spec)
    return without_options(spec, names)


def _without_same_size(
    opened_spec: Spec, recorded_spec: Spec | None, metadata: Mapping[str, str]
) -> Spec:
    """Return a spec without an input size that is the one of the training, where the recipe said
    it and not the recorded spec."""
    size = opened_spec.options.get("input_size")
    facts = facts_of(metadata)
    if size is None or facts is None or recorded_spec is None:
        return opened_spec
    is_recorded = "input_size" in recorded_spec.options
    height, width = sides(facts.size)
    if is_recorded or str(size) not in (f"{height}x{width}", str(facts.size)):
        return opened_spec
    return without_options(opened_spec, ("input_size",))


def _meaning(recorded_spec: Spec, opened_spec: Spec) -> str:
    """Return what follows from a spec that differs from the recorded one."""
    size = frozenset(("input_size",))
    if without_options(recorded_spec, size) == without_options(opened_spec, size):
        return "it sees images at another size than in training"
    return "it may give other logits than it did"


def _recorded_spec(metadata: Mapping[str, str]) -> Spec | None:
    text = metadata.get(_SPEC, "")
    if len(text) > _LONGEST:
        return None
    try:
        return _compared(parse_spec(text))
    except UsageError:  # none, or not as we write it
        return None


def _option_text(name: str, value: Value) -> str:
    return str(Spec("", None, {name: value})).removeprefix(":")
