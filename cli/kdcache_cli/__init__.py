"""The command line of kdcache: thin commands over the library. torch is imported inside commands, so --help is quick."""

from kdcache_cli.commands import main

__all__ = ["main"]
