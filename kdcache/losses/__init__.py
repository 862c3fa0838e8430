"""Losses on class logits; tensors only."""

from kdcache.losses.ce import Ce
from kdcache.losses.cwd import Cwd, cwd_loss
from kdcache.losses.dist import Dist, dist_loss, dist_terms
from kdcache.losses.dkd import Dkd, dkd_loss, dkd_terms
from kdcache.losses.kl import Kl, kl_loss
from kdcache.losses.mlkd import Mlkd, mlkd_loss, mlkd_terms
from kdcache.losses.mse import Mse, mse_loss
from kdcache.losses.nkd import Nkd, nkd_loss, nkd_terms
from kdcache.losses.protocol import Loss, Need
from kdcache.losses.registry import open_loss

__all__ = [
    "Ce",
    "Cwd",
    "Dist",
    "Dkd",
    "Kl",
    "Loss",
    "Mlkd",
    "Mse",
    "Need",
    "Nkd",
    "cwd_loss",
    "dist_loss",
    "dist_terms",
    "dkd_loss",
    "dkd_terms",
    "kl_loss",
    "mlkd_loss",
    "mlkd_terms",
    "mse_loss",
    "nkd_loss",
    "nkd_terms",
    "open_loss",
]
