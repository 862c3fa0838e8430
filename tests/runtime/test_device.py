"""Where models run: devices, memory formats, precision."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from kdcache.errors import UsageError
from kdcache.runtime.device import Compute, ComputeConfig, device_type

OTHERS = ("mps:1", "xpu", "meta", "cuda:", "cuda:-1", "cpu:1", "CPU", "", "cuda0", "hpu:0")


def compute(**settings: object) -> Compute:
    return Compute(ComputeConfig(**{"device": "cpu", "workers": 0, **settings}))  # type: ignore[arg-type]


def test_auto_is_cuda_where_there_is_one() -> None:
    assert Compute(ComputeConfig()).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert 1 <= ComputeConfig().workers <= min(os.cpu_count() or 1, 8)
    assert compute().pin_memory is False


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device 'gpu' is none that kdcache runs on; use auto, cpu, cuda, cuda:N or mps"),
        ("cuda:99", r"torch sees \d+ CUDA devices"),
        *((name, f"device '{name}' is none that kdcache runs on") for name in OTHERS),
    ],
)
def test_a_device_that_is_not_there_is_told(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compute(device=device)


def test_apples_gpu_is_taken_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device 'mps' is not there: torch sees no GPU of Apple"):
        compute(device="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute(device="auto").device.type == "cpu"
    there = compute(device="mps")
    assert there.device.type == device_type("mps") == "mps"
    assert not there.pin_memory and there.batches_ahead == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match="device 'mps' is for one process, and there are 2"):
        compute(device="mps")


def test_fewer_than_no_workers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"compute\.workers is -1; it must be from 0 to 1024"):
        compute(workers=-1)
    with pytest.raises(UsageError, match=r"compute\.workers is 100000; it must be from 0"):
        compute(workers=100_000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match=f"device '{name}' is not there: torch sees 0 CUDA"):
            compute(device=name)


def test_a_precision_that_the_device_does_not_compute_in_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise RuntimeError("Current CUDA Device does not support bfloat16.")

    monkeypatch.setattr(torch, "autocast", refuse)  # as on GPUs before Ampere
    with pytest.raises(UsageError, match="precision bfloat16 is not for device cpu; use float32"):
        compute(precision="bfloat16")


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_weights_come_in_the_memory_format(channels_last: bool) -> None:
    place = compute(channels_last=channels_last)
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    moved = place.move(images)
    assert torch.equal(moved, images)
    model = place.place(nn.Conv2d(3, 5, 3))
    weight = next(model.parameters())
    for tensor in (moved, weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert place.move(torch.arange(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_models_run_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    place = compute(precision=precision)
    model = nn.Linear(3, 2)
    with place.autocast():
        assert model(torch.ones(1, 3)).dtype == dtype
    assert model.weight.dtype == torch.float32
    assert place.scaler().is_enabled() == (precision == "float16")


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the kernel's own figure is read from /proc"
)
def test_peak_memory_is_that_of_this_process() -> None:
    found = compute().peak_memory()
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert found["host"] == pytest.approx(int(lines["VmHWM"].split()[0]) * 1024, rel=0.02)
    assert "device" not in found
