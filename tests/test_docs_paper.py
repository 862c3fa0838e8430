"""The page of the DIST paper's settings: its commands run, its models and losses exist."""

import json
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
from click.testing import CliRunner
from image_files import write_imagenet
from pages import DOCS, commands
from safetensors.torch import save_file
from segmentation_files import write_cityscapes, write_voc
from torchvision.datasets import cifar

from kdcache.losses import open_loss
from kdcache.models.model import open_model
from kdcache.models.specs import check_model
from kdcache.views import load_recipe
from kdcache_cli.commands import main

PAGE = DOCS / "how-to" / "dist-paper.md"


def write_cifar100(root: Path) -> None:
    """Write the files of CIFAR-100, with a few images of noise."""
    generator = np.random.default_rng(0)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split, count in (("train", 12), ("test", 6)):
        pixels = generator.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        (folder / split).write_bytes(
            pickle.dumps({"data": pixels, "fine_labels": list(range(count))})
        )
    (folder / "meta").write_bytes(
        pickle.dumps({"fine_label_names": [f"class {number}" for number in range(100)]})
    )


SMALLER = {
    "/data/": "data/",
    "torchvision:deeplabv3_resnet101,aux_loss=true": (
        "tiny_models:segmenter,stride=8,classes=19,input_size=64x128"
    ),
    ",weights=deeplabv3-r101-cityscapes.pth": "",
    "torchvision:deeplabv3_resnet101,weights=COCO_WITH_VOC_LABELS_V1": (
        "tiny_models:segmenter,stride=8,classes=21,input_size=64x128"
    ),
    "torchvision:deeplabv3_mobilenet_v3_large,weights_backbone=DEFAULT": "SEGMENTER",
    "timm:resnet18,output_stride=8,pretrained=true,": (
        "timm:test_resnet,output_stride=8,input_size=64x128,"
    ),
    "torchvision:resnet34,weights=IMAGENET1K_V1": (
        "timm:test_resnet,weights=teacher.safetensors,input_size=64"
    ),
    "timm:resnet50.a1_in1k,pretrained=true": (
        "tiny_models:conv,classes=3,channels=3,mean=0.5,std=0.25,input_size=64"
    ),
    "timm:swin_large_patch4_window7_224.ms_in22k_ft_in1k,pretrained=true": (
        "tiny_models:conv,classes=3,channels=3,seed=1,mean=0.5,std=0.25,input_size=64"
    ),
    "torchvision:resnet18": "timm:test_resnet,input_size=64",
    "timm:tf_efficientnet_b0": "timm:test_efficientnet,input_size=64",
    "timm:swin_tiny_patch4_window7_224": "timm:test_vit,input_size=64",
    "cifar:wrn_40_2": "cifar:resnet8",
    "cifar:wrn_40_1": "cifar:resnet8",
    "cifar:resnet32x4": "cifar:resnet8",
    "resnet32x4_vanilla/ckpt_epoch_240.pth": "runs/wrn-40-2/student.safetensors",
    "--precision bfloat16": "--precision float32",
}
"""Small models in the place of those of the page, which see small crops where they segment; many
processors are slow in half precision. All other settings are the page's."""


def test_the_papers_recipes_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan each command of the page on a small folder of the same layout; dump one seed for the
    trainings that need a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cifar, "check_integrity", lambda *file: True)
    write_cifar100(tmp_path / "data")
    write_imagenet(tmp_path / "data" / "imagenet", 6)
    write_cityscapes(tmp_path / "data" / "cityscapes", 64, 128)
    write_voc(tmp_path / "data" / "voc", 4, 60, 80)
    save_file(
        timm.create_model("test_resnet", num_classes=3).state_dict(),
        tmp_path / "teacher.safetensors",
    )
    teacher = open_model("cifar:resnet8", classes=100, recipe=load_recipe("cifar"))
    (tmp_path / "runs" / "wrn-40-2").mkdir(parents=True)
    save_file(teacher.module.state_dict(), tmp_path / "runs" / "wrn-40-2" / "student.safetensors")
    planned = []
    for words in commands(PAGE):
        line = shlex.join([*words, "--workers", "0", "--device", "cpu"])
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        classes = 21 if "VOC" in line else 19
        small = f"tiny_models:segmenter,stride=8,classes={classes},input_size=64x128"
        line = line.replace("SEGMENTER", small)
        if words[0] == "train-student" and "--cache" not in words:
            line = line.replace("runs/wrn-40-2", "runs/teacher")
        done = CliRunner().invoke(main, [*shlex.split(line), "--plan", "--json"])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        planned.append(json.loads(done.stdout))
        if words[0] == "dump-teacher":
            seeds = words[words.index("--seeds") + 1]
            done = CliRunner().invoke(
                main, shlex.split(line.replace(f"--seeds {seeds}", "--seeds 0:1"))
            )
            assert done.exit_code == 0, f"{line}\n{done.output}"
    dumps = [plan for plan in planned if "bytes_per_view" in plan]
    trainings = [plan for plan in planned if "steps_per_epoch" in plan]
    assert [plan["views"] for plan in dumps] == [
        6 * 100,
        12 * 240,
        12 * 240,
        6 * 100,
        6 * 100,
        6 * 100,
        5 * 216,
        4 * 100,
    ]
    epochs = [plan["epochs"] for plan in trainings]
    assert epochs == [240, 240, 240, 100, 450, 300, 216, 216, 439]


def test_models_and_losses_in_the_tables_of_the_papers_recipes_exist() -> None:
    rows = re.findall(r"^\| .*$", PAGE.read_text(), re.MULTILINE)
    specs = re.findall(r"`((?:cifar|timm|torchvision):[^`]*)`", "\n".join(rows))
    for spec in specs:
        check_model(spec)
    assert len(specs) == 2 * (6 + 8 + 5 + 1) + 3
    losses = re.findall(r"[ `]((?:dist|kl|dkd|nkd):\S*?)`", "\n".join(rows))
    for loss in losses:
        open_loss(loss)
    assert len(losses) == 2 * 4 + 3
