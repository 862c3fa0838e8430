"""What a dump is told: the settings of `dump-teacher`."""

from dataclasses import dataclass, field
from typing import Literal

from kdcache.errors import UsageError
from kdcache.runtime.batch_size import BatchSize, require_batch_size
from kdcache.runtime.device import ComputeConfig

_MOST_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Where and how wide the engine `ray` runs."""

    address: str | None = None
    """Of the cluster; by default that of RAY_ADDRESS or of this machine's cluster, or else Ray is
    started here."""
    workers: int | None = None
    """Workers, each with the teacher; by default as many as fit into the cluster as it is when the
    dump starts."""
    gpus: float | None = None
    """GPUs of a worker, or a part of one; by default 1 if the cluster has any, unless the device is
    `cpu`."""
    cpus: int | None = None
    """CPUs of a worker; by default as many as it has loader processes, if a node has as many for
    each."""

    def __post_init__(self) -> None:
        for name, least in {"workers": 1, "cpus": 1, "gpus": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"ray.{name} is {value}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """What `dump-teacher` does."""

    cache: str
    """Folder of the cache."""
    data: str
    """Spec of the source."""
    teacher: str
    """Spec of the teacher, with its weights, or the folder of a run."""
    teacher_classes: int | None = None
    """Classes of the teacher, where they are not those of the data; students then need a map of
    classes."""
    recipe: str
    """A shipped recipe's name, or a TOML file."""
    seeds: str = "0:1"
    """Augmentation seeds, `A:B` with B left out."""
    codec: str | None = None
    """Spec of the codec; by default that of the cache, or of a new one what `default_codec` and
    `fit_default` choose."""
    seeds_at_once: int = 4
    """Seeds under which a sample is decoded once: so many units are in the making, and lost by a
    kill. With 1 a seed is whole before the next one begins."""
    batch_size: BatchSize | None = None
    """Views that the teacher sees at once; `auto` tries on the device how many are fastest. By
    default 256, on a CPU fewer large ones: 128 of 128x128 pixels, 32 of 224x224."""
    unit_rows: int | None = None
    """Rows per unit; by default a power of two near 4 MB."""
    order_seed: int = 0
    """Key of the permutation from samples to rows."""
    store: Literal["zarr", "webdataset"] | None = None
    """What units are: zarr shards, or webdataset tars; by default what the cache has, of a new one
    zarr shards."""
    seeds_per_unit: int | None = None
    """Seeds whose records lie in one tar of a webdataset store; by default what the cache has, of a
    new one all of `seeds`."""
    images: bool | None = None
    """Whether tars hold the images, too, so that a student needs no other source; by default as in
    the cache, else yes."""
    content_digests: bool | None = None
    """Keep a checksum of each file, which costs a pass over the data; by default as in the cache,
    of a new one no."""
    skip_unreadable: bool = False
    """Record samples that cannot be read as absent, instead of stopping."""
    engine: Literal["process", "ray"] = "process"
    """Who computes: this process and those that torchrun, Slurm or Kubernetes started with it, or
    workers on a Ray cluster."""
    ray: RayConfig = field(default_factory=RayConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        require_batch_size(self.batch_size)
        for name in ("unit_rows", "teacher_classes", "seeds_per_unit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if not 1 <= self.seeds_at_once <= _MOST_AT_ONCE:
            raise UsageError(
                f"seeds_at_once is {self.seeds_at_once}; it must be from 1 to {_MOST_AT_ONCE}"
            )
        if not 0 <= self.order_seed < 2**32:
            raise UsageError(f"order_seed is {self.order_seed}; it must be from 0 to 2^32 - 1")
