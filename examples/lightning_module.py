"""A LightningModule around a cache, with Lightning's Trainer; it goes on after any step.

    kdcache dump-teacher CACHE --data digits:train --recipe digits --teacher SPEC --seeds 0:20
    python lightning_module.py CACHE runs/own --data digits:train --student test_resnet --epochs 20

The loader counts the epochs, not Lightning, whose count falls behind if a run is stopped at the
ends of two epochs. Of several processes the loader gives each its share.
"""

import argparse
from pathlib import Path
from typing import Any

import lightning
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

import kdcache


class Distillation(lightning.LightningModule):
    """A student that learns from the labels and from the soft targets of a cache."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options

    def setup(self, stage: str) -> None:
        """Open the cache and make the student: by now Lightning's processes know each other."""
        self.loader = kdcache.DistillationLoader(
            self.options.cache,
            data=self.options.data,
            batch_size=self.options.batch_size,
            num_workers=self.options.workers,
            epochs=self.options.epochs,
            device=str(self.trainer.strategy.root_device),
            mean=0.5,
            std=0.25,
        )
        torch.manual_seed(0)
        self.student = timm.create_model(
            self.options.student,
            num_classes=self.loader.num_classes,
            in_chans=self.loader.num_channels,
        )

    def train_dataloader(self) -> kdcache.DistillationLoader:
        """Return the batches of training."""
        return self.loader

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the place in the training to a checkpoint."""
        checkpoint["loader"] = self.loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the place of a checkpoint."""
        self.loader.load_state_dict(checkpoint["loader"])

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Return the batch as it is: the loader has put it on the device."""
        return batch

    def training_step(self, batch: kdcache.DistillationBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        logits = self.student(batch.images)
        loss = cross_entropy(logits, batch.targets)
        loss = loss + kdcache.dist_loss(logits, batch.teacher, tau=4)
        self.print(f"step {self.global_step + 1}: {loss.item():.6f}")
        return loss

    def on_train_start(self) -> None:
        """Train no further if the training that goes on was at its end."""
        self.trainer.should_stop = self.loader.epoch >= self.options.epochs

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop after the last batch of the last epoch."""
        self.trainer.should_stop = self.loader.epoch >= self.options.epochs

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and a rate that falls after each step."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        steps = self.options.epochs * self.loader.steps_per_epoch
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main() -> None:
    """Train, and keep a checkpoint after each step that `--keep` counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cache")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--data", help="what the cache was made from; a cache with images needs none"
    )
    parser.add_argument("--student", default="resnet18", help="a model of timm")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256, help="of all processes together")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--keep", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--stop-after", type=int, default=-1, help="steps after which to stop")
    options = parser.parse_args()

    keep = ModelCheckpoint(
        options.out,
        filename="checkpoint",
        every_n_train_steps=options.keep,
        enable_version_counter=False,
    )
    trainer = lightning.Trainer(
        max_epochs=-1,  # the loader counts them
        max_steps=options.stop_after,
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
    )
    checkpoint = options.out / "checkpoint.ckpt"
    trainer.fit(Distillation(options), ckpt_path=checkpoint if checkpoint.exists() else None)


if __name__ == "__main__":
    main()
