"""The losses by name, opened from a spec."""

from typing import Any

from kdcache.config.spec import build, choose, parse_spec
from kdcache.errors import UsageError
from kdcache.losses.ce import Ce
from kdcache.losses.cwd import Cwd
from kdcache.losses.dist import Dist
from kdcache.losses.dkd import Dkd
from kdcache.losses.kl import Kl
from kdcache.losses.nkd import Nkd
from kdcache.losses.protocol import Loss

LOSSES: dict[str, type[Any]] = {cls.name: cls for cls in (Ce, Cwd, Dist, Dkd, Kl, Nkd)}


def open_loss(text: str) -> Loss:
    """Return the loss that a spec names, such as `dist:tau=4,beta=2,gamma=2`, `dkd:beta=8` or `ce`.

    Raises:
        UsageError: an unknown loss or option (the nearest is suggested), or a value out of range.
    """
    spec = parse_spec(text)
    if spec.arg is not None:
        raise UsageError(
            f"loss {text!r}: {spec.arg!r} is not key=value; write for example"
            " dist:tau=4,beta=2,gamma=2"
        )
    choose(spec.name, LOSSES, "loss")
    loss: Loss = build(LOSSES[spec.name], spec.options, f"loss {spec.name}")
    return loss
