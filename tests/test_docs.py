"""The documents hold: commands parse and run, tables load, code runs, links lead somewhere."""

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
from image_files import write_noise
from pages import (
    DOCS,
    GENERATED,
    PAGES,
    README,
    ROOT,
    all_blocks,
    anchors,
    commands,
    commands_of,
    files,
    name_of,
)
from PIL import Image
from runs import DIGITS, dump
from safetensors.torch import save_file
from segmentation_files import write_cityscapes
from test_docs_cluster import CLUSTER, KUBERNETES, RAY
from test_docs_paper import PAGE as PAPER
from tiny_detectors import retinanet, write_coco_of_rectangles
from tiny_models import noise

from kdcache.codecs.registry import CODECS
from kdcache.losses.registry import LOSSES
from kdcache.models.registry import FAMILIES
from kdcache.models.wrapping import wrapped
from kdcache.sources.registry import OPENERS
from kdcache.views import load_recipe
from kdcache_cli.commands import main

REFERENCE = DOCS / "reference"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_documents_parse(page: Path) -> None:
    for name, *words in commands(page):
        main.commands[name].make_context(name, words)


def test_every_command_is_shown_where_it_is_explained() -> None:
    shown = {words[0] for page in PAGES if page not in GENERATED for words in commands(page)}
    assert set(main.commands) == shown


def test_all_that_a_spec_can_name_is_documented() -> None:
    names = {
        "losses": ("train-student", "--loss", LOSSES),
        "codecs": ("dump-teacher", "--codec", CODECS),
        "data": (None, "--data", OPENERS),
        "models": (None, "--teacher", FAMILIES),
    }
    for title, (command, option, known) in names.items():
        page = REFERENCE / f"{title}.md"
        text = page.read_text()
        lacking = [name for name in known if not re.search(rf"[`|, ]{name}[:`]", text)]
        assert not lacking, f"{option}: {name_of(page)} names no {lacking}"
        if command is not None:
            (told,) = (each.help for each in main.commands[command].params if option in each.opts)
            assert all(name in told for name in known), f"{option}: {told}"


PATHS = re.compile(r"`((?:kdcache|cli|tests|docs|benchmarks|examples)/[\w./*-]+)`")
PAGES_IN_CODE = re.compile(r"docs/[\w/.-]+\.(?:md|png|svg)")


def test_files_that_are_named_exist() -> None:
    code = [*ROOT.glob("kdcache/**/*.py"), *ROOT.glob("cli/**/*.py")]
    settings = [
        *ROOT.glob("kdcache/**/*.toml"),
        *ROOT.glob("examples/*.*"),
        *ROOT.glob("tests/*.py"),
    ]
    names = {path.name for path in ROOT.rglob("*.py")}
    for page in [*PAGES, *code]:
        text = page.read_text()
        for path in PATHS.findall(text):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"
        for name in re.findall(r"see (\w+\.py)", text):
            assert name in names, f"{page.name}: {name}"
    for file in [*code, *settings]:
        for path in PAGES_IN_CODE.findall(file.read_text()):
            assert (ROOT / path).exists(), f"{file.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_of_the_site_is_reached_from_another() -> None:
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            linked.add((page.parent / target).resolve())
    site = {page for page in PAGES if page.is_relative_to(DOCS)}
    assert {name_of(page) for page in site - linked} <= {"docs/index.md"}


DETECTOR = "tiny_detectors:retinanet,mean=0.5,std=0.25,input_size=64"
SEGMENTER = "tiny_models:segmenter,classes=19,input_size=64x128"
SMALL = "timm:test_resnet,input_size=64,weights="
SMALLER = {
    "/data/": "data/",
    "torchvision:deeplabv3_resnet101,weights=teacher.safetensors,aux_loss=true": SEGMENTER,
    "timm:resnet18 --batch-size auto": "timm:resnet18 --epochs 1 --batch-size 3",
    "timm:resnet18,output_stride=8": f"{SEGMENTER},seed=1",
    "torchvision:retinanet_resnet50_fpn_v2,weights=DEFAULT": DETECTOR,
    "torchvision:retinanet_resnet50_fpn,weights_backbone=DEFAULT": f"{DETECTOR},seed=1",
    "--batch-size 16 --epochs 24": "--batch-size 3 --epochs 1 --lr 0.001",
    "--batch-size 16": "--batch-size 3",
    "timm:resnet50,pretrained=true --teacher-classes 1000": (
        f"{SMALL}imagenet.safetensors --teacher-classes 1000"
    ),
    "timm:resnet50,pretrained=true": f"{SMALL}teacher.safetensors",
    "timm:resnet50,weights=": SMALL,
    "timm:resnet18": "timm:test_vit,input_size=64",
    "topk:k=16": "topk:k=2",
    "topk:k=4": "topk:k=1",
    "0:128117": "0:4",
    "--samples 0:10000": "--samples 0:6",
    "--batch-size 256": "--batch-size 4 --codec full:dtype=uint8 --codec lowrank:step=1",
    "--epochs 100": "--epochs 1 --batch-size 3",
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
IMPORT = DOCS / "how-to/import.md"
RUN_BY_OTHERS = {PAPER, CLUSTER, KUBERNETES, RAY, IMPORT, REFERENCE / "format.md", *GENERATED}
"""Pages whose blocks other tests run."""
NOT_RUN = {
    DOCS / "how-to" / f"{name}.md"
    for name in (
        "export-a-model",
        "extend-a-run",
        "log-metrics",
        "map-classes",
        "name-your-data",
        "predict-images",
        "use-trained-weights",
        "write-settings",
    )
}
"""Pages whose commands are only parsed: to shrink."""
RUN = [
    page
    for page in [README, *sorted(DOCS.rglob("*.md"))]
    if all_blocks(page) and page not in RUN_BY_OTHERS | NOT_RUN and page.parent != DOCS / "results"
]


def made_small(text: str) -> str:
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def run(words: list[str]) -> None:
    """Run a command of a page, made small, in this process."""
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
    for name, classes in {"teacher": 3, "imagenet": 1000}.items():
        model = timm.create_model("test_resnet", num_classes=classes)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
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
def test_a_page_runs_as_it_is_written(page: Path, world: Path, box_recipe: str) -> None:
    """Run a page's blocks one after the other, made small."""
    prepare(page, world, box_recipe)
    names: dict[str, Any] = {
        "retinanet": retinanet,
        "my_dataset": noise(length=24),
        "my_model": timm.create_model("test_resnet", num_classes=5),
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
    check_what_was_made(page, names)


def prepare(page: Path, world: Path, box_recipe: str) -> None:
    """Make what a page takes for granted besides the data and `caches/r50`."""
    text = page.read_text()
    trained = {words[1] for words in commands(page) if words[0] == "train-student"}
    if "runs/r18" in text and "runs/r18" not in trained:
        run(shlex.split(STUDENT))
    if "caches/exact" in text:
        run(shlex.split("export caches/r50 caches/exact --seeds 0:2"))
    if page.name == "detector-loop.md":
        box_cache(world / "caches" / "retina", box_recipe)
    if page.name == "single-views.md":
        dump(world / "cache", data=f"{DIGITS},length=300", seeds="0:2")


def in_python(code: str) -> str:
    for large, small in IN_PYTHON.items():
        code = code.replace(large, small)
    return code


def check_what_was_made(page: Path, names: dict[str, Any]) -> None:
    """Look at what the Python of a page has made."""
    if page.name == "own-loop.md":
        assert set(names["scores"]) == {"top1", "top5", "eval_loss"}
        assert names["state"]["loader"]["epoch"] == 2
    if page.name == "detector-loop.md":
        assert {"level0", "level1", "classification"} <= set(names["losses"])
    if page.name == "single-views.md":
        assert names["student_logits"].grad.abs().sum() > 0
    if page.name == "own-detector.md":
        output = wrapped_output(names["OneLevel"]())
        assert output.logits.shape == (2, 100, 20) and output.layout.num_positions == 100


def wrapped_output(detector: Any) -> Any:
    """Return what a detector of the user's own gives for two views."""
    model = wrapped(detector, load_recipe("detection-small"), mean=0.5, std=0.25, task="detection")
    return model(torch.zeros(2, 3, 320, 320, dtype=torch.uint8))


@pytest.mark.parametrize("page", [page for page in PAGES if files(page)], ids=name_of)
def test_recipes_of_a_page_make_views(page: Path, tmp_path: Path) -> None:
    for name, text in files(page).items():
        file = tmp_path / name
        file.write_text(text)
        if name.endswith(".toml") and "transforms" in tomllib.loads(text):
            recipe = load_recipe(str(file))
            assert recipe(Image.new("RGB", (300, 200))).shape == (3, recipe.size, recipe.size)


def test_the_fonts_to_install_are_names_of_packages() -> None:
    listed = re.search(
        r"FONT_PACKAGES = \((.*?)\n\)", (ROOT / "examples" / "characters.py").read_text(), re.DOTALL
    )
    assert listed is not None
    packages = "".join(re.findall(r'"(.*)"', listed[1])).split()
    assert len(packages) == len(set(packages)) > 80
    assert [name for name in packages if not re.fullmatch(r"fonts-\S*[^-]", name)] == []
