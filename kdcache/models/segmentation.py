"""Models of segmentation: they give raw maps of class logits, at the stride of their own head,
before any upsampling.

torchvision:deeplabv3_resnet50,aux_loss=true,weights_backbone=DEFAULT
timm:resnet18,output_stride=8           a plain head of one 3x3 and one 1x1 convolution on the last
map of a backbone mypkg.models:build                      a module that gives a map [n, classes, h,
w], or several (tuple, list or dict):
                                        the main head's first, then those of auxiliary heads
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.config.spec import Spec, check_options, choose
from kdcache.errors import KdcacheError, ModelError, UsageError
from kdcache.runtime.user_code import exception_text
from kdcache.shapes import ViewLogits

Built = tuple[nn.Module, dict[str, Any]]
_AUXILIARY = "aux_classifier"


@contextmanager
def constructing(spec: Spec, way_out: str) -> Iterator[None]:
    """Run a library's constructor of the model that `spec` names; what it raises becomes one line.

    Raises:
        UsageError: an option of the wrong name, type or value.
        ModelError: anything else, such as weights that cannot be reached.
    """
    try:
        yield
    except (KdcacheError, MemoryError):
        raise
    except (TypeError, AttributeError, AssertionError, LookupError) as error:
        raise UsageError(f"model {spec}: {exception_text(error)}; check its options") from error
    except Exception as error:
        raise ModelError(f"model {spec}: {exception_text(error)}; {way_out}") from error


def require_timm(name: str) -> str:
    """Return the name of a model of timm, or of one on the hub.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    import timm  # noqa: PLC0415

    if name.startswith("hf") or timm.is_model(name):
        return name
    return choose(name, timm.list_models(), "timm model")


def stacked_maps(found: Any, spec: str) -> ViewLogits:
    """Return what a module gives as `[views, heads, height, width, classes]`.

    Raises:
        ModelError: it gives no maps, or maps of several sizes.
    """
    maps = list(
        found.values()
        if isinstance(found, Mapping)
        else found
        if isinstance(found, (tuple, list))
        else [found]
    )
    if not maps or not all(isinstance(one, Tensor) and one.ndim == 4 for one in maps):
        kinds = (
            ", ".join(
                str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__
                for one in maps
            )
            or "nothing"
        )
        raise ModelError(
            f"model {spec} gives {kinds}; a model of segmentation gives maps [views, classes,"
            " height, width]"
        )
    if len({one.shape for one in maps}) > 1:
        shapes = ", ".join(str(tuple(one.shape[1:])) for one in maps)
        way_out = (
            "those of all its heads must be of one shape: leave heads out (of torchvision's with"
            " aux_loss=false)"
        )
        raise ModelError(f"model {spec} gives maps of {shapes}; {way_out}")
    return torch.stack([one.permute(0, 2, 3, 1) for one in maps], dim=1)


class _TorchvisionMaps(nn.Module):
    """A segmentation model of torchvision without its upsampling; its state has torchvision's
    names."""

    def __init__(self, whole: Any, *, is_auxiliary: bool | None) -> None:
        super().__init__()
        self.not_loaded = (f"{_AUXILIARY}.",) if is_auxiliary is False else ()
        """Prefixes of names in a file of weights that are left out, as the spec says."""
        self.backbone = whole.backbone
        self.classifier = whole.classifier
        self.aux_classifier = getattr(whole, _AUXILIARY, None) if is_auxiliary else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the main map, and the auxiliary one if there is such a head."""
        features = self.backbone(images)
        # lraspp's head takes both of its own
        maps = [self.classifier(features.get("out", features))]
        return (
            maps if self.aux_classifier is None else [*maps, self.aux_classifier(features["aux"])]
        )


class _BackboneMaps(nn.Module):
    """A backbone of timm with a plain head on its last map."""

    def __init__(self, backbone: Any, classes: int) -> None:
        super().__init__()
        from torchvision.models.segmentation.fcn import FCNHead  # noqa: PLC0415

        self.backbone, self.classifier = (
            backbone,
            FCNHead(backbone.feature_info.channels()[-1], classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the map."""
        found: Tensor = self.classifier(self.backbone(images)[-1])
        return found


def build_torchvision(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a segmentation model of torchvision, and the mean and std of its weights; its backbone
    is drawn at random unless `weights_backbone` says otherwise.
    """
    from torchvision import models  # noqa: PLC0415

    if channels != 3:
        raise ModelError(f'model {spec} takes colour images only; use a recipe with mode = "RGB"')
    options: dict[str, Any] = {"weights_backbone": None, **spec.options}
    name = choose(
        spec.arg or "",
        models.list_models(module=models.segmentation),
        "torchvision segmentation model",
    )
    weights = options.pop("weights", None) or (
        "DEFAULT" if options.pop("pretrained", False) else None
    )
    auxiliary = options.pop("aux_loss", True if weights else None)
    if weights:
        choices = models.get_model_weights(name).__members__
        entry = choices[choose(str(weights), choices, f"weights of {name} (and no such file)")]
        options.pop("weights_backbone")
    else:
        entry = None
        options |= {
            "num_classes": classes,
            **({} if name.startswith("lraspp") else {"aux_loss": bool(auxiliary)}),
        }
    given = {key: value for key, value in options.items() if value is not None}
    check_options(models.get_model_builder(name), Spec(spec.name, spec.arg, given), "model")
    if entry and classes and classes != len(entry.meta["categories"]):
        raise ModelError(
            f"model {spec}: its weights have {len(entry.meta['categories'])} classes, the source"
            f" {classes}"
        )
    with constructing(spec, "its weights must be reachable"):
        whole = models.get_model(name, weights=entry, **options)
    preset = entry.transforms() if entry else None
    wishes = {"mean": preset.mean, "std": preset.std} if preset else {}
    return _TorchvisionMaps(whole, is_auxiliary=auxiliary), wishes


def build_timm(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a backbone of timm with a plain head, and the mean and std of the backbone's
    weights."""
    import timm  # noqa: PLC0415

    name = require_timm(spec.arg or "")
    if classes is None:
        raise ModelError(
            f"teacher {spec}: a backbone of timm has no trained head for segmentation; give"
            " weights=FILE"
        )
    options: dict[str, Any] = dict(spec.options)
    with constructing(spec, "not every model of timm takes output_stride, or gives maps"):
        backbone = timm.create_model(
            name, in_chans=channels, features_only=True, out_indices=(-1,), **options
        )
    config = timm.data.resolve_data_config(
        {}, pretrained_cfg=getattr(backbone, "pretrained_cfg", None) or {}
    )
    return _BackboneMaps(backbone, classes), {"mean": config["mean"], "std": config["std"]}


BUILDERS: dict[str, Callable[[Spec, int | None, int], Built]] = {
    "timm": build_timm,
    "torchvision": build_torchvision,
}
