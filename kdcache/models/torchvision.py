"""Models of torchvision.

torchvision:resnet50,weights=DEFAULT
torchvision:deeplabv3_resnet50,aux_loss=true,weights_backbone=DEFAULT       of segmentation
torchvision:retinanet_resnet50_fpn,weights_backbone=DEFAULT                 of detection
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError
from kdcache.models.building import Built, constructing
from kdcache.models.coco_classes import keep_named_classes, named_classes
from kdcache.models.library_options import (
    numeric_parameters,
    require_no_other,
    takes_any,
    writable_parameters,
)
from kdcache.models.specs import OWN_OPTIONS
from kdcache.models.weight_record import OF_RESIZING
from kdcache.targets import ClassBoxes, ClassLabel, ClassMask

_AUXILIARY = "aux_classifier"
_NAMED_WEIGHTS = ("pretrained", "progress", "weights", "weights_backbone")
_PAGE = "docs/reference/detection.md"
"""Has all options of detectors."""
_OF_RESIZING = OF_RESIZING | {"size"}
"""Options of detectors' own resizing."""


def build_classifier(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a classifier of torchvision, with the mean and std of its weights.

    Raises:
        UsageError: no such model, weights or option.
        ModelError: grey images, weights of other classes, or that cannot be reached.
    """
    from torchvision import models  # noqa: PLC0415

    _require_colour(spec, channels)
    options: dict[str, Any] = dict(spec.options)
    _require_task(spec, ClassLabel.task)
    name = choose(spec.arg or "", models.list_models(module=models), "torchvision model")
    weights = _take_weights(options)
    entry = None
    if weights:
        entry = _weights_entry(name, weights)
    _require_classes(spec, entry, classes)
    if classes and not entry:
        options["num_classes"] = classes
    way_out = "check its options"
    if entry:
        way_out = "its weights must be reachable"
    maker = models.get_model_builder(name)
    refused = partial(require_no_other, spec, maker=maker, known=OWN_OPTIONS | {*_NAMED_WEIGHTS})
    with constructing(spec, way_out, refused=refused):
        module = models.get_model(name, weights=entry, **options)
    if takes_any(type(module)):
        _require_known(spec, {*_NAMED_WEIGHTS, *writable_parameters(type(module))})
    size = getattr(module, "image_size", None)
    return module, {"input_size": size, **_normalisation(entry)}


def build_segmenter(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a segmentation model of torchvision, and the mean and std of its weights; its backbone
    is drawn at random unless `weights_backbone` says otherwise.

    Raises:
        UsageError: no such model, weights or option.
        ModelError: grey images, weights of other classes, or that cannot be reached.
    """
    from torchvision import models  # noqa: PLC0415

    _require_colour(spec, channels)
    options: dict[str, Any] = {"weights_backbone": None, **spec.options}
    _require_task(spec, ClassMask.task)
    name = choose(
        spec.arg or "",
        models.list_models(module=models.segmentation),
        "torchvision segmentation model",
    )
    weights = _take_weights(options)
    is_auxiliary = options.pop("aux_loss", True if weights else None)
    entry = None
    if weights:
        choices = models.get_model_weights(name).__members__
        entry = choices[choose(str(weights), choices, f"weights of {name} (and no such file)")]
        options.pop("weights_backbone")
    else:
        options["num_classes"] = classes
        if not name.startswith("lraspp"):
            options["aux_loss"] = bool(is_auxiliary)
    _require_segmenter_options(spec, name)
    _require_classes(spec, entry, classes)
    with constructing(spec, "its weights must be reachable"):
        whole = models.get_model(name, weights=entry, **options)
    wishes = _normalisation(entry)
    if entry:
        wishes["label_names"] = tuple(entry.meta["categories"])
    return _Maps(whole, is_auxiliary=is_auxiliary), wishes


def build_detector(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a detector of torchvision; its backbone is drawn at random unless `weights_backbone`
    says otherwise. Named weights know COCO's 80 classes, in the order of their ids.

    Raises:
        UsageError: no such model, weights or option.
        ModelError: grey images, weights of other classes, or that cannot be reached.
    """
    from torchvision import models  # noqa: PLC0415

    _require_colour(spec, channels)
    options: dict[str, Any] = {"weights_backbone": None, **spec.options}
    _require_task(spec, ClassBoxes.task)
    name = choose(spec.arg or "", _detectors(), "torchvision detector")
    weights = _take_weights(options)
    entry = None
    if weights:
        entry = _weights_entry(name, weights)
        options.pop("weights_backbone")
    elif classes is not None:
        options["num_classes"] = classes + int(_has_background(name))
    _require_detector_options(spec, name)
    with constructing(spec, "its weights must be reachable"):
        detector = models.get_model(name, weights=entry, **options)
    wishes: dict[str, Any] = {
        "mean": tuple(detector.transform.image_mean),
        "std": tuple(detector.transform.image_std),
    }
    if entry:
        categories = entry.meta["categories"]
        keep_named_classes(detector, categories, has_background=_has_background(name))
        wishes["label_names"] = named_classes(categories)
    return detector, wishes


def _require_segmenter_options(spec: Spec, name: str) -> None:
    """Raise a UsageError for an option that a segmentation model does not know: torchvision's take
    any, and pass it over."""
    names = {*_NAMED_WEIGHTS}
    if not name.startswith("lraspp"):
        names.add("aux_loss")
    _require_known(spec, names, all_in=_PAGE)


def _require_detector_options(spec: Spec, name: str) -> None:
    """Raise a UsageError for an option that a detector does not know, or that would do nothing:
    torchvision's take any."""
    from torchvision import models  # noqa: PLC0415

    detection = models.detection
    names = {*_NAMED_WEIGHTS, "trainable_backbone_layers"}
    for start, cls in {
        "fcos": detection.FCOS,
        "retinanet": detection.RetinaNet,
        "ssd": detection.ssd.SSD,
        "fasterrcnn": detection.FasterRCNN,
        "maskrcnn": detection.FasterRCNN,
    }.items():
        if name.startswith(start):
            names |= numeric_parameters(cls)
    for option in sorted(_OF_RESIZING.intersection(spec.options)):
        raise UsageError(
            f"model {spec}: {option} is of the detector's own resizing, which is left out; say the"
            " size of views by input_size=N or input_size=HEIGHTxWIDTH"
        )
    _require_known(spec, names - _OF_RESIZING, all_in=_PAGE)


def _require_known(spec: Spec, names: set[str], *, all_in: str = "") -> None:
    """Raise a UsageError for an option that is none of these, nor one of kdcache's own."""
    for option in spec.options:
        choose(
            option,
            names | OWN_OPTIONS,
            f"option of model {spec.name}:{spec.arg},",
            all_in=all_in,
        )


def _detectors() -> list[str]:
    """Return the names of the detectors whose classes can be cached."""
    from torchvision import models  # noqa: PLC0415

    names = models.list_models(module=models.detection)
    return [name for name in names if not name.startswith("keypointrcnn")]


def _require_task(spec: Spec, task: str) -> None:
    """Raise a UsageError if a model is one of another task."""
    from torchvision import models  # noqa: PLC0415

    names_by_task = {
        ClassLabel.task: models.list_models(module=models),
        ClassMask.task: models.list_models(module=models.segmentation),
        ClassBoxes.task: _detectors(),
    }
    for other, names in names_by_task.items():
        if other != task and spec.arg in names:
            raise UsageError(
                f"model {spec} is of {other}, and one of {task} is wanted; take another, or"
                f" data of {other}, or say so (--task {other})"
            )


def _has_background(name: str) -> bool:
    """Return whether a detector counts the background as a class."""
    return not name.startswith(("fcos", "retinanet"))


def _take_weights(options: dict[str, Any]) -> Any:
    """Take the name of the weights out of the options; None if there are to be none."""
    weights = options.pop("weights", None)
    if weights:
        return weights
    if options.pop("pretrained", False):
        return "DEFAULT"
    return None


def _weights_entry(name: str, weights: Any) -> Any:
    """Return the entry of a model's weights in torchvision's list.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    from torchvision import models  # noqa: PLC0415

    entries = models.get_model_weights(name)
    try:
        return entries[weights]
    except KeyError:
        choices = [*entries.__members__]
        return choose(str(weights), choices, f"weights of {name} (and no such file)")


def _normalisation(entry: Any) -> dict[str, Any]:
    """Return the mean and std of the images that weights were trained on; nothing without any."""
    if not entry:
        return {}
    preset = entry.transforms()
    return {"mean": preset.mean, "std": preset.std}


def _require_classes(spec: Spec, entry: Any, classes: int | None) -> None:
    """Raise a ModelError if there are weights, of another number of classes than the source."""
    if not entry or not classes:
        return
    num_classes = len(entry.meta["categories"])
    if num_classes != classes:
        raise ModelError(
            f"model {spec}: its weights have {num_classes} classes, the source {classes}"
        )


def _require_colour(spec: Spec, channels: int) -> None:
    if channels != 3:
        raise ModelError(f'model {spec} takes colour images only; use a recipe with mode = "RGB"')


def check(spec: Spec) -> None:
    """Raise a UsageError or a ModelError if torchvision has no model of that name."""
    from torchvision import models  # noqa: PLC0415

    classifiers = models.list_models(module=models)
    segmenters = models.list_models(module=models.segmentation)
    names = [*classifiers, *segmenters, *_detectors()]
    choose(spec.arg or "", names, "torchvision model")


class _Maps(nn.Module):
    """A segmentation model of torchvision without its upsampling; its state has torchvision's
    names."""

    def __init__(self, whole: Any, *, is_auxiliary: bool | None) -> None:
        super().__init__()
        self.not_loaded: tuple[str, ...] = ()
        """Prefixes of names in a file of weights that are left out, as the spec says."""
        if is_auxiliary is False:
            self.not_loaded = (f"{_AUXILIARY}.",)
        self.backbone = whole.backbone
        self.classifier = whole.classifier
        self.aux_classifier = None
        if is_auxiliary:
            self.aux_classifier = getattr(whole, _AUXILIARY, None)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the main map, and the auxiliary one if there is such a head."""
        features = self.backbone(images)
        # lraspp's head takes both of its own
        maps = [self.classifier(features.get("out", features))]
        if self.aux_classifier is None:
            return maps
        return [*maps, self.aux_classifier(features["aux"])]
