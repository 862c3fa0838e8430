"""`python -m kdcache_cli`, as torchrun starts it."""

from kdcache_cli.commands import main

main(prog_name="kdcache")
