"""The command line of kdcache: thin commands over the library. torch is imported inside commands,
so --help is quick."""

import os

try:
    import kdcache as kdcache
except ImportError as error:  # it says on which systems it runs
    raise SystemExit(f"kdcache: error: {error}") from error

from kdcache_cli.ctrl_c import end_at_once, ending_at_once
from kdcache_cli.loading import tell_loading
from kdcache_cli.streams import prepare_streams

# Before torch loads OpenMP: threads that wait should sleep. By default they spin, on cores that the
# loader processes need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

with ending_at_once():
    from kdcache_cli.commands import main

__all__ = ["main", "run"]


def run() -> None:
    """Run the command line as the program that this process is."""
    end_at_once()
    prepare_streams()
    tell_loading()
    main(prog_name="kdcache")
