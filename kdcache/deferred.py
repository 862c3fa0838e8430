"""torch and torchvision, imported when they are first used, and the doors of rooms.

Most of what the rooms say of themselves takes no tensor: which codecs and losses there are, their
options, the fields of a record, what a cache holds. Importing torch takes seconds. So the modules
that are imported for these things take `torch` and `Tensor` from here; all others import them from
torch. In annotations `torch.device` and its like stand in quotes: they would be looked up.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "IterableDataset",
    "Module",
    "Tensor",
    "datasets",
    "door",
    "functional",
    "late",
    "ops",
    "torch",
    "tv_tensors",
]

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
    from torch.utils.data import IterableDataset
    from torchvision import datasets, ops, tv_tensors
    from torchvision.transforms.v2 import functional
else:

    class _Import:
        """A module that is imported when one of its names is first asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            module = sys.modules.get(self._name) or import_module(self._name)
            return getattr(module, attribute)

    class _TypeOfTorch(type):
        """Of a class that stands for torch's of the same name: in annotations, and for
        `isinstance`."""

        home: str
        """The module that has it."""

        def __instancecheck__(cls, value: object) -> bool:
            if sys.modules.get("torch") is None:  # then nothing is of its classes
                return False
            return isinstance(value, getattr(import_module(cls.home), cls.__name__))

    class Tensor(metaclass=_TypeOfTorch):
        """Stands for torch.Tensor."""

        home = "torch"

    class Module(metaclass=_TypeOfTorch):
        """Stands for torch.nn.Module."""

        home = "torch.nn"

    class IterableDataset(metaclass=_TypeOfTorch):
        """Stands for torch.utils.data.IterableDataset."""

        home = "torch.utils.data"

    torch = _Import("torch")
    functional = _Import("torchvision.transforms.v2.functional")
    datasets = _Import("torchvision.datasets")
    ops = _Import("torchvision.ops")
    tv_tensors = _Import("torchvision.tv_tensors")


def late(place: str) -> Callable[..., Any]:
    """Return the function at `module:name`, which is imported when it is first called."""
    module, _, name = place.partition(":")

    def call(*args: Any, **options: Any) -> Any:
        return getattr(import_module(module), name)(*args, **options)

    return call


def door(room: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a room whose public names are imported on first use.

    Args:
        room: its name, such as `kdcache.views`.
        homes: the module of the room that defines each name.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 # Python's name
        if name not in homes:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{homes[name]}"), name)

    return __getattr__
