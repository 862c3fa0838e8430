"""`python -m kdcache_cli`, as torchrun starts it."""

from kdcache_cli import run

run()
