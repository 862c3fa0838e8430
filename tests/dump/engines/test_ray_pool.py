"""The engine on Ray: two workers of which one is killed, what workers raise, and teachers that kill
every worker."""

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nursery import SETTINGS as ALL
from nursery import num_committed, storage
from runs import dump

from kdcache.dump.config import RayConfig
from kdcache.dump.engines import ray_pool
from kdcache.dump.engines.ray_cluster import connected
from kdcache.errors import CodecError, KdcacheError, StoppedError, UsageError

SETTINGS: dict[str, Any] = {**ALL, "seeds": "0:1"}
NUM_UNITS = 16


def on_ray(path: Path, *, workers: int = 1, **changes: Any) -> dict[str, Any]:
    return dump(
        path, engine="ray", ray=RayConfig(workers=workers, cpus=1), **{**SETTINGS, **changes}
    )


def makers() -> list[int]:
    """Return the processes of actors that make units just now, as Ray titles them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::Maker.make"):
                found.append(int(process.name))
    return found


def kill_a_maker(killed: list[int], gate: Path) -> None:
    """Kill one of two processes when both have a unit in hand, and then let the other go on."""
    while len(found := makers()) < 2:
        time.sleep(0.1)
    os.kill(found[0], signal.SIGKILL)
    killed.append(found[0])
    gate.touch()


def stop_when(path: Path, count: int) -> None:
    """Send this process SIGTERM when so many units are there."""
    while num_committed(path) < count:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_dump_on_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One test for all, since Ray takes seconds to start."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    )
    dump(tmp_path / "alone", **SETTINGS)
    path, killed = tmp_path / "cache", []
    handler = signal.getsignal(signal.SIGTERM)
    with connected(RayConfig()):
        gate = tmp_path / "gate"
        killer = threading.Thread(target=kill_a_maker, args=(killed, gate), daemon=True)
        killer.start()
        counted = f"counted,log={tmp_path / 'log'},gate={gate},"
        teacher = SETTINGS["teacher"].replace("conv,", counted)
        written = on_ray(path, workers=2, teacher=teacher)["units_written"]
        killer.join(10)
        out, err = capfd.readouterr()
        assert killed and written == NUM_UNITS
        assert storage(path) == storage(tmp_path / "alone")
        assert err.count("note: a worker on Ray died over unit ") == 1 and out == ""
        who = r"^[-\d]+ [:\d]+ driver on \S+: dump"
        assert re.search(
            rf"{who} into \S+ by 2 workers on Ray, each with 1 CPU; 16 of 16 units to do$",
            err,
            re.MULTILINE,
        )
        assert re.search(rf"{who}: 128/128 views, done in ", err, re.MULTILINE)
        assert on_ray(path, teacher=teacher)["units_written"] == 0

        stopper = threading.Thread(target=stop_when, args=(tmp_path / "stopped", 5), daemon=True)
        stopper.start()
        slow = teacher.replace("counted,", "counted,seconds=0.1,")
        with pytest.raises(
            StoppedError, match=r"^stopped by SIGTERM: \d+ units written; run the same"
        ) as caught:
            on_ray(tmp_path / "stopped", workers=2, teacher=slow)
        assert int(str(caught.value).split()[3]) == num_committed(tmp_path / "stopped") < NUM_UNITS
        while makers():  # until they are dead
            time.sleep(0.1)

        poisoned = {
            "data": "digits:train",
            "teacher": "tiny_models:poisoned,mean=0,std=1",
            "recipe": "digits",
        }
        with pytest.raises(
            CodecError,
            match=r"^teacher tiny_models:poisoned\S+ gives NaN or infinite logits for sample \d{8}",
        ):
            on_ray(
                tmp_path / "poisoned",
                **{**poisoned, "seeds": "0", "unit_rows": 512, "batch_size": 256},
            )
        monkeypatch.setattr(ray_pool, "ATTEMPTS", 1)
        with pytest.raises(
            KdcacheError,
            match=r"^1 worker on Ray died over unit 0 of seed 0 \(.*run the same command",
        ):
            on_ray(
                tmp_path / "deadly",
                teacher=SETTINGS["teacher"].replace("conv", "deadly"),
                unit_rows=128,
                seeds="0",
            )
    assert signal.getsignal(signal.SIGTERM) is handler, "Ray leaves one of its own"


def test_without_ray_the_way_out_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        KdcacheError,
        match=r"^ray is not installed; pip install 'kdcache\[ray\]', or leave out --engine ray$",
    ):
        on_ray(tmp_path, teacher="nothing")


@pytest.mark.parametrize(
    ("settings", "message"), [({"workers": 0}, "workers is 0"), ({"gpus": -1.0}, r"gpus is -1\.0")]
)
def test_ray_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RayConfig(**settings)
