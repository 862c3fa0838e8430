"""Losses on class logits; tensors only."""

from typing import Any

from kdcache.config.spec import build, choose, parse_spec
from kdcache.errors import UsageError
from kdcache.losses.ce import Ce
from kdcache.losses.cwd import Cwd, cwd_loss
from kdcache.losses.dist import Dist, dist_loss, dist_terms
from kdcache.losses.dkd import Dkd, dkd_loss, dkd_terms
from kdcache.losses.kl import Kl, kl_loss
from kdcache.losses.nkd import Nkd, nkd_loss, nkd_terms
from kdcache.losses.protocol import Loss, Need

__all__ = [
    "Ce",
    "Cwd",
    "Dist",
    "Dkd",
    "Kl",
    "Loss",
    "Need",
    "Nkd",
    "cwd_loss",
    "dist_loss",
    "dist_terms",
    "dkd_loss",
    "dkd_terms",
    "kl_loss",
    "nkd_loss",
    "nkd_terms",
    "open_loss",
]


_LOSSES: dict[str, type[Any]] = {
    "ce": Ce,
    "cwd": Cwd,
    "dist": Dist,
    "dkd": Dkd,
    "kl": Kl,
    "nkd": Nkd,
}


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
    choose(spec.name, _LOSSES, "loss")
    loss: Loss = build(_LOSSES[spec.name], spec.options, f"loss {spec.name}")
    return loss
