"""What a loss is, and what the losses share."""

from kdcache.losses.protocol.checks import (
    as_soft_targets,
    require_activation,
    require_logits,
    require_rows,
    require_tau,
)
from kdcache.losses.protocol.label import tempered_pair_with_labels, without_label
from kdcache.losses.protocol.loss import Loss, Need
from kdcache.losses.protocol.options import LossOptions, needs_of
from kdcache.losses.protocol.pairs import mean_of_rows, sigmoid_pair, softened, tempered_pair

__all__ = [
    "Loss",
    "LossOptions",
    "Need",
    "as_soft_targets",
    "mean_of_rows",
    "needs_of",
    "require_activation",
    "require_logits",
    "require_rows",
    "require_tau",
    "sigmoid_pair",
    "softened",
    "tempered_pair",
    "tempered_pair_with_labels",
    "without_label",
]
