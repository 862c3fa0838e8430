"""Operators for whose result a host waits for its device."""

from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_WAITS = {
    _aten._local_scalar_dense,
    _aten._unique2,
    _aten.bincount,
    _aten.equal,
    _aten.is_nonzero,
    _aten.masked_select,
    _aten.nonzero,
    _aten.repeat_interleave,
}
"""They give the host a number, or have a result whose size the values decide."""
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}


def would_wait(operator: Any, args: Any) -> bool:
    """Return whether a host waits for the result of an operator, copies to it apart.

    Args:
        operator: of `torch.ops`, without its overload.
        args: that it is called with.
    """
    if operator in _INDEXING:
        return any(_is_mask(index) for index in args[1])
    return operator in _WAITS


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)
