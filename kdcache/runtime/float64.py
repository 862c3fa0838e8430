"""Arithmetic in float64, which not every device has: that of Apple's GPU is done on the CPU."""

from kdcache.deferred import Tensor, torch


def float64_device(device: "torch.device | str") -> "torch.device":
    """Return where float64 is computed of what lies on a device: there, or on the CPU."""
    device = torch.device(device)
    if device.type == "mps":
        return torch.device("cpu")
    return device


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on its own device if that has float64, else on the CPU."""
    return tensor.to(float64_device(tensor.device)).double()
