"""Where kdcache keeps what it can make again: slabs, indexes of tars, listings of folders."""

import os
from pathlib import Path


def home_folder() -> Path:
    """Return $KDCACHE_HOME, by default ~/.cache/kdcache."""
    return Path(os.environ.get("KDCACHE_HOME") or Path.home() / ".cache" / "kdcache")
