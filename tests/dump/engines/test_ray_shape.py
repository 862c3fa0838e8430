"""How many workers there are on Ray, and what each asks for, from the nodes and the settings."""

from typing import Any

import pytest
from nursery import SETTINGS

from kdcache.dump.config import DumpConfig, RayConfig
from kdcache.dump.engines.ray_shape import PoolShape, Resources, pool_shape
from kdcache.runtime.device import ComputeConfig

WITHOUT_GPUS = [{"CPU": 8.0}, {"CPU": 6.0}]
WITH_GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}]
MIXED = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0}]


def shape(nodes: list[Resources], *, loaders: int, device: str = "auto", **ray: Any) -> PoolShape:
    settings: dict[str, Any] = {"cache": "cache", **SETTINGS}
    settings["compute"] = ComputeConfig(device=device, workers=loaders)
    return pool_shape(nodes, DumpConfig(**{**settings, "ray": RayConfig(**ray)}))


@pytest.mark.parametrize(
    ("nodes", "settings", "workers", "gpus", "cpus"),
    [
        (WITHOUT_GPUS, {"loaders": 4}, 3, 0, 4),
        (WITHOUT_GPUS, {"loaders": 0}, 14, 0, 1),
        (WITHOUT_GPUS, {"loaders": 99}, 1, 0, 8),
        (WITHOUT_GPUS, {"loaders": 4, "cpus": 3}, 4, 0, 3),
        (WITHOUT_GPUS, {"loaders": 4, "workers": 2}, 2, 0, 4),
        (WITHOUT_GPUS, {"loaders": 4, "cpus": 9}, 1, 0, 9),
        (WITH_GPUS, {"loaders": 2}, 3, 1, 2),
        (WITH_GPUS, {"loaders": 99}, 3, 1, 4),
        (WITH_GPUS, {"loaders": 99, "gpus": 0.5}, 6, 0.5, 2),
        (WITH_GPUS, {"loaders": 4, "device": "cpu"}, 5, 0, 4),
        (WITH_GPUS, {"loaders": 4, "gpus": 0}, 5, 0, 4),
        (MIXED, {"loaders": 99}, 2, 1, 8),
    ],
)
def test_what_is_not_set_is_as_much_as_the_nodes_have(
    nodes: list[Resources], settings: dict[str, Any], workers: int, gpus: float, cpus: int
) -> None:
    assert shape(nodes, **settings) == PoolShape(workers=workers, gpus=gpus, cpus=cpus)
