"""The documents hold: the blocks of each page run, one after the other, on small data."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from box_caches import DATA as BOXES
from box_caches import box_cache
from click.testing import CliRunner
from image_files import write_noise, write_shards
from pages import (
    DOCS,
    GENERATED,
    PAGES,
    README,
    all_blocks,
    commands,
    commands_of,
    files,
    name_of,
)
from PIL import Image
from runs import DIGITS, dump, train
from safetensors.torch import save_file
from segmentation_files import write_cityscapes
from test_docs_cluster import CLUSTER, KUBERNETES, RAY
from test_docs_paper import PAGE as PAPER
from tiny_detectors import fcos, retinanet, ssd, write_coco_of_rectangles
from tiny_models import noise
from torchvision.transforms import v2

from kdcache.losses.cwd import cwd_loss
from kdcache.models.one_stage import one_stage_output
from kdcache.models.preprocessing import GivenPreprocessing, Preprocessing
from kdcache.models.weight_facts import weight_facts
from kdcache.models.wrapping import wrapped
from kdcache.targets.boxes import torchvision_targets
from kdcache.views import load_recipe
from kdcache_cli.commands import main

REFERENCE = DOCS / "reference"


DETECTOR = "tiny_detectors:retinanet,mean=0.5,std=0.25,input_size=64"
SEGMENTER = "tiny_models:segmenter,classes=19,input_size=64x128"
SMALL = "timm:test_resnet,input_size=64,weights="
IMAGENET = f"{SMALL}imagenet.safetensors"
MAPPED = f"{SMALL}mapped.safetensors --teacher-classes 300"
"""A teacher with the classes that maps call by number: the fit of its codec is made in no time."""
VIT = "timm:test_vit,input_size=64"
SMALLER = {
    "/data/": "data/",
    "imagenet-b1 --loss ce": "imagenet-b1 --loss ce --epochs 1 --batch-size 3",
    "torchvision:deeplabv3_resnet101,weights=teacher.safetensors,aux_loss=true": SEGMENTER,
    "timm:resnet18 --batch-size auto": "timm:resnet18 --epochs 1 --batch-size 3",
    "timm:resnet18,output_stride=8": f"{SEGMENTER},seed=1",
    "torchvision:retinanet_resnet50_fpn_v2,weights=DEFAULT,head=new": f"{DETECTOR},seed=2",
    "torchvision:retinanet_resnet50_fpn_v2,weights=DEFAULT": DETECTOR,
    "torchvision:retinanet_resnet50_fpn,weights_backbone=DEFAULT": f"{DETECTOR},seed=1",
    "--batch-size 16 --lr 0.01 --epochs 24": "--batch-size 3 --epochs 1 --lr 0.001",
    "--batch-size 16": "--batch-size 3",
    # the map of this page calls classes by the names of ImageNet
    "0:25 --teacher timm:resnet50,pretrained=true": f"0:4 --teacher {IMAGENET}",
    "timm:resnet50,pretrained=true --teacher-classes 1000": MAPPED,
    "predict timm:resnet50,pretrained=true": f"predict {IMAGENET}",
    "timm:resnet50,pretrained=true": f"{SMALL}teacher.safetensors",
    "timm:resnet50,weights=": SMALL,
    "timm:resnet18": VIT,
    "topk:k=16": "topk:k=2",
    "topk:k=4": "topk:k=1",
    "0:128117": "0:4",
    "--samples 0:10000": "--samples 0:6",
    "--batch-size 256": "--batch-size 4 --codec full:dtype=uint8 --codec lowrank:step=1",
    "--seeds 0:25": "--seeds 0:4",
    'seeds = "0:25"': 'seeds = "0:4"',
    "--epochs 150": "--epochs 2",
    "--epochs 100": "--epochs 1 --batch-size 3",
    "epochs = 100\nbatch_size = 256": "epochs = 1\nbatch_size = 3",
    "epochs = 100": "epochs = 1\nbatch_size = 3",
    "bfloat16": "float32",
}
"""Small models and few epochs in the place of those of the pages, on small data."""
IN_PYTHON = {
    "digits:train": f"{DIGITS},length=300",
    "coco:/data/train2017,annotations=/data/instances_train2017.json": BOXES,
    "torchvision.models.detection.retinanet_resnet50_fpn(num_classes": "retinanet(classes",
    "batch_size=16": "batch_size=8, num_workers=0",
    "batch_size=256": "batch_size=8, num_workers=0",
    '"resnet18", num_classes=100': '"test_vit", num_classes=3',
    "224, 224": "64, 64",
    "range(90)": "range(1)",
    "loader.epoch, 100": "loader.epoch, 1",
    "epochs=100": "epochs=1, batch_size=3",
    "/data/": "data/",
    "timm:resnet18": "timm:test_vit,input_size=64",
}
ELSEWHERE = {"quickstart", "push", "pull"}
"""Commands that ask for the network, or are run by `.ci/run`."""
RUNS_MODELS = {"dump-teacher", "train-student", "evaluate", "codec-error", "report", "--teacher"}
"""Commands, and an option of others, that take options on where models run."""
STUDENT = (
    "train-student runs/r18 --cache caches/r50 --data imagefolder:/data/train"
    " --eval-data imagefolder:/data/val --student timm:resnet18 --epochs 100"
)
TRAIN_SEGMENTER = (
    "train-student runs/seg18 --data torchvision:Cityscapes,root=/data/cityscapes,split=train,mode=fine"
    " --recipe cityscapes --loss ce --student timm:resnet18,output_stride=8 --epochs 100"
)
DUMP_MAPS = (
    "dump-teacher caches/r101 --data torchvision:Cityscapes,root=/data/cityscapes,split=train,mode=fine"
    " --teacher torchvision:deeplabv3_resnet101,weights=teacher.safetensors,aux_loss=true"
    " --recipe cityscapes --seeds 0:1 --codec full"
)
GARDEN = ["chaffinch", "greenfinch", "tawny owl"]
TRAIN_GARDEN = (
    "train-student runs/garden --data /data/garden --recipe imagenet-b1 --loss ce"
    " --student timm:resnet18 --epochs 100"
)
DUMP_GARDEN = (
    "dump-teacher caches/garden --data /data/birds --recipe imagenet-b1 --teacher-classes 3"
    " --teacher runs/garden --seeds 0:1"
)
WANDB = """
def init(project):
    return Run()


class Run:
    def log(self, metrics, step):
        with open("logged.txt", "a") as file:
            file.write(f"{step} {metrics}\\n")
"""
"""Takes the place of W&B: the lines that it gets go into a file."""
IMPORTING = {DOCS / "how-to/import.md", REFERENCE / "imported-labels.md"}
RUN_BY_OTHERS = {
    *(PAPER, CLUSTER, KUBERNETES, RAY, REFERENCE / "format.md"),
    *IMPORTING,
    *GENERATED,
}
"""Pages whose blocks other tests run."""
RUN = [
    page
    for page in [README, *sorted(DOCS.rglob("*.md"))]
    if all_blocks(page) and page not in RUN_BY_OTHERS and page.parent != DOCS / "results"
]


def made_small(text: str) -> str:
    if "--class-map" in text:
        text = text.replace("timm:resnet50,pretrained=true", IMAGENET)
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def run(words: list[str]) -> None:
    """Run a command of a page, made small, in this process, if it can."""
    line = made_small(shlex.join(words))
    if {words[0], *words} & RUNS_MODELS:
        line += " --workers 0 --device cpu"
    done = CliRunner().invoke(main, shlex.split(line))
    assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small data sets, weights, and the cache that most pages are about."""
    folder = tmp_path_factory.mktemp("pages")
    kinds = {"train": 9, "val": 3}
    write_noise(folder / "data", kinds, ["cat", "dog", "bird"], "{index}.jpg")
    write_cityscapes(folder / "data" / "cityscapes", 64, 128)
    write_segfolder(folder / "data" / "photos")
    write_table(folder / "data")
    for split in kinds:
        images, annotations = f"{split}2017", f"instances_{split}2017.json"
        write_coco_of_rectangles(folder / "data", images, annotations)
    for name, classes in {"teacher": 3, "mapped": 300, "imagenet": 1000}.items():
        model = timm.create_model("test_resnet", num_classes=classes)
        says = weight_facts(
            Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, size=64),
            task="classification",
            num_classes=classes,
            label_names=None,
        )
        save_file(model.state_dict(), folder / f"{name}.safetensors", says.to_metadata())
    write_noise(folder / "data", {"birds": 6}, ["finch", "owl"], "{index}.jpg")
    write_noise(folder / "data", {"garden": 6}, GARDEN, "{index}.jpg")
    write_noise(folder / "data", {"unsorted": 3}, ["."], "{index}.jpg")
    write_shards(folder / "data" / "shards", 3)
    (folder / "map.csv").write_text("cat,281\ndog,207\nbird,10\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(
            shlex.split(
                "dump-teacher caches/r50 --data imagefolder:/data/train --recipe imagenet-b1"
                " --teacher timm:resnet50,pretrained=true --seeds 0:4"
            )
        )
    return folder


def write_table(root: Path) -> None:
    """Write a table of images with their labels, under the names of columns that pages use."""
    write_noise(root, {"all": 9}, ["cat", "dog", "bird"], "{index}.jpg")
    shutil.copytree(root / "all", root / "images")
    lines = ["image,label,file,breed"]
    for path in sorted((root / "images").rglob("*.jpg")):
        image, label = path.relative_to(root / "images").as_posix(), path.parent.name
        lines.append(f"{image},{label},{image},{label}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")


def write_segfolder(root: Path) -> None:
    """Write two images with masks, in the folders that `segfolder` looks for."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(2):
        Image.new("RGB", (128, 64), (index, 50, 200)).save(root / "images" / f"{index}.jpg")
        Image.new("L", (128, 64), index).save(root / "masks" / f"{index}.png")


@pytest.fixture
def world(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of that folder."""
    folder = tmp_path / "world"
    shutil.copytree(filled, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", RUN, ids=name_of)
@pytest.mark.usefixtures("unchecked")
def test_a_page_runs_as_it_is_written(page: Path, world: Path, box_recipe: str) -> None:
    """Run a page's blocks one after the other, made small."""
    prepare(page, world, box_recipe)
    names: dict[str, Any] = {
        "retinanet": retinanet,
        "my_dataset": noise(length=24),
        "my_model": timm.create_model("test_resnet", num_classes=5),
        "my_transforms": v2.Compose([v2.RandomResizedCrop(64), v2.RandomHorizontalFlip()]),
        "student": timm.create_model("test_resnet", num_classes=5),
        "cross_entropy": torch.nn.functional.cross_entropy,
    }
    for block in all_blocks(page):
        if block.file is not None:
            Path(block.file).write_text(made_small(block.text))
        elif block.language == "python":
            exec(in_python(block.text), names)
        elif block.language == "bash":
            for words in commands_of(block.text):
                if words[0] not in ELSEWHERE and not any(
                    re.search("://|^hf:", word) for word in words
                ):
                    run(words)
                if words[0] == "init":
                    settings = Path(words[1])
                    settings.write_text(made_small(settings.read_text()))
    check_what_was_made(page, names)


def settings_of(page: Path) -> str:
    """Return the option for the settings that a page shows, if it shows any."""
    if "kdcache.toml" not in files(page):
        return ""
    Path("kdcache.toml").write_text(files(page)["kdcache.toml"])
    return " --config kdcache.toml"


def prepare(page: Path, world: Path, box_recipe: str) -> None:
    """Make what a page takes for granted besides the data and `caches/r50`."""
    text = page.read_text()
    trained = {words[1] for words in commands(page) if words[0] == "train-student"}
    if "runs/r18" in text and "runs/r18" not in trained:
        run(shlex.split(STUDENT + settings_of(page)))
    if "caches/exact" in text:
        run(shlex.split("export caches/r50 caches/exact --seeds 0:2"))
    if page.name == "detector-loop.md":
        box_cache(world / "caches" / "retina", box_recipe)
    if page.name == "segmentation-loop.md":
        run(shlex.split(DUMP_MAPS))
    if "runs/seg18" in text and "runs/seg18" not in trained:
        run(shlex.split(TRAIN_SEGMENTER))
    if "runs/small" in text and "runs/small" not in trained:
        detector = {"data": BOXES, "recipe": box_recipe, "loss": "ce", "student": DETECTOR}
        train(world / "runs" / "small", **detector, epochs=1, batch_size=8)
    if page.name == "single-views.md":
        dump(world / "cache", data=f"{DIGITS},length=300", seeds="0:2")
    if "caches/garden" in text:
        run(shlex.split(TRAIN_GARDEN))
        run(shlex.split(DUMP_GARDEN))
        Path("garden.csv").write_text(files(DOCS / "how-to" / "map-classes.md")["garden.csv"])
    if page.name == "log-metrics.md":
        Path("wandb.py").write_text(WANDB)
    if page.name == "predict-images.md":
        image = next(Path("data/unsorted").glob("*.jpg"))
        image.rename("photo.jpg")
        Path("names.txt").write_text("cat\ndog\nbird\n")
        model = timm.create_model("test_vit", num_classes=3)
        torch.save(model.state_dict(), "old.pth")


def in_python(code: str) -> str:
    for large, small in IN_PYTHON.items():
        code = code.replace(large, small)
    return code


def check_what_was_made(page: Path, names: dict[str, Any]) -> None:
    """Look at what the Python of a page has made."""
    if page.name == "own-loop.md":
        assert set(names["scores"]) == {"top1", "top5", "eval_loss"}
        assert names["state"]["loader"]["epoch"] == 2
    if page.name == "segmentation-loop.md":
        assert names["rows"].shape == (names["batch"].teacher.heads[0].logits().shape)
        assert names["heads"] == 2 and names["small"].shape[2:] < names["maps"].shape[2:]
        maps = names["small"].permute(0, 2, 3, 1)
        assert cwd_loss(maps, names["batch"].teacher.heads[0]).isfinite()
    if page.name == "detector-loop.md":
        assert {"level0", "level1", "classification"} <= set(names["losses"])
        check_losses_of_other_detectors(names)
    if page.name == "single-views.md":
        assert names["student_logits"].grad.abs().sum() > 0
    if page.name == "log-metrics.md":
        assert "'loss'" in Path("logged.txt").read_text()
    if page.name == "use-trained-weights.md":
        assert names["model"].num_classes == 3
    if page.name == "own-detector.md":
        output = wrapped_output(names["OneLevel"]())
        assert output.logits.shape == (2, 100, 20) and output.layout.num_positions == 100


def check_losses_of_other_detectors(names: dict[str, Any]) -> None:
    """Check that the functions of the page give what a training takes."""
    batch = names["batch"]
    for name, make in {"fcos": fcos, "ssd": ssd}.items():
        output = one_stage_output(make(), batch.images, name)
        assert output is not None
        targets = torchvision_targets(batch.labels, has_background=name == "ssd")
        arguments = [output.detector, targets, output.parts, output.anchors]
        if name == "fcos":
            arguments.append(output.layout)
        assert names[f"{name}_losses"](*arguments) == output.label_losses(batch.labels)


def wrapped_output(detector: Any) -> Any:
    """Return what a detector of the user's own gives for two views."""
    preprocessing = GivenPreprocessing(mean=0.5, std=0.25)
    recipe = load_recipe("detection-small")
    model = wrapped(detector, recipe, preprocessing, task="detection")
    return model(torch.zeros(2, 3, 320, 320, dtype=torch.uint8))


@pytest.mark.parametrize("page", [page for page in PAGES if files(page)], ids=name_of)
def test_recipes_of_a_page_make_views(page: Path, tmp_path: Path) -> None:
    for name, text in files(page).items():
        file = tmp_path / name
        file.write_text(text)
        if name.endswith(".toml") and "transforms" in tomllib.loads(text):
            recipe = load_recipe(str(file))
            assert recipe(Image.new("RGB", (300, 200))).shape == (3, recipe.size, recipe.size)
