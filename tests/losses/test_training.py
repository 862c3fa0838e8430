"""Losses and tails in a training run: what a cache cannot give is refused first, what it can is
what is trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import CONV, dump, train, train_config
from tiny_models import FEW

from kdcache.cache import open_cache
from kdcache.codecs import set_tail
from kdcache.errors import MismatchError, UsageError
from kdcache.train.metrics_reading import read_metrics
from kdcache.train.run import Trainer

TAILS = ("uniform", "ghost", "none")


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("caches")
    for name, codec in (("full", "full:dtype=float32"), ("topk", "topk:k=3")):
        dump(folder / name, codec=codec, seeds="0:2")
    return {name: str(folder / name) for name in ("full", "topk")}


@pytest.mark.parametrize(
    "loss", ["dkd", "nkd:tau=2", "kl:standardize=true", "dkd:standardize=true"]
)
def test_cached_equals_online(tmp_path: Path, caches: dict[str, str], loss: str) -> None:
    common = {"loss": loss, "epochs": 1, "batch_size": 16}
    train(tmp_path / "cached", cache=caches["full"], **common)
    train(tmp_path / "online", teacher=f"{CONV},seed=7", recipe="digits", seeds="0:1", **common)
    cached, online = losses(tmp_path / "cached"), losses(tmp_path / "online")
    np.testing.assert_allclose(cached, online, rtol=1e-6, atol=1e-6)
    assert len(cached) == FEW // 16 and max(cached) - min(cached) > 0.1, (
        "a loss that does not move would prove nothing"
    )


@pytest.mark.parametrize("loss", ["dkd", "nkd:gamma=2,standardize=true"])
def test_a_loss_that_needs_the_labels_logit_refuses_topk_before_anything_else(
    tmp_path: Path, caches: dict[str, str], loss: str
) -> None:
    nowhere = {"data": "imagefolder:nowhere", "student": "timm:test_resnet"}
    message = (
        rf"loss {loss} needs the label's logit, which topk:k=3.* of cache .*/topk keeps only .*full"
        r" or lowrank"
    )
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", cache=caches["topk"], loss=loss, **nowhere)
    assert not (tmp_path / "run").exists()


def test_each_tail_is_what_its_codec_decodes(tmp_path: Path, caches: dict[str, str]) -> None:
    cache = open_cache(caches["topk"])
    for tail in TAILS:
        trainer = Trainer(
            train_config(tmp_path / tail, cache=caches["topk"], tail=tail, loss="kl:tau=4")
        )
        trainer.loader._sampler.set_epoch(
            np.stack([np.arange(FEW), np.ones(FEW, np.int64)], axis=1)
        )
        trainer.loader.teacher.start([1], [])
        batch = next(trainer.loader.rendered())
        student = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
        codec = set_tail(cache.codec, tail)
        records = cache.read(1, batch.rows.numpy())
        expected = codec.decode(records).probs(4.0, tempered_student=student)
        assert torch.equal(
            trainer.loader.teacher.soft_targets(batch).probs(4.0, tempered_student=student),
            expected,
        )


def test_each_tail_trains_on_its_own(tmp_path: Path, caches: dict[str, str]) -> None:
    common = {"cache": caches["topk"], "loss": "kl:tau=2,standardize=true", "epochs": 1}
    for tail in TAILS:
        train(tmp_path / tail, tail=tail, **common)
    train(tmp_path / "default", **common)
    assert losses(tmp_path / "default") == losses(tmp_path / "uniform")
    assert len({tuple(losses(tmp_path / tail)) for tail in TAILS}) == len(TAILS)


@pytest.mark.parametrize(
    ("cache", "settings", "message"),
    [
        (
            "full",
            {"tail": "ghost"},
            r"tail 'ghost': full:dtype=float32 of cache .*/full leaves no tail",
        ),
        (
            "topk",
            {"tail": "ghost", "loss": "ce"},
            "tail 'ghost' is a way to read a topk cache, and loss ce reads none",
        ),
        (
            "topk",
            {"tail": "ghost", "loss": "kl:activation=sigmoid"},
            "tail 'ghost' is of a softmax of each position, and loss kl:activation=sigmoid takes",
        ),
        (
            "topk",
            {"tail": "none", "loss": "mse"},
            "loss mse takes the logits of topk:k=.* of cache .*, in which the tail is even",
        ),
        (
            None,
            {"tail": "none", "recipe": "digits", "teacher": CONV},
            "tail 'none' is a way to read a topk cache",
        ),
    ],
)
def test_a_tail_where_there_is_none_is_refused(
    tmp_path: Path,
    caches: dict[str, str],
    cache: str | None,
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", **{"loss": "dist", **settings}, cache=cache and caches[cache])


def test_another_tail_in_the_same_folder_is_refused(tmp_path: Path, caches: dict[str, str]) -> None:
    train(tmp_path / "run", cache=caches["topk"], tail="ghost", epochs=1)
    for tail in ("uniform", "none"):
        with pytest.raises(MismatchError, match=f"tail: 'ghost' there, '{tail}' now"):
            train(tmp_path / "run", cache=caches["topk"], tail=tail, epochs=1)
