"""The documents hold: commands parse, tables load, code runs, links lead somewhere."""

import json
import pickle
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
import timm
import yaml
from click.testing import CliRunner
from PIL import Image
from runs import dump
from safetensors.torch import save_file
from segmentation_files import write_cityscapes, write_voc
from torchvision.datasets import cifar

from kdcache.config import load_config
from kdcache.dump import DumpConfig
from kdcache.models import open_model
from kdcache.train import TrainConfig
from kdcache.views import load_recipe
from kdcache_cli.commands import main

ROOT = Path(__file__).parent.parent
PAGES = [path for folder in (".", "docs", "benchmarks", "examples") for path in sorted((ROOT / folder).glob("*.md"))]
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Return the words of every kdcache command in the page's shell blocks."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("kdcache ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documents_parse(page: Path) -> None:
    for name, *words in commands(page):
        main.commands[name].make_context(name, words)


def test_every_command_and_option_is_documented() -> None:
    shown = README.read_text() + GUIDE.read_text()
    for name, command in main.commands.items():
        assert f"kdcache {name}" in shown, name
        context = click.Context(command)
        for option in command.get_params(context):
            if isinstance(option, click.Option) and "--help" not in option.opts:
                key = option.name.replace("as_json", "json").replace("settings", "set").replace("file", "config")
                known = f"--{key.replace('_', '-')}" in shown or key.split("__")[-1] in shown
                assert known, f"{name}: {option.opts} is in neither README.md nor docs/guide.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{page.name}: {target}"


def test_toml_of_the_guide_loads(tmp_path: Path) -> None:
    tables = blocks(GUIDE, "toml")
    assert len(tables) == 3
    for number, text in enumerate(tables):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        if "transforms" in tomllib.loads(text):
            recipe = load_recipe(str(file))
            assert recipe(Image.new("RGB", (300, 200))).shape == (3, recipe.size, recipe.size)
        else:
            load_config(DumpConfig, "dump-teacher", file=str(file), flags={})
            load_config(TrainConfig, "train-student", file=str(file), flags={})


def test_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(tmp_path / "cache", seeds="0:2")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(GUIDE, "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["student_logits"].grad.abs().sum() > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_the_pipeline_runs_as_it_is_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the page's commands on an own data set, with small models and few epochs in the place of the large ones."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for index in range(count):
            image = tmp_path / "data" / split / f"class{index % 3}" / f"{index}.jpeg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(image)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "teacher.safetensors")
    write_cityscapes(tmp_path / "data" / "cityscapes")
    smaller = {
        "/data/": "data/",
        "torchvision:deeplabv3_resnet101,weights=teacher.safetensors,aux_loss=true": "tiny_models:segmenter,classes=19",
        "timm:resnet18,output_stride=8": "tiny_models:segmenter,classes=19,seed=1",
        "gamma=1 --epochs 100": "gamma=1 --epochs 1 --batch-size 5 --workers 0",
        "timm:resnet50,pretrained=true": "timm:test_resnet,weights=teacher.safetensors",
        "timm:resnet18": "timm:test_vit",
        "topk:k=16": "topk:k=2",
        "topk:k=4": "topk:k=1",
        "0:128117": "0:4",
        "--batch-size 256": "--batch-size 4 --workers 0 --codec full:dtype=uint8 --codec lowrank:step=1",
        "--epochs 100": "--epochs 2 --batch-size 6 --workers 0",
    }
    ran = []
    for words in commands(page):
        line = shlex.join(words)
        if words[0] == "quickstart" or "--config" in words or any("://" in word for word in words):  # no bucket or hub here
            continue
        for large, small in smaller.items():
            line = line.replace(large, small)
        done = CliRunner().invoke(main, shlex.split(line))
        assert done.exit_code == 0, f"{line}\n{done.output}"
        ran.append(words[0])
    assert {"dump-teacher", "train-student"} <= set(ran)
    assert list(tmp_path.glob("runs/*/student.safetensors"))


def write_cifar100(root: Path) -> None:
    """Write the files of CIFAR-100, with a few images of noise."""
    generator = np.random.default_rng(0)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split, count in (("train", 12), ("test", 6)):
        pixels = generator.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        (folder / split).write_bytes(pickle.dumps({"data": pixels, "fine_labels": list(range(count))}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {number}" for number in range(100)]}))


def write_imagenet(root: Path) -> None:
    """Write a folder of ImageNet's layout, with a few images of three classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for index in range(count):
            image = root / split / f"n0144000{index % 3}" / f"n0144000{index % 3}_{index}.JPEG"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (260, 300, 3), dtype=np.uint8)).save(image, "JPEG")


SMALLER = {
    "/data/": "data/",
    "torchvision:deeplabv3_resnet101,aux_loss=true": "tiny_models:segmenter,stride=8,classes=19",
    ",weights=deeplabv3-r101-cityscapes.pth": "",
    "torchvision:deeplabv3_resnet101,weights=COCO_WITH_VOC_LABELS_V1": "tiny_models:segmenter,stride=8,classes=21",
    ",weights_backbone=DEFAULT": "",
    "resnet18,output_stride=8,pretrained=true": "resnet18,output_stride=8",
    "torchvision:resnet34,weights=IMAGENET1K_V1": "timm:test_resnet,weights=teacher.safetensors",
    "timm:resnet50.a1_in1k,pretrained=true": "timm:test_resnet,weights=teacher.safetensors",
    "timm:swin_large_patch4_window7_224.ms_in22k_ft_in1k,pretrained=true": "timm:test_resnet,weights=teacher.safetensors",
    "timm:resnet18": "timm:test_resnet",
    "timm:efficientnet_b0": "timm:test_efficientnet",
    "timm:swin_tiny_patch4_window7_224": "timm:test_vit",
    "depth=40,width=2": "depth=10,width=1",
    "depth=40": "depth=10",
}
"""Small models in the place of those of the page; all other settings are the page's."""


def test_the_papers_recipes_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan each command of the page on a small folder of the same layout; dump one seed for the trainings that need a cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(cifar, "check_integrity", lambda *file: True)
    write_cifar100(tmp_path / "data")
    write_imagenet(tmp_path / "data" / "imagenet")
    write_cityscapes(tmp_path / "data" / "cityscapes", 64, 128)
    write_voc(tmp_path / "data" / "voc", 4, 60, 80)
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "teacher.safetensors")
    teacher = open_model("cifar_models:wrn,depth=10,width=1", classes=100, recipe=load_recipe("cifar"))
    (tmp_path / "runs" / "wrn-40-2").mkdir(parents=True)
    save_file(teacher.module.state_dict(), tmp_path / "runs" / "wrn-40-2" / "student.safetensors")
    planned = []
    for words in commands(ROOT / "docs" / "recipes.md"):
        line = shlex.join([*words, "--workers", "0", "--device", "cpu"])
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        if words[0] == "train-student" and "--cache" not in words:
            line = line.replace("runs/wrn-40-2", "runs/teacher")
        done = CliRunner().invoke(main, [*shlex.split(line), "--plan", "--json"])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        planned.append(json.loads(done.stdout))
        if words[0] == "dump-teacher":
            seeds = words[words.index("--seeds") + 1]
            done = CliRunner().invoke(main, shlex.split(line.replace(f"--seeds {seeds}", "--seeds 0:1")))
            assert done.exit_code == 0, f"{line}\n{done.output}"
    dumps = [plan for plan in planned if "bytes_per_view" in plan]
    trainings = [plan for plan in planned if "steps_per_epoch" in plan]
    assert [plan["views"] for plan in dumps] == [12 * 240, 12 * 100, 12 * 100, 12 * 100, 5 * 216, 4 * 100]
    assert [plan["epochs"] for plan in trainings] == [240, 240, 100, 450, 300, 216, 216, 439]


def test_the_commands_of_the_cluster_page_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan the command of each launcher on a small folder; read the scripts as bash does, and the job as YAML."""
    monkeypatch.chdir(tmp_path)
    write_imagenet(tmp_path / "data")
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "teacher.safetensors")
    page = ROOT / "docs" / "cluster.md"
    scripts = [block.replace("\\\n", " ") for block in blocks(page, "bash")]
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = [line for script in scripts for line in re.findall(r"kdcache(?:_cli)? (dump-teacher [^&\n]*)", script)]
    (job,) = (yaml.safe_load(block) for block in blocks(page, "yaml"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "WORLD_SIZE", "value": str(job["spec"]["completions"])}]
    assert job["spec"]["completionMode"] == "Indexed" and container["command"][0] == "kdcache"
    assert len(lines) == 4
    smaller = {"/data/": "data/", "timm:resnet50,pretrained=true": "timm:test_resnet,weights=teacher.safetensors"}
    for written in [*lines, shlex.join(container["command"][1:])]:
        line = written
        for large, small in smaller.items():
            line = line.replace(large, small)
        done = CliRunner().invoke(main, [*shlex.split(line), "--workers", "0", "--device", "cpu", "--plan", "--json"])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        assert json.loads(done.stdout)["views"] == 12 * 90


def test_the_fonts_to_install_are_names_of_packages() -> None:
    listed = re.search(r"FONT_PACKAGES = \((.*?)\n\)", (ROOT / "examples" / "characters.py").read_text(), re.DOTALL)
    assert listed is not None
    packages = "".join(re.findall(r'"(.*)"', listed[1])).split()
    assert len(packages) == len(set(packages)) > 80
    assert [name for name in packages if not re.fullmatch(r"fonts-\S*[^-]", name)] == []
