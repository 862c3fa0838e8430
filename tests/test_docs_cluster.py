"""The pages on clusters: their scripts are run with stand-ins for the commands of a cluster."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from click.testing import CliRunner
from image_files import write_imagenet
from pages import DOCS, PAGES, blocks, name_of
from safetensors.torch import save_file

from kdcache_cli.commands import main

CLUSTER = DOCS / "tutorials" / "cluster.md"
KUBERNETES = DOCS / "how-to" / "kubernetes.md"
RAY = DOCS / "how-to" / "ray.md"
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
    dumping, training = (yaml.safe_load(block) for block in blocks(KUBERNETES, "yaml"))
    (container,) = dumping["spec"]["template"]["spec"]["containers"]
    assert (
        dumping["spec"]["completionMode"] == "Indexed"
        and dumping["spec"]["activeDeadlineSeconds"] > 3600
    )
    assert {"name": "WORLD_SIZE", "value": str(dumping["spec"]["completions"])} in container["env"]
    (wait,) = training["spec"]["template"]["spec"]["initContainers"]
    secret = re.search(r"kubectl create secret generic (\w+)", KUBERNETES.read_text())
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
        for text in [*blocks(CLUSTER, "bash"), *blocks(RAY, "bash")]
        if text.split()[0] == block and "dump-teacher" in text
    )
    (line,) = re.findall(r"kdcache (dump-teacher [^&\n]*)", first.replace("\\\n", " "))
    plan = run_little(
        [*shlex.split(line), *([] if "--plan" in line else ["--plan"])], monkeypatch, **variables
    )
    assert plan["world_size"] == world_size and plan["samples"] == 12


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_bash_reads_every_script(page: Path) -> None:
    for block in blocks(page, "bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        assert max(map(len, block.splitlines())) <= 140
