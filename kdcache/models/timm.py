"""Models of timm.

timm:resnet50,pretrained=true
timm:resnet18,output_stride=8           of segmentation: a plain head of one 3x3 and one 1x1
                                        convolution on the last map of a backbone
timm:resnet18,output_stride=8,decoder=deeplabv3,aux_loss=true
                                        or another head, and an auxiliary one on the map before
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError
from kdcache.models.building import Built, constructing
from kdcache.models.library_options import require_no_other
from kdcache.models.map_heads import MAP_HEADS, plain_head
from kdcache.models.preprocessing import NOTHING_GIVEN, GivenPreprocessing
from kdcache.models.specs import OWN_OPTIONS
from kdcache.runtime.downloads import asking_hub
from kdcache.shapes import Size, as_size

_OF_MAPS = ("decoder", "aux_loss")
"""Options of the head on a backbone."""


def build_classifier(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a classifier of timm, with the mean and std of its configuration, and its input size
    if it takes no other.

    Raises:
        UsageError: no such model or option.
        ModelError: weights that cannot be reached.
    """
    import timm  # noqa: PLC0415

    options: dict[str, Any] = dict(spec.options)
    if classes is not None:
        options["num_classes"] = classes
    name = _require_name(spec.arg or "")
    way_out = "check its options"
    if options.get("pretrained"):
        way_out = "with pretrained=true the weights must be reachable"
    with constructing(spec, way_out, refused=_refused(spec)), asking_hub():
        module = timm.create_model(name, in_chans=channels, **options)
    config = timm.data.resolve_model_data_config(module)
    size = options.get("img_size") or _only_size(module, config)
    return module, {"mean": config["mean"], "std": config["std"], "input_size": size}


def build_segmenter(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a backbone of timm with the head that `decoder` names, by default a plain one, and the
    mean and std of the backbone's weights.

    Raises:
        UsageError: no such model or option.
        ModelError: a teacher, which would have an untrained head, or weights that cannot be
            reached.
    """
    import timm  # noqa: PLC0415

    name = _require_name(spec.arg or "")
    if classes is None:
        raise ModelError(
            f"teacher {spec}: a backbone of timm has no trained head for segmentation; give"
            " weights=FILE"
        )
    options: dict[str, Any] = dict(spec.options)
    decoder = choose(str(options.pop("decoder", "fcn")), MAP_HEADS, f"decoder of model {spec}")
    is_auxiliary = options.pop("aux_loss", None)
    if is_auxiliary not in (None, True, False):
        raise UsageError(f"model {spec}: aux_loss is {is_auxiliary!r}; write true or false")
    indices = (-2, -1) if is_auxiliary else (-1,)
    way_out = "not every model of timm takes output_stride, or gives maps"
    with constructing(spec, way_out, refused=_refused(spec, *_OF_MAPS)), asking_hub():
        backbone = timm.create_model(
            name, in_chans=channels, features_only=True, out_indices=indices, **options
        )
    weights_config = getattr(backbone, "pretrained_cfg", None) or {}
    config = timm.data.resolve_data_config({}, pretrained_cfg=weights_config)
    module = _BackboneMaps(backbone, classes, MAP_HEADS[decoder], is_auxiliary=is_auxiliary)
    return module, {"mean": config["mean"], "std": config["std"]}


def timm_preprocessing(model: nn.Module) -> GivenPreprocessing:
    """Return what a model of timm's wants of a view, its size if it takes no other; nothing of one
    that has no such configuration."""
    if getattr(model, "pretrained_cfg", None) is None:
        return NOTHING_GIVEN
    import timm  # noqa: PLC0415

    config = timm.data.resolve_model_data_config(model)
    return GivenPreprocessing(
        size=_only_size(model, config), mean=tuple(config["mean"]), std=tuple(config["std"])
    )


def _only_size(model: nn.Module, config: Mapping[str, Any]) -> Size | None:
    """Return the input size of a model that takes no other; None of one that takes any, for which
    the size in its configuration is a proposal.

    Args:
        model: of timm.
        config: of its data, as timm resolves it.
    """
    weights_config: Any = getattr(model, "pretrained_cfg", None) or {}
    if not weights_config.get("fixed_input_size", False):
        return None
    # the configuration stays that of the weights where a model is made for another size
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    height, width = size or config["input_size"][1:]
    return as_size((height, width))


def _require_name(name: str) -> str:
    """Return the name of a model of timm, or of one on the hub.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    import timm  # noqa: PLC0415

    if name.startswith("hf") or timm.is_model(name):
        return name
    return choose(name, timm.list_models(), "timm model")


def _refused(spec: Spec, *others: str) -> Callable[[Exception], None]:
    """Return what tells of an option that the class of a model does not know; `others` are options
    of no class."""
    import timm  # noqa: PLC0415

    name = spec.arg or ""
    maker = None
    if timm.is_model(name):
        maker = timm.model_entrypoint(name)
    known = OWN_OPTIONS | {"pretrained", *others}
    return partial(require_no_other, spec, maker=maker, known=known)


def check(spec: Spec) -> None:
    """Raise a UsageError or a ModelError if timm has no model of that name."""
    _require_name(spec.arg or "")


class _BackboneMaps(nn.Module):
    """A backbone of timm with a head on its last map, and perhaps an auxiliary one on the map
    before; names of its state are torchvision's."""

    def __init__(
        self,
        backbone: Any,
        classes: int,
        head: Callable[[int, int], nn.Module],
        *,
        is_auxiliary: bool | None,
    ) -> None:
        super().__init__()
        self.not_loaded: tuple[str, ...] = ()
        """Prefixes of names in a file of weights that are left out, as the spec says."""
        if is_auxiliary is False:
            self.not_loaded = ("aux_classifier.",)
        channels = backbone.feature_info.channels()
        self.backbone = backbone
        self.classifier = head(channels[-1], classes)
        self.aux_classifier = None
        if is_auxiliary:
            self.aux_classifier = plain_head(channels[-2], classes)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the main map, and the auxiliary one if there is such a head."""
        *others, last = self.backbone(images)
        maps = [self.classifier(last)]
        if self.aux_classifier is not None:
            maps.append(self.aux_classifier(others[-1]))
        return maps
