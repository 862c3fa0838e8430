"""Commands of kdcache, run in the process of the tests."""

import json

from click.testing import CliRunner, Result

from kdcache_cli import main


def invoke(*words: object) -> Result:
    """Run a command, which may fail."""
    return CliRunner().invoke(main, [str(word) for word in words])


def kdcache(*words: object) -> str:
    """Run a command that must not fail, and return what it prints."""
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def kdcache_json(*words: object) -> dict:
    """Run a command that must not fail, and return its result."""
    result: dict = json.loads(kdcache(*words, "--json"))
    return result


def mistake(*words: object) -> str:
    """Return the one line of a command that fails with a usage error or another."""
    done = invoke(*words)
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("kdcache: error: ")]
    assert done.exit_code in (1, 2) and len(line) < 520, done.output
    return line
