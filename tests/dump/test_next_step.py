"""The command that a dump prints works as it is printed: it is read back, and planned."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from map_caches import DATA as MAPS
from map_caches import TEACHER as SEGMENTER
from runs import CONV, IN_PROCESS, dump

from kdcache.config.spec import parse_spec
from kdcache.dump.config import DumpConfig
from kdcache.dump.job import prepare
from kdcache.dump.next_step import training_command
from kdcache.train import plan
from kdcache_cli.commands import main

MANY = f"{CONV},classes=12"
FEW = "tiny_models:few_digits,length=64"
ODD = """
size = [15, 21]
eval = "segmentation-eval"

[[transforms]]
name = "RandomCrop"
size = "input"
pad_if_needed = true
"""
SIZED = """
mode = "L"
size = 8

[[transforms]]
name = "Resize"
size = "input"

[[transforms]]
name = "RandomErasing"
"""
SHAPES = """
size = [16, 24]
eval = "segmentation-eval"

[[transforms]]
name = "RandomCrop"
size = "input"
pad_if_needed = true
"""


def planned(command: str) -> None:
    """Plan the training that a command says."""
    kdcache, *words = shlex.split(command, comments=True)
    assert kdcache == "kdcache"
    done = CliRunner().invoke(main, [*words, "--plan", "--device", "cpu", "--workers", "0"])
    assert done.exit_code == 0, done.output


def test_a_cache_in_a_bucket_is_named_so_that_it_is_read_back(tmp_path: Path) -> None:
    config = DumpConfig(cache=str(tmp_path / "cache"), data=FEW, teacher=CONV, recipe="digits")
    job = prepare(replace(config, compute=IN_PROCESS))
    for place in ("s3://bucket/a/b", "s3://bucket/a,b", "gs://bucket/x=1"):
        moved = replace(job, config=replace(config, cache=place))
        words = shlex.split(training_command(moved))
        assert parse_spec(f"cache:{words[words.index('--cache') + 1]}").arg == place


@pytest.mark.parametrize(
    ("name", "settings", "student"),
    [
        ("grey", {}, "timm:resnet18"),
        ("split", {"data": "digits:train"}, "timm:resnet18"),
        ("a,b=c d", {}, "timm:resnet18"),
        ("tars", {"store": "webdataset"}, "timm:resnet18"),
        ("tars", {"store": "webdataset", "images": False}, "timm:resnet18"),
        ("maps", {"data": MAPS, "teacher": SEGMENTER}, "timm:resnet18,output_stride=8"),
        (
            "odd",
            {"data": MAPS, "teacher": "tiny_models:segmenter,stride=3", "recipe": "odd.toml"},
            "tiny_models:segmenter,stride=3",
        ),
        (
            "sized",
            {"teacher": f"{CONV},input_size=12", "recipe": "sized.toml"},
            "timm:resnet18,input_size=12",
        ),
        ("other classes", {"teacher": MANY, "teacher_classes": 12}, "timm:resnet18"),
    ],
)
def test_the_command_after_a_dump_works_as_it_is_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
    student: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "PLAN_SECONDS", 0.0)
    for recipe, text in {"odd": ODD, "sized": SIZED, "shapes": SHAPES}.items():
        Path(f"{recipe}.toml").write_text(text)
    common: dict[str, Any] = {"data": FEW, "seeds": "0:1", "batch_size": 32}
    if settings.get("data") == MAPS:
        common |= {"recipe": "shapes.toml", "batch_size": 16}
    command = dump(Path(name), **{**common, **settings})["next"]
    words = shlex.split(command, comments=True)
    assert words[words.index("--student") + 1] == student
    assert ("--data" in words) == (settings.get("store") is None or "images" in settings)
    assert ("--eval-data digits:test" in command) == (settings.get("data") == "digits:train")
    if "teacher_classes" in settings:
        assert command.startswith("# write map.csv first: a line CLASS OF THE DATA,CLASS OF THE")
        Path("map.csv").write_text("".join(f"{one},{one}\n" for one in range(10)))
    planned(command)
