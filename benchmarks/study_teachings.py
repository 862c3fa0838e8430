"""Ways to teach a student, which training_study.py compares."""

import argparse
from dataclasses import dataclass

FULL = "full:dtype=float32"
CODECS = [
    FULL,
    *(f"lowrank:step={step}" for step in (1, 2, 4, 8)),
    *(f"topk:k={k}" for k in (5, 10, 50)),
]
TAILS = ["uniform", "ghost", "none"]
LOSSES = {"kl": "kl:tau={tau:g}", "dist": "dist:tau={tau:g},beta=2,gamma=2"}
TAUS = [1.0, 4.0]


@dataclass(frozen=True)
class Teaching:
    """One way to teach a student; labels only has neither codec nor tail."""

    loss: str = "ce"
    codec: str = ""
    tail: str = ""

    @property
    def name(self) -> str:
        """The key of its results."""
        return " ".join(part for part in (self.loss, self.codec, self.tail) if part)

    @property
    def reader(self) -> tuple[str, str]:
        """What decodes its records."""
        return self.codec, self.tail

    @property
    def reference(self) -> "Teaching":
        """The same loss from raw logits."""
        return Teaching(self.loss, FULL) if self.codec else self


def all_teachings(options: argparse.Namespace) -> list[Teaching]:
    """Return labels only, and every loss from every codec, `topk` under every tail policy."""
    losses = [LOSSES[name].format(tau=tau) for name in options.losses for tau in options.taus]
    tails = {spec: options.tails if spec.startswith("topk") else [""] for spec in options.codecs}
    return [
        Teaching(),
        *(
            Teaching(loss, spec, tail)
            for spec in options.codecs
            for tail in tails[spec]
            for loss in losses
        ),
    ]
