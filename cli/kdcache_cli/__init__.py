"""The command line of kdcache: thin commands over the library. torch is imported inside commands,
so --help is quick."""

import os

# Before torch loads OpenMP: threads that wait should sleep. By default they spin, on cores that the
# loader processes need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from kdcache_cli.commands import main

__all__ = ["main"]
