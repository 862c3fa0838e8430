"""A training loop of your own around a cache: plain PyTorch, which goes on after any step.

    kdcache dump-teacher CACHE --data digits:train --recipe digits --teacher SPEC --seeds 0:20
    python own_loop.py CACHE runs/own --data digits:train --student test_resnet --epochs 20

With several GPUs, start it with torchrun and wrap the student in DistributedDataParallel; the
loader gives each process its share.
"""

import argparse
from pathlib import Path

import timm
import torch
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
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--keep", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--stop-after", type=int, help="steps after which to stop")
    options = parser.parse_args()

    loader = kdcache.DistillationLoader(
        options.cache,
        data=options.data,
        batch_size=options.batch_size,
        num_workers=options.workers,
        epochs=options.epochs,
        mean=0.5,
        std=0.25,
    )
    torch.manual_seed(0)
    student = timm.create_model(
        options.student, num_classes=loader.num_classes, in_chans=loader.num_channels
    )
    student.to(loader.compute.device)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / "checkpoint.pt"
    parts = {"student": student, "optimizer": optimizer, "loader": loader}
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step = state["step"]

    for epoch in range(loader.epoch, options.epochs):
        loader.set_epoch(epoch)
        student.train()
        for batch in loader:
            logits = student(batch.images)
            loss = cross_entropy(logits, batch.targets)
            loss = loss + kdcache.dist_loss(logits, batch.teacher, tau=4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            print(f"step {step}: {loss.item():.6f}")
            if step % options.keep == 0:
                state = {name: part.state_dict() for name, part in parts.items()}
                new = checkpoint.with_suffix(".new")
                torch.save({**state, "step": step}, new)
                new.replace(checkpoint)
            if step == options.stop_after:
                return


if __name__ == "__main__":
    main()
