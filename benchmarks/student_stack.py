"""Many copies of a perceptron side by side, so that a layer of all of them is one matrix
product."""

import torch
from torch import Tensor, nn

from kdcache.models.vision_model import VisionModel


class Stack(nn.Module):
    """Copies of a perceptron (Linear and ReLU in turn) with the same initial weights, which then go
    their own ways."""

    def __init__(self, model: VisionModel, students: int) -> None:
        super().__init__()
        linear = [module for module in model.module.modules() if isinstance(module, nn.Linear)]
        self.students = students
        self.mean = model.mean
        self.std = model.std
        # names that end in .bias, which the optimiser exempts from weight decay as it does those of
        # a single student
        self.layers = nn.ModuleList(
            StackedLinear(layer, students, shared_input=at == 0) for at, layer in enumerate(linear)
        )

    def forward(self, views: Tensor) -> Tensor:
        """Return logits `[students, rows, classes]` of uint8 views."""
        features = torch.sub(views, self.mean).div_(self.std).flatten(1)
        for at, layer in enumerate(self.layers):
            features = layer(features.relu() if at else features)
        return features

    def weights(self, at: int) -> list[Tensor]:
        """Return weights and biases of one student, layer by layer, shaped as those of
        nn.Linear."""
        return [part for layer in self.layers for part in layer.weights(at)]  # type: ignore[operator]


class StackedLinear(nn.Module):
    """One nn.Linear for each of several students; the first layer's input is the same for all."""

    def __init__(self, layer: nn.Linear, students: int, *, shared_input: bool) -> None:
        super().__init__()
        weight = layer.weight.detach().T
        self.students = students
        self.shared_input = shared_input
        self.weight = nn.Parameter(
            weight.repeat(1, students) if shared_input else weight.repeat(students, 1, 1)
        )
        self.bias = nn.Parameter(layer.bias.detach().repeat(students, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return `[students, rows, out]` from `[students, rows, in]`, or from `[rows, in]` where
        all see the same."""
        if self.shared_input:
            return (features @ self.weight).unflatten(1, (self.students, -1)).transpose(
                0, 1
            ) + self.bias
        return torch.baddbmm(self.bias, features, self.weight)

    def weights(self, at: int) -> list[Tensor]:
        """Return weight and bias of one student."""
        weight = (
            self.weight.unflatten(1, (self.students, -1))[:, at]
            if self.shared_input
            else self.weight[at]
        )
        return [weight.detach().T, self.bias[at, 0].detach()]
