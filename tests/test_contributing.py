"""What CONTRIBUTING shows is all that it takes to add a loss, a codec, a source, a family of models or
a task."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcache import losses, sources, targets, tasks
from kdcache.codecs import Codec, codec_from_dict, codec_spec, codec_to_dict, open_codec
from kdcache.codecs import registry as codecs
from kdcache.codecs.protocol import CodecDefaults, RowCodec
from kdcache.losses.options import LossOptions
from kdcache.losses.protocol import Loss
from kdcache.models import model as models
from kdcache.models.building import Family
from kdcache.soft_targets import DenseTargets
from kdcache.sources.dataset import DatasetSource
from kdcache.targets import ClassLabel
from kdcache.tasks.classification import Classification
from kdcache.views import load_recipe

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
SHOWN = re.findall(r"\*\*A (.*?)\*\*.*?```python\n(.*?)```", PAGE, re.DOTALL)
LOGITS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Return what all that is shown defines."""
    given = {
        "CodecDefaults": CodecDefaults,
        "Classification": Classification,
        "ClassLabel": ClassLabel,
        "DatasetSource": DatasetSource,
        "DenseTargets": DenseTargets,
        "Family": Family,
        "LossOptions": LossOptions,
        "dataclass": dataclass,
        "field": field,
        "nn": nn,
        "np": np,
        "torch": torch,
    }
    for _, code in SHOWN:
        exec(code, given)  # our own page
    return given


def test_all_five_are_shown_in_few_lines() -> None:
    lines = {what: len(code.splitlines()) for what, code in SHOWN}
    assert list(lines) == ["loss", "codec", "source", "family of models", "task"]
    assert max(count for what, count in lines.items() if what != "codec") <= 12
    assert lines["codec"] <= 30


def test_a_loss(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.registry.LOSSES, "mse", shown["Mse"])
    loss = losses.open_loss("mse:mse=2")
    assert isinstance(loss, Loss) and loss.requires == {"teacher", "logits"}
    (name, value) = loss.terms(LOGITS, DenseTargets(LOGITS + 1), torch.zeros(12).long()).popitem()
    assert name == "mse" and float(value) == pytest.approx(2.0)


def test_a_codec(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codecs.CODECS, "rounded", shown["Rounded"])
    codec = open_codec("rounded:step=0.5", classes=6)
    assert isinstance(codec, RowCodec) and isinstance(codec, Codec)
    assert codec_spec(codec) == "rounded:step=0.5"
    assert codec_from_dict(codec_to_dict(codec), classes=6) == codec
    found = codec.decode(codec.encode(LOGITS)).logits()
    assert bool(((found - LOGITS).abs().amax(1) <= codec.stated_error(LOGITS)).all())


def test_a_source(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 4, 1]))
    monkeypatch.setitem(sources.registry.OPENERS, "npz", shown["open_npz"])
    source = sources.open_source(f"npz:{tmp_path}/a.npz")
    assert len(source) == 3 and source.classes == 5 and source.sample(1).target == 4
    assert np.array_equal(np.asarray(source.sample(2).image), images[2])


def test_a_family_of_models(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.FAMILIES, "tiny", shown["TINY"])
    model = models.open_model("tiny:4", classes=7, recipe=load_recipe("digits"))
    assert model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 7)
    assert model.preprocessing.mean == (0.5,)


def test_a_task(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.KINDS, "fine", shown["FineLabel"]())
    monkeypatch.setitem(tasks.registry.TASKS, "fine", shown["Fine"]())

    class Data(list[Any]):
        task = "fine"
        classes = 9

    source = sources.as_source(Data([(np.zeros((8, 8), np.uint8), 8)]))
    task = tasks.open_task(targets.task_of(source))
    assert source.sample(0).target == 8 and task.best == "top5"
