"""A device that is not there: its tensors have values, and operands on two devices raise."""

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ELSEWHERE = torch.device("cuda:0")
_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
_TO_HOST = {Tensor.cpu, Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.item}
_ON_HOST_ONLY = {Tensor.numpy, Tensor.__array__}


class MixedDevicesError(RuntimeError):
    """An operation whose operands are on two devices, or that is not for this one."""


class Elsewhere(TorchFunctionMode):
    """In it `tensor.to(ELSEWHERE)` is a tensor of that device, which computes as a CPU does."""

    def __init__(self) -> None:
        super().__init__()
        self._tensors: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = _tensors_in((*args, *kwargs.values()))
        is_there = [self._has(tensor) for tensor in tensors]
        if func == _DEVICE:
            return ELSEWHERE if self._has(args[0]) else func(*args)
        if func is Tensor.pin_memory:
            return args[0].clone()
        target = kwargs.get("device", args[1] if func is Tensor.to else None)
        if isinstance(target, torch.device | str):
            device = torch.device(target)
            kwargs.pop("device", None)
            args = args[:1] if func is Tensor.to else args
            result = args[0].clone() if func is Tensor.to else func(*args, **kwargs)
            return self._placed(result, is_there=device.type == ELSEWHERE.type)
        if func in _TO_HOST and any(is_there):
            result = func(*args, **kwargs)
            return result.clone() if isinstance(result, Tensor) else result
        if func in _ON_HOST_ONLY and any(is_there):
            raise MixedDevicesError(f"{func.__name__} of a tensor that is elsewhere")
        sides = {there for tensor, there in zip(tensors, is_there, strict=True) if tensor.ndim}
        if len(sides) > 1 and func not in (Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_):
            raise MixedDevicesError(f"{func.__name__} of tensors on two devices")
        return self._placed(func(*args, **kwargs), is_there=any(is_there))

    def _has(self, tensor: Tensor) -> bool:
        return self._tensors.get(id(tensor)) is tensor

    def _placed(self, result: Any, *, is_there: bool) -> Any:
        for tensor in _tensors_in((result,)):
            if is_there:
                self._tensors[id(tensor)] = tensor
        return result


def _tensors_in(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors_in(value)
    return found
