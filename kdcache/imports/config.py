"""What `import` does, checked without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcache.config.seeds import parse_seeds
from kdcache.config.texts import require_text
from kdcache.errors import CacheError, UsageError, quoted
from kdcache.imports.registry import FORMATS, require_format
from kdcache.shapes import MOST_SIDE
from kdcache.sources import check_source


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What `import` does."""

    format: str
    """Whose files they are."""
    folder: str
    """Where they are."""
    cache: str
    """The folder or the address of the cache that is made."""
    data: str
    """Spec of the images that the labels are of."""
    teacher_name: str
    """What the cache says of the teacher, which no file tells."""
    program_config: str | None = None
    """The file of settings that their program was run with, where a format needs it."""
    crops: str | None = None
    """`A:B`, the crops of each sample that become the seeds from 0 on; None for all of them."""
    size: int | None = None
    """The side of a view, where no model has a wish of its own; None for that of their program."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How a crop is resized; None for how their program does it."""

    def __post_init__(self) -> None:
        require_format(self.format)
        require_text(self.teacher_name, "teacher_name")
        _check_program_config(self.format, self.program_config)
        if self.crops is not None:
            parse_seeds(self.crops, "crops")
        if self.size is not None and not 1 <= self.size <= MOST_SIDE:
            raise UsageError(f"size is {self.size}; it must be from 1 to {MOST_SIDE} pixels")
        if self.interpolation not in (None, "bilinear", "bicubic"):
            raise UsageError(
                f"interpolation is {quoted(self.interpolation)}; it must be bilinear or bicubic"
            )


def _check_program_config(format: str, path: str | None) -> None:
    """Check that a file of settings is given where a format needs one, and nowhere else.

    Raises:
        UsageError: it is not.
    """
    needed = FORMATS[format].program_config
    if needed is not None and path is None:
        raise UsageError(
            f"program_config is not given, and in labels of format {format} nothing says how views"
            f" were made: give --program-config FILE, {needed}"
        )
    if needed is None and path is not None:
        raise UsageError(
            f"program_config is {quoted(path)}, and format {format} needs none; leave it out"
        )
    if path is not None:
        require_text(path, "program_config")


def check_specs(config: ImportConfig) -> None:
    """Check paths, and what the source's spec names, as far as that takes no torch.

    Raises:
        KdcacheError: one of them is unknown, or not there.
    """
    if not Path(config.folder).is_dir():
        raise CacheError(
            f"{config.folder} is not a folder; give the one that holds the labels, as their program"
            " wrote it"
        )
    program_config = None
    if config.program_config is not None:
        program_config = Path(config.program_config)
    FORMATS[config.format].check_files(Path(config.folder), program_config)
    check_source(config.data)
