"""Processes that disagree are told before the first step; what rank 0 sees of a cache that grows,
or is seen late, counts."""

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from processes import launch
from runs import CONV, MLP, Lines, dump, run_epoch, train_config

from kdcache.cache.documents.commit import commit_key
from kdcache.cache.storage import late
from kdcache.cache.storage.folder import Folder
from kdcache.errors import KdcacheError
from kdcache.runtime.distributed import rank
from kdcache.train.agreement import require_same_settings
from kdcache.train.optim import OptimizerConfig
from kdcache.train.trainer import Trainer

FEW = "tiny_models:few_digits"
SETTINGS: dict[str, Any] = {
    "data": FEW,
    "student": MLP,
    "batch_size": 32,
    "epochs": 3,
    "loss": "kl:tau=4",
}
LABELS: dict[str, Any] = {**SETTINGS, "loss": "ce", "recipe": "digits", "eval_data": FEW}
SHARED = {"data": FEW, "recipe": "digits", "codec": "full:dtype=float32", "unit_rows": 12}


def disagrees(settings: dict[str, Any], other: dict[str, Any], path: str) -> tuple[str, bool]:
    """Return what is told in a process, of which rank 1 has been told otherwise."""
    config = train_config(Path(path), **{**settings, **(other if rank() == 1 else {})})
    try:
        require_same_settings(config)
        Trainer(config)
    except KdcacheError as error:
        return str(error), error.is_told_elsewhere
    return "nothing", False


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"optimizer": OptimizerConfig(lr=0.2)},
            "another optimizer.lr: 0.2 there, 0.05 in rank 0 on ",
        ),
        ({"batch_size": 64}, "another batch_size: 64 there, 32 in rank 0 on "),
    ],
)
def test_a_process_that_was_told_otherwise_is_named_with_the_setting(
    tmp_path: Path, other: Any, reason: str
) -> None:
    (one, told), (two, elsewhere) = launch(disagrees, 2, LABELS, other, str(tmp_path))
    assert (
        one == two
        and one.startswith("rank 1 on ")
        and reason in one
        and "same command" in one
        and len(one) < 500
    )
    assert (told, elsewhere) == (False, True)


def test_where_each_machine_reads_is_its_own_matter(tmp_path: Path) -> None:
    other = {"slab_dir": str(tmp_path / "own"), "slab_limit": 1.0}
    assert launch(disagrees, 2, LABELS, other, str(tmp_path)) == [("nothing", False)] * 2


def sees_otherwise(what: str, path: str) -> str:
    """Return what is told in a process, of which rank 1 finds other files under the same names."""
    others = {
        "source": {"data": f"{FEW},length=320"},
        "evaluation source": {"eval_data": f"{FEW},length=320"},
        "recipe": {"recipe": f"{path}/other.toml"},
        "student to begin with": {},
    }
    student = "tiny_models:by_rank,mean=0.5,std=0.25" if what == "student to begin with" else MLP
    settings = {**LABELS, "student": student, **(others[what] if rank() == 1 else {})}
    try:
        Trainer(train_config(Path(path), **settings))
    except KdcacheError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("what", ["source", "evaluation source", "recipe", "student to begin with"])
def test_a_process_that_finds_other_files_is_named_with_what_they_are(
    tmp_path: Path, what: str
) -> None:
    (tmp_path / "other.toml").write_text(
        'mode = "L"\nsize = 8\neval = "eval-whole"\ntransforms = []\n'
    )
    one, two = launch(sees_otherwise, 2, what, str(tmp_path))
    assert one == two and one.startswith("rank 1 on ") and f" another {what}" in one, one


# what rank 0 sees


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agreement") / "cache"
    dump(path, teacher=f"{CONV},seed=7", seeds="0:3", **SHARED)
    return path


def run(trainer: Trainer, lines: Lines) -> None:
    while trainer.epoch < trainer.config.epochs:
        run_epoch(trainer, lines)


def hidden(keys: set[str]) -> Any:
    """Let this process not see some objects in folders' lists, as one that looked a little
    earlier."""
    real = Folder.list

    def shown(self: Folder, prefix: str) -> Iterator[str]:
        yield from (name for name in real(self, prefix) if f"{prefix}/{name}" not in keys)

    return patch.object(Folder, "list", shown)


def hidden_walk(keys: set[str]) -> Any:
    real = Folder.walk

    def shown(self: Folder, prefix: str = "") -> Iterator[Any]:
        yield from (entry for entry in real(self, prefix) if entry.key not in keys)

    return patch.object(Folder, "walk", shown)


def trained(path: str, cache: str, who: int, on_miss: str) -> tuple[list[int], list[float]]:
    """Train in a process, of which one does not see two commits; return the seeds, and the
    losses."""
    keys = {commit_key(2, 3), commit_key(2, 4)} if rank() == who else set()
    with hidden(keys), hidden_walk(keys):
        trainer, lines = (
            Trainer(train_config(Path(path), cache=cache, **SETTINGS, on_miss=on_miss)),
            Lines(),
        )
        run(trainer, lines)
    return trainer.loader.replay.seeds, lines.losses()


@pytest.mark.slow
@pytest.mark.parametrize("on_miss", ["error", "skip"])
@pytest.mark.parametrize("who", [0, 1])
def test_a_commit_that_one_process_does_not_see_yet(
    tmp_path: Path, cache: Path, who: int, on_miss: Any
) -> None:
    """It landed between two looks, or a network file system shows an older list: the run is that of
    what rank 0 sees."""
    there = tmp_path / "cache"
    shutil.copytree(cache, there)
    if who == 0:  # what rank 0 does not see is as good as not there
        for unit in (3, 4):
            (there / commit_key(2, unit)).unlink()
    alone, lines = (
        Trainer(train_config(tmp_path, cache=str(there), **SETTINGS, on_miss=on_miss)),
        Lines(),
    )
    run(alone, lines)
    for seeds, losses in launch(trained, 2, str(tmp_path), str(cache), who, on_miss):
        assert (
            seeds
            == alone.loader.replay.seeds
            == ([0, 1] if who == 0 and on_miss == "error" else [0, 1, 2])
        )
        assert losses == pytest.approx(lines.losses(), rel=2e-4)


def sees_late(path: str, cache: str, times: int) -> tuple[list[float], str]:
    """Train in a process; rank 1 does not find each object the first times that it looks."""
    late._LOOK_SECONDS = 0.01
    sys.stderr = io.StringIO()
    looks: dict[str, int] = {}
    real = Folder.open

    def opened(self: Folder, key: str) -> int:
        looks[key] = looks.get(key, 0) + 1
        if rank() == 1 and looks[key] <= times:
            raise FileNotFoundError(key)
        return real(self, key)

    with patch.object(Folder, "open", opened):
        config = train_config(
            Path(path), cache=cache, slab_dir=f"{path}/{rank()}", **{**SETTINGS, "epochs": 1}
        )
        trainer, lines = Trainer(config), Lines()
        run(trainer, lines)
    return lines.losses(), sys.stderr.getvalue()


def test_an_object_that_is_not_seen_yet_is_looked_for_again_and_told(
    tmp_path: Path, cache: Path
) -> None:
    (losses, quiet), (others, told) = launch(sees_late, 2, str(tmp_path), str(cache), 3)
    assert losses == others and "does not see" not in quiet
    for name in ("zarr.json", "seeds/"):
        assert f"note: rank 1 does not see {cache / name}" in told, told
