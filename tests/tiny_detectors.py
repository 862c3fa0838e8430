"""Pictures of coloured rectangles, and detectors that are small enough to run in no time."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import MultiScaleRoIAlign

import kdcache

COLOURS = ((220, 60, 60), (60, 200, 60), (70, 90, 230))


class Rectangles:
    """`length` pictures with 0 to 3 rectangles each, one class a colour."""

    task = "detection"
    classes = ("red", "green", "blue")

    def __init__(self, length: int, height: int = 48, width: int = 64) -> None:
        self.length = length
        self.height = height
        self.width = width

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        if index >= self.length:
            raise IndexError(index)
        generator = np.random.default_rng(index)
        pixels = generator.integers(0, 60, (self.height, self.width, 3), dtype=np.uint8)
        boxes = []
        labels = []
        for _ in range(index % 4):
            left = int(generator.integers(0, self.width - 16))
            top = int(generator.integers(0, self.height - 16))
            right = left + int(generator.integers(10, 17))
            bottom = top + int(generator.integers(10, 17))
            label = int(generator.integers(3))
            pixels[top:bottom, left:right] = COLOURS[label]
            boxes.append([left, top, right, bottom])
            labels.append(label)
        target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
        return Image.fromarray(pixels), target


def rectangles(length: int = 16) -> Rectangles:
    return Rectangles(length)


def write_coco_of_rectangles(root: Path, images: str, annotations: str, length: int = 6) -> None:
    """Write the pictures below a folder, and their boxes as an instances file of COCO's."""
    (root / images).mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(Rectangles.classes, 1):
        content["categories"].append({"id": number, "name": name})
    for index, (image, target) in enumerate(Rectangles(length)):
        file_name = f"{index:012d}.png"
        image.save(root / images / file_name)
        content["images"].append({"id": index, "file_name": file_name})
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            left, top, right, bottom = box
            annotation = {
                "id": len(content["annotations"]),
                "image_id": index,
                "category_id": label + 1,
                "bbox": [left, top, right - left, bottom - top],
            }
            content["annotations"].append(annotation)
    (root / annotations).write_text(json.dumps(content))


class TwoLevels(nn.Module):
    """Features at strides 8 and 16."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()),
        )
        self.down = nn.Conv2d(32, 32, 3, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.stem(images)
        return OrderedDict([("0", fine), ("1", self.down(fine))])


def retinanet(
    classes: int = 3, seed: int = 0, anchors: int = 2, sides: tuple[int, int] = (12, 16)
) -> nn.Module:
    """Return a RetinaNet with so many anchors at each place, of these sides by level."""
    torch.manual_seed(seed)
    ratios = (0.5, 1.0, 2.0)[:anchors]
    sizes = tuple((side,) for side in sides)
    generator = AnchorGenerator(sizes, (ratios,) * 2)
    return lively(RetinaNet(TwoLevels(), classes, anchor_generator=generator))


def unsure(classes: int = 3, seed: int = 0) -> nn.Module:
    """Give a detector that keeps no box, for its threshold."""
    model = retinanet(classes, seed)
    model.score_thresh = 1.0
    return model


def fcos(classes: int = 3, seed: int = 0) -> nn.Module:
    """Return an FCOS, with one anchor at each place."""
    torch.manual_seed(seed)
    generator = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
    return lively(FCOS(TwoLevels(), classes, anchor_generator=generator))


class Plain(nn.Module):
    """A detector of one's own, which says what its head gives."""

    def __init__(self, classes: int, *, can_train: bool) -> None:
        super().__init__()
        self.body = TwoLevels()
        self.head = nn.Conv2d(32, classes, 1)
        self.can_train = can_train

    def forward(self, images: Tensor) -> Any:
        maps = [self.head(level) for level in self.body(images).values()]
        logits = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        levels = tuple((level.shape[2], level.shape[3]) for level in maps)
        layout = kdcache.Pyramid(levels, (1,) * len(levels))
        if not self.can_train:
            return kdcache.PyramidOutput(logits, layout)

        def losses(targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            counts = torch.tensor([float(len(target["boxes"])) for target in targets])
            return {"count": (logits.sigmoid().sum((1, 2)) - counts).square().mean() / 1000}

        def found() -> list[dict[str, Tensor]]:
            best, places = logits.sigmoid().amax(2).topk(3)
            tables = []
            for scores, at, rows in zip(best, places, logits, strict=True):
                corners = torch.stack([at % 8, at // 8, at % 8 + 2, at // 8 + 2], dim=1) * 8.0
                tables.append({"boxes": corners, "scores": scores, "labels": rows[at].argmax(1)})
            return tables

        return kdcache.PyramidOutput(logits, layout, losses, found)


class ByColour(nn.Module):
    """Finds the pixels of each colour in views of mean 0 and deviation 1; its boxes of the last
    colour are too large. It may find one more in each view, which it is surest of: in the lowest
    rows."""

    def __init__(self, classes: int, lowest_rows: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.lowest_rows = lowest_rows
        self.none = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Any:
        views = images.cpu()
        logits = self.none + torch.zeros(len(views), 1, self.classes)
        layout = kdcache.Pyramid(((1, 1),), (1,))
        return kdcache.PyramidOutput(logits, layout, None, lambda: [*map(self.found, views)])

    def found(self, view: Tensor) -> dict[str, Tensor]:
        boxes = []
        scores = []
        labels = []
        for label, colour in enumerate(COLOURS):
            distance = (view - torch.tensor(colour)[:, None, None] / 255).abs().amax(0)
            places = (distance < 0.1).nonzero()
            if len(places):
                excess = 2 * int(label == 2)
                corners = [places.amin(0).flip(0) - excess, places.amax(0).flip(0) + 1 + excess]
                boxes.append(torch.cat(corners).float())
                scores.append(1 - 1 / len(places))
                labels.append(label)
        if self.lowest_rows:
            height, width = view.shape[1:]
            boxes.append(torch.tensor([0.0, height - self.lowest_rows, width, height]))
            scores.append(1.0)
            labels.append(0)
        return {
            "boxes": torch.stack(boxes) if boxes else torch.zeros(0, 4),
            "scores": torch.tensor(scores),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }


def by_colour(classes: int = 3, lowest_rows: int = 0) -> nn.Module:
    """Return a detector that finds most of the rectangles, and something in the lowest rows."""
    return ByColour(classes, lowest_rows)


def plain(classes: int = 3, seed: int = 0, can_train: bool = True) -> nn.Module:
    """Return a detector of one's own, with one anchor at each place."""
    torch.manual_seed(seed)
    return lively(Plain(classes, can_train=can_train))


def ssd(classes: int = 3, seed: int = 0) -> nn.Module:
    """Return an SSD with four anchors at each place of the fine level, and six of the coarse."""
    torch.manual_seed(seed)
    generator = DefaultBoxGenerator([[2], [2, 3]], scales=[0.15, 0.25, 0.4])
    head = SSDHead([32, 32], generator.num_anchors_per_location(), classes + 1)
    return lively(SSD(TwoLevels(), generator, (64, 64), classes + 1, head=head))


def faster_rcnn(classes: int = 3, seed: int = 0, proposals: int = 12) -> nn.Module:
    """Return a Faster R-CNN with so many proposals a view."""
    torch.manual_seed(seed)
    return lively(FasterRCNN(TwoLevels(), classes + 1, **_regions(proposals)))


def mask_rcnn(classes: int = 3, seed: int = 0, proposals: int = 12) -> nn.Module:
    """Return a Mask R-CNN with so many proposals a view."""
    torch.manual_seed(seed)
    pool = MultiScaleRoIAlign(["0", "1"], output_size=2, sampling_ratio=1)
    detector = MaskRCNN(TwoLevels(), classes + 1, mask_roi_pool=pool, **_regions(proposals))
    return lively(detector)


def _regions(proposals: int) -> dict[str, Any]:
    return {
        "rpn_anchor_generator": AnchorGenerator(((12,), (16,)), ((0.5, 1.0),) * 2),
        "rpn_post_nms_top_n_test": proposals,
        "rpn_post_nms_top_n_train": 40,
        "box_roi_pool": MultiScaleRoIAlign(["0", "1"], output_size=2, sampling_ratio=1),
        "box_batch_size_per_image": 16,
    }


def lively(detector: Any) -> nn.Module:
    """Return a detector whose logits depend on its images as those of a trained one do; torchvision
    begins with nearly the same for all."""
    for layer in detector.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return detector


def of_resnet18(classes: int = 3) -> FCOS:
    """Return a detector with the backbone of a classifier."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return FCOS(backbone, classes)
