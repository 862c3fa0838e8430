"""The networks that distillation is compared with on CIFAR-100, for images of 32x32 pixels.

cifar:resnet32x4      cifar:wrn_40_2      cifar:vgg13      cifar:resnet50
cifar:mobilenetv2_half      cifar:shufflenetv1      cifar:shufflenetv2

Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, chose them; DIST and
most papers since have tables of them. Names of states are those of the teachers that its authors,
and those of DKD (Zhao et al., CVPR 2022), publish, so that these load by `weights=FILE`. Weights
are drawn as theirs are.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from kdcache.config.names import choose
from kdcache.config.spec import Spec
from kdcache.errors import UsageError
from kdcache.models.building import Built
from kdcache.models.cifar_blocks import (
    BasicBlock,
    Bottleneck,
    GroupedBlock,
    HalvingBlock,
    InvertedResidual,
    SplitBlock,
    WideBlock,
)
from kdcache.models.cifar_layers import chain, convolution, draw_convolutions, small_linear, stage

MEAN = (0.5071, 0.4867, 0.4408)
"""Of the pixels of CIFAR-100, as the published teachers were trained with."""
STD = (0.2675, 0.2565, 0.2761)


def build_classifier(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return a network with fresh weights, and the mean and std of CIFAR-100.

    Raises:
        UsageError: no such network, or an option, of which there are none.
    """
    check(spec)
    if classes is None:
        raise UsageError(f"model {spec} has no weights of its own; give weights=FILE")
    network = NETWORKS[str(spec.arg)](classes, channels)
    return network, {"mean": MEAN, "std": STD}


def check(spec: Spec) -> None:
    """Raise a UsageError if there is no network of that name, or for an option."""
    choose(spec.arg or "", NETWORKS, "cifar model")
    for option in spec.options:
        raise UsageError(
            f"model {spec} has no option {option}; say weights=FILE, or how images are normalised"
            " (mean=..., std=...)"
        )


# The networks: functions of the numbers of classes and of channels.


def resnet(classes: int, channels: int, *, depth: int, width: int = 1) -> nn.Module:
    """Return a ResNet of 6n + 2 layers and `width` times 16, 32 and 64 channels; wide ones begin
    with 32. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2."""
    stem = 16 if width == 1 else 32
    widths = [16 * width, 32 * width, 64 * width]
    num_blocks = (depth - 2) // 6
    network = chain(
        conv1=convolution(channels, stem, 3),
        bn1=nn.BatchNorm2d(stem),
        relu=nn.ReLU(),
        layer1=stage(BasicBlock, stem, widths[0], num_blocks, stride=1),
        layer2=stage(BasicBlock, widths[0], widths[1], num_blocks, stride=2),
        layer3=stage(BasicBlock, widths[1], widths[2], num_blocks, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(widths[2], classes),
    )
    draw_convolutions(network)
    return network


def resnet50(classes: int, channels: int) -> nn.Module:
    """Return ImageNet's ResNet-50 with a first convolution of 3x3 that keeps all pixels."""
    network = chain(
        conv1=convolution(channels, 64, 3),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        layer1=stage(Bottleneck, 64, 256, 3, stride=1),
        layer2=stage(Bottleneck, 256, 512, 4, stride=2),
        layer3=stage(Bottleneck, 512, 1024, 6, stride=2),
        layer4=stage(Bottleneck, 1024, 2048, 3, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(2048, classes),
    )
    draw_convolutions(network)
    return network


def wrn(classes: int, channels: int, *, depth: int, width: int) -> nn.Module:
    """Return a wide ResNet of 6n + 4 layers and `width` times 16, 32 and 64 channels. Zagoruyko
    and Komodakis, Wide Residual Networks, BMVC 2016."""
    widths = [16, 16 * width, 32 * width, 64 * width]
    num_blocks = (depth - 4) // 6
    stages = {}
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        blocks = stage(WideBlock, widths[number - 1], widths[number], num_blocks, stride=stride)
        stages[f"block{number}"] = chain(layer=blocks)
    head = nn.Linear(widths[3], classes)
    nn.init.zeros_(head.bias)
    network = chain(
        conv1=convolution(channels, 16, 3),
        **stages,
        bn1=nn.BatchNorm2d(widths[3]),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=head,
    )
    draw_convolutions(network)
    return network


def vgg(classes: int, channels: int, *, lengths: tuple[int, ...]) -> nn.Module:
    """Return a VGG with batch norms, `lengths[i]` convolutions in block i, and one linear layer.
    Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015. The last two blocks see the
    same 4x4 pixels."""
    parts: dict[str, nn.Module] = {}
    inside = channels
    for block, (length, outside) in enumerate(zip(lengths, VGG_WIDTHS, strict=True)):
        layers: list[nn.Module] = []
        for _ in range(length):
            layers.append(nn.Conv2d(inside, outside, 3, padding=1))
            layers += [nn.BatchNorm2d(outside), nn.ReLU()]
            inside = outside
        parts[f"block{block}"] = nn.Sequential(*layers)
        if block < VGG_POOLS:
            parts[f"pool{block}"] = nn.MaxPool2d(2)
    network = chain(
        **parts,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=small_linear(inside, classes),
    )
    draw_convolutions(network)
    return network


VGG_WIDTHS = (64, 128, 256, 512, 512)
VGG_POOLS = 3
"""Blocks that are followed by a pooling."""


def mobilenetv2_half(classes: int, channels: int) -> nn.Module:
    """Return a MobileNetV2 of half the width, with ReLUs, whose maps have 16, 8, 4 and 2 pixels a
    side. Sandler et al., MobileNetV2, CVPR 2018, table 2."""
    stages: list[nn.Module] = []
    inside = 16
    for expansion, width, length, stride in MOBILENET_STAGES:
        outside = width // 2
        block = partial(InvertedResidual, expansion=expansion)
        stages.append(stage(block, inside, outside, length, stride=stride))
        inside = outside
    network = chain(
        conv1=nn.Sequential(convolution(channels, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()),
        blocks=nn.Sequential(*stages),
        conv2=nn.Sequential(convolution(inside, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU()),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(small_linear(1280, classes)),
    )
    draw_convolutions(network)
    return network


MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels at full width, blocks, stride of the first."""


def shufflenetv1(classes: int, channels: int) -> nn.Module:
    """Return a ShuffleNet of 3 groups without its first pooling, after a convolution of 1x1. Zhang
    et al., ShuffleNet, CVPR 2018, table 1."""
    return chain(
        conv1=convolution(channels, 24, 1),
        bn1=nn.BatchNorm2d(24),
        relu=nn.ReLU(),
        layer1=stage(GroupedBlock, 24, 240, 4, stride=2),
        layer2=stage(GroupedBlock, 240, 480, 8, stride=2),
        layer3=stage(GroupedBlock, 480, 960, 4, stride=2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(960, classes),
    )


def shufflenetv2(classes: int, channels: int) -> nn.Module:
    """Return a ShuffleNetV2 of width 1 without its first pooling, after a convolution of 1x1. Ma
    et al., ShuffleNet V2, ECCV 2018, table 5."""
    return chain(
        conv1=convolution(channels, 24, 1),
        bn1=nn.BatchNorm2d(24),
        relu=nn.ReLU(),
        layer1=_split_stage(24, 116, 3),
        layer2=_split_stage(116, 232, 7),
        layer3=_split_stage(232, 464, 3),
        conv2=convolution(464, 1024, 1),
        bn2=nn.BatchNorm2d(1024),
        relu2=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(1024, classes),
    )


def _split_stage(inside: int, outside: int, num_blocks: int) -> nn.Module:
    blocks: list[nn.Module] = [HalvingBlock(inside, outside)]
    blocks += [SplitBlock(outside) for _ in range(num_blocks)]
    return nn.Sequential(*blocks)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet8": partial(resnet, depth=8),
    "resnet14": partial(resnet, depth=14),
    "resnet20": partial(resnet, depth=20),
    "resnet32": partial(resnet, depth=32),
    "resnet44": partial(resnet, depth=44),
    "resnet56": partial(resnet, depth=56),
    "resnet110": partial(resnet, depth=110),
    "resnet8x4": partial(resnet, depth=8, width=4),
    "resnet32x4": partial(resnet, depth=32, width=4),
    "resnet50": resnet50,
    "wrn_16_1": partial(wrn, depth=16, width=1),
    "wrn_16_2": partial(wrn, depth=16, width=2),
    "wrn_40_1": partial(wrn, depth=40, width=1),
    "wrn_40_2": partial(wrn, depth=40, width=2),
    "vgg8": partial(vgg, lengths=(1, 1, 1, 1, 1)),
    "vgg11": partial(vgg, lengths=(1, 1, 2, 2, 2)),
    "vgg13": partial(vgg, lengths=(2, 2, 2, 2, 2)),
    "vgg16": partial(vgg, lengths=(2, 2, 3, 3, 3)),
    "vgg19": partial(vgg, lengths=(2, 2, 4, 4, 4)),
    "mobilenetv2_half": mobilenetv2_half,
    "shufflenetv1": shufflenetv1,
    "shufflenetv2": shufflenetv2,
}
