"""A training loop around a cache with Hugging Face Accelerate, which goes on after any step.

    kdcache dump-teacher CACHE --data digits:train --recipe digits --teacher SPEC --seeds 0:20
    accelerate launch accelerate_loop.py CACHE runs/own --data digits:train --student test_resnet

Accelerate prepares the model, the optimiser and the schedule, but not the loader, which gives each
process its share itself.
"""

import argparse
import shutil
from pathlib import Path

import timm
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.nn.functional import cross_entropy

import kdcache


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
    parser.add_argument("--stop-after", type=int, help="steps after which to stop")
    options = parser.parse_args()

    # the batch is split among the processes: the schedule is to take one step for each of ours
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
    loader = kdcache.DistillationLoader(
        options.cache,
        data=options.data,
        batch_size=options.batch_size,
        num_workers=options.workers,
        epochs=options.epochs,
        device=str(accelerator.device),
        mean=0.5,
        std=0.25,
    )
    torch.manual_seed(0)
    student = timm.create_model(
        options.student, num_classes=loader.num_classes, in_chans=loader.num_channels
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, options.epochs * loader.steps_per_epoch
    )
    student, optimizer, schedule = accelerator.prepare(student, optimizer, schedule)
    accelerator.register_for_checkpointing(loader)

    step = 0
    checkpoint = max(options.out.glob("step-*"), default=None)
    if checkpoint is not None:
        accelerator.load_state(checkpoint)
        step = int(checkpoint.name.removeprefix("step-"))

    for epoch in range(loader.epoch, options.epochs):
        loader.set_epoch(epoch)
        student.train()
        for batch in loader:
            logits = student(batch.images)
            loss = cross_entropy(logits, batch.targets)
            loss = loss + kdcache.dist_loss(logits, batch.teacher, tau=4)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            step += 1
            accelerator.print(f"step {step}: {loss.item():.6f}")
            if step % options.keep == 0:
                save(accelerator, options.out, step)
            if step == options.stop_after:
                return


def save(accelerator: Accelerator, out: Path, step: int) -> None:
    """Keep the state of all that was prepared or registered, and then drop older ones."""
    new = out / "new"
    accelerator.save_state(new)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        older = list(out.glob("step-*"))
        new.rename(out / f"step-{step:08}")
        for folder in older:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
