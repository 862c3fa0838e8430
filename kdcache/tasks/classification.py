"""Classification: one row of class logits per view."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcache.shapes import Logits, Scalar, Targets


def task_loss(logits: Logits, targets: Targets, *, label_smoothing: float) -> Scalar:
    """Return the cross-entropy with the labels, float32, the mean over rows."""
    return nn.functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


@dataclass
class Score:
    """Top-1 and top-5 accuracy in percent, and mean cross-entropy, over any number of batches."""

    rows: int = 0
    top1: Tensor | float = 0.0
    top5: Tensor | float = 0.0
    loss: Tensor | float = 0.0

    def add(self, logits: Logits, targets: Targets) -> None:
        """Count a batch; nothing is copied from the device until `result`."""
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        self.rows += len(targets)
        self.top1 += ranked[:, 0].sum()
        self.top5 += ranked.any(1).sum()
        self.loss += nn.functional.cross_entropy(logits.float(), targets, reduction="sum")

    def result(self) -> dict[str, float]:
        """Return `top1`, `top5` and `loss`."""
        return {
            "top1": 100 * float(self.top1) / self.rows,
            "top5": 100 * float(self.top5) / self.rows,
            "loss": float(self.loss) / self.rows,
        }


def logit_statistics(logits: Logits, targets: Targets) -> dict[str, float]:
    """Return means over rows that show at a glance whether a teacher sees what it should.

    `mean` and `std` of a row's logits, `confidence` (the largest probability) and `accuracy` in percent.
    """
    confidence, predicted = torch.softmax(logits.float(), dim=1).max(1)
    return {
        "mean": float(logits.float().mean()),
        "std": float(logits.float().std(dim=1, correction=0).mean()),
        "confidence": float(confidence.mean()),
        "accuracy": 100 * float((predicted == targets).float().mean()),
    }
