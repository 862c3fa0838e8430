"""`python -m kdcache`: the command line, also for launchers that start a module."""

from kdcache_cli import run

if __name__ == "__main__":
    run()
