"""What a dump is told: the settings of `dump-teacher`."""

from dataclasses import dataclass, field

from kdcache.compute import ComputeConfig
from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DumpConfig:
    """What `dump-teacher` does."""

    cache: str
    """Folder of the cache."""
    data: str
    """Spec of the source."""
    teacher: str
    """Spec of the teacher, with its weights."""
    teacher_classes: int | None = None
    """Classes of the teacher, where they are not those of the data; students then need a map of classes."""
    recipe: str
    """A shipped recipe's name, or a TOML file."""
    seeds: str = "0:1"
    """Augmentation seeds, `A:B` with B left out."""
    codec: str | None = None
    """Spec of the codec; by default that of the cache, or of a new one what `default_codec` and `fit_default` choose."""
    batch_size: int = 256
    unit_rows: int | None = None
    """Rows per unit; by default a power of two near 4 MB."""
    order_seed: int = 0
    """Key of the permutation from samples to rows."""
    skip_unreadable: bool = False
    """Record samples that cannot be read as absent, instead of stopping."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "unit_rows", "teacher_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.order_seed < 2**32:
            raise UsageError(f"order_seed is {self.order_seed}; it must be from 0 to 2^32 - 1")
