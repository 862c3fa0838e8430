"""Fits that meet a target, on logits like those of a linear head."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import dump, train
from torch import Tensor, nn

from kdcache.cache import open_cache, stored_bytes
from kdcache.codec_error.calibration import fit_codec
from kdcache.codec_error.measured_views import dist_errors
from kdcache.codec_error.pairs import Pairs
from kdcache.codecs import RowCodec, TopK, open_codec
from kdcache.errors import CacheError, CodecError, MismatchError, UsageError
from kdcache.models.preprocessing import Preprocessing
from kdcache.models.vision_model import VisionModel, head_weight
from kdcache.verify.cache import verify_cache

CLASSES = 60


def pairs(samples: int, seed: int) -> Pairs:
    """Return logits of two noisy views of each sample."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(24, CLASSES, generator=torch.Generator().manual_seed(7))
    features = torch.randn(samples, 24, generator=generator) * torch.linspace(2, 0.05, 24)
    first, second = (
        ((features + 0.3 * torch.randn(samples, 24, generator=generator)) @ head) for _ in range(2)
    )
    groups = np.tile(np.arange(samples), 2)
    return Pairs(
        teacher=torch.cat([first, second]),
        student=torch.cat([second, first]),
        groups=groups,
        proxy="test",
    )


def dist_error(codec: RowCodec, on: Pairs, tau: float) -> float:
    return dist_errors(codec, on.views, [tau])[tau]


@pytest.mark.parametrize("target", [0.05, 0.1, 0.3])
def test_an_error_is_met_on_samples_that_the_fit_never_saw(target: float) -> None:
    fitted = fit_codec(open_codec(f"lowrank:error={target}", classes=CLASSES), pairs(2000, 0))
    codec, stated = fitted.codec, fitted.errors
    assert 0.9 * target < max(stated.values()) <= target
    errors = [dist_error(codec, pairs(1000, 1), tau) for tau in (1.0, 4.0)]
    assert 0.7 * target < max(errors) < 1.15 * target


@pytest.mark.parametrize("target", [5, 10, 20])
def test_bytes_are_met_as_stored(target: float) -> None:
    codec = fit_codec(open_codec(f"lowrank:bytes={target}", classes=CLASSES), pairs(2000, 0)).codec
    fresh = pairs(2000, 1)
    assert 0.97 * target < stored_bytes(codec, codec.encode(fresh.teacher)) < 1.02 * target


def test_bytes_are_those_of_a_large_cache_however_many_rows_are_measured() -> None:
    for spec in ("lowrank:step=0.5", "lowrank:step=2", "topk:k=5", "full:dtype=float16"):
        codec, fresh = (
            fit_codec(open_codec(spec, classes=CLASSES), pairs(1000, 0)).codec,
            pairs(4096, 1).teacher,
        )
        few, many = (stored_bytes(codec, codec.encode(fresh[:rows])) for rows in (1024, 8192))
        assert few == pytest.approx(many, rel=0.03), spec


def test_finer_steps_err_less_on_samples_that_a_small_fit_never_saw() -> None:
    fit, fresh = pairs(20, 0), pairs(300, 1)
    codecs = [
        fit_codec(open_codec(f"lowrank:step={step}", classes=CLASSES), fit).codec
        for step in (1, 0.25, 0.1, 0.02)
    ]
    for tau in (1.0, 4.0):
        errors = [dist_error(codec, fresh, tau) for codec in codecs]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02


def test_a_step_needs_no_proxy() -> None:
    same = pairs(300, 0)
    same = Pairs(teacher=same.teacher, student=same.teacher, groups=same.groups, proxy="itself")
    fit_codec(open_codec("lowrank:step=1", classes=CLASSES), same)
    with pytest.raises(UsageError, match="no gradient to measure"):
        fit_codec(open_codec("lowrank:error=0.1", classes=CLASSES), same)


@pytest.mark.parametrize("spec", ["lowrank:error=1e-7", "lowrank:bytes=0.01"])
def test_a_target_out_of_reach_names_what_is_possible(spec: str) -> None:
    with pytest.raises(
        CodecError,
        match=r"cannot be met on this sample: step .* has (error|bytes) .*; give a larger one",
    ):
        fit_codec(open_codec(spec, classes=CLASSES), pairs(300, 0))


def test_other_codecs_come_back_as_they_are() -> None:
    codec = open_codec("topk:k=3", classes=CLASSES)
    assert fit_codec(codec, pairs(10, 0)).codec is codec


def test_the_head_is_the_last_linear_layer() -> None:
    preprocessing = Preprocessing(size=8, mean=(0.5,), std=(0.5,))

    def weight(*layers: nn.Module) -> Tensor | None:
        return head_weight(VisionModel(nn.Sequential(*layers), preprocessing, "test"), 4)

    linear, pointwise = nn.Linear(6, 4), nn.Conv2d(6, 4, 1)
    assert weight(nn.Flatten(), nn.Linear(64, 6), linear) is not None
    torch.testing.assert_close(weight(nn.Linear(64, 6), linear), linear.weight.detach())
    torch.testing.assert_close(
        weight(linear, pointwise, nn.Flatten()), pointwise.weight.detach()[:, :, 0, 0]
    )
    assert (
        weight(nn.Linear(64, 5)) is None
        and weight(nn.Conv2d(1, 4, 8)) is None
        and weight(nn.ReLU()) is None
    )


def test_a_dump_fits_once_and_goes_on_with_its_fit(tmp_path: Path) -> None:
    dump(tmp_path / "cache", codec="lowrank:step=2", seeds="0:1")
    before = open_cache(tmp_path / "cache").codec.fit_arrays()
    assert dump(tmp_path / "cache", codec="lowrank:step=2", seeds="0:2")["units_written"] > 0
    after = open_cache(tmp_path / "cache")
    assert all(
        np.array_equal(before[name], array) for name, array in after.codec.fit_arrays().items()
    )
    assert after.complete_seeds() == [0, 1]
    with pytest.raises(MismatchError, match=r"made with lowrank:step=2, not lowrank:step=3"):
        dump(tmp_path / "cache", codec="lowrank:step=3")
    with pytest.raises(MismatchError, match=r"teacher.sha256"):
        dump(
            tmp_path / "cache",
            codec="lowrank:step=2",
            teacher="tiny_models:conv,mean=0.5,std=0.25,seed=8",
        )
    assert train(tmp_path / "run", cache=str(tmp_path / "cache"), loss="dist:tau=4")["epochs"] == 2


def test_a_cache_whose_fit_is_gone_says_so(tmp_path: Path) -> None:
    dump(tmp_path / "cache", codec="lowrank:step=2", seeds="0:1")
    (chunk,) = (tmp_path / "cache").glob("codec/*/basis/c/0/0")
    chunk.unlink()
    with pytest.raises(CacheError, match=r"the fit of its codec .* is absent or damaged"):
        train(tmp_path / "run", cache=str(tmp_path / "cache"))
    (fault,) = verify_cache(open_cache(tmp_path / "cache"))["faults"]
    assert "the fit of its codec" in fault


def test_a_fit_of_other_classes_is_refused(tmp_path: Path) -> None:
    data, teacher = (
        "tiny_models:noise,length=100,size=8,classes=",
        "tiny_models:conv,mean=0.5,std=0.25,classes=",
    )
    dump(
        tmp_path / "cache",
        codec="lowrank:step=2",
        seeds="0:1",
        data=f"{data}5",
        teacher=f"{teacher}5",
    )
    with pytest.raises(MismatchError, match="data has 6 classes, the cache was made from 5"):
        dump(
            tmp_path / "cache",
            codec="lowrank:step=2",
            seeds="0:2",
            data=f"{data}6",
            teacher=f"{teacher}6",
        )


def test_what_a_codec_loses_takes_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, rows, encode = (
        fit_codec(open_codec("topk:k=3", classes=CLASSES), pairs(1024, 0)),
        [],
        TopK.encode,
    )
    monkeypatch.setattr(
        TopK, "encode", lambda codec, logits: (rows.append(len(logits)), encode(codec, logits))[1]
    )
    assert set(fitted.errors) == {1.0, 4.0} and sum(rows) == 512
