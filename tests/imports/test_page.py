"""The pages on importing: their commands and code run as they are written, on small data."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from imports.fkd_files import write
from imports.ml_dr_files import KINDS
from imports.tinyvit_files import CONFIG, write_rank
from pages import ROOT, blocks, commands, files
from PIL import Image

from kdcache.imports.tinyvit_config import read_settings
from kdcache_cli import main

PAGE = ROOT / "docs" / "how-to" / "import.md"
FILES = ROOT / "docs" / "reference" / "imported-labels.md"
SMALLER = {
    "timm:resnet18": "timm:test_resnet,input_size=32",
    "--epochs 100": "--epochs 1 --batch-size 2 --workers 0",
    "--size 224": "--size 32",
    "batch_size=256, size=224": "batch_size=2, size=32, num_workers=0, epochs=1, device='cpu'",
}
NAMES = ("n01440764/n01440764_10026", "n01440764/n01440764_10027", "n01443537/n01443537_2")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder with the images and the labels that the page names."""
    monkeypatch.chdir(tmp_path)
    boxes = np.tile(np.float32([0.25, 0.25, 0.5, 0.5]), (3, 1))
    flips = np.array([True, False, True])
    for number, name in enumerate(NAMES):
        path = Path("data/train") / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50), (9 * number, 99, 7)).save(path, "JPEG")
        labels = np.tile(np.float32([[number // 2], [0.9]]), (3, 1, 1))
        write(Path("labels/FKD_soft_label") / f"{name}.tar", [boxes, flips, labels])
        content = (number, reinforced(number // 2))
        write(Path("labels/reinforced_data") / f"{number}.pth.tar", content)
    settings = {"reinforce": {"image_augmentation": KINDS["randaug_mixing"]}}
    write(Path("labels/reinforced_data/config.pth.tar"), settings)
    for epoch in range(3):
        folder = Path(f"labels/teacher_logits/logits_top1_epoch{epoch}")
        write_rank(folder, 0, ["0", "1", "2"], [entry(number // 2) for number in range(3)])
    Path("labels/config.json").write_text(CONFIG)


def reinforced(label: int) -> list[dict[str, object]]:
    """Return what ml-dr stores of three views, of which one is mixed with sample 1."""
    own = [(0, 0, 30, 40), True, [(5, 9.0), (13, 0.0)], (2, 3, 8, 9)]
    plain = [None, *own, None, None]
    mixed = [1, *([value, value] for value in own), 0.25, [0.5, 3, 4, 9, 9]]
    label_of_view = ([0.9], [label])
    return [{"params": params, "prob": label_of_view} for params in (plain, mixed, plain)]


def entry(label: int) -> bytes:
    """Return what TinyViT stores of a view."""
    return np.int32(7).tobytes() + np.int16(label).tobytes() + np.float16(0.9).tobytes()


def smaller(text: str) -> str:
    for large, small_text in SMALLER.items():
        text = text.replace(large, small_text)
    return text


@pytest.mark.usefixtures("small")
def test_the_page_runs_as_it_is_written() -> None:
    for words in commands(PAGE):
        if words[0] == "dump-teacher":
            continue  # what is left where nothing can be imported; another page runs it
        done = CliRunner().invoke(main, shlex.split(smaller(shlex.join(words))))
        assert done.exit_code == 0, f"{words}\n{done.output}"
    names: dict[str, object] = {}
    (loop,) = blocks(PAGE, "python")
    exec(smaller(loop), names)
    labels = names["labels"]
    assert isinstance(labels, torch.Tensor)
    assert torch.allclose(labels.sum(1), torch.ones(len(labels)), atol=1e-3)


@pytest.mark.usefixtures("small")
def test_files_are_as_the_reference_says() -> None:
    names: dict[str, Any] = {}
    for block in blocks(FILES, "python"):
        exec(block, names)
    assert names["boxes"].shape == (3, 4)
    assert names["parameters"][1:3] == [(0, 0, 30, 40), True]
    assert names["entries"]["classes"][:, 0].tolist() == [0, 0, 1]
    (settings,) = files(FILES).values()
    Path("config.yaml").write_text(settings)
    assert read_settings(Path("config.yaml")).policy == "rand-m9-mstd0.5-inc1"
