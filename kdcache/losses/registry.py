"""The losses by name, opened from a spec."""

import re
from typing import Any

from kdcache.config.fields import build
from kdcache.config.names import choose
from kdcache.config.spec import Spec, parse_spec
from kdcache.errors import UsageError
from kdcache.losses.ce import Ce
from kdcache.losses.cwd import Cwd
from kdcache.losses.dist import Dist
from kdcache.losses.dkd import Dkd
from kdcache.losses.kl import Kl
from kdcache.losses.mlkd import Mlkd
from kdcache.losses.mse import Mse
from kdcache.losses.nkd import Nkd
from kdcache.losses.protocol import Loss
from kdcache.losses.sum import Sum

LOSSES: dict[str, type[Any]] = {cls.name: cls for cls in (Ce, Cwd, Dist, Dkd, Kl, Mlkd, Mse, Nkd)}

_PLUS = re.compile(r"\+(?=[A-Za-z])")  # not that of 1e+3


def open_loss(text: str) -> Loss:
    """Return the loss that a spec names, such as `dist:tau=4,beta=2,gamma=2`, `dkd:beta=8` or `ce`,
    or the sum of several, `dist+kl:tau=4`.

    Raises:
        UsageError: an unknown loss or option (the nearest is suggested), or a value out of range.
    """
    specs = [parse_spec(part) for part in _PLUS.split(text)]
    parts = tuple(_opened(spec, text) for spec in specs)
    if len(parts) == 1:
        return parts[0]
    names = [spec.name for spec in specs]
    for spec in specs[1:]:
        if names.count(spec.name) > 1 or spec.name == Ce.name:
            raise UsageError(
                f"loss {text!r} is a sum with {spec.name}, which has it already; name each loss"
                " once, and the weight of the labels as ce=1 of the first"
            )
        if "ce" in spec.options:
            raise UsageError(
                f"loss {text!r} is a sum, in which labels count once; give ce of the first alone"
            )
    return Sum(parts=parts)


def _opened(spec: Spec, text: str) -> Loss:
    if spec.arg is not None:
        raise UsageError(
            f"loss {text!r}: {spec.arg!r} is not key=value; write for example"
            " dist:tau=4,beta=2,gamma=2"
        )
    choose(spec.name, LOSSES, "loss")
    loss: Loss = build(LOSSES[spec.name], spec.options, f"loss {spec.name}")
    return loss
