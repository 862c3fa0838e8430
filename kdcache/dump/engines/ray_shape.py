"""How many workers a Ray cluster has room for, and what each asks of its node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdcache.dump.config import DumpConfig

Resources = Mapping[str, float]
"""What a node has: `CPU`, and `GPU` if it has one."""


@dataclass(frozen=True, kw_only=True)
class PoolShape:
    """Workers that are alike."""

    workers: int
    gpus: float
    """Of each: 1, a part of one, or 0."""
    cpus: int
    """Of each."""


def pool_shape(nodes: Sequence[Resources], config: DumpConfig) -> PoolShape:
    """Return what is configured and, where that leaves it open, as many workers as fit into the
    nodes."""
    cards = sum(node.get("GPU", 0) for node in nodes)
    gpus = config.ray.gpus
    if gpus is None:
        gpus = float(config.compute.device != "cpu" and cards > 0)
    cpus = config.ray.cpus
    if cpus is None:
        cpus = max(1, min(config.compute.workers, _most_cpus(nodes, gpus)))
    if gpus:
        room = cards / gpus
    else:
        room = sum(node.get("CPU", 0) // cpus for node in nodes)
    workers = config.ray.workers or max(1, int(room))
    return PoolShape(workers=workers, gpus=gpus, cpus=cpus)


def _most_cpus(nodes: Sequence[Resources], gpus: float) -> int:
    """Return how many CPUs a worker with so many GPUs may have, where each node gives every worker
    as many."""
    if not gpus:
        return max(int(node.get("CPU", 0)) for node in nodes)
    counts = [_cpus_beside(gpus, node) for node in nodes if node.get("GPU")]
    return min(counts, default=1)


def _cpus_beside(gpus: float, node: Resources) -> int:
    """Return how many CPUs of a node there are for each worker with so many GPUs."""
    return int(node.get("CPU", 0) * min(gpus / node["GPU"], 1))
