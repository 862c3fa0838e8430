"""The documents hold: commands parse, tables load, code runs, links lead somewhere."""

import json
import os
import pickle
import re
import shlex
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import timm
import torch
import yaml
from box_caches import DATA as BOXES
from box_caches import box_cache
from click.testing import CliRunner
from PIL import Image
from runs import DIGITS, dump
from safetensors.torch import save_file
from segmentation_files import write_cityscapes, write_voc
from tiny_detectors import retinanet, write_coco_of_rectangles
from torchvision.datasets import cifar

from kdcache.codecs.registry import CODECS
from kdcache.config.files import load_config
from kdcache.dump.run import DumpConfig
from kdcache.losses import open_loss
from kdcache.losses.registry import LOSSES
from kdcache.models.model import open_model
from kdcache.models.registry import FAMILIES
from kdcache.models.specs import check_model
from kdcache.models.wrapping import wrapped
from kdcache.sources.registry import OPENERS
from kdcache.train.run import TrainConfig
from kdcache.views import load_recipe
from kdcache_cli.commands import main

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for folder in (".", "docs", "docs/how-to", "benchmarks", "examples")
    for path in sorted((ROOT / folder).glob("*.md"))
]
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Return the words of every kdcache command in the page's shell blocks."""
    lines = [
        line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()
    ]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\|\|", line)]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("kdcache ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documents_parse(page: Path) -> None:
    for name, *words in commands(page):
        main.commands[name].make_context(name, words)


def test_every_command_and_option_is_documented() -> None:
    how_to = [page.read_text() for page in PAGES if page.parent.name == "how-to"]
    shown = "".join([README.read_text(), GUIDE.read_text(), *how_to])
    for name, command in main.commands.items():
        assert f"kdcache {name}" in shown, name
        context = click.Context(command)
        for option in command.get_params(context):
            if isinstance(option, click.Option) and "--help" not in option.opts:
                key = (
                    option.name.replace("as_json", "json")
                    .replace("settings", "set")
                    .replace("file", "config")
                )
                known = f"--{key.replace('_', '-')}" in shown or key.split("__")[-1] in shown
                assert known, f"{name}: {option.opts} is in no page"


def test_all_that_a_spec_can_name_is_documented() -> None:
    names = {"--loss": LOSSES, "--codec": CODECS, "--data": OPENERS, "--teacher": FAMILIES}
    guide = GUIDE.read_text()
    for option, known in names.items():
        lacking = [name for name in known if not re.search(rf"[`|, ]{name}[:`]", guide)]
        assert not lacking, f"{option}: docs/guide.md names no {lacking}"
    for command, option in (("train-student", "--loss"), ("dump-teacher", "--codec")):
        (told,) = (each.help for each in main.commands[command].params if option in each.opts)
        assert all(name in told for name in names[option]), f"{option}: {told}"


PATHS = re.compile(r"`((?:kdcache|cli|tests|docs|benchmarks|examples)/[\w./*-]+)`")


def test_files_that_are_named_exist() -> None:
    pages = [*PAGES, *(ROOT / "kdcache").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    names = {path.name for path in ROOT.rglob("*.py")}
    for page in pages:
        text = page.read_text()
        for path in PATHS.findall(text):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"
        for name in re.findall(r"see (\w+\.py)", text):
            assert name in names, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = [
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            ]
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


def test_python_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box_recipe: str
) -> None:
    few = f"{DIGITS},length=300"
    dump(tmp_path / "cache", data=few, seeds="0:2")
    box_cache(tmp_path / "caches" / "retina", box_recipe)
    monkeypatch.chdir(tmp_path)
    smaller = {
        "digits:train": few,
        "coco:/data/train2017,annotations=/data/instances_train2017.json": BOXES,
        "torchvision.models.detection.retinanet_resnet50_fpn(num_classes": "retinanet(classes",
        "batch_size=16": "batch_size=8, num_workers=0",
    }
    names: dict[str, Any] = {"retinanet": retinanet}
    for block in blocks(GUIDE, "python"):
        code = block
        for large, small in smaller.items():
            code = code.replace(large, small)
        exec(code, names)
    assert {"level0", "level1", "classification"} <= set(names["losses"])
    assert (
        set(names["scores"]) == {"top1", "top5", "eval_loss"}
        and names["state"]["loader"]["epoch"] == 2
    )
    detector: Any = names["OneLevel"]()
    model = wrapped(detector, load_recipe("detection-small"), mean=0.5, std=0.25, task="detection")
    output: Any = model(torch.zeros(2, 3, 320, 320, dtype=torch.uint8))
    assert output.logits.shape == (2, 100, 20) and output.layout.num_positions == 100
    assert names["student_logits"].grad.abs().sum() > 0  # type: ignore[attr-defined]


DETECTOR = "tiny_detectors:retinanet,mean=0.5,std=0.25,input_size=64"


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_the_pipeline_runs_as_it_is_written(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the page's commands on an own data set, with small models and few epochs in the place of
    the large ones."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 3)):
        for index in range(count):
            image = tmp_path / "data" / split / f"class{index % 3}" / f"{index}.jpeg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(image)
    save_file(
        timm.create_model("test_resnet", num_classes=3).state_dict(),
        tmp_path / "teacher.safetensors",
    )
    write_cityscapes(tmp_path / "data" / "cityscapes", 64, 128)
    for split in ("train", "val"):
        write_coco_of_rectangles(tmp_path / "data", f"{split}2017", f"instances_{split}2017.json")
    smaller = {
        "/data/": "data/",
        "torchvision:deeplabv3_resnet101,weights=teacher.safetensors,aux_loss=true": (
            "tiny_models:segmenter,classes=19,input_size=64x128"
        ),
        "timm:resnet18,output_stride=8": (
            "tiny_models:segmenter,classes=19,seed=1,input_size=64x128"
        ),
        "gamma=1 --epochs 100": "gamma=1 --epochs 1 --batch-size 5 --workers 0",
        "torchvision:retinanet_resnet50_fpn_v2,weights=DEFAULT": DETECTOR,
        "torchvision:retinanet_resnet50_fpn,weights_backbone=DEFAULT": f"{DETECTOR},seed=1",
        "--batch-size 16 --epochs 24": "--batch-size 3 --epochs 1 --workers 0 --lr 0.001",
        "timm:resnet50,pretrained=true": (
            "timm:test_resnet,weights=teacher.safetensors,input_size=64"
        ),
        "timm:resnet50,weights=": "timm:test_resnet,input_size=64,weights=",
        "timm:resnet18": "timm:test_vit,input_size=64",
        "topk:k=16": "topk:k=2",
        "topk:k=4": "topk:k=1",
        "0:128117": "0:4",
        "--batch-size 256": (
            "--batch-size 4 --workers 0 --codec full:dtype=uint8 --codec lowrank:step=1"
        ),
        "--epochs 100": "--epochs 2 --batch-size 3 --workers 0",
    }
    ran = []
    for words in commands(page):
        line = shlex.join(words)
        if (
            words[0] == "quickstart" or "--config" in words or any("://" in word for word in words)
        ):  # no bucket or hub here
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
        (folder / split).write_bytes(
            pickle.dumps({"data": pixels, "fine_labels": list(range(count))})
        )
    (folder / "meta").write_bytes(
        pickle.dumps({"fine_label_names": [f"class {number}" for number in range(100)]})
    )


def write_imagenet(root: Path, images: int = 12) -> None:
    """Write a folder of ImageNet's layout, with a few images of three classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", images), ("val", images // 2)):
        for index in range(count):
            image = root / split / f"n0144000{index % 3}" / f"n0144000{index % 3}_{index}.JPEG"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (260, 300, 3), dtype=np.uint8)).save(
                image, "JPEG"
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
    for words in commands(ROOT / "docs" / "recipes.md"):
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
    rows = re.findall(r"^\| .*$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE)
    specs = re.findall(r"`((?:cifar|timm|torchvision):[^`]*)`", "\n".join(rows))
    for spec in specs:
        check_model(spec)
    assert len(specs) == 2 * (6 + 8 + 5 + 1) + 3
    losses = re.findall(r"[ `]((?:dist|kl|dkd|nkd):\S*?)`", "\n".join(rows))
    for loss in losses:
        open_loss(loss)
    assert len(losses) == 2 * 4 + 3


CLUSTER = ROOT / "docs" / "cluster.md"
LITTLE = {
    "/data/": "data/",
    "timm:resnet50,pretrained=true": "timm:test_resnet,weights=teacher.safetensors,input_size=64",
    "timm:resnet18": "timm:test_resnet,input_size=64",
    "s3://bucket/": "",
    "--seeds 0:90": "--seeds 0:3",
    "--seeds=0:90": "--seeds=0:3",
    "--precision bfloat16": "--precision float32",
    "--precision=bfloat16": "--precision=float32",
    "--epochs 90": "--epochs 1 --batch-size 4",
    "--epochs=90": "--epochs=1 --batch-size=4",
}
"""Small data and models in the place of those of the page; many processors are slow in half
precision."""
STAND_IN = """#!/bin/bash
# stands for a command: writes its words, and the places of a worker, and ends as a file beside it says
printf '%s\\0' "$(basename "$0")" "$@" > "$CALLS/$(date +%s%N)-$(basename "$0")"
exit "$(cat "$CALLS/../$1.code" 2> /dev/null || echo 0)"
"""
SRUN = """#!/bin/bash
while [ "$1" != kdcache ]; do shift; done
exec "$@"
"""


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a little data set, a teacher's weights, and stand-ins for the commands of
    a cluster."""
    monkeypatch.chdir(tmp_path)
    write_imagenet(tmp_path / "data")
    save_file(
        timm.create_model("test_resnet", num_classes=3).state_dict(),
        tmp_path / "teacher.safetensors",
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "calls").mkdir()
    for name in ("kdcache", "scontrol", "sbatch", "srun"):
        (tmp_path / "bin" / name).write_text(SRUN if name == "srun" else STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def scripts() -> dict[str, str]:
    """Return the page's blocks of shell, by their first line that says something."""
    found = {}
    for block in blocks(CLUSTER, "bash"):
        name = re.search(r"--job-name=(\w+)", block)
        found[name[1] if name else block.split()[0]] = block
    return found


def calls(folder: Path, script: str, variables: dict[str, str]) -> tuple[int, list[list[str]]]:
    """Run a script of the page; return its exit code and the words of all that it called but
    srun."""
    for file in (folder / "calls").iterdir():
        file.unlink()
    done = subprocess.run(
        ["bash"], input=script, text=True, env={**os.environ, **variables}, check=False
    )
    files = sorted((folder / "calls").iterdir())
    return done.returncode, [file.read_text().split("\0")[:-1] for file in files]


def run_little(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    """Run a command of the page, made small, with a worker's variables; return what it prints as
    JSON."""
    line = shlex.join(words)
    for large, small in LITTLE.items():
        line = line.replace(large, small)
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        line = re.sub(r"--workers[= ]\S+", "", line)
        here = [] if line.startswith("info") else ["--workers", "0", "--device", "cpu"]
        done = CliRunner().invoke(main, [*shlex.split(line), *here, "--json"])
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return json.loads(done.stdout)


def test_the_scripts_for_slurm_fill_a_cache_and_train_when_it_is_complete(
    little: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bash runs them with stand-ins, which tell the words; the words are then run here, made
    small."""
    variables = {
        "SLURM_ARRAY_TASK_COUNT": "16",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_CPUS_PER_TASK": "12",
    }
    found = scripts()
    task = {**variables, "SLURM_ARRAY_TASK_ID": "0"}
    code, [called] = calls(little, found["dump"] + "\ntrue", task)
    assert (
        code == 0 and called[:3] == ["kdcache", "dump-teacher", "caches/r50"] and called[-1] == "12"
    )
    told = f"{found['dump'].partition('srun')[0]}\nkdcache $RANK $WORLD_SIZE $LOCAL_RANK\n"
    assert calls(little, told, {**task, "SLURM_ARRAY_TASK_ID": "5"})[1] == [
        ["kdcache", "5", "16", "0"]
    ]
    dump_words = called[1:]
    for ended, queued in ((143, [["scontrol", "requeue", "77_3"]]), (1, []), (2, [])):
        (little / "dump-teacher.code").write_text(str(ended))
        code, [_, *others] = calls(little, found["dump"], {**task, "SLURM_ARRAY_TASK_ID": "3"})
        assert (code, others) == (ended, queued)
    exhausted = calls(
        little, found["dump"].replace("-ge 128", "-ge 1"), {**task, "SLURM_RESTART_COUNT": "20"}
    )
    assert len(exhausted[1]) == 1, "not for ever"

    (little / "info.code").write_text("1")
    code, called_by_train = calls(little, found["train"], task)
    assert code == 1 and called_by_train == [["kdcache", "info", "caches/r50", "--complete"]]
    (little / "info.code").write_text("0")
    code, [info_words, train_words] = calls(little, found["train"], task)
    assert code == 0 and train_words[1] == "train-student"
    assert [words[0] for words in calls(little, found["mkdir"], {})[1]] == ["sbatch", "sbatch"]

    places = [{"RANK": str(rank), "WORLD_SIZE": "16", "LOCAL_RANK": "0"} for rank in (0, 1)]
    assert run_little([*dump_words, "--plan"], monkeypatch, **places[0])["world_size"] == 16
    assert run_little(dump_words, monkeypatch, **places[0])["units_written"] == 3
    assert run_little(info_words[1:], monkeypatch)["is_complete"]
    trained = run_little(train_words[1:], monkeypatch)
    assert trained["epochs"] == 1 and (little / "runs" / "r18" / "student.safetensors").exists()


def test_the_jobs_for_kubernetes_are_whole_and_their_commands_run(
    little: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumping, training = (yaml.safe_load(block) for block in blocks(CLUSTER, "yaml"))
    (container,) = dumping["spec"]["template"]["spec"]["containers"]
    assert (
        dumping["spec"]["completionMode"] == "Indexed"
        and dumping["spec"]["activeDeadlineSeconds"] > 3600
    )
    assert {"name": "WORLD_SIZE", "value": str(dumping["spec"]["completions"])} in container["env"]
    (wait,) = training["spec"]["template"]["spec"]["initContainers"]
    secret = re.search(r"kubectl create secret generic (\w+)", CLUSTER.read_text())
    for job in (dumping, training):
        pod = job["spec"]["template"]["spec"]
        (one,) = pod["containers"]
        assert secret and one["envFrom"] == [{"secretRef": {"name": secret[1]}}] == wait["envFrom"]
        assert (
            one["resources"]["requests"]["nvidia.com/gpu"]
            == one["resources"]["limits"]["nvidia.com/gpu"]
            == 1
        )
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]} and "shm" in mounted
    variables = {"JOB_COMPLETION_INDEX": "0", "WORLD_SIZE": "16"}
    plan = run_little([*container["command"][1:], "--plan"], monkeypatch, **variables)
    assert plan["world_size"] == 16 and plan["views"] == 3 * 12
    run_little(container["command"][1:], monkeypatch, **variables)
    assert run_little(wait["command"][1:], monkeypatch)["is_complete"]
    (container,) = training["spec"]["template"]["spec"]["containers"]
    run_little([word.replace("/runs/", "runs/") for word in container["command"][1:]], monkeypatch)


@pytest.mark.parametrize(
    ("block", "variables", "world_size"),
    [
        ("kdcache", {}, 16),
        ("srun", {"SLURM_PROCID": "0", "SLURM_NTASKS": "32", "SLURM_LOCALID": "0"}, 32),
        ("torchrun", {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 8),
        ("for", {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, 4),
        ("ray", {}, 1),
    ],
)
def test_the_other_commands_of_the_cluster_page_can_be_planned(
    little: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: str,
    variables: dict[str, str],
    world_size: int,
) -> None:
    first = next(
        text
        for text in blocks(CLUSTER, "bash")
        if text.split()[0] == block and "dump-teacher" in text
    )
    (line,) = re.findall(r"kdcache (dump-teacher [^&\n]*)", first.replace("\\\n", " "))
    plan = run_little(
        [*shlex.split(line), *([] if "--plan" in line else ["--plan"])], monkeypatch, **variables
    )
    assert plan["world_size"] == world_size and plan["samples"] == 12


def test_bash_reads_the_cluster_page_and_its_lines_are_short() -> None:
    for block in blocks(CLUSTER, "bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    assert max(map(len, CLUSTER.read_text().splitlines())) <= 120


def test_the_fonts_to_install_are_names_of_packages() -> None:
    listed = re.search(
        r"FONT_PACKAGES = \((.*?)\n\)", (ROOT / "examples" / "characters.py").read_text(), re.DOTALL
    )
    assert listed is not None
    packages = "".join(re.findall(r'"(.*)"', listed[1])).split()
    assert len(packages) == len(set(packages)) > 80
    assert [name for name in packages if not re.fullmatch(r"fonts-\S*[^-]", name)] == []
