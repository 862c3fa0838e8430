"""What `report` is told, checked where it can be without opening anything."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.errors import UsageError
from kdcache.runtime.device import ComputeConfig

_ENDINGS = (".html", ".htm")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What `report` does."""

    runs: tuple[str, ...]
    """Folders of runs, or folders that hold such."""
    out: str
    """The page."""
    against: str | None = None
    """The line that others are compared with; by default the one that learns from labels alone,
    else the first."""
    evaluate: bool | None = None
    """Whether what is said of classes and views is worked out, from weights and data. By default it
    is, but for scores by class that runs have recorded, as of maps and boxes; true scores all
    runs."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if not self.runs:
            raise UsageError("there is no run to report on; give the folders of some")
        path = Path(self.out)
        if path.suffix.lower() not in _ENDINGS:
            raise UsageError(f"report {path} is no name of a page; end it in {_ENDINGS[0]}")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"report {path}: folder {folder} does not exist; make it first")
        if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"report {path} cannot be written; choose another name")
