"""Models with a fault each, as users write them; tests name them as `broken_models:function`."""

from collections.abc import Callable
from typing import Any

import torch
from tiny_models import conv, mlp
from torch import Tensor, nn


class Changed(nn.Module):
    """A small network, whose logits are changed."""

    def __init__(self, change: Callable[..., Any], *, only_in_training: bool = False) -> None:
        super().__init__()
        self.inner, self.only_in_training = mlp(), only_in_training
        self.change = change

    def forward(self, images: Tensor) -> Any:
        logits = self.inner(images)
        is_changed = self.training or not self.only_in_training
        return self.change(logits) if is_changed else logits


def _raises(error: Exception) -> Callable[..., Any]:
    def change(logits: Tensor) -> Tensor:
        raise error

    return change


CHANGES: dict[str, Callable[..., Any]] = {
    "index_error": _raises(IndexError("list index out of range")),
    "key_error": _raises(KeyError("stage4")),
    "none": lambda logits: None,
    "pair": lambda logits: (logits, logits),
    "table": lambda logits: {"scores": logits, "features": logits},
    "named": lambda logits: {"features": logits, "logits": logits},  # not broken
    "named_none": lambda logits: {"logits": None},
    "squeezed": lambda logits: logits.squeeze(),
    "one_row": lambda logits: logits[:1].mean(0),
    "maps": lambda logits: logits[:, :, None, None],
    "classes": lambda logits: logits.argmax(1),
    "numbers": lambda logits: logits.long(),
    "few": lambda logits: logits[:, :7],
    "many_rows": lambda logits: logits.repeat(2, 1),
    "not_a_number": lambda logits: logits * torch.nan,
    "detached": lambda logits: logits.detach(),
    "softmax": lambda logits: logits.softmax(1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "constant": lambda logits: logits[:, :1].expand(-1, 10) * 1.0,
    "same": lambda logits: logits[:1].expand(len(logits), -1) * 1.0,
    "log_softmax": lambda logits: logits.log_softmax(1),
    "in_place": lambda logits: logits.exp().add_(1),
}


def changed(how: str, only_in_training: bool = False) -> nn.Module:
    return Changed(CHANGES[how], only_in_training=only_in_training)


def needs(width: int, *, depth: int) -> nn.Module:
    return conv(width, depth)


def fails() -> nn.Module:
    raise LookupError("no file of weights")


def number() -> int:
    return 3


def class_only() -> type[nn.Module]:
    return nn.Identity


def frozen() -> nn.Module:
    return mlp().requires_grad_(False)


def empty() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10))


class Unused(nn.Module):
    """Has a layer that its forward does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.spare = mlp(), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits


def unused() -> nn.Module:
    return Unused()


class Extra(nn.Module):
    """Keeps more than tensors in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits

    def get_extra_state(self) -> dict[str, int]:
        return {"step": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def extra() -> nn.Module:
    return Extra()


def starts_at_zero() -> nn.Module:
    module = mlp()
    for parameter in module[-1].parameters():
        nn.init.zeros_(parameter)
    return module


class WholeImages(nn.Module):
    """Gives maps at stride 4, of images up to a height only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 5, stride=4, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] > 16:
            raise ValueError("positions up to 16 only")
        logits: Tensor = self.layer(images)
        return logits


def whole_images() -> nn.Module:
    return WholeImages()


class FewAtOnce(nn.Module):
    """A small network that, as on a small GPU, runs out of memory with more views than `most`, or
    with more than `most_trained` where it is trained."""

    def __init__(self, most: int, most_trained: int) -> None:
        super().__init__()
        self.inner = mlp(dropout=0.2)
        self.most = most
        self.most_trained = most_trained

    def forward(self, images: Tensor) -> Tensor:
        most = self.most
        if torch.is_grad_enabled():
            most = self.most_trained
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        logits: Tensor = self.inner(images)
        return logits


def few_at_once(most: int = 16, most_trained: int = 8) -> nn.Module:
    return FewAtOnce(most, most_trained)
