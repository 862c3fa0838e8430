"""A model with its preprocessing, as it is exported for other programs to run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdcache.shapes import Views


def _leave(program: Any) -> None:
    """Change nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A model of a task as it is exported."""

    module: nn.Module
    """Takes images, uint8 `[images, channels, height, width]`, and normalises them itself."""
    output: str
    """What it gives, in a word."""
    gives: str
    """What it gives, for users, with shapes."""
    expected: Callable[[Views], list[Tensor]]
    """Gives what kdcache's own model makes of images; with it the program is compared."""
    takes_any_size: bool = False
    """Whether images may have any height and width, if its code allows it."""
    is_scripted: bool = False
    """Whether TorchScript must hold its code, and not the trace of one run: what it does depends on
    pixels."""
    open_up: Callable[[Any], None] = _leave
    """Lets a program that is read back give all that can be compared."""
