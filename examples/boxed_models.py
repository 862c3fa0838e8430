"""Detectors for the boxed scenes, 96x96 pixels: `boxed_models:teacher` and `boxed_models:student`
of one stage, `boxed_models:region_teacher` and `boxed_models:region_student` of two.

kdcache finds them when this folder is the working directory or on PYTHONPATH. A function takes the
options of its spec (`boxed_models:student,width=64`) and returns torchvision's FCOS or Faster R-CNN
over features at strides 8, 16 and 32. `teacher_body` and `student_body` are the networks below, to
be trained on single objects first.
"""

from collections import OrderedDict
from collections.abc import Sequence

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

ANCHORS = (4, 8, 16)
"""Pixels. FCOS finds objects of four to eight times as much from centre to side at a level, smaller
ones at the first and larger ones at the last."""


def teacher(classes: int = 20, width: int = 64, weights_backbone: str = "") -> nn.Module:
    """Return a detector on a residual network; 1.5 M parameters.

    Args:
        classes: of the data.
        width: channels of its levels, a multiple of 32.
        weights_backbone: a file of weights of `teacher_body`.
    """
    network = _residual_body()
    channels = network.feature_info.channels()
    _load_body(network, weights_backbone)
    return _fcos(network, channels, width, classes, convolutions=2)


def student(classes: int = 20, width: int = 32, weights_backbone: str = "") -> nn.Module:
    """Return a detector on five plain convolutions, of `student_body`; 0.17 M parameters. For its
    options see `teacher`."""
    network = PlainBody()
    _load_body(network, weights_backbone)
    return _fcos(network, network.channels, width, classes, convolutions=1)


def region_teacher(classes: int = 20, width: int = 64, weights_backbone: str = "") -> nn.Module:
    """Return a detector of two stages on the network of `teacher`, whose options it has; 1.9 M
    parameters."""
    network = _residual_body()
    channels = network.feature_info.channels()
    _load_body(network, weights_backbone)
    return _faster_rcnn(network, channels, width, classes, hidden=256)


def region_student(classes: int = 20, width: int = 32, weights_backbone: str = "") -> nn.Module:
    """Return a detector of two stages on the network of `student`; 0.24 M parameters."""
    network = PlainBody()
    _load_body(network, weights_backbone)
    return _faster_rcnn(network, network.channels, width, classes, hidden=96)


def teacher_body(classes: int = 20) -> nn.Module:
    """Return the teacher's body as a network that classifies images."""
    network = _residual_body()
    return Classifier(network, network.feature_info.channels(), classes)


def student_body(classes: int = 20) -> nn.Module:
    """Return the student's body as a network that classifies images."""
    network = PlainBody()
    return Classifier(network, network.channels, classes)


def region_teacher_body(classes: int = 20) -> nn.Module:
    """Return `teacher_body`: both teachers have it."""
    return teacher_body(classes)


def region_student_body(classes: int = 20) -> nn.Module:
    """Return `student_body`: both students have it."""
    return student_body(classes)


def _residual_body() -> nn.Module:
    """Return timm's `resnet10t` with half of its channels, without a head."""
    body: nn.Module = timm.create_model(
        "resnet10t",
        features_only=True,
        out_indices=(2, 3, 4),
        channels=(32, 64, 128, 256),
        stem_width=16,
    )
    return body


def _load_body(network: nn.Module, path: str) -> None:
    """Give a body the weights that its classifier has in a file, if one is named."""
    if not path:
        return
    state = {}
    for name, values in load_file(path).items():
        part, _, rest = name.partition(".")
        if part == "body":
            state[rest] = values
    network.load_state_dict(state)


class Classifier(nn.Module):
    """A body, and one layer on the means of its levels."""

    def __init__(self, body: nn.Module, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(sum(channels), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits."""
        means = []
        for features in self.body(images):
            means.append(features.mean((2, 3)))
        logits: Tensor = self.head(torch.cat(means, dim=1))
        return logits


class PlainBody(nn.Module):
    """Convolutions that halve the sides, one after the other."""

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64, 96)) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        channels = 3
        for width in widths:
            layer = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            self.layers.append(nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU()))
            channels = width
        self.channels = list(widths[-3:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features after the last three layers, the finest first."""
        outputs = []
        features = images
        for layer in self.layers:
            features = layer(features)
            outputs.append(features)
        return outputs[-3:]


class Pyramid(nn.Module):
    """Features of a body, joined from the coarsest on."""

    def __init__(self, body: nn.Module, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.body = body
        self.join = FeaturePyramidNetwork(list(channels), width)
        self.out_channels = width

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Return the features, the finest first."""
        levels = OrderedDict()
        for number, features in enumerate(self.body(images)):
            levels[str(number)] = features
        joined: OrderedDict[str, Tensor] = self.join(levels)
        return joined


def _fcos(
    body: nn.Module, channels: Sequence[int], width: int, classes: int, *, convolutions: int
) -> nn.Module:
    """Return a detector, as `teacher` does."""
    anchors = AnchorGenerator(tuple((size,) for size in ANCHORS), ((1.0,),) * len(ANCHORS))
    head = FCOSHead(width, anchors.num_anchors_per_location()[0], classes, convolutions)
    pyramid = Pyramid(body, channels, width)
    return FCOS(pyramid, classes, anchor_generator=anchors, head=head)


def _faster_rcnn(
    body: nn.Module, channels: Sequence[int], width: int, classes: int, *, hidden: int
) -> nn.Module:
    """Return a detector of two stages, with 100 proposals a view.

    Args:
        body: that gives the features.
        channels: of its levels.
        width: of the joined levels.
        classes: of the data.
        hidden: width of the second stage.
    """
    ratios = (0.5, 1.0, 2.0)
    anchors = AnchorGenerator(tuple((3 * size,) for size in ANCHORS), (ratios,) * len(ANCHORS))
    pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=5, sampling_ratio=2)
    return FasterRCNN(
        Pyramid(body, channels, width),
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        box_roi_pool=pool,
        box_head=TwoMLPHead(width * 25, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
        box_batch_size_per_image=64,
    )
